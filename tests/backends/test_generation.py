"""A generation owns its connection, and says each of its three endings exactly once (issue 2, items 5 and 6)."""

from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.logger import LogEvent, Logger
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import Site

from claudeproxy.backends.client import BackendClient
from claudeproxy.backends.generation import Generation
from claudeproxy.backends.patience import Limits
from claudeproxy.model.events import Event, Failed, MessageStart, MessageStop, TextDelta, Usage
from claudeproxy.model.problems import Problem, bad_gateway
from claudeproxy.wire.stencil import Stencil
from tests.fakes.house import rendered
from tests.fakes.network import Network
from tests.fakes.openai import Cut, FakeOpenAI, Hang, Headers, Script, Send, Wait, error, silent

PATIENCE = 60.0


@define
class Words:
    """A machine for the simplest of dialects: every byte is a word, "." is the end, "!" a fault, "," the finish."""

    spoken: bool = False
    settled: bool = False
    over: bool = False
    heard_out: bool = False
    stencil: Stencil | None = None
    remarks: list[str] = field(factory=list)

    def begin(self) -> list[Event]:
        return [MessageStart("msg_1", "m", Usage())]

    def keep_alive(self) -> list[Event]:
        return []

    def receive(self, data: bytes) -> list[Event]:
        events: list[Event] = []
        for each in data.decode("latin-1"):
            if each == "!":
                raise ZeroDivisionError("secret-canary")
            if each == ".":
                self.over = self.heard_out = self.settled = True
                return [*events, MessageStop()]
            if each == "#":
                self.over = self.settled = True  # we cut it
                return [*events, MessageStop()]
            if each == ",":
                self.settled = True
            elif each != ":":
                self.spoken = True
                events.append(TextDelta(0, each))
        return events

    def close(self) -> list[Event]:
        if self.over:
            return []
        if not self.settled:
            return self.fail(bad_gateway("truncated"))
        self.over = True
        return [MessageStop()]

    def fail(self, problem: Problem) -> list[Event]:
        if self.over:
            return []
        self.over = True
        return [Failed(problem)]


class GenerationCase(SynchronousTestCase):
    """A generation between a fake backend and a list."""

    def setUp(self) -> None:
        self.network = Network()
        self.fake = FakeOpenAI(self.network)
        self.network.listenTCP(9000, Site(self.fake, reactor=self.network))
        self.events: list[Event] = []
        self.deliveries = 0
        self.logged: list[LogEvent] = []

    def deliver(self, events: list[Event]) -> None:
        self.deliveries += 1
        self.events += events

    def generate(self, *scripts: Script) -> Generation:
        self.fake.plays(*scripts)
        client = BackendClient.over_network("box", self.network, 10)
        log = Logger("test", observer=self.logged.append)  # type: ignore[arg-type]
        generation = Generation("box", Words(), self.deliver, self.network, Limits(PATIENCE), log)
        generation.start(client.post("http://127.0.0.1:9000/v1/chat/completions", b"{}", {}))
        self.network.pump()
        return generation

    @property
    def said(self) -> str:
        """The words, and the ending: "." for whole, "x" for failed."""
        marks = {MessageStop: ".", Failed: "x"}
        return "".join(
            event.text if isinstance(event, TextDelta) else marks.get(type(event), "") for event in self.events
        )

    def assert_closed(self) -> None:
        self.network.pump()
        self.assertEqual([end for end in self.network.ends if not end.is_lost], [])

    def assert_quiet(self) -> None:
        """No timer is left."""
        self.assertEqual(self.network.timers("Generation"), [])


def words(*steps: bytes | float, ending: object = None) -> Script:
    """Bytes to send, seconds to wait."""
    made = [Send(step) if isinstance(step, bytes) else Wait(step) for step in steps]
    return Script(steps=[*made, *([ending] if ending is not None else [])])  # type: ignore[list-item]


class EndTests(GenerationCase):
    """How it ends."""

    def test_whole(self) -> None:
        """Each read of the backend is one delivery."""
        self.generate(words(b"ab", b"c", b"d."))
        self.assertEqual((self.said, self.deliveries), ("abcd.", 3))

    def test_nothing_follows(self) -> None:
        """A read from which nothing follows is no delivery."""
        self.generate(words(b":", b"::", b"a", b"."))
        self.assertEqual((self.said, self.deliveries), ("a.", 2))

    def test_broken(self) -> None:
        """A connection that breaks, a body that ends too early, an error: failed, once."""
        for script in (words(b"ab", ending=Cut()), words(b"ab"), words(b"ab", 1.0, ending=Cut())):
            self.setUp()
            self.generate(script)
            self.network.pass_time(5)
            self.assertEqual(self.said, "abx")
            self.assert_quiet()

    def test_refused(self) -> None:
        """What the backend answers with an error status is the problem that belongs to it."""
        for status, expected in ((400, 400), (429, 429), (503, 529), (302, 502), (204, 502), (500, 500)):
            self.setUp()
            self.generate(error(status, {"error": {"message": "m"}}, {"retry-after": "3"}))
            (failed,) = self.events
            assert isinstance(failed, Failed)
            self.assertEqual(failed.problem.status // 100, expected // 100, status)

    def test_time_to_wait(self) -> None:
        """A time of day to wait for is told in seconds, by the backend's own clock."""
        headers = {"date": "Wed, 21 Oct 2026 07:28:00 GMT", "retry-after": "Wed, 21 Oct 2026 07:29:00 GMT"}
        self.generate(error(429, {"error": {"message": "m"}}, headers))
        (failed,) = self.events
        assert isinstance(failed, Failed)
        self.assertEqual(failed.problem.retry_after, 60)

    def test_fault_of_ours(self) -> None:
        """A fault of the machine is a failed answer and a traceback; the backend's connection is closed."""
        self.generate(words(b"ab", b"c!d", b"e", ending=Hang()))
        self.assertEqual(self.said, "abx")
        failed = self.events[-1]
        assert isinstance(failed, Failed)
        self.assertEqual((failed.problem.status, failed.problem.outcome), (500, "internal"))
        self.assertNotIn("canary", failed.problem.message)
        self.assert_closed()
        (event,) = self.logged
        self.assertIs(event["log_failure"].type, ZeroDivisionError)
        self.assertNotIn("'ab'", rendered(self.logged))
        self.assert_quiet()

    def test_settling(self) -> None:
        """After the finish the backend has 3 s to end by itself, however alive it is; then it is hung up on."""
        for rest in ((10.0,), (1.0, b":", 1.0, b":", 1.0, b":", 1.0, b":", 9.0)):
            self.setUp()
            self.generate(words(b"a", b",", *rest))
            self.network.pass_time(2.9)
            self.assertEqual(self.said, "a")
            self.network.pass_time(0.2)
            self.assertEqual(self.said, "a.")
            self.assert_closed()
            self.assert_quiet()

    def test_after_the_finish(self) -> None:
        """What comes in these seconds still counts (row 48)."""
        self.generate(words(b"a", b",", 1.0, b"b", 1.0, b"."))
        self.network.pass_time(3)
        self.assertEqual(self.said, "ab.")

    def test_connection_kept(self) -> None:
        """After the last word the connection may end by itself and serve again; else it is closed after 3 s."""
        self.generate(words(b"a."))
        self.assertEqual(len([end for end in self.network.ends if not end.is_lost]), 2)
        self.setUp()
        self.generate(words(b"a.", ending=Hang()))
        self.network.pass_time(3.1)
        self.assert_closed()

    def test_cut(self) -> None:
        """An answer that is cut on purpose hangs up at once."""
        self.generate(words(b"a", b"#", ending=Hang()))
        self.assertEqual(self.said, "a.")
        self.assert_closed()

    def test_failed_from_outside(self) -> None:
        """A daemon that stops ends it with its own problem, in every phase."""
        for script in (silent(headers=False), silent(), words(b"ab", ending=Hang())):
            self.setUp()
            generation = self.generate(script)
            generation.fail(bad_gateway("stopping"))
            generation.fail(bad_gateway("again"))
            self.assertEqual(self.said[-1], "x")
            self.assertEqual(len([event for event in self.events if isinstance(event, Failed)]), 1)
            self.assert_closed()
            self.assert_quiet()


class CancelTests(GenerationCase):
    """Cancelled, it delivers nothing more, and the connection is closed."""

    def test_phases(self) -> None:
        """Awaiting the headers, before the first word, in the middle, in an error, after the finish."""
        for script in (
            silent(headers=False),
            Script(steps=[Headers(), Hang()]),
            words(b"ab", ending=Hang()),
            words(b"ab,", ending=Hang()),
            Script(status=500, steps=[Send(b"half"), Hang()]),
        ):
            for waited in (0.0, 2.0):
                self.setUp()
                generation = self.generate(script)
                self.network.pass_time(waited)
                before = self.said
                generation.cancel()
                generation.cancel()
                self.assert_closed()
                self.network.pass_time(100)
                self.assertEqual((self.said, self.logged), (before, []))
                self.assertTrue(self.fake.chats[0].is_gone)
                self.assert_quiet()

    def test_connecting(self) -> None:
        """While connecting."""
        self.network.black_holes.add(9000)
        generation = self.generate()
        (connector,) = self.network.connecting
        generation.cancel()
        self.assertTrue(connector.was_stopped)
        self.assertEqual((self.events, self.logged), ([], []))

    def test_locating(self) -> None:
        """While it is not known yet where the backend is, as with a child process that still starts."""
        located: Deferred[None] = Deferred()

        async def opening() -> None:
            await located

        log = Logger("test", observer=self.logged.append)  # type: ignore[arg-type]
        generation = Generation("box", Words(), self.deliver, self.network, Limits(PATIENCE), log)
        generation.start(opening())  # type: ignore[arg-type]
        generation.cancel()
        self.assertTrue(located.called)
        self.assertEqual((self.events, self.logged), ([], []))

    def test_after_the_end(self) -> None:
        """After the end it does nothing."""
        generation = self.generate(words(b"a."))
        generation.cancel()
        generation.begin()
        generation.fail(bad_gateway("m"))
        self.assertEqual(self.said, "a.")


class SilenceTests(GenerationCase):
    """The watchdog."""

    def test_before_the_first_word(self) -> None:
        """Before the first word a backend may be silent for hours, or only show that it is alive."""
        self.generate(words(3600.0, b":", 3600.0, b"a", b"."))
        self.network.pass_time(7201)
        self.assertEqual(self.said, "a.")

    def test_in_the_middle(self) -> None:
        """After it the silence has a limit."""
        self.generate(words(b"a", ending=Hang()))
        self.network.pass_time(PATIENCE - 0.1)
        self.assertEqual(self.said, "a")
        self.network.pass_time(0.2)
        self.assertEqual(self.said, "ax")
        self.assert_closed()
        self.assert_quiet()

    def test_any_byte(self) -> None:
        """Every byte is a sign of life."""
        alive: list[bytes | float] = [50.0, b":"]
        self.generate(words(b"a", *alive * 10, b"."))
        self.network.pass_time(501)
        self.assertEqual(self.said, "a.")

    def test_paused(self) -> None:
        """A silence that the client asked for is not the backend's; its patience begins anew when the client reads."""
        generation = self.generate(words(b"a", 1.0, b"b", ending=Hang()))
        generation.pauseProducing()
        self.network.pass_time(1000)
        self.assertEqual(self.said, "a")
        generation.resumeProducing()
        self.network.pump()
        self.assertEqual(self.said, "ab")
        self.network.pass_time(PATIENCE - 0.1)
        self.assertEqual(self.said, "ab")
        self.network.pass_time(0.2)
        self.assertEqual(self.said, "abx")

    def test_paused_for_a_while(self) -> None:
        """Also if nothing came meanwhile."""
        generation = self.generate(words(b"a", ending=Hang()))
        generation.pauseProducing()
        self.network.pass_time(PATIENCE - 10)
        generation.resumeProducing()
        self.network.pass_time(PATIENCE - 0.1)
        self.assertEqual(self.said, "a")
        self.network.pass_time(0.2)
        self.assertEqual(self.said, "ax")

    def test_paused_before_the_headers(self) -> None:
        """A client that does not read from the start holds the body back, too."""
        generation = self.generate(words(1.0, b"a", b"."))
        generation.pauseProducing()
        self.network.pass_time(10)
        self.assertEqual(self.said, "")
        generation.resumeProducing()
        self.network.pump()
        self.assertEqual(self.said, "a.")

    @given(
        st.lists(st.sampled_from([b"a", b"bc", b":", b",", b".", b"#", b"!", 1.0, 30.0, 70.0]), max_size=8), st.data()
    )
    @settings(max_examples=100, deadline=None)
    def test_any_course(self, steps: list[bytes | float], data: st.DataObject) -> None:
        """Whatever the backend does, and whenever somebody pauses or cancels: one ending, or none if cancelled."""
        self.setUp()
        ending = data.draw(st.sampled_from([None, Cut(), Hang()]))
        generation = self.generate(words(*steps, ending=ending))
        cancelled = False
        for act in data.draw(st.lists(st.sampled_from(["pause", "resume", "wait", "cancel"]), max_size=6)):
            match act:
                case "pause":
                    generation.pauseProducing()
                case "resume":
                    generation.resumeProducing()
                case "cancel":
                    cancelled = cancelled or not self.said.endswith((".", "x"))
                    generation.cancel()
                case _:
                    self.network.pass_time(5)
        generation.resumeProducing()
        self.network.pass_time(1000)
        endings = [event for event in self.events if isinstance(event, MessageStop | Failed)]
        silent_for_ever = (
            not any(isinstance(step, bytes) and step not in (b":",) for step in steps) and ending == Hang()
        )
        if cancelled or (silent_for_ever and not endings):
            self.assertEqual(endings, [])
        else:
            self.assertEqual(len(endings), 1)
            self.assertIs(self.events[-1], endings[0])
        self.assert_quiet()
