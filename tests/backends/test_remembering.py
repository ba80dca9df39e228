"""What an answer tells of the backend's cache (issue 5, part 3)."""

from typing import Any

from attrs import define
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.backends.remembering import remembering
from claudeproxy.model.events import Event, Failed, MessageDelta, MessageStart, MessageStop, Usage
from claudeproxy.model.problems import bad_gateway
from claudeproxy.routing.sessions import Sessions, Turn
from claudeproxy.translate.chain import Chain

START = MessageStart("msg_1", "m", Usage(input=5))
END: list[Event] = [MessageDelta("end_turn", Usage(input=100, cache_read=1900)), MessageStop()]


@define
class Told:
    """As much of a machine as matters: the prompt's tokens that the backend told."""

    counted: int


class RememberingTests(SynchronousTestCase):
    """One answer after another."""

    def setUp(self) -> None:
        self.sessions = Sessions()

    def answered(self, *end: Event, counted: int = 2000) -> Turn:
        body = {"model": "m", "messages": [{"role": "user", "content": "1"}]}
        turn = self.sessions.begin("s", "", Chain.of(body), 0.0)
        machine: Any = Told(counted)
        remembering(self.sessions, turn, machine, lambda: 1.0)(list(end))
        return turn

    def test_end(self) -> None:
        """With the end of the answer the verdict is there, also if all of the answer came at once."""
        self.assertEqual(self.answered(*END).words, "hit 95% of the prompt")
        self.assertEqual(self.answered(START, *END).words, "hit 95%")

    def test_no_proof(self) -> None:
        """An answer that failed, or that the backend did not count, proves nothing."""
        self.assertEqual(self.answered(START, Failed(bad_gateway("gone"))).words, "unknown")
        self.assertEqual(self.answered(*END, counted=0).words, "unknown")
