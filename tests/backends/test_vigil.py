"""The watch over a backend that has not said anything yet."""

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.backends.client import QUESTION_TIME
from claudeproxy.backends.vigil import PATIENCE, PAUSE, Vigil
from claudeproxy.model.problems import Problem, Refusal, overloaded


class VigilTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.given_up: list[Problem] = []
        self.answers: list[Any] = []
        self.asked = 0
        self.vigil = Vigil(self.clock, self.check, self.given_up.append)
        self.vigil.begin()

    async def check(self) -> object:
        self.asked += 1
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Deferred):
            await answer
        elif answer is not None:
            raise answer
        return None

    def assert_idle(self) -> None:
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_alive(self) -> None:
        """A backend that answers may take as long as it likes."""
        for count in range(1, 100):
            self.clock.advance(PAUSE)
            self.assertEqual(self.asked, count)
        self.assertEqual(self.given_up, [])
        self.vigil.end()
        self.assert_idle()

    def test_dead(self) -> None:
        """One that cannot be reached is given up at once, in the words of the refusal."""
        self.answers = [Refusal(overloaded("gone"))]
        self.clock.advance(PAUSE)
        self.assertEqual([problem.message for problem in self.given_up], ["gone"])
        self.assert_idle()

    def test_busy(self) -> None:
        """One that only does not answer in time is given up after several questions in a row; an answer between them
        makes it begin anew."""
        for slow in [True] * (PATIENCE - 1) + [False] + [True] * PATIENCE:
            self.assertEqual(self.given_up, [])
            waits: Deferred[None] = Deferred()
            self.answers = [waits]
            self.clock.advance(PAUSE)
            if slow:
                self.clock.advance(QUESTION_TIME)
                waits.errback(Refusal(overloaded("slow")))
            else:
                waits.callback(None)
        self.assertEqual(len(self.given_up), 1)
        self.assert_idle()

    def test_ended_within_a_question(self) -> None:
        """An end while a question is out takes that back."""
        taken_back: list[object] = []
        self.answers = [Deferred(taken_back.append)]
        self.clock.advance(PAUSE)
        self.vigil.end()
        self.assertEqual((len(taken_back), self.given_up), (1, []))
        self.assert_idle()
