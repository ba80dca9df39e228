"""Few requests begin in each round of the reactor: a crowd that comes at once must not hold up the answers that run.

To begin a request takes half a millisecond, or several for a large one; to pass on a token takes a tenth of that.
Without turns the tokens of all running streams would wait for as long as a hundred requests take that came in one
round; like this they wait for `SLICE` and one request at most, and the last of the crowd begins a little later instead.
One in each round would cost more: what is needed to begin a request is found in the processor's caches by the next one,
if nothing else was done meanwhile.
"""

from collections import deque
from collections.abc import Callable

from attrs import field
from twisted.internet.interfaces import IReactorTime

from claudeproxy.model.kinds import define

#: So long, in seconds, requests may begin one after the other. As long as HAProxy makes a token wait in such a crowd.
SLICE = 0.002
#: What begins so soon after another has begun, in seconds, may be of the same round.
_SAME_ROUND = 0.0003


@define(eq=False)
class Turns:
    """Lets what is to begin begin in turn. Alone it begins at once."""

    _clock: IReactorTime
    _waiting: deque[Callable[[], object]] = field(factory=deque, init=False)
    #: When the last one had begun.
    _last: float | None = field(default=None, init=False)
    #: The next round will come back to those that wait.
    _due: bool = field(default=False, init=False)

    def take(self, begin: Callable[[], object]) -> None:
        """Calls ``begin`` now, or in a later round, after all that came before it."""
        last = self._last
        if self._waiting or (last is not None and 0.0 <= self._clock.seconds() - last < _SAME_ROUND):
            self._waiting.append(begin)
            self._come_back()
        else:
            self._call(begin)

    def _come_back(self) -> None:
        if self._waiting and not self._due:
            self._due = True
            self._clock.callLater(0, self._next)

    def _next(self) -> None:
        self._due = False
        began = self._clock.seconds()
        try:
            while self._waiting:
                self._call(self._waiting.popleft())
                if not 0.0 <= self._clock.seconds() - began < SLICE:
                    break
        finally:
            self._come_back()

    def _call(self, begin: Callable[[], object]) -> None:
        try:
            begin()
        finally:
            self._last = self._clock.seconds()
