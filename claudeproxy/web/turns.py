"""One request begins in each round of the reactor: a crowd that comes at once must not hold up the answers that run.

To begin a request takes a millisecond, or several for a large one; to pass on a token takes less than a tenth of that.
Without turns the tokens of all running streams would wait for as long as a hundred requests take that came in one
round; like this they wait for one, and the last of the crowd begins a little later instead.
"""

from collections import deque
from collections.abc import Callable

from attrs import field
from twisted.internet.interfaces import IReactorTime

from claudeproxy.model.kinds import define

#: What begins so soon after another has begun, in seconds, may be of the same round.
_SAME_ROUND = 0.0003


@define(eq=False)
class Turns:
    """Lets what is to begin begin in turn. Alone it begins at once."""

    _clock: IReactorTime
    _waiting: deque[Callable[[], object]] = field(factory=deque, init=False)
    #: When the last one had begun.
    _last: float | None = field(default=None, init=False)

    def take(self, begin: Callable[[], object]) -> None:
        """Calls ``begin`` now, or in a later round, after all that came before it."""
        last = self._last
        if self._waiting or (last is not None and 0.0 <= self._clock.seconds() - last < _SAME_ROUND):
            if not self._waiting:
                self._clock.callLater(0, self._next)
            self._waiting.append(begin)
        else:
            self._call(begin)

    def _next(self) -> None:
        begin = self._waiting.popleft()
        if self._waiting:
            self._clock.callLater(0, self._next)
        self._call(begin)

    def _call(self, begin: Callable[[], object]) -> None:
        try:
            begin()
        finally:
            self._last = self._clock.seconds()
