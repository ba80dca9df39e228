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
        self.heard: list[Event] = []

    def answered(self, *batches: list[Event], counted: int = 2000) -> Turn:
        body = {"model": "m", "messages": [{"role": "user", "content": "1"}]}
        turn = self.sessions.begin("s", "", Chain.of(body), 0.0)
        machine: Any = Told(counted)
        deliver = remembering(self.sessions, turn, machine, lambda: 1.0, self.heard.extend)
        for batch in batches:
            deliver(batch)
        return turn

    def test_end(self) -> None:
        """With the end of the answer the verdict is there; every event is passed on as it came."""
        self.assertEqual(self.answered([START], END).words, "hit 95% of the prompt")
        self.assertEqual(self.answered([START, *END[:1]], END[1:]).words, "hit 95%")
        self.assertEqual(self.heard, [START, *END] * 2)

    def test_on_its_way(self) -> None:
        """Before that, all that is known is how the request goes on from the earlier one."""
        self.assertEqual(self.answered([START]).words, "new")

    def test_no_proof(self) -> None:
        """An answer that failed, or that the backend did not count, proves nothing."""
        self.assertEqual(self.answered([START, Failed(bad_gateway("gone"))]).words, "unknown")
        self.assertEqual(self.answered([START], END, counted=0).words, "unknown")
