"""One result for many who wait."""

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from attrs import field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from claudeproxy.model.kinds import define

T = TypeVar("T")

#: After a search that nobody could wait for and that found nothing, so many seconds pass before the next.
REST = 30.0


@define(eq=False)
class Shared(Generic[T]):
    """Runs ``find`` at most once at a time, whoever asks; a waiter that is cancelled leaves the others in peace.

    ``find`` gives None for "not now": the waiters get None, and the next to ask starts it again. With a ``clock``,
    nobody waits longer than ``patience`` seconds, but gets None; and so does everybody for `REST` seconds after a
    search that took longer and found nothing. A result that is older than ``lasting`` seconds is found anew by the
    next to ask, who does not wait for it; should that find nothing, the old one holds.
    """

    _find: Callable[[], Awaitable[T | None]]
    _clock: IReactorTime | None = None
    _patience: float = 0.0
    _lasting: float = float("inf")
    _found: T | None = field(default=None, init=False)
    _found_at: float = field(default=0.0, init=False)
    _running: bool = field(default=False, init=False)
    _began: float = field(default=0.0, init=False)
    _rests_until: float = field(default=0.0, init=False)
    _waiters: list[Deferred[T | None]] = field(factory=list, init=False)

    def refresh(self) -> None:
        """Finds anew a result that is too old; nobody waits for it."""
        if self._found is not None and self._now() - self._found_at >= self._lasting:
            self._begin()

    async def get(self) -> T | None:
        """The result. Raises what ``find`` raised."""
        self.refresh()
        if self._found is not None:
            return self._found
        if self._now() < self._rests_until:
            return None
        waiter = self._wait()
        if self._clock is None or waiter.called:
            return await waiter
        left = max(0.0, self._began + self._patience - self._now())
        limit = self._clock.callLater(left, self._give_up, waiter)
        try:
            return await waiter
        finally:
            if limit.active():
                limit.cancel()

    async def renew(self) -> T | None:
        """The outcome of a search that runs or begins now, however long it takes. Raises what ``find`` raised."""
        return await self._wait()

    @property
    def found(self) -> T | None:
        """The result, if it is there."""
        return self._found

    def forget(self) -> None:
        """The next to ask finds out anew."""
        self._found = None
        self._rests_until = 0.0

    def _wait(self) -> Deferred[T | None]:
        waiter: Deferred[T | None] = Deferred(self._leave)
        self._waiters.append(waiter)
        self._begin()
        return waiter

    def _begin(self) -> None:
        if not self._running:
            self._running, self._began = True, self._now()
            Deferred.fromCoroutine(self._run()).addBoth(self._tell)

    async def _run(self) -> T | None:
        found = await self._find()
        if found is not None:
            self._found = found
        return found

    def _tell(self, result: T | Failure | None) -> Failure | None:
        self._running = False
        self._found_at = self._now()
        if self._clock is not None and self._found is None and self._now() - self._began > self._patience:
            self._rests_until = self._now() + REST
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.callback(result)  # a Failure becomes an errback
        # A fault that nobody waits for is not lost: Twisted logs it.
        return result if isinstance(result, Failure) and not waiters else None

    def _give_up(self, waiter: Deferred[T | None]) -> None:
        self._leave(waiter)
        waiter.callback(None)

    def _leave(self, waiter: Deferred[T | None]) -> None:
        if waiter in self._waiters:
            self._waiters.remove(waiter)

    def _now(self) -> float:
        return 0.0 if self._clock is None else self._clock.seconds()
