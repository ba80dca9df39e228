"""Whoever comes in a crowd begins in turn, so that the answers that run are not held up (issue 7)."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.web.turns import Turns
from tests.fakes.callers import Caller
from tests.fakes.house import House, body
from tests.stream_checker import check_stream


class Rounds(Clock):
    """A clock whose calls come in rounds, as a reactor's do: what is asked for in one comes in the next."""

    def turn(self) -> None:
        for call in [each for each in self.calls if each.getTime() <= self.seconds()]:
            self.calls.remove(call)
            call.called = 1
            call.func(*call.args, **call.kw)


class TurnsTests(SynchronousTestCase):
    """`Turns`."""

    def setUp(self) -> None:
        self.clock = Rounds()
        self.turns = Turns(self.clock)
        self.begun: list[int] = []

    def take(self, number: int) -> None:
        self.turns.take(lambda: self.begun.append(number))

    def test_alone(self) -> None:
        """Who comes alone begins at once, and leaves no timer."""
        for number in range(3):
            self.take(number)
            self.clock.advance(0.01)
        self.assertEqual((self.begun, self.clock.getDelayedCalls()), ([0, 1, 2], []))

    def test_crowd(self) -> None:
        """Of many one begins in each round, in the order in which they came; who comes later is behind them."""
        for number in range(4):
            self.take(number)
        self.assertEqual(self.begun, [0])
        self.clock.turn()
        self.assertEqual(self.begun, [0, 1])
        self.take(4)
        self.clock.rightNow += 0.005
        self.take(5)
        for _ in range(4):
            self.clock.turn()
        self.assertEqual((self.begun, self.clock.getDelayedCalls()), ([0, 1, 2, 3, 4, 5], []))

    def test_fault(self) -> None:
        """One that fails takes nobody's turn away."""

        def fail() -> None:
            raise ZeroDivisionError

        self.assertRaises(ZeroDivisionError, self.turns.take, fail)
        self.turns.take(fail)
        self.take(1)
        self.assertRaises(ZeroDivisionError, self.clock.turn)
        self.clock.turn()
        self.assertEqual(self.begun, [1])

    def test_clock_set_back(self) -> None:
        """A clock that was set back keeps nobody waiting."""
        self.clock.rightNow = 1000.0
        self.take(0)
        self.clock.rightNow = 0.0
        self.take(1)
        self.assertEqual(self.begun, [0, 1])

    @given(st.lists(st.sampled_from((0.0, 0.0001, 0.01)), max_size=30))
    def test_any_crowd(self, pauses: list[float]) -> None:
        """However they come, all begin, in order, and never two in a round."""
        self.setUp()
        for number, pause in enumerate(pauses):
            before = len(self.begun)
            self.take(number)
            self.assertLessEqual(len(self.begun) - before, 1)
            self.clock.rightNow += pause
            if pause:
                self.clock.turn()
            self.assertLessEqual(len(self.begun) - before, 2)  # one as it came, one in the round after it
        for _ in pauses:
            self.clock.turn()
        self.assertEqual(self.begun, list(range(len(pauses))))
        self.assertEqual(self.clock.getDelayedCalls(), [])


class CrowdTests(SynchronousTestCase):
    """Clients that come at once."""

    def setUp(self) -> None:
        self.house = House()

    def crowd(self, size: int) -> list[Caller]:
        """So many clients, of whose requests the first has been begun with."""
        callers = [self.house.caller() for _ in range(size)]
        for each in callers:
            each.ask("POST", "/v1/messages", body(), pump=False)
        while not self.house.network.timers("Turns"):
            self.assertTrue(self.house.network._step())
        return callers

    def test_all_are_answered(self) -> None:
        """None of them is forgotten."""
        callers = self.crowd(20)
        self.house.network.pump()
        for each in callers:
            self.assertTrue(check_stream(each.body).text)
        self.assertEqual(len(self.house.fake.chats), 20)

    def test_who_leaves(self) -> None:
        """A client that is gone before its turn came is not begun with, and nothing of it is left."""
        callers = self.crowd(3)
        callers[2].vanish()
        while self.house.network._step():
            pass
        self.house.network.pump()
        self.assertEqual(len(self.house.fake.chats), 2)
        self.assertEqual(len(self.house.proxy._exchanges), 0)
        self.assertEqual(self.house.network.timers("Turns"), [])

    def test_who_stays_beyond_the_end(self) -> None:
        """Nobody's turn is lost because the daemon stops meanwhile."""
        callers = self.crowd(3)
        stopped = self.house.proxy.stopService()
        self.house.pass_time(5)
        self.successResultOf(stopped)
        for each in callers:
            self.assertTrue(check_stream(each.body).text)
