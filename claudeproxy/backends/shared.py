"""One result for many who wait."""

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

T = TypeVar("T")


@define(eq=False)
class Shared(Generic[T]):
    """Runs ``find`` at most once at a time, whoever asks; a waiter that is cancelled leaves the others in peace.

    ``find`` gives None for "not now": the waiters get None, and the next to ask starts it again.
    """

    _find: Callable[[], Awaitable[T | None]]
    _found: T | None = field(default=None, init=False)
    _running: bool = field(default=False, init=False)
    _waiters: list[Deferred[T | None]] = field(factory=list, init=False)

    async def get(self) -> T | None:
        """The result. Raises what ``find`` raised."""
        if self._found is not None:
            return self._found
        waiter: Deferred[T | None] = Deferred(self._forget)
        self._waiters.append(waiter)
        if not self._running:
            self._running = True
            Deferred.fromCoroutine(self._run()).addBoth(self._tell)
        return await waiter

    def forget(self) -> None:
        """The next to ask finds out anew."""
        self._found = None

    async def _run(self) -> T | None:
        self._found = await self._find()
        return self._found

    def _tell(self, result: T | Failure | None) -> None:
        self._running = False
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.callback(result)  # a Failure becomes an errback

    def _forget(self, waiter: Deferred[T | None]) -> None:
        if waiter in self._waiters:
            self._waiters.remove(waiter)
