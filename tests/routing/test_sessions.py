"""Conversations that go on side by side, and how well backends remember them (issue 5, part 3)."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.model.events import Usage
from claudeproxy.routing.sessions import Sessions, Turn, Verdict, kin_of
from claudeproxy.translate.chain import Chain

TOOLS = [{"type": "function", "function": {"name": "Bash"}}]


def chain(*said: str, system: str = "main", tools: Any = TOOLS, backend: str = "b", model: str = "m") -> Chain:
    """A conversation in which user and model take turns."""
    messages = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(said)]
    body = {"model": model, "messages": [{"role": "system", "content": system}, *messages], "tools": tools}
    return Chain.of(body, backend)


ONE, TWO, THREE = chain("1"), chain("1", "2", "3"), chain("1", "2", "3", "4", "5")
TITLE = chain("<title for 1>", system="title", tools=())


class SessionsTests(SynchronousTestCase):
    """What a request goes on from."""

    def setUp(self) -> None:
        self.sessions = Sessions()
        self.now = 0.0

    def begin(self, chain: Chain, session: str = "s", kin: str = "") -> Turn:
        self.now += 1
        return self.sessions.begin(session, kin, chain, self.now)

    def turn(self, chain: Chain, prompt: int, cached: int = 0, kin: str = "", session: str = "s") -> Verdict:
        """A request and its answer, a minute later."""
        turn = self.begin(chain, session, kin)
        self.now += 60
        return self.sessions.finish(turn, Usage(input=prompt - cached, cache_read=cached), self.now)

    def test_grown(self) -> None:
        """A conversation goes on: all of its earlier prompt is expected, and what came of it is said."""
        self.assertEqual(self.turn(ONE, 2000).words, "untold")
        self.assertEqual(self.turn(TWO, 2100, 1990).words, "hit 100%")
        self.assertEqual(self.turn(THREE, 2200, 1050).words, "short 50%")
        self.assertEqual(self.sessions.tally, {"untold": 1, "hit": 1, "short": 1})

    def test_evicted(self) -> None:
        """What should have been there and was not, though the server is known to tell: somebody else took its place."""
        self.turn(ONE, 2000)
        self.turn(TWO, 2100, 2000)
        found = self.turn(THREE, 2200, 3)
        self.assertEqual((found.cause, found.words), ("evicted", "evicted after 1s"))
        self.assertEqual((found.expected, found.cached), (2100, 3))

    def test_untold(self) -> None:
        """A server that never told of cached tokens says nothing by telling of none."""
        for each in (ONE, TWO, THREE):
            self.assertEqual(self.turn(each, 2000).cause, "untold")

    def test_cold(self) -> None:
        """The first request of a conversation expects nothing."""
        self.turn(ONE, 2000)
        self.turn(TWO, 2100, 2000)
        self.assertEqual(self.turn(chain("other"), 2000, session="t").words, "cold")
        self.assertEqual(self.turn(chain("more"), 2000, 500, session="u").words, "hit 25% of the prompt")

    def test_broken(self) -> None:
        """A break is named, with its place and its cause."""
        self.turn(TWO, 2000)
        found = self.turn(chain("1", "changed", "3", "4", "5"), 2100, 300)
        self.assertEqual((found.cause, found.words), ("message", "break@2:assistant message changed"))
        found = self.turn(chain("1", "changed", "3", "4", "5", tools=[]), 1500, 20)
        self.assertEqual((found.cause, found.words), ("tools", "break@head:tools changed"))

    def test_harmless(self) -> None:
        """A break that cost nothing is none."""
        self.turn(TWO, 2000)
        self.assertEqual(self.turn(chain("1", "2", "3 and more", "4", "5"), 2100, 1990).cause, "hit")

    def test_side_requests(self) -> None:
        """A title, a search or a sub-agent between two turns breaks nothing, whether or not a header tells of it."""
        self.turn(ONE, 2000)
        for each, kin in ((TITLE, ""), (chain("find it", system="sub"), "agent-1"), (chain("1"), "agent-2")):
            self.assertEqual(self.begin(each, kin=kin).continuity.kind, "new")
        turn = self.begin(TWO)
        self.assertEqual((turn.continuity.kind, turn.continuity.expected_tokens), ("grown", 2000))
        self.assertEqual(self.begin(chain("find it", "2", "3", system="sub"), kin="agent-1").continuity.kind, "grown")

    def test_threads_are_told_apart(self) -> None:
        """Each thread has a number of its own, the same in all its turns."""
        numbers = [self.begin(each).thread for each in (ONE, TITLE, TWO, THREE)]
        self.assertEqual([numbers[0] == each for each in numbers], [True, False, True, True])

    def test_another_model(self) -> None:
        """Another model has nothing of it; back at the first one, it goes on from there."""
        self.turn(ONE, 2000)
        changed = self.begin(chain("1", "2", "3", model="n")).continuity
        self.assertEqual((changed.kind, changed.why), ("broken", "model"))
        back = self.begin(THREE).continuity
        self.assertEqual((back.kind, back.expected_tokens), ("grown", 2000))

    def test_compacted(self) -> None:
        """A conversation that starts anew with a summary, under the same head, is the same one, shortened."""
        self.turn(THREE, 2000)
        how = self.begin(chain("summary")).continuity
        self.assertEqual((how.kind, how.why, how.at), ("broken", "shortened", 1))
        self.assertTrue(0 < how.expected_tokens < 2000)

    def test_nobody(self) -> None:
        """Requests without a session that share no message have nothing to do with each other."""
        self.begin(THREE, session="")
        self.assertEqual(self.begin(chain("9"), session="").continuity.kind, "new")

    def test_failed(self) -> None:
        """A request that never was answered leaves nothing in the cache: what was counted before it is expected."""
        self.turn(ONE, 2000)
        failed = self.begin(TWO)
        self.assertEqual(self.sessions.finish(failed, None, self.now).words, "unknown")
        how = self.begin(THREE).continuity
        self.assertEqual((how.kind, how.expected_tokens), ("grown", 2000))

    def test_kin(self) -> None:
        """A compaction goes on from the main conversation; a sub-agent does not."""
        self.assertEqual(
            [kin_of("", each) for each in ("", "main", "compaction", "auxiliary")], ["", "", "", "auxiliary"]
        )
        self.assertEqual(kin_of("a1", "subagent"), "a1")


class BoundsTests(SynchronousTestCase):
    """However many clients there are, memory is bounded."""

    def test_sessions(self) -> None:
        """The sessions that were used last are remembered, and of each the threads that were."""
        sessions = Sessions(sessions=3, threads=2)
        for number in range(10):
            for text in ("1", "2", "3"):
                sessions.begin(str(number), text, chain(text), number)
        self.assertEqual(len(sessions), 3)
        self.assertEqual(sessions.begin("9", "1", chain("1"), 10).continuity.kind, "new")
        self.assertEqual(sessions.begin("9", "3", chain("3"), 10).continuity.kind, "same")

    def test_messages(self) -> None:
        """So are the messages of all together, however long a conversation gets; the newest is always kept."""
        sessions = Sessions(messages=50)
        for number in range(10):
            for length in range(1, 20):
                sessions.begin(str(number), "", chain(*map(str, range(length))), number)
        self.assertEqual(len(sessions), 2)
        sessions.begin("long", "", chain(*map(str, range(200))), 11)
        self.assertEqual(len(sessions), 1)
        self.assertEqual(sessions.begin("long", "", chain(*map(str, range(200))), 11).continuity.kind, "same")
