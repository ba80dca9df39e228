"""The embedded model's parent side: starting, waiting, dying, resting and stopping, without a process."""

import json
import signal
from itertools import count
from pathlib import Path

from attrs import define
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, Logger, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from claudeproxy.backends.embedded import (
    HEALTHY_AFTER,
    PATIENT_DEATHS,
    STOP_PATIENCE,
    Address,
    EmbeddedModel,
    pause_after,
)
from claudeproxy.backends.embedded_child import Orders
from claudeproxy.backends.embedded_process import Broken, Serving, environment, read_announcement
from claudeproxy.model.problems import Refusal
from tests.fakes.processes import FakeProcesses


def announcement(port: int) -> bytes:
    return json.dumps({"host": "127.0.0.1", "port": port, "window": 8192}).encode() + b"\n"


@implementer(ILogObserver)
@define
class _Remembering:
    """Keeps what is logged."""

    events: list[LogEvent]

    def __call__(self, event: LogEvent) -> None:
        self.events.append(event)


class EmbeddedModelTests(SynchronousTestCase):
    """What a caller of the service sees, and what its process sees."""

    def setUp(self) -> None:
        self.processes, self.clock = FakeProcesses(), Clock()
        self.events: list[LogEvent] = []
        keys = count(1)
        self.model = EmbeddedModel(
            gguf=Path("/models/Tiny-1B.Q4_1.gguf"),
            processes=self.processes,
            clock=self.clock,
            make_key=lambda: f"secret{next(keys)}",
            window=4096,
            log=Logger(namespace="test", observer=_Remembering(self.events)),
        )
        self.model.startService()

    def asked(self) -> "Deferred[Address]":
        return Deferred.fromCoroutine(self.model.ready())

    def logged(self) -> list[str]:
        return [formatEvent(event) for event in self.events]

    def refused(self) -> Refusal:
        refusal = self.failureResultOf(self.asked(), Refusal).value
        assert isinstance(refusal, Refusal)
        return refusal

    def test_orders_by_stdin(self) -> None:
        """The process gets its orders on stdin; neither its arguments nor its variables hold the key."""
        process = self.processes.last
        self.assertEqual(
            Orders.from_line(process.stdin), Orders("/models/Tiny-1B.Q4_1.gguf", "tiny-1b", "secret1", 4096, "")
        )
        self.assertNotIn("secret1", repr((process.command, process.variables)))

    def test_waits_for_the_address(self) -> None:
        """Who asks before the model serves waits, and who asks later does not."""
        early = self.asked()
        self.assertNoResult(early)
        self.processes.last.says(announcement(4711))
        expected = Address("127.0.0.1", 4711, "secret1", "tiny-1b", 8192)
        self.assertEqual(self.successResultOf(early), expected)
        self.assertEqual(self.successResultOf(self.asked()), expected)

    def test_the_key_is_not_shown(self) -> None:
        """Neither the address, nor the orders, nor the log show the key."""
        self.processes.last.says(announcement(1))
        shown = repr((self.successResultOf(self.asked()), Orders.from_line(self.processes.last.stdin), self.logged()))
        self.assertNotIn("secret1", shown)

    def test_announcement_in_any_split_and_among_garbage(self) -> None:
        """An address is found at every split, whatever else the libraries print before it."""
        said = b'loading...\n{"no": 1}\n[]\n\xff\xfe\n' + announcement(5)
        for cut in range(1, len(said)):
            model = EmbeddedModel(Path("/m.gguf"), self.processes, self.clock, lambda: "k")
            model.startService()
            self.processes.last.says(said[:cut])
            self.processes.last.says(said[cut:])
            self.assertEqual(self.successResultOf(Deferred.fromCoroutine(model.ready())).port, 5)

    def test_endless_line(self) -> None:
        """A stdout without line ends does not grow in memory."""
        process = self.processes.last
        for _ in range(40):
            process.says(b"x" * 10_000)
        process.says(b"\n" + announcement(5))
        self.assertEqual(self.successResultOf(self.asked()).port, 5)

    def test_output_after_the_address(self) -> None:
        """What is printed later, be it another address, changes nothing."""
        process = self.processes.last
        process.says(announcement(5))
        process.says(announcement(6) + b'{"error": "x"}\n')
        self.assertEqual(self.successResultOf(self.asked()).port, 5)

    def test_cancelled_wait(self) -> None:
        """A cancelled wait ends at once, and leaves the others waiting."""
        given_up, patient = self.asked(), self.asked()
        given_up.cancel()
        self.failureResultOf(given_up, CancelledError)
        self.processes.last.says(announcement(5))
        self.assertEqual(self.successResultOf(patient).port, 5)

    def test_wait_cancelled_by_another_waiter(self) -> None:
        """Who is told first may cancel who would be told next."""
        first, second = self.asked(), self.asked()
        first.addCallback(lambda _: second.cancel())
        self.processes.last.says(announcement(5))
        self.failureResultOf(second, CancelledError)

    def test_error_line(self) -> None:
        """A model that cannot be served is refused with the child's reason, for good, and not started again."""
        waiting = self.asked()
        self.processes.last.says(b'{"error": "This is not a GGUF file: /models/x"}\n')
        self.processes.last.ends(1)
        problem = self.failureResultOf(waiting, Refusal).value.problem
        self.assertIn("This is not a GGUF file: /models/x", problem.message)
        self.assertIs(problem.should_retry, False)
        self.assertIn("not a GGUF", str(self.refused()))
        self.clock.advance(3600)
        self.assertEqual(len(self.processes.started), 1)

    def test_error_line_after_it_served(self) -> None:
        """A model that served once is tried again, even if it now says it cannot: memory may come back."""
        self.processes.last.says(announcement(1))
        self.processes.last.ends(None, signal.SIGKILL)
        self.clock.advance(0.5)
        self.processes.last.says(b'{"error": "no memory"}\n')
        self.processes.last.ends(1)
        self.clock.advance(1)
        self.assertEqual(len(self.processes.started), 3)

    def test_death_while_serving(self) -> None:
        """A process that dies is started again after half a second, with another key, and one line in the log."""
        self.processes.last.says(announcement(1))
        self.processes.last.ends(None, signal.SIGKILL)
        self.events.clear()
        waiting = self.asked()
        self.clock.advance(0.49)
        self.assertEqual(len(self.processes.started), 1)
        self.clock.advance(0.01)
        self.processes.last.says(announcement(2))
        address = self.successResultOf(waiting)
        self.assertEqual((address.port, address.key), (2, "secret2"))

    def test_death_is_logged(self) -> None:
        """The log says how it ended, after how long, when the next start is, and what llama.cpp complained about."""
        self.processes.last.complains(b"0.1 E load_model: out of\n0.2 E memory\n")
        self.processes.last.ends(None, signal.SIGSEGV)
        self.assertEqual(
            self.logged(),
            [
                "embedded model ended (SIGSEGV) after serving for 0 s; next start in 0.5 s "
                "0.1 E load_model: out of | 0.2 E memory"
            ],
        )

    def test_complaints_while_serving(self) -> None:
        """What is complained about while serving may quote a conversation: only failed assertions reach the log."""
        self.processes.last.says(announcement(1))
        self.processes.last.complains(b"E failed to parse: my dear diary\nllama.cpp:7: GGML_ASSERT(a < b) failed\n")
        self.processes.last.ends(None, signal.SIGABRT)
        self.assertNotIn("diary", repr(self.events))
        self.assertIn("GGML_ASSERT(a < b) failed", self.logged()[-1])

    def test_pauses_double(self) -> None:
        """Quick deaths in a row are followed by pauses of 0.5, 1, 2 … and at the most 30 s."""
        pauses = []
        for _ in range(9):
            self.processes.last.ends(3)
            (call,) = self.clock.getDelayedCalls()
            pauses.append(call.getTime() - self.clock.seconds())
            self.clock.advance(pauses[-1])
        self.assertEqual(pauses, [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0])
        self.assertEqual(pause_after(10_000), 30.0)

    def test_health_resets_the_pause(self) -> None:
        """After a minute of serving a death counts as the first."""
        for _ in range(5):
            self.processes.last.ends(3)
            self.clock.advance(30)
        self.processes.last.says(announcement(1))
        self.clock.advance(HEALTHY_AFTER)
        self.processes.last.ends(3)
        self.clock.advance(0.5)
        self.assertEqual(len(self.processes.started), 7)
        self.assertNoResult(self.asked())

    def test_nobody_waits_for_a_model_that_keeps_dying(self) -> None:
        """After three quick deaths waiters are refused, until the model serves again."""
        waiting = self.asked()
        for _ in range(PATIENT_DEATHS - 1):
            self.processes.last.ends(3)
            self.clock.advance(30)
        self.assertNoResult(waiting)
        self.processes.last.ends(3)
        problem = self.failureResultOf(waiting, Refusal).value.problem
        self.assertEqual((problem.status, problem.retry_after), (529, 2))
        self.assertIn("3 times in a row (exit status 3)", problem.message)
        self.clock.advance(30)
        self.assertEqual(self.refused().problem, problem)
        self.processes.last.says(announcement(9))
        self.assertEqual(self.successResultOf(self.asked()).port, 9)

    def test_system_refuses_a_process(self) -> None:
        """A system that cannot start a process just now is asked again later."""
        self.processes.refusal = OSError(11, "Resource temporarily unavailable")
        self.processes.last.ends(3)
        self.clock.advance(0.5)
        self.assertIn("not started: Resource temporarily unavailable", self.logged()[-1])
        self.processes.refusal = None
        self.clock.advance(1)
        self.assertEqual(len(self.processes.started), 2)

    def test_stop(self) -> None:
        """Stopping closes the process's stdin, waits for its end, refuses waiters and leaves no timer."""
        waiting = self.asked()
        stopped = self.model.stopService()
        assert stopped is not None
        self.failureResultOf(waiting, Refusal)
        self.assertTrue(self.processes.last.stdin_closed)
        self.assertNoResult(stopped)
        self.processes.last.says(announcement(1))
        self.refused()
        self.processes.last.ends(0)
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.processes.last.signals, [])

    def test_stop_kills(self) -> None:
        """A process that does not end in time is killed."""
        stopped = self.model.stopService()
        assert stopped is not None
        self.clock.advance(STOP_PATIENCE)
        self.assertEqual(self.processes.last.signals, ["KILL"])
        self.assertNoResult(stopped)
        self.processes.last.ends(None, signal.SIGKILL)
        self.successResultOf(stopped)

    def test_stop_while_resting(self) -> None:
        """Stopping between two processes is done at once, and no process is started any more."""
        self.processes.last.ends(3)
        self.assertIsNone(self.model.stopService())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_start_again(self) -> None:
        """A stopped service can be started again."""
        stopped = self.model.stopService()
        assert stopped is not None
        self.processes.last.ends(0)
        self.successResultOf(stopped)
        self.model.startService()
        self.processes.last.says(announcement(8))
        self.assertEqual(self.successResultOf(self.asked()).port, 8)

    def test_asked_before_the_start(self) -> None:
        """Who asks before the service is started waits for it."""
        model = EmbeddedModel(Path("/m.gguf"), self.processes, self.clock, lambda: "k")
        early = Deferred.fromCoroutine(model.ready())
        self.assertNoResult(early)
        model.startService()
        self.processes.last.says(announcement(8))
        self.assertEqual(self.successResultOf(early).port, 8)


class EnvironmentTests(SynchronousTestCase):
    """What the process inherits."""

    def test_no_keys(self) -> None:
        """The daemon's keys are not passed on; what libraries need is, and the module search path."""
        daemons = {"PROVIDER_API_KEY": "s", "PATH": "/bin", "OMP_NUM_THREADS": "2", "LD_LIBRARY_PATH": "/l"}
        given = environment(daemons, ["/a", "/b"])
        self.assertEqual(
            given,
            {
                "PATH": "/bin",
                "OMP_NUM_THREADS": "2",
                "LD_LIBRARY_PATH": "/l",
                "PYTHONPATH": "/a:/b",
                "GGML_NO_BACKTRACE": "1",
            },
        )


class AnnouncementTests(SynchronousTestCase):
    """The one line that a child says."""

    def test_kinds(self) -> None:
        """An address, an error, or nothing of the child's."""
        self.assertEqual(read_announcement(announcement(7)), Serving("127.0.0.1", 7, 8192))
        self.assertEqual(read_announcement(b'{"error": "x"}'), Broken("x"))
        for other in (b"", b"x", b"5", b"null", b"[]", b'{"port": "7"}', b'{"error": 5}', b"\xff"):
            self.assertIsNone(read_announcement(other))
