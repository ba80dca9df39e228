"""How long a backend is waited for, on a clock of the test's own."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.backends.patience import Limits, Patience


class PatienceTests(SynchronousTestCase):
    """`Patience` with 2 s between two bytes, 10 s for the first token, and 30 s in all."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.heard: float | None = 0.0
        self.words: list[str] = []
        self.patience = self.make(Limits(2.0, 10.0, 30.0))

    def make(self, limits: Limits) -> Patience:
        return Patience(self.clock, limits, lambda: self.heard, self.words.append)

    def test_first_token(self) -> None:
        """A backend that says nothing is given up once its time for that is over, and not before."""
        self.patience.begin()
        self.clock.advance(9.5)
        self.assertEqual(self.words, [])
        self.clock.advance(0.5)
        self.assertEqual(self.words, ["did not begin its answer within 10 s."])

    def test_silence(self) -> None:
        """After the first token it is given up when it has not been heard for too long, however long it spoke."""
        self.patience.begin()
        self.patience.listen()
        for second in range(1, 12):
            self.clock.advance(1)
            self.heard = float(second)
        self.clock.advance(1.5)
        self.assertEqual(self.words, [])
        self.clock.advance(0.5)
        self.assertEqual(self.words, ["fell silent for 2 s in the middle of its answer."])

    def test_nobody_listens(self) -> None:
        """A silence while the client does not read is not the backend's."""
        self.patience.listen()
        self.heard = None
        self.clock.pump([1.0] * 20)
        self.assertEqual(self.words, [])
        self.heard = self.clock.seconds()
        self.clock.pump([1.0] * 4)
        self.assertEqual(self.words, ["fell silent for 2 s in the middle of its answer."])

    def test_total(self) -> None:
        """One that speaks without end is given up, too."""
        self.patience.begin()
        self.patience.listen()
        for _ in range(30):
            self.heard = self.clock.seconds()
            self.clock.advance(1)
        self.assertEqual(self.words, ["did not finish its answer within 30 s."])

    def test_end(self) -> None:
        """Once it has ended nothing comes any more, and no timer is left."""
        self.patience.begin()
        self.patience.listen()
        self.patience.end()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_without_limits(self) -> None:
        """A limit of 0 is none."""
        patience = self.make(Limits(0.0))
        patience.begin()
        patience.listen()
        self.assertEqual(self.clock.getDelayedCalls(), [])
