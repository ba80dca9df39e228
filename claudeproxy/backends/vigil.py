"""Watches over the time in which a backend has not said anything yet: it may be minutes, if the backend lives."""

from collections.abc import Awaitable, Callable

from attrs import field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from claudeproxy.backends.client import QUESTION_TIME
from claudeproxy.model.kinds import define
from claudeproxy.model.problems import Problem, Refusal

#: Seconds between two questions whether it lives.
PAUSE = 20.0
#: So many questions in a row without an answer in time: it hangs.
PATIENCE = 3

#: Raises `Refusal` if the backend does not answer.
Check = Callable[[], Awaitable[object]]


@define(eq=False)
class Vigil:
    """Asks ``check`` from time to time, and calls ``give_up`` once if the backend is dead: at once if it cannot be
    reached, after `PATIENCE` questions in a row if it only does not answer, for it may be busy."""

    _clock: IReactorTime
    _check: Check
    _give_up: Callable[[Problem], None]
    _next: IDelayedCall | None = field(default=None, init=False)
    _asking: Deferred[None] | None = field(default=None, init=False)
    _missed: int = field(default=0, init=False)

    def begin(self) -> None:
        """From now on."""
        self._next = self._clock.callLater(PAUSE, self._ask)

    def end(self) -> None:
        """It has spoken, or nobody waits any more."""
        if self._next is not None:
            self._next.cancel()
            self._next = None
        asking, self._asking = self._asking, None
        if asking is not None:
            asking.cancel()

    def _ask(self) -> None:
        self._next = None
        self._asking = Deferred.fromCoroutine(self._find_out())
        self._asking.addErrback(lambda failure: failure.trap(CancelledError) and None)

    async def _find_out(self) -> None:
        began = self._clock.seconds()
        try:
            await self._check()
        except Refusal as refusal:
            slow = self._clock.seconds() - began >= QUESTION_TIME
            self._missed += 1
            if not slow or self._missed >= PATIENCE:
                self._asking = None
                self._give_up(refusal.problem)
                return
        else:
            self._missed = 0
        self._asking = None
        self.begin()
