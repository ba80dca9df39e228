"""Whether the daemon lives, and whether it is worth sending requests to (issue 6)."""

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.backends.recovery import FRESH
from claudeproxy.routing.expectations import Secret
from claudeproxy.service.listening import CannotListen
from tests.fakes.callers import Caller
from tests.fakes.house import BACKEND_KEY, BACKEND_PORT, House, body
from tests.fakes.openai import text


class HealthTests(SynchronousTestCase):
    """``/health`` and ``/health/ready``."""

    def setUp(self) -> None:
        self.house = House("auto", keys=(Secret("k"),))

    def ready(self, method: str = "GET") -> Caller:
        return self.house.ask(method, "/health/ready")

    def backend_goes(self) -> None:
        """And a request finds that out."""
        self.site = self.house.network.listeners.pop(BACKEND_PORT)
        for end in self.house.network.ends:
            if end.port == BACKEND_PORT:
                end.abortConnection()
        self.house.network.pump()
        self.house.ask("POST", "/v1/messages", body(), {"x-api-key": "k"})
        self.house.pass_time(3)

    def test_ready(self) -> None:
        """It is ready as soon as a backend has answered; nobody needs a key for that, and HEAD will do."""
        self.assertEqual((self.ready().status, self.ready().json), (200, {"status": "ready"}))
        head = self.ready("HEAD")
        self.assertEqual((head.status, head.body), (200, b""))

    def test_not_asked_yet(self) -> None:
        """It is not before that."""
        house = House("auto")
        house.network.black_holes.add(BACKEND_PORT)
        house.reset(backends=(evolve(house.settings.backends[0], name="mute"),))
        asked = house.ask("GET", "/health/ready")
        self.assertEqual((asked.status, asked.json["unreachable"]), (503, ["mute"]))

    def test_away(self) -> None:
        """With no backend it is not, and names them, without address and key; it is again when one is back. That it
        lives is not touched by that."""
        self.backend_goes()
        asked = self.ready()
        self.assertEqual((asked.status, asked.json), (503, {"status": "no backend answers", "unreachable": ["fake"]}))
        self.assertNotIn(BACKEND_KEY.encode(), asked.raw)
        self.assertEqual(self.house.ask("GET", "/health").json, {"status": "ok"})
        self.house.network.listeners[BACKEND_PORT] = self.site
        self.house.pass_time(60)
        self.assertEqual(self.ready().status, 200)

    def test_some_away(self) -> None:
        """One backend that answers is enough; those that do not are named."""
        gone = evolve(self.house.settings.backends[0], name="gone", base_url="http://127.0.0.1:1/v1")
        self.house.reset(backends=(gone, *self.house.settings.backends))
        self.house.pass_time(1)
        asked = self.ready()
        self.assertEqual((asked.status, asked.json), (200, {"status": "ready", "unreachable": ["gone"]}))

    def test_nobody_else_asks(self) -> None:
        """A monitor's question is enough to find out that a backend has gone, but no more than once a minute."""
        del self.house.network.listeners[BACKEND_PORT]
        self.assertEqual(self.ready().status, 200)
        self.house.pass_time(FRESH)
        self.ready()
        self.house.pass_time(1)
        self.assertEqual(self.ready().status, 503)

    def test_questions_are_few(self) -> None:
        """However often it is asked, the backend is not asked more often."""
        before = len(self.house.fake.received)
        for _ in range(20):
            self.ready()
        self.assertEqual(len(self.house.fake.received), before)

    def test_stopping(self) -> None:
        """While it drains it is not ready, though it lives."""
        running = self.house.caller()
        self.house.fake.plays(text("a", "b").paced(5))
        running.ask("POST", "/v1/messages", body(), {"x-api-key": "k"})
        one, other = self.house.ask("GET", "/health"), self.house.ask("GET", "/health")
        self.house.proxy.stopService()
        self.assertEqual(one.ask("GET", "/health/ready").status, 503)
        self.assertEqual(one.json, {"status": "stopping"})
        self.assertEqual(other.ask("GET", "/health").status, 200)
        self.house.pass_time(60)

    def test_log(self) -> None:
        """Both are logged only for who looks for it, unless it is not ready."""
        self.ready()
        self.assertEqual(self.house.request_lines[-1]["log_level"].name, "debug")
        self.backend_goes()
        self.ready()
        line = self.house.request_lines[-1]
        self.assertEqual((line["log_level"].name, line["outcome"]), ("info", "not_ready"))


class AdminTests(SynchronousTestCase):
    """The operators' own listener."""

    def setUp(self) -> None:
        self.house = House(keys=(Secret("k"),), admin_listen=("tcp:9090:interface=127.0.0.1",))

    def ask(self, path: str, **headers: str) -> Caller:
        new = Caller(self.house.network)
        self.house.network.dial(9090, new)
        return new.ask("GET", path, headers=headers)

    def test_routes(self) -> None:
        """It knows what operators ask, without a key, and nothing of what clients do."""
        self.assertEqual((self.ask("/health").status, self.ask("/health/ready").status), (200, 200))
        self.assertEqual((self.ask("/v1/models").status, self.ask("/v1/messages").status), (404, 404))

    def test_records(self) -> None:
        """What the flight recorder keeps is here, and no longer on the listener of the clients."""
        self.house.ask("GET", "/v1/models", headers={"x-api-key": "k"})
        found = self.ask("/admin/requests").json["data"]
        self.assertEqual([each["path"] for each in found if each["path"].startswith("/v1")], ["/v1/models"])
        self.assertEqual(self.ask("/admin/requests", host="evil.example").status, 403)
        self.assertEqual(self.house.ask("GET", "/admin/requests", headers={"x-api-key": "k"}).status, 404)

    def test_web_pages(self) -> None:
        """Web pages stay out here, too."""
        self.assertEqual(self.ask("/health", host="evil.example").status, 403)
        self.assertEqual(self.ask("/health", origin="https://evil.example").status, 403)

    def test_told(self) -> None:
        """The log says where it is."""
        self.assertIn("operators find it on http://127.0.0.1:9090", self.house.lines)

    def test_drain(self) -> None:
        """It answers until the last client has its answer, and says that the daemon is not ready."""
        self.house.fake.plays(text("a", "b").paced(5))
        self.house.ask("POST", "/v1/messages", body(), {"x-api-key": "k"})
        stopping = self.house.proxy.stopService()
        self.house.pass_time(2)
        self.assertNoResult(stopping)
        asked = self.ask("/health/ready")
        self.assertEqual((asked.status, asked.json["status"]), (503, "stopping"))
        self.house.pass_time(20)
        self.successResultOf(stopping)
        self.assertNotIn(9090, self.house.network.listeners)

    def test_taken(self) -> None:
        """If its address is taken, nothing listens."""
        house = House(port=8081)
        self.successResultOf(self._stopped(house))
        house.network.listeners[9090] = object()
        house.settings = evolve(house.settings, admin_listen=("tcp:9090:interface=127.0.0.1",))
        proxy = type(house.proxy)(house.settings, house.network)
        fault = self.assertRaises(CannotListen, proxy.startService)
        self.assertIn("ADMIN_LISTEN", str(fault))
        self.assertNotIn(8081, house.network.listeners)

    def _stopped(self, house: House) -> object:
        stopping = house.proxy.stopService()
        house.pass_time(2)
        return stopping
