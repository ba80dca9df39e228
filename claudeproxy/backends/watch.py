"""Asking a backend that is away, again and again, until it is back."""

from collections.abc import Awaitable, Callable

from attrs import field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from claudeproxy.model.kinds import define

#: Seconds between two questions; the last one for ever.
PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0)


@define(eq=False)
class Watch:
    """Asks again and again from `begin` to `end`, one question at a time."""

    _clock: IReactorTime
    _ask: Callable[[], Awaitable[object]]
    _on_fault: Callable[[Failure], object]
    _on: bool = field(default=False, init=False)
    _asked: int = field(default=0, init=False)
    _next: IDelayedCall | None = field(default=None, init=False)

    def begin(self) -> None:
        """Does nothing if it has begun already."""
        if not self._on:
            self._on, self._asked = True, 0
            self._plan()

    def end(self) -> None:
        """No question is asked any more; one that is on its way is nobody's."""
        self._on = False
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _plan(self) -> None:
        pause = PAUSES[min(self._asked, len(PAUSES) - 1)]
        self._next = self._clock.callLater(pause, self._look)

    def _look(self) -> None:
        self._next, self._asked = None, self._asked + 1
        asking = Deferred.fromCoroutine(self._question())
        asking.addErrback(self._on_fault)
        asking.addCallback(self._looked)

    def _looked(self, _: object) -> None:
        if self._on and self._next is None:
            self._plan()

    async def _question(self) -> None:
        await self._ask()
