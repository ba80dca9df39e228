"""One result for many who wait."""

import gc

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.backends.shared import REST, Shared


class SharedTests(SynchronousTestCase):
    """`Shared`."""

    def setUp(self) -> None:
        self.runs: list[Deferred[str | None]] = []
        self.shared: Shared[str] = Shared(self.find)

    async def find(self) -> str | None:
        run: Deferred[str | None] = Deferred()
        self.runs.append(run)
        return await run

    def ask(self) -> Deferred[str | None]:
        return Deferred.fromCoroutine(self.shared.get())

    def test_once(self) -> None:
        """Whoever asks while it is being found out gets the same; who asks later is answered at once."""
        asked = [self.ask(), self.ask()]
        self.runs[0].callback("x")
        self.assertEqual([self.successResultOf(each) for each in [*asked, self.ask()]], ["x"] * 3)
        self.assertEqual(len(self.runs), 1)

    def test_not_now(self) -> None:
        """None is an answer for those who wait; the next to ask finds out anew."""
        asked = self.ask()
        self.runs[0].callback(None)
        self.assertIsNone(self.successResultOf(asked))
        again = self.ask()
        self.runs[1].callback("x")
        self.assertEqual(self.successResultOf(again), "x")

    def test_failed(self) -> None:
        """A failure reaches all who wait, and is not remembered."""
        asked = [self.ask(), self.ask()]
        self.runs[0].errback(ZeroDivisionError())
        for each in asked:
            self.failureResultOf(each, ZeroDivisionError)
        again = self.ask()
        self.runs[1].callback("x")
        self.assertEqual(self.successResultOf(again), "x")

    def test_cancelled(self) -> None:
        """Who goes away leaves the others in peace, also if nobody is left."""
        first, second = self.ask(), self.ask()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertNoResult(second)
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.runs[0].callback("x")
        self.assertEqual(self.successResultOf(self.ask()), "x")
        self.assertEqual(len(self.runs), 1)

    def test_forgotten(self) -> None:
        """What was forgotten is found out again."""
        self.ask()
        self.runs[0].callback("x")
        self.shared.forget()
        again = self.ask()
        self.runs[1].callback("y")
        self.assertEqual(self.successResultOf(again), "y")

    def test_at_once(self) -> None:
        """A result that needs no waiting is there at once."""

        async def known() -> str:
            return "x"

        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(Shared(known).get())), "x")

    def test_patience(self) -> None:
        """With a clock nobody waits beyond the patience, and a long search in vain is not begun anew at once."""
        clock = Clock()
        shared: Shared[str] = Shared(self.find, clock, 1.5)
        asked = Deferred.fromCoroutine(shared.get())
        clock.advance(1.0)
        later = Deferred.fromCoroutine(shared.get())
        clock.advance(0.5)
        self.assertIsNone(self.successResultOf(asked))
        self.assertIsNone(self.successResultOf(later))
        clock.advance(3.5)
        self.runs[0].callback(None)
        self.assertIsNone(self.successResultOf(Deferred.fromCoroutine(shared.get())))
        self.assertEqual(len(self.runs), 1)
        clock.advance(REST)
        again = Deferred.fromCoroutine(shared.get())
        self.runs[1].callback("x")
        self.assertEqual(self.successResultOf(again), "x")
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_lasting(self) -> None:
        """What is old is found anew by one search in the background, for which nobody waits."""
        clock = Clock()
        shared: Shared[str] = Shared(self.find, clock, 1.5, 60.0)
        Deferred.fromCoroutine(shared.get())
        self.runs[0].callback("x")
        clock.advance(59)
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(shared.get())), "x")
        self.assertEqual(len(self.runs), 1)
        clock.advance(1)
        for _ in range(3):
            self.assertEqual(self.successResultOf(Deferred.fromCoroutine(shared.get())), "x")
        self.assertEqual(len(self.runs), 2)
        self.runs[1].callback("y")
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(shared.get())), "y")
        clock.advance(60)
        Deferred.fromCoroutine(shared.get())
        self.runs[2].callback(None)
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(shared.get())), "y")
        self.assertEqual(len(self.runs), 3)

    def test_renewed(self) -> None:
        """A renewal begins a search whatever is known, or joins the one that runs, and waits as long as it takes."""
        clock = Clock()
        shared: Shared[str] = Shared(self.find, clock, 1.5)
        first = Deferred.fromCoroutine(shared.get())
        second = Deferred.fromCoroutine(shared.renew())
        clock.advance(10)
        self.assertIsNone(self.successResultOf(first))
        self.assertNoResult(second)
        self.runs[0].callback("x")
        self.assertEqual(self.successResultOf(second), "x")
        third = Deferred.fromCoroutine(shared.renew())
        self.runs[1].callback(None)
        self.assertIsNone(self.successResultOf(third))
        self.assertEqual(shared.found, "x")

    def test_fault_in_the_background(self) -> None:
        """A fault of a search for which nobody waits is logged."""
        clock = Clock()
        shared: Shared[str] = Shared(self.find, clock, 1.5, 60.0)
        Deferred.fromCoroutine(shared.get())
        self.runs[0].callback("x")
        clock.advance(60)
        Deferred.fromCoroutine(shared.get())
        self.runs.pop().errback(ZeroDivisionError())
        gc.collect()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
