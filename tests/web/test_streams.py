"""Streams over a network in memory: when they begin, what keeps them alive, how they end (issue 2, items 5 and 6)."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests import strategies
from tests.fakes.callers import Caller
from tests.fakes.house import BACKEND_PORT, House, body
from tests.fakes.network import HIGH_WATER
from tests.fakes.openai import Cut, Done, Hang, Headers, Script, Send, Wait, error, llama_text, silent, text
from tests.fakes.scripts import chunk, step_bytes
from tests.stream_checker import check_error, check_message, check_stream


class StreamCase(SynchronousTestCase):
    """A proxy and its fake backend."""

    def setUp(self) -> None:
        self.house = House()

    def chat(self, script: Script, **fields: Any) -> Caller:
        return self.house.chat(script, **fields)

    def pass_time(self, seconds: float) -> None:
        self.house.pass_time(seconds)

    @property
    def backend_ends(self) -> list[Any]:
        """The proxy's ends of its connections to the backend that are still open."""
        return [end for end in self.house.network.ends[::2] if end.port == BACKEND_PORT and not end.is_lost]

    def assert_idle(self) -> None:
        """Nothing of any request is left over: no timer, no exchange."""
        self.pass_time(30)
        self.assertEqual(self.house.network.timers("Answer"), [])
        self.assertEqual(self.house.network.timers("Generation"), [])
        self.assertEqual(len(self.house.proxy._exchanges), 0)


class GraceTests(StreamCase):
    """The 200 waits for the backend's first event, but not for long."""

    def test_instant_failure(self) -> None:
        """A failure within the grace is a real HTTP error."""
        script = Script(status=400, steps=[Wait(1.9), Send(b'{"error":{"message":"no"}}')])
        caller = self.chat(script)
        self.pass_time(1.8)
        self.assertFalse(caller.answered)
        self.pass_time(0.2)
        self.assertEqual(check_error(caller.json, 400).type, "invalid_request_error")

    def test_slow_prefill(self) -> None:
        """After the grace the client gets its headers and message_start, whatever the backend does."""
        caller = self.chat(silent(headers=False))
        self.pass_time(1.99)
        self.assertFalse(caller.answered)
        self.pass_time(0.02)
        self.assertEqual(caller.status, 200)
        self.assertTrue(caller.headers["content-type"].startswith("text/event-stream"))
        found = check_stream(caller.body, whole=False)
        self.assertEqual([event["type"] for event in found.events], ["message_start"])
        assert found.message is not None
        self.assertGreater(found.message["usage"]["input_tokens"], 0)

    def test_late_failure(self) -> None:
        """A failure after the grace is an error in the stream, of the same type."""
        script = Script(status=429, steps=[Wait(5), Send(b'{"error":{"message":"slow down"}}')])
        caller = self.chat(script)
        self.pass_time(6)
        self.assertEqual(caller.status, 200)
        found = check_stream(caller.body)
        assert found.error is not None
        self.assertEqual(found.error.type, "rate_limit_error")
        self.assertIn("slow down", found.error.message)
        self.assertTrue(caller.ended)

    def test_setting(self) -> None:
        """The grace is a setting."""
        self.house.reset(grace_ms=0)
        caller = self.chat(silent())
        self.pass_time(0.001)
        self.assertEqual(caller.status, 200)
        self.house.reset(grace_ms=60_000)
        caller = self.chat(silent())
        self.pass_time(59)
        self.assertFalse(caller.answered)

    def test_first_word(self) -> None:
        """The model's first word ends the wait at once."""
        caller = self.chat(Script(steps=[chunk({"content": "a"}), Hang()]))
        self.assertEqual(check_stream(caller.body, whole=False).text, "a")

    def test_nothing_said_yet(self) -> None:
        """What a backend sends before it says anything commits nobody: an error may still follow."""
        first = chunk({"role": "assistant", "content": ""})
        caller = self.chat(Script(steps=[first, Wait(1), Send(b'data: {"error":{"code":429,"message":"no"}}\n\n')]))
        self.pass_time(1)
        check_error(caller.json, 429)

    def test_comments_are_no_events(self) -> None:
        """A backend that only says that it is alive does not commit the proxy: an error may still follow."""
        script = Script(
            steps=[
                Send(b": hello\n\n"),
                Wait(1),
                Send(b'event: error\ndata: {"error":{"code":429,"message":"no"}}\n\n'),
            ]
        )
        caller = self.chat(script)
        self.pass_time(1)
        check_error(caller.json, 429)

    def test_whole_answer(self) -> None:
        """A client that does not stream gets the real status of a failure within a minute."""
        script = Script(steps=[*text("Hello").steps[:2], Wait(58), Cut()])
        caller = self.chat(script, stream=False)
        self.pass_time(57)
        self.assertFalse(caller.answered)
        self.pass_time(2)
        self.assertEqual(check_error(caller.json, caller.status).type, "api_error")

    def test_slow_model_list(self) -> None:
        """A backend that is too busy to say what it is delays neither the headers nor the pings."""
        house = House("auto")
        house.fake.others[("GET", "/v1/models")] = lambda body: silent()
        house.reset(
            backends=(
                house.settings.backends[0],
                house.settings.backends[0].__class__("b", "openai", base_url="http://127.0.0.1:9000/v1"),
            ),
            models={"claude-sonnet-4-5": "b/m"},
        )
        house.network.pump()
        house.fake.plays(text("Hello"))
        caller = house.ask("POST", "/v1/messages", body())
        house.pass_time(15)
        self.assertTrue(caller.answered)
        house.pass_time(30)
        self.assertEqual(check_stream(caller.body).text, "Hello")


class PingTests(StreamCase):
    """Silence carries pings."""

    def test_before_the_first_token(self) -> None:
        """Every 10 s of silence carry a ping, in the first minute."""
        caller = self.chat(silent())
        self.pass_time(2)
        for count in range(1, 6):
            self.pass_time(9.9)
            self.assertEqual(check_stream(caller.body, whole=False).pings, count - 1)
            self.pass_time(0.1)
            self.assertEqual(check_stream(caller.body, whole=False).pings, count)

    def test_between_tokens(self) -> None:
        """The silence counts from the last event."""
        script = Script(
            steps=[
                chunk({"content": "a"}),
                Wait(9),
                chunk({"content": "b"}),
                Wait(9),
                chunk({"content": "c"}),
                Wait(11),
                *text("d").steps,
            ]
        )
        caller = self.chat(script)
        self.pass_time(28.5)
        self.assertEqual(check_stream(caller.body, whole=False).pings, 1)
        self.pass_time(60)
        found = check_stream(caller.body)
        self.assertEqual((found.text, found.pings), ("abcd", 1))

    def test_comments_do_not_count(self) -> None:
        """What the backend says to keep its own connection alive is no event for the client: the pings flow."""
        alive = [step for _ in range(20) for step in (Send(b": PROCESSING\n\n"), Wait(3))]
        caller = self.chat(Script(steps=[*alive, *text("a").steps]))
        self.pass_time(61)
        found = check_stream(caller.body)
        self.assertGreaterEqual(found.pings, 5)
        self.assertEqual(found.text, "a")

    def test_no_more_after_the_end(self) -> None:
        """After the end nothing comes any more."""
        caller = self.chat(text("a"))
        self.assertTrue(caller.ended)
        self.pass_time(100)
        self.assertEqual(check_stream(caller.body).pings, 0)

    def test_setting(self) -> None:
        """The silence is a setting."""
        self.house.reset(ping_ms=1000)
        caller = self.chat(silent())
        self.pass_time(2)
        self.pass_time(5)
        self.assertEqual(check_stream(caller.body, whole=False).pings, 5)


class EndTests(StreamCase):
    """A cut stream is never given a clean end (PROTOCOL 3.2, rows 50, 55, 57, 80)."""

    def assert_failed(self, caller: Caller, kind: str, said: str | None = None) -> None:
        found = check_stream(caller.body)
        assert found.error is not None
        self.assertEqual(found.error.type, kind)
        self.assertFalse(found.finished)
        self.assertTrue(caller.ended)
        if said is not None:
            self.assertEqual(found.text, said)

    def test_truncated(self) -> None:
        """Whether the connection breaks or the body ends too early: an error event, with what was said before it."""
        begun = text("Hello", " world").steps[:3]
        self.assert_failed(self.chat(Script(steps=[*begun, Cut()])), "api_error", "Hello world")
        self.assert_failed(self.chat(Script(steps=begun)), "api_error", "Hello world")
        self.assert_failed(self.chat(Script(steps=begun, close_delimited=True)), "api_error", "Hello world")
        self.assert_failed(self.chat(Script(steps=[*begun, Cut()], close_delimited=True)), "api_error", "Hello world")

    def test_truncated_whole(self) -> None:
        """Without a stream: a status, not half a message."""
        for ending in ([Cut()], []):
            caller = self.chat(Script(steps=[*text("Hello").steps[:2], *ending]), stream=False)
            check_error(caller.json, 502)

    def test_before_the_first_token(self) -> None:
        """A connection that breaks before anything was said is an overload, which clients repeat."""
        for steps in ([Headers(), Cut()], [Cut()], [chunk({"role": "assistant"}), Cut()]):
            self.house.fake.answers = lambda body, steps=steps: Script(steps=steps)  # type: ignore[misc]
            caller = self.house.ask("POST", "/v1/messages", body())
            if caller.status == 200:
                self.assert_failed(caller, "overloaded_error")
            else:
                check_error(caller.json, 529)

    def test_empty(self) -> None:
        """An answer without anything in it is no success (row 39)."""
        caller = self.chat(Script(steps=[chunk(finish="stop"), Done()]))
        if caller.status == 200:
            self.assert_failed(caller, "api_error")
        else:
            check_error(caller.json, 502)

    def test_rubbish(self) -> None:
        """What is no event stream is a failure, not silence."""
        for data in (b"<html>login</html>\n\n", b"data: nope\n\n", b'data: {"cut\n\n'):
            caller = self.chat(Script(steps=[Send(data)]))
            self.assertGreaterEqual(caller.status, 500)
            check_error(caller.json, caller.status)

    def test_settling(self) -> None:
        """After a finish reason the end need not be waited for longer than 3 s (row 55)."""
        caller = self.chat(Script(steps=[*text("Hello").steps[:-2], Hang()]))
        self.pass_time(2)
        self.assertFalse(caller.ended)
        self.pass_time(3)
        self.assertTrue(check_stream(caller.body).finished)
        self.assertTrue(self.house.fake.chats[0].is_gone)

    def test_settling_alive(self) -> None:
        """Nor if the backend goes on saying that it is alive: some never stop."""
        alive = [step for _ in range(100) for step in (Wait(1), Send(b": keep-alive\n\n"))]
        caller = self.chat(Script(steps=[*text("Hello").steps[:-2], *alive]))
        self.pass_time(6)
        self.assertTrue(caller.ended)
        self.assertTrue(check_stream(caller.body).finished)
        self.assertTrue(self.house.fake.chats[0].is_gone)

    def test_usage_after_finish(self) -> None:
        """Counts that come after the finish reason are still in the answer."""
        caller = self.chat(
            Script(steps=[chunk({"content": "a"}), chunk(finish="stop"), Wait(1), *text("x").steps[-2:]])
        )
        self.pass_time(2)
        found = check_stream(caller.body).message
        assert found is not None
        self.assertEqual((found["usage"]["input_tokens"], found["usage"]["output_tokens"]), (12, 3))

    def test_silent(self) -> None:
        """A backend that falls silent after its first token is given up after the patience of the settings."""
        house = House(backend={"timeout_ms": 60_000})
        caller = house.chat(Script(steps=[chunk({"content": "a"}), Hang()]))
        house.pass_time(59)
        self.assertFalse(caller.ended)
        house.pass_time(2)
        self.assert_failed(caller, "api_error", "a")
        self.assertTrue(house.fake.chats[0].is_gone)

    def test_silent_prefill(self) -> None:
        """Before its first token it may be silent for hours."""
        house = House(backend={"timeout_ms": 60_000})
        caller = house.chat(Script(steps=[Wait(7200), *text("a").steps]))
        house.pass_time(7201)
        self.assertEqual(check_stream(caller.body).text, "a")

    def test_same_connection(self) -> None:
        """After an answer, and after an error in the stream, the client's connection serves the next request."""
        caller = self.chat(Script(steps=[*text("Hello").steps[:2], Cut()]))
        self.assert_failed(caller, "api_error")
        caller.ask("POST", "/v1/messages", body())
        self.assertEqual(check_stream(caller.body).text, "Hello world")


class WriteTests(StreamCase):
    """One read of the backend is one write to the client."""

    def test_one_for_one(self) -> None:
        """However many events follow from one read, they leave together, at once."""
        data = b"".join(map(step_bytes, text(*"abcdefgh").steps))
        caller = self.chat(Script(steps=[Send(data)]))
        self.assertEqual(len(caller.reads), 1)
        self.assertEqual(check_stream(caller.body).text, "abcdefgh")

    def test_at_once(self) -> None:
        """Nothing waits for the end: each piece is there before the next one is asked for."""
        caller = self.chat(text("one", "two", "three").paced(1))
        seen = []
        for _ in range(8):
            seen.append(check_stream(caller.body, whole=False).text)
            self.pass_time(1)
        self.assertEqual(list(dict.fromkeys(seen)), ["", "one", "onetwo", "onetwothree"])

    def test_no_more_writes_than_reads(self) -> None:
        """A read from which nothing follows is no write."""
        data = b"".join(map(step_bytes, text("Hello").steps))
        caller = self.chat(Script(steps=[Send(bytes([each])) for each in data]))
        self.assertLessEqual(len(caller.reads), 4)
        self.assertEqual(check_stream(caller.body).text, "Hello")

    @given(st.data())
    @settings(max_examples=30, deadline=None)
    def test_any_reads(self, data: st.DataObject) -> None:
        """In any split the answer is the same legal stream, with at most one write a read."""
        script = llama_text("Grüße", " 漢字", " 😀😀", prompt=40, cached=30)
        pieces = data.draw(strategies.splits(script.body_bytes()))
        caller = House("llama.cpp").chat(Script(steps=map(Send, pieces)))
        found = check_stream(caller.body)
        self.assertEqual(found.text, "Grüße 漢字 😀😀")
        assert found.message is not None
        self.assertEqual(found.message["usage"]["cache_read_input_tokens"], 30)
        self.assertLessEqual(len(caller.reads), len(pieces))


class SlowClientTests(StreamCase):
    """A client that reads slowly slows the backend down (STYLE P13, P33)."""

    PIECE = "x" * 4096
    COUNT = 2000

    def flood(self) -> Script:
        return text(*[self.PIECE] * self.COUNT)

    def test_bounded(self) -> None:
        """A client that does not read costs no more than the buffers of the connections; later it gets everything."""
        caller = self.house.caller()
        caller.transport.pauseProducing()
        self.house.fake.plays(self.flood())
        caller.ask("POST", "/v1/messages", body())
        self.pass_time(10)
        (chat,) = self.house.fake.chats
        self.assertTrue(chat.is_paused)
        self.assertLess(chat.written, 4 * HIGH_WATER)
        self.assertLess(caller.transport.most_waiting, 3 * HIGH_WATER)
        caller.transport.resumeProducing()
        self.house.network.pump()
        self.assertEqual(len(check_stream(caller.body).text), len(self.PIECE) * self.COUNT)
        self.assertLess(max(end.most_waiting for end in self.house.network.ends), 3 * HIGH_WATER)

    def test_no_pings_pile_up(self) -> None:
        """Nor are there pings for a client that does not read, and its patience is not the backend's fault."""
        house = House(backend={"timeout_ms": 60_000})
        caller = house.caller()
        house.fake.plays(self.flood())
        caller.transport.pauseProducing()
        caller.ask("POST", "/v1/messages", body())
        waiting = caller.transport.waiting
        house.pass_time(3600)
        self.assertEqual(caller.transport.waiting, waiting)
        caller.transport.resumeProducing()
        house.network.pump()
        self.assertTrue(check_stream(caller.body).finished)

    def test_patience_after_the_pause(self) -> None:
        """Once the client reads again, the backend has its whole patience again."""
        house = House(backend={"timeout_ms": 60_000})
        caller = house.caller()
        house.fake.plays(Script(steps=[*self.flood().steps[:-3], Wait(50), *self.flood().steps[-3:]]))
        caller.transport.pauseProducing()
        caller.ask("POST", "/v1/messages", body())
        house.pass_time(600)
        caller.transport.resumeProducing()
        house.pass_time(55)
        self.assertTrue(check_stream(caller.body).finished)

    def test_paused_at_the_end(self) -> None:
        """What a paused client has not read yet when the answer ends is not lost."""
        caller = self.house.caller()
        caller.transport.pauseProducing()
        self.house.fake.plays(text("x" * HIGH_WATER, "y" * 10))
        caller.ask("POST", "/v1/messages", body())
        self.pass_time(50)
        caller.transport.resumeProducing()
        self.pass_time(10)
        self.assertEqual(len(check_stream(caller.body).text), HIGH_WATER + 10)

    def test_paused_after_the_finish(self) -> None:
        """Nor what follows the finish reason: the moment for the end is counted while the client reads."""
        caller = self.house.caller()
        caller.transport.pauseProducing()
        first = b"".join(map(step_bytes, [chunk({"content": "x" * (HIGH_WATER + 1)}), chunk(finish="stop")]))
        self.house.fake.plays(Script(steps=[Send(first), chunk({"content": "y"}), Hang()]))
        caller.ask("POST", "/v1/messages", body())
        self.pass_time(50)
        caller.transport.resumeProducing()
        self.pass_time(10)
        self.assertTrue(check_stream(caller.body).text.endswith("xy"))

    def test_vanishes(self) -> None:
        """A client that stopped reading and then goes away takes the backend's request along."""
        caller = self.house.caller()
        caller.transport.pauseProducing()
        self.house.fake.plays(self.flood())
        caller.ask("POST", "/v1/messages", body())
        caller.vanish()
        self.assertTrue(self.house.fake.chats[0].is_gone)
        self.assert_idle()


class VanishingTests(StreamCase):
    """A client that goes away closes the backend's connection, in every phase (issue 2, item 6)."""

    def each_kind(self) -> list[dict[str, Any]]:
        return [{"stream": True}, {"stream": False}]

    def assert_gone(self, caller: Caller, politely: bool) -> None:
        before = self.house.network.seconds()
        caller.leave() if politely else caller.vanish()
        self.pass_time(1)
        self.assertEqual(self.backend_ends, [])
        for chat in self.house.fake.chats:
            self.assertTrue(chat.is_gone)
            assert chat.gone_at is not None
            self.assertLessEqual(chat.gone_at - before, 1)
        self.assertEqual([event["outcome"] for event in self.house.request_lines], ["client_gone"])
        self.assert_idle()

    def test_phases(self) -> None:
        """Before the headers, before the first token, in the middle; streaming or not; politely or not."""
        scripts = {
            "no headers": silent(headers=False),
            "no token": silent(),
            "prefill": Script(steps=[*llama_text("a").steps[:1], Hang()]),
            "in the middle": Script(steps=[*text("Hello").steps[:2], Hang()]),
            "after the finish": Script(steps=[*text("Hello").steps[:3], Hang()]),
            "in an error": Script(status=500, steps=[Send(b'{"error":'), Hang()]),
        }
        for name, script in scripts.items():
            for fields in self.each_kind():
                for politely in (False, True):
                    for waited in (0.0, 2.5):
                        with self.subTest(f"{name}, {fields}, politely: {politely}, after {waited} s"):
                            self.house = House()
                            self.pass_time(10)
                            caller = self.chat(script, **fields)
                            self.pass_time(waited)
                            self.assertFalse(self.house.fake.chats[0].is_gone)
                            self.assert_gone(caller, politely)

    def test_connecting(self) -> None:
        """While the connection to the backend is being made, it is given up."""
        for fields in self.each_kind():
            self.house = House()
            self.pass_time(10)
            self.house.network.black_holes.add(BACKEND_PORT)
            caller = self.house.ask("POST", "/v1/messages", body(**fields))
            (connector,) = self.house.network.connecting
            caller.vanish()
            self.assertTrue(connector.was_stopped)
            self.assertEqual([event["outcome"] for event in self.house.request_lines], ["client_gone"])
            self.assert_idle()

    def test_recognising(self) -> None:
        """While the backend is asked what it is, nothing is generated for nobody."""
        self.house = House("auto")
        self.house.fake.others[("GET", "/v1/models")] = lambda body: Script(
            headers={"content-type": "application/json"}, steps=[Wait(5), Send(b"{}")]
        )
        self.house.reset(
            backends=(self.house.settings.backends[0].__class__("b", "openai", base_url="http://127.0.0.1:9000/v1"),)
        )
        caller = self.house.ask("POST", "/v1/messages", body())
        caller.vanish()
        self.pass_time(10)
        self.assertEqual(self.house.fake.chats, [])

    def test_others_go_on(self) -> None:
        """Who goes away takes nobody along."""
        gone = self.chat(text("a", "b").paced(1))
        stays = self.chat(text("c", "d").paced(1))
        self.pass_time(1.5)
        gone.vanish()
        self.pass_time(20)
        self.assertEqual(check_stream(stays.body).text, "cd")
        self.assertEqual([chat.is_gone for chat in self.house.fake.chats], [True, False])


class ConnectionTests(StreamCase):
    """Connections to the backend."""

    def test_nobody_there(self) -> None:
        """What is written to a client that is gone, before its answer began or after, goes to nobody."""
        for begun in (False, True):
            caller = self.chat(silent(headers=False))
            if begun:
                self.pass_time(3)
            (request,) = self.house.proxy._exchanges._running
            caller.vanish()
            self.house.network.pump()
            request.write(b"event: ping")
            self.assertEqual(caller.answered, begun)
        self.assert_idle()

    def test_kept(self) -> None:
        """After a whole answer the connection serves the next request; after a cut one it does not."""
        self.pass_time(10)
        for _ in range(3):
            check_stream(self.chat(text("a")).body)
        opened = [end for end in self.house.network.ends[::2] if end.port == BACKEND_PORT]
        self.assertLessEqual(len(opened), 2)  # the first asked for the models
        self.chat(Script(steps=[*text("a").steps[:2], Cut()]))
        check_stream(self.chat(text("a")).body)

    def test_stale(self) -> None:
        """A kept connection that the backend closes just now costs the client nothing."""
        check_stream(self.chat(text("a")).body)
        for end in self.backend_ends:
            end.peer.loseConnection()  # on its way, not yet seen here
        self.house.fake.plays(text("b"))
        caller = self.house.ask("POST", "/v1/messages", body())
        self.assertEqual(check_stream(caller.body).text, "b")
        self.assertEqual(len(self.house.fake.chats), 2)

    def test_not_sent_twice(self) -> None:
        """A request that the backend may have begun is never sent again."""
        self.pass_time(10)
        caller = self.chat(Script(steps=[Wait(3), Cut()]))
        self.pass_time(10)
        self.assertEqual(len(self.house.fake.chats), 1)
        found = check_stream(caller.body)
        assert found.error is not None

    def test_redirect(self) -> None:
        """A redirect is not followed with credentials (row 79)."""
        script = error(307, "", {"location": "http://127.0.0.1:9000/v1/elsewhere"})
        check_error(self.chat(script).json, 502)
        self.assertEqual(len(self.house.fake.chats), 1)

    def test_identity(self) -> None:
        """The backend is asked for no compression."""
        self.chat(text("a"))
        self.assertEqual(self.house.fake.chats[0].headers.getRawHeaders("accept-encoding"), ["identity"])

    def test_endless_error(self) -> None:
        """An error that never ends is cut, and what it said is answered in bounds."""
        script = Script(
            status=500, headers={"content-type": "text/plain"}, steps=[*[Send(b"no " * 10_000)] * 50, Hang()]
        )
        caller = self.chat(script)
        message = check_error(caller.json, caller.status).message
        self.assertLess(len(message), 3000)
        self.assertTrue(self.house.fake.chats[0].is_gone)

    def test_endless_refusal(self) -> None:
        """Nor does a refusal that might be of thinking keep anybody for ever: what came of it is answered."""
        self.house = House("lmstudio", {"timeout_ms": 30_000})
        script = Script(status=400, steps=[Send(b'{"error": "no luck'), Hang()])
        caller = self.chat(script, thinking={"type": "enabled", "budget_tokens": 1024}, max_tokens=4000, stream=None)
        self.pass_time(29)
        self.assertFalse(caller.answered)
        self.pass_time(2)
        self.assertIn("no luck", check_error(caller.json, 400).message)
        self.assertTrue(self.house.fake.chats[0].is_gone)

    def test_stop_sequence(self) -> None:
        """A stop sequence ends the answer at once, and the backend's generation with it."""
        caller = self.chat(text("Hello ST", "OP and", " more").paced(1), stop_sequences=["STOP"])
        self.pass_time(2.5)
        found = check_stream(caller.body)
        assert found.message is not None
        self.assertEqual(found.text, "Hello ")
        self.assertEqual((found.message["stop_reason"], found.message["stop_sequence"]), ("stop_sequence", "STOP"))
        self.assertTrue(self.house.fake.chats[0].is_gone)
        self.assertNotIn("stop", self.house.fake.chats[0].json)

    def test_nothing_asked(self) -> None:
        """max_tokens 0 gives an empty answer that ends at its limit."""
        found = check_message(self.chat(text("a"), max_tokens=0, stream=False).json)
        assert found.message is not None
        self.assertEqual((found.content, found.message["stop_reason"]), ([], "max_tokens"))
