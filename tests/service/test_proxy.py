"""The whole proxy as a service: listening, draining, reloading (issue 2, items 1, 7 and 9; STYLE P26, P29)."""

from typing import Any

from attrs import evolve
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import Site

from claudeproxy.routing.expectations import Secret
from claudeproxy.routing.settings import BackendSettings, Settings
from claudeproxy.routing.sources import SettingsError
from claudeproxy.service.listening import BadAddress, CannotListen
from claudeproxy.service.observers import Logs
from claudeproxy.service.proxy import Proxy
from tests.fakes.callers import caller
from tests.fakes.house import BACKEND_PORT, FRONT_PORT, House, body
from tests.fakes.openai import FakeOpenAI, silent, text
from tests.stream_checker import check_error, check_message, check_stream

BACKEND = BackendSettings("fake", "openai", base_url=f"http://127.0.0.1:{BACKEND_PORT}/v1", dialect="generic")


class ListenTests(SynchronousTestCase):
    """Listening."""

    def test_told(self) -> None:
        """The log says where it listens, which model answers, and how to start Claude Code with it."""
        house = House()
        log = "\n".join(house.lines)
        self.assertIn("http://127.0.0.1:8080", log)
        self.assertIn(f"http://127.0.0.1:{BACKEND_PORT}/v1", log)
        self.assertRegex(log, r"ANTHROPIC_BASE_URL=http://127\.0\.0\.1:8080 .*claude")
        self.assertNotIn("canary", log)

    def test_any_port(self) -> None:
        """With port 0 it says which one it got."""
        house = House(port=0)
        self.assertNotEqual(house.proxy.port, 0)
        self.assertIn(f":{house.proxy.port}", "\n".join(house.lines))

    def test_address_for_users(self) -> None:
        """What it says is an address that a client on this machine can ask, whichever it listens on."""
        for host, shown in (("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("::1", "[::1]"), ("localhost", "localhost")):
            house = House(host=host, keys=(Secret("k"),))
            self.assertIn(f"claudeproxy listens on http://{shown}:8080", house.lines)
            self.assertIn(f"ANTHROPIC_BASE_URL=http://{shown}:8080 ANTHROPIC_API_KEY=YOUR_KEY", "\n".join(house.lines))

    def test_several(self) -> None:
        """It listens on several addresses at once, knows their interfaces by name, and stops listening on all."""
        several = ("tcp:8080:interface=127.0.0.1", "tcp:8081:interface=proxy.example")
        house = House(port=8080, host="127.0.0.1", listen=several, keys=(Secret("k"),))
        for port in (8080, 8081):
            asked = caller(house.network, port).ask("GET", "/health", headers={"host": "proxy.example"})
            self.assertEqual(asked.status, 200)
            asked = caller(house.network, port).ask("GET", "/health", headers={"host": "other.example"})
            self.assertEqual(asked.status, 403)
        self.assertEqual((house.proxy.port, len(house.proxy.urls)), (8080, 2))
        house.proxy.stopService()
        house.pass_time(2)
        self.assertEqual(set(house.network.listeners), {BACKEND_PORT})

    def test_one_is_taken(self) -> None:
        """If one of several is taken, none listens."""
        house = House(port=8081)
        listen = ("tcp:8082:interface=127.0.0.1", "tcp:8081:interface=127.0.0.1")
        settings = evolve(house.settings, port=8080, listen=listen)
        other = Proxy(settings, house.network, logs=Logs(house.events.append))  # type: ignore[arg-type]
        words = str(self.assertRaises(CannotListen, other.startService))
        self.assertIn("tcp:8081:interface=127.0.0.1: ", words)
        self.assertIn("LISTEN", words)
        self.assertNotIn(8082, house.network.listeners)

    def test_means_nothing(self) -> None:
        """An address that means nothing is refused by name when the proxy is made."""
        for address in ("nobody:1", "tcp:x:interface=127.0.0.1", "unix:/s:mode=rw"):
            settings = Settings(listen=(address,), backends=(BACKEND,))
            words = str(self.assertRaises(BadAddress, Proxy, settings, House().network))
            self.assertTrue(words.startswith(f"listen: {address}: "), words)

    def test_taken(self) -> None:
        """If the port is taken it says which one, why, and what to do; and nothing has begun."""
        house = House()
        other = Proxy(house.settings, house.network, logs=Logs(house.events.append))  # type: ignore[arg-type]
        for start in (other.privilegedStartService, other.startService):
            words = str(self.assertRaises(CannotListen, start))
            for part in ("127.0.0.1", "8080", "in use", "PORT"):
                self.assertIn(part, words)

    def test_open_to_others(self) -> None:
        """Beyond loopback it needs a key, and says that it can be reached from other machines."""
        self.assertRaises(SettingsError, House, host="0.0.0.0")
        house = House(host="0.0.0.0", keys=(Secret("sk-canary"),))
        self.assertTrue([event for event in house.events if event["log_level"].name == "warn"])
        self.assertNotIn("canary", "\n".join(house.lines))
        self.assertEqual(house.ask("POST", "/v1/messages", body()).status, 401)


class DrainTests(SynchronousTestCase):
    """Stopping."""

    def setUp(self) -> None:
        self.house = House(drain_ms=20_000)

    def stop(self) -> Deferred[None]:
        stopping = self.house.proxy.stopService()
        self.house.network.pump()
        return stopping

    def test_idle(self) -> None:
        """With nothing to finish it stops at once, and closes what has been idle for a moment."""
        chat = self.house.chat(text("a"))
        self.house.pass_time(1)
        self.successResultOf(self.stop())
        self.assertIsNotNone(chat.lost)
        self.assertNotIn(FRONT_PORT, self.house.network.listeners)
        self.house.pass_time(1)
        mine = [end for end in self.house.network.ends[::2] if end.port == BACKEND_PORT and not end.is_lost]
        self.assertEqual(mine, [])

    def test_finishes(self) -> None:
        """Running answers are finished, streamed or whole, and then it stops."""
        streamed = self.house.chat(text("a", "b", "c").paced(2))
        whole = self.house.chat(text("a", "b", "c").paced(2), stream=False)
        stopping = self.stop()
        self.house.pass_time(5)
        self.assertNoResult(stopping)
        self.house.pass_time(10)
        self.successResultOf(stopping)
        self.assertEqual(check_stream(streamed.body).text, "abc")
        self.assertEqual(check_message(whole.json).text, "abc")

    def test_limit(self) -> None:
        """What takes too long is ended with an error that clients repeat, never cleanly; then it stops."""
        streamed = self.house.chat(text("a", "b").paced(15))
        whole = self.house.chat(silent(), stream=False)
        waiting = self.house.chat(silent(headers=False))
        stopping = self.stop()
        self.house.pass_time(19.9)
        self.assertNoResult(stopping)
        self.house.pass_time(2)
        self.successResultOf(stopping)
        for stream in (streamed, waiting):
            found = check_stream(stream.body)
            assert found.error is not None
            self.assertEqual(found.error.type, "overloaded_error")
        self.assertEqual(check_error(whole.json, 529).type, "overloaded_error")
        self.assertTrue(all(chat.is_gone for chat in self.house.fake.chats))
        self.assertTrue([event for event in self.house.events if event["log_level"].name == "warn"])

    def test_last_requests(self) -> None:
        """Who asks on a connection that is still open is served, and told that it is the last time; then it closes."""
        running = self.house.chat(text("a", "b").paced(2))
        other = self.house.ask("GET", "/v1/models")
        self.assertNotIn("connection", other.headers)
        stopping = self.stop()
        self.house.fake.plays(text("c"))
        other.ask("POST", "/v1/messages", body())
        self.assertEqual(check_stream(other.body).text, "c")
        self.assertEqual(other.headers["connection"], "close")
        self.assertIsNotNone(other.lost)
        self.house.pass_time(20)
        self.assertEqual(check_stream(running.body).text, "ab")
        self.successResultOf(stopping)

    def test_told_before_it_is_answered(self) -> None:
        """An answer that has not begun yet says that it is the last on its connection, and the connection closes with
        it; one that has begun leaves its client time to ask once more."""
        self.house.reset(grace_ms=20_000)
        waiting = self.house.chat(text("a").paced(1))
        self.house.reset(grace_ms=0)
        begun = self.house.chat(text("b").paced(1))
        self.house.pass_time(0.1)
        self.assertTrue(begun.answered)
        self.assertFalse(waiting.answered)
        self.stop()
        while not begun.ended:
            self.house.pass_time(0.1)
        self.house.pass_time(0.5)
        self.assertEqual((waiting.headers["connection"], waiting.lost is None), ("close", False))
        self.assertEqual(check_stream(begun.body).text, "b")
        again = begun.ask("GET", "/health")
        self.assertEqual((again.status, again.headers["connection"], again.lost is None), (200, "close", False))

    def test_quiet_connections(self) -> None:
        """A connection that was busy a moment ago is kept for a second, and one that never asked as long."""
        busy = self.house.ask("GET", "/health")
        self.house.pass_time(0.5)
        new = self.house.caller()
        stopping = self.stop()
        self.house.pass_time(0.4)
        self.assertEqual((busy.lost, new.lost), (None, None))
        self.house.pass_time(0.2)
        self.assertEqual((busy.lost is None, new.lost is None), (False, True))
        self.assertNoResult(stopping)
        new.send(b"GET /health HT")
        self.house.pass_time(5)
        self.assertIsNone(new.lost, "its request has begun")
        new.send(b"TP/1.1\r\nhost: localhost\r\n\r\n")
        self.assertEqual(new.status, 200)
        self.successResultOf(stopping)

    def test_too_late(self) -> None:
        """Once the time for draining is over, who asks is turned away, with the delay after which to come again."""
        house = House("auto", drain_ms=20_000)
        late, lister = (house.caller().send(b"GET /v1/models HTTP/1.1\r\n") for _ in range(2))
        stopping = house.proxy.stopService()
        house.pass_time(19.5)
        house.network.black_holes.add(BACKEND_PORT)
        house.reset(backends=(evolve(house.settings.backends[0], name="mute"),))
        lister.send(b"host: localhost\r\n\r\n")
        house.pass_time(0.6)
        late.send(b"host: localhost\r\n\r\n")
        check_error(late.json, 529)
        self.assertTrue(int(late.headers["retry-after"]) > 0)
        house.pass_time(5)
        self.successResultOf(stopping)

    def test_deaf_client(self) -> None:
        """A client that does not read cannot hold the daemon for ever."""
        deaf = self.house.caller()
        deaf.transport.pauseProducing()
        self.house.fake.plays(text(*["x" * 4096] * 1000))
        deaf.ask("POST", "/v1/messages", body())
        stopping = self.stop()
        self.house.pass_time(25)
        self.successResultOf(stopping)

    def test_again(self) -> None:
        """A service that was stopped can be started again."""
        self.successResultOf(self.stop())
        self.house.proxy.startService()
        self.assertEqual(check_stream(self.house.chat(text("a")).body).text, "a")


class ReloadTests(SynchronousTestCase):
    """Reloading."""

    def setUp(self) -> None:
        self.house = House()

    def test_settings(self) -> None:
        """New requests are served with the new settings."""
        self.house.reset(keys=(Secret("k"),))
        self.assertEqual(self.house.ask("POST", "/v1/messages", body()).status, 401)
        self.house.reset(keys=())
        self.assertEqual(self.house.ask("POST", "/v1/messages", body()).status, 200)

    def test_unchanged_backends(self) -> None:
        """A backend whose settings stayed is kept, with its connections and what it knows."""
        house = House("auto")
        house.ask("POST", "/v1/messages", body())
        house.reset(ping_ms=5000, backends=(*house.settings.backends, evolve(BACKEND, name="second")))
        house.network.pump()
        house.ask("POST", "/v1/messages", body())
        asked = [each for each in house.fake.received if each.path == "/v1/models"]
        self.assertEqual(len(asked), 3)  # one for each backend, and the first is asked again whether it has changed

    def test_changed_backend(self) -> None:
        """A backend whose settings changed is made anew; the old one ends what it began, and is then closed."""
        other = FakeOpenAI(self.house.network)
        self.house.network.listenTCP(9002, Site(other, reactor=self.house.network))
        running = self.house.chat(text("a", "b").paced(3))
        self.house.reset(backends=(evolve(BACKEND, base_url="http://127.0.0.1:9002/v1"),))
        self.house.ask("POST", "/v1/messages", body())
        self.assertEqual((len(other.chats), len(self.house.fake.chats)), (1, 1))
        self.house.pass_time(20)
        self.assertEqual(check_stream(running.body).text, "ab")
        mine = [end for end in self.house.network.ends[::2] if end.port == BACKEND_PORT and not end.is_lost]
        self.assertEqual(mine, [])

    def test_refused(self) -> None:
        """Settings that cannot be used together change nothing."""
        before = self.house.settings
        for wrong in ({"host": "0.0.0.0"}, {"models": {"a": ""}}):
            try:
                self.house.reset(**wrong)
            except (SettingsError, ValueError):
                self.house.settings = before
        self.assertEqual(check_stream(self.house.chat(text("a")).body).text, "a")

    def test_still_listening(self) -> None:
        """The address cannot change while it runs: whoever listens to the world goes on needing a key."""
        house = House(host="0.0.0.0", keys=(Secret("k"),))
        try:
            house.proxy.reload(evolve(house.settings, host="127.0.0.1", keys=()))
        except SettingsError:
            pass
        self.assertEqual(house.ask("POST", "/v1/messages", body()).status, 401)

    def test_log_level(self) -> None:
        """The level is in force at once."""
        self.house.reset(log_level="error")
        self.house.events.clear()
        self.house.ask("POST", "/v1/messages", body())
        self.assertEqual(self.house.events, [])


class EmbeddingTests(SynchronousTestCase):
    """Inside another program."""

    def program(self, **settings: Any) -> House:
        house = self.stopped()
        logs = Logs(house.events.append)  # type: ignore[arg-type]
        house.proxy = Proxy(Settings(backends=(BACKEND,), **settings), house.network, listens=False, logs=logs)
        return house

    def stopped(self) -> House:
        house = House()
        stopping = house.proxy.stopService()
        house.network.pump()
        self.successResultOf(stopping)
        return house

    def test_service(self) -> None:
        """It starts and stops with the MultiService it is part of."""
        house = self.stopped()
        whole = MultiService()
        house.proxy.setServiceParent(whole)
        whole.privilegedStartService()
        whole.startService()
        self.assertEqual(check_stream(house.chat(text("a")).body).text, "a")
        stopping = whole.stopService()
        house.pass_time(1)
        self.successResultOf(stopping)

    def test_resource(self) -> None:
        """Its resource serves anywhere under somebody else's site, and with their requests."""
        house = self.program()
        house.proxy.startService()
        root = Resource()
        root.putChild(b"llm", house.proxy.resource())
        house.network.listenTCP(7000, Site(root, reactor=house.network))
        house.fake.plays(text("a"), text("b"))
        asked = caller(house.network, 7000).ask("POST", "/llm/v1/messages", body())
        self.assertEqual(check_stream(asked.body).text, "a")
        asked.ask("POST", "/llm/v1/messages", body(stream=False))
        self.assertEqual(check_message(asked.json).text, "b")
        asked.ask("GET", "/llm/health")
        self.assertEqual(asked.json, {"status": "ok"})
        asked.ask("GET", "/llm/nowhere")
        check_error(asked.json, 404)

    def test_no_port(self) -> None:
        """It then listens nowhere itself."""
        house = self.program()
        house.proxy.startService()
        self.assertEqual(set(house.network.listeners), {BACKEND_PORT})
