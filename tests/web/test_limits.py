"""How much clients may ask for at a time (issue 6, limits)."""

import resource
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.routing.keys import key_of
from claudeproxy.web import limits
from claudeproxy.web.limits import Crowd, affordable_connections
from tests.fakes.callers import Caller
from tests.fakes.house import House, body
from tests.fakes.openai import silent, text
from tests.stream_checker import check_error, check_stream

ALICE, BOB, NAMELESS = "alices-key", "bobs-key", "key-without-a-name"
KEYS = (key_of(ALICE, "alice"), key_of("alices-other-key", "alice"), key_of(BOB, "bob"), key_of(NAMELESS), key_of("x"))


class CrowdCase(SynchronousTestCase):
    house: House

    def hold(self, key: str | None = None) -> Caller:
        """A request that is not answered for now; if it was let in."""
        self.house.fake.plays(silent())
        return self.ask(key)

    def ask(self, key: str | None = None, path: str = "/v1/messages", **fields: Any) -> Caller:
        return self.house.ask("POST", path, body(**fields), {"x-api-key": key})

    def assert_refused(self, caller: Caller, status: int, setting: str) -> None:
        said = check_error(caller.json, status)
        self.assertIn(setting, said.message)
        self.assertEqual(caller.headers["retry-after"], "2")
        self.assertNotIn("x-should-retry", caller.headers)
        self.assertIsNone(caller.lost)


class OverallTests(CrowdCase):
    """max_requests."""

    def setUp(self) -> None:
        self.house = House(max_requests=2)

    def test_limit(self) -> None:
        """What is above is a 529 that clients repeat; who was turned away does not count, and place becomes free."""
        held = [self.hold(), self.hold()]
        for _ in range(3):
            self.assert_refused(self.ask(), 529, "max_requests")
        self.assertEqual(len(self.house.fake.chats), 2)
        self.assertEqual([event["outcome"] for event in self.house.request_lines], ["overloaded"] * 3)
        held[0].vanish()
        self.house.fake.plays(text("a"))
        self.assertEqual(check_stream(self.ask().body).text, "a")

    def test_streams(self) -> None:
        """A stream counts until its end."""
        self.house.fake.plays(text("a", "b").paced(5))
        stream = self.ask()
        self.hold()
        self.house.pass_time(4)
        self.assert_refused(self.ask(), 529, "max_requests")
        self.house.pass_time(20)
        self.assertTrue(stream.ended)
        self.hold()
        self.assert_refused(self.ask(), 529, "max_requests")

    def test_not_counted(self) -> None:
        """Health, warm-ups, metrics and the model list are there when it is full, and a wrong path is a wrong path."""
        self.hold()
        self.hold()
        for path in ("/health", "/", "/api/hello", "/v1/models", "/metrics", "/nowhere"):
            self.assertEqual(self.house.ask("GET", path).status, 404 if path == "/nowhere" else 200, path)
        self.assert_refused(self.ask(path="/v1/messages/count_tokens"), 529, "max_requests")

    def test_reload(self) -> None:
        """A reload changes the limit for new requests; 0 is without one."""
        self.hold()
        self.house.reset(max_requests=1)
        self.assert_refused(self.ask(), 529, "max_requests")
        self.house.reset(max_requests=0)
        for _ in range(20):
            self.hold()
        self.assertEqual(len(self.house.fake.chats), 21)


class ShareTests(CrowdCase):
    """max_requests_per_key."""

    def setUp(self) -> None:
        self.house = House(max_requests_per_key=1, keys=KEYS)

    def test_limit(self) -> None:
        """One key's requests do not take another's place. Two keys of one name share theirs, nameless ones do not."""
        for key, others in ((ALICE, ["alices-other-key"]), (BOB, []), (NAMELESS, []), ("x", [])):
            self.hold(key)
            for each in (key, *others):
                refused = self.ask(each)
                self.assert_refused(refused, 429, "max_requests_per_key")
                self.assertEqual(refused.json["error"]["type"], "rate_limit_error")
        self.assertEqual(len(self.house.fake.chats), 4)

    def test_counts(self) -> None:
        """Counting tokens takes no place of a key's."""
        self.hold(ALICE)
        self.assertEqual(self.ask(ALICE, "/v1/messages/count_tokens").status, 200)

    def test_addresses(self) -> None:
        """Where no keys are set, an address has the share that a key would have."""
        self.house = House(max_requests_per_key=1)
        self.hold()
        self.assert_refused(self.ask(), 429, "max_requests_per_key")

    def test_named_in_the_log(self) -> None:
        """The line of the log says whose key it was, and never the key."""
        for key, told in ((ALICE, "alice"), ("alices-other-key", "alice"), (NAMELESS, "unnamed"), ("wrong-key", "")):
            self.house.fake.plays(text("a"))
            self.ask(key)
            event = self.house.request_lines[-1]
            self.assertEqual(event.get("key", ""), told)
            line = self.house.lines[self.house.events.index(event)]
            self.assertEqual(f" key={told} " in line, bool(told), line)
            self.assertNotIn(key, line)


class CountingTests(SynchronousTestCase):
    """`Crowd` by itself."""

    @given(
        st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["a", "b", None]), st.booleans())),
        st.integers(0, 4),
        st.integers(0, 3),
    )
    def test_never_above(self, moves: list[tuple[int, str | None, bool]], most: int, most_of_each: int) -> None:
        """There are never more than may be, and when all have left nothing is left."""
        crowd, inside = Crowd(), {}
        for who, whom, comes in moves:
            if not comes:
                crowd.leave(who)
                inside.pop(who, None)
            elif who not in inside:
                problem = crowd.enter(who, whom, most, most_of_each)
                same = [each for each in inside.values() if each == whom and whom is not None]
                full = most and len(inside) >= most
                self.assertEqual(problem is not None, bool(full or (most_of_each and len(same) >= most_of_each)))
                if problem is None:
                    inside[who] = whom
            self.assertEqual(len(crowd), len(inside))
        for who in range(10):
            crowd.leave(who)
        self.assertEqual((len(crowd), dict(crowd._of_each)), (0, {}))

    def test_descriptors(self) -> None:
        """Without a limit of its own the number of connections follows from the descriptors, two for each."""
        for soft, connections in ((1024, 480), (20_000, 9968), (64, 8), (resource.RLIM_INFINITY, 0)):
            self.patch(limits.resource, "getrlimit", lambda which, soft=soft: (soft, soft))
            self.assertEqual(affordable_connections(), connections)
