"""Whoever comes in a crowd begins in turn, so that the answers that run are not held up (issue 7)."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.web.turns import SLICE, Turns
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

    def take(self, number: int, cost: float = SLICE) -> None:
        """Somebody comes, with whom to begin takes ``cost`` seconds."""

        def begin() -> None:
            self.begun.append(number)
            self.clock.rightNow += cost

        self.turns.take(begin)

    def test_alone(self) -> None:
        """Who comes alone begins at once, and leaves no timer."""
        for number in range(3):
            self.take(number)
            self.clock.advance(0.01)
        self.assertEqual((self.begun, self.clock.getDelayedCalls()), ([0, 1, 2], []))

    def test_crowd(self) -> None:
        """Of many that take long one begins in each round, in the order in which they came; who comes later is behind
        them."""
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

    def test_short_ones(self) -> None:
        """Of many that take a moment so many begin in a round as there is time for, and the last of them may take
        longer."""
        for number, cost in enumerate((0.0, SLICE / 2.5, SLICE / 2.5, SLICE * 3, 0.0, 0.0)):
            self.take(number, cost)
        self.assertEqual(self.begun, [0])
        self.clock.turn()
        self.assertEqual(self.begun, [0, 1, 2, 3])
        self.clock.turn()
        self.assertEqual((self.begun, self.clock.getDelayedCalls()), ([0, 1, 2, 3, 4, 5], []))

    def test_one_brings_another(self) -> None:
        """Who comes while another one begins waits behind those who are there, and for one round at most."""
        self.take(0)
        self.turns.take(lambda: self.take(2, 0.0))
        self.take(1, 0.0)
        self.clock.turn()
        self.assertEqual(self.begun, [0, 1, 2])
        self.clock.turn()
        self.assertEqual((self.begun, self.clock.getDelayedCalls()), ([0, 1, 2], []))

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

    def test_clock_set_back_within_a_round(self) -> None:
        """Nor does it make all of a crowd begin in one round."""
        self.clock.rightNow = 1000.0
        for number, cost in enumerate((0.0, -500.0, 0.0, 0.0)):
            self.take(number, cost)
        self.clock.turn()
        self.assertEqual(self.begun, [0, 1])
        self.clock.turn()
        self.assertEqual(self.begun, [0, 1, 2, 3])

    @given(st.lists(st.tuples(st.sampled_from((0.0, 0.0001, 0.01)), st.floats(0.0, SLICE * 2)), max_size=30))
    def test_any_crowd(self, crowd: list[tuple[float, float]]) -> None:
        """However they come, all begin, in order, and no round takes longer than its time and its last request."""
        self.setUp()
        costs = [cost for _, cost in crowd]
        for number, (pause, cost) in enumerate(crowd):
            before = len(self.begun)
            self.take(number, cost)
            self.assertLessEqual(len(self.begun) - before, 1)
            self.clock.rightNow += pause
            if pause:
                before = len(self.begun)
                self.clock.turn()
                self.assertLess(sum(costs[before : len(self.begun) - 1]), SLICE + 1e-9)
        for _ in crowd:
            self.clock.turn()
        self.assertEqual(self.begun, list(range(len(crowd))))
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
