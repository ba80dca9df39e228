"""Connections that wait for their clients: not for ever (issue 6, limits; STYLE P22)."""

from twisted.trial.unittest import SynchronousTestCase

from tests.fakes.callers import Caller
from tests.fakes.house import FRONT_PORT, House, body
from tests.fakes.openai import silent, text
from tests.stream_checker import check_error, check_stream

#: Of a request that is never whole.
HEAD = b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n\r\n"


class PaceCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.house = House(request_timeout_ms=30_000, idle_ms=60_000)

    def assert_too_slow(self, caller: Caller, part: str) -> None:
        """It was told so, and its connection ends a second later, whatever it does."""
        said = check_error(caller.json, 408)
        self.assertEqual(said.type, "timeout_error")
        self.assertIn("request_timeout_ms", said.message)
        self.assertIn(part, said.message)
        self.assertEqual(caller.headers["connection"], "close")
        before = len(caller.raw)
        caller.transport.write(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        self.house.pass_time(1.1)
        self.assertEqual(len(caller.raw), before)
        self.assertIsNotNone(caller.lost)

    def assert_nothing_left(self) -> None:
        self.assertEqual([end for end in self.house.network.ends if end.port == FRONT_PORT and not end.is_lost], [])
        self.assertEqual(self.house.network.timers("TimedChannel"), [])
        self.assertEqual(len(self.house.proxy._exchanges), 0)


class SlowTests(PaceCase):
    """Clients that send slowly."""

    def test_head(self) -> None:
        """Headers that are not whole in time are a 408, also if now and then a byte comes."""
        for begun in (b"G", b"GET /health HTTP/1.1\r\n", b"GET /health HTTP/1.1\r\nhost: localhost\r\nx"):
            caller = self.house.caller().send(begun)
            for _ in range(29):
                self.house.pass_time(1)
                self.assertEqual(caller.raw, b"")
                caller.transport.write(b"x")
            self.house.pass_time(1.1)
            self.assert_too_slow(caller, "head")
        self.assert_nothing_left()

    def test_body(self) -> None:
        """A body has to come at a kilobyte a second; a byte now and then does not keep the connection."""
        for pace in (0, 1, 1000):
            caller = self.house.caller().send(HEAD)
            for _ in range(30):
                self.house.pass_time(1)
                if not caller.raw:
                    caller.transport.write(b"x" * pace)
            self.house.pass_time(1)
            self.assert_too_slow(caller, "body")
        self.assert_nothing_left()

    def test_slow_but_steady(self) -> None:
        """A body that comes faster than that may take as long as it takes."""
        caller = self.house.caller().send(HEAD)
        for _ in range(400):
            caller.transport.write(b" " * 2048)
            self.house.pass_time(1)
        self.assertEqual(caller.raw, b"")
        caller.send(b" " * (1_000_000 - 400 * 2048))
        check_error(caller.json, 400)
        self.assertIsNone(caller.lost)

    def test_after_a_request(self) -> None:
        """A second request on the same connection has its own time."""
        caller = self.house.ask("GET", "/health")
        for _ in range(5):
            self.house.pass_time(25)
            caller.send(b"GET /health HTTP/1.1\r\n")
            self.house.pass_time(25)
            self.assertEqual(caller.raw, b"")
            caller.send(b"host: localhost\r\n\r\n")
            self.assertEqual(caller.status, 200)
        caller.send(b"GET")
        self.house.pass_time(30.1)
        self.assert_too_slow(caller, "head")

    def test_pipelined(self) -> None:
        """The same if it begins in the segment that ends the one before, over and over."""
        caller = self.house.caller().send(b"GET /health")
        for _ in range(5):
            self.house.pass_time(20)
            caller.send(b" HTTP/1.1\r\nhost: localhost\r\n\r\nGET /health")
            self.assertEqual(caller.status, 200)
        caller.reads.clear()
        self.house.pass_time(31)
        self.assert_too_slow(caller, "head")

    def test_chunks(self) -> None:
        """The pace holds for chunks as well, and bad ones are a 400."""
        head = b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
        caller = self.house.caller().send(head + b"5\r\nhel")
        self.house.pass_time(31)
        self.assert_too_slow(caller, "body")
        caller = self.house.caller().send(head + b"zz\r\n")
        check_error(caller.json, 400)


class IdleTests(PaceCase):
    """Connections on which nothing happens."""

    def test_idle(self) -> None:
        """One without a request is closed in silence, a new one as well as one that was used."""
        fresh, used = self.house.caller(), self.house.ask("GET", "/health")
        used.reads.clear()
        self.house.pass_time(59.9)
        self.assertIsNone(fresh.lost or used.lost)
        self.house.pass_time(0.2)
        for caller in (fresh, used):
            self.assertIsNotNone(caller.lost)
            self.assertEqual(caller.raw, b"")
        self.assert_nothing_left()

    def test_prefill(self) -> None:
        """A client that waits for an answer is not idle, however long it takes, and its time begins anew after it."""
        self.house.fake.plays(silent(headers=False))
        waiting = self.house.ask("POST", "/v1/messages", body(stream=False))
        self.house.pass_time(3000)
        self.assertIsNone(waiting.lost)
        slow = self.house.chat(text("a", "b").paced(100))
        self.house.pass_time(1000)
        self.assertEqual(check_stream(slow.body).text, "ab")

    def test_answered_late(self) -> None:
        """After an answer that took long a connection has its whole idle time."""
        caller = self.house.chat(text("a", "b").paced(100))
        while not caller.ended:
            self.house.pass_time(10)
        self.house.pass_time(49)
        self.assertIsNone(caller.lost)
        self.house.pass_time(12)
        self.assertIsNotNone(caller.lost)
        self.assert_nothing_left()

    def test_deaf(self) -> None:
        """One that does not read what it was sent is cut off in the end."""
        caller = self.house.caller()
        caller.transport.pauseProducing()
        caller.send(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        self.house.pass_time(59)
        self.assertIsNone(caller.lost)
        self.house.pass_time(2)
        self.assertTrue(caller.transport.peer.is_lost)

    def test_a_timer_less(self) -> None:
        """A request that is answered at once costs no timer: one a connection is all there ever is."""
        made: list[float] = []
        later = self.house.network.callLater

        def count(delay: float, *rest: object, **named: object) -> object:
            made.append(delay)
            return later(delay, *rest, **named)  # type: ignore[arg-type]

        caller = self.house.caller()
        self.patch(self.house.network, "callLater", count)
        for _ in range(10):
            self.house.pass_time(0.01)
            caller.ask("GET", "/health")
        self.assertEqual(made, [])


class ConnectionTests(PaceCase):
    """How many there may be."""

    def test_oldest_goes(self) -> None:
        """Above the limit the connection that lay idle for longest is closed; those with a request never are."""
        self.house = House(max_connections=3)
        self.house.fake.plays(silent())
        busy = self.house.ask("POST", "/v1/messages", body())
        idle = []
        for _ in range(2):
            self.house.pass_time(1)
            idle.append(self.house.ask("GET", "/health"))
        self.house.pass_time(1)
        idle[0].ask("GET", "/health")
        newest = self.house.ask("GET", "/health")
        self.assertEqual(newest.status, 200)
        self.assertEqual([caller.lost is None for caller in (busy, *idle, newest)], [True, True, False, True])

    def test_all_busy(self) -> None:
        """If none is idle, the new one is told to come again."""
        self.house = House(max_connections=2)
        for _ in range(2):
            self.house.fake.plays(silent())
            self.house.ask("POST", "/v1/messages", body())
        refused = self.house.caller()
        self.house.network.pump()
        said = check_error(refused.json, 529)
        self.assertIn("max_connections", said.message)
        self.assertEqual(refused.headers["retry-after"], "2")
        self.assertIsNotNone(refused.lost)
        self.assertEqual(len(self.house.proxy._exchanges), 2)
