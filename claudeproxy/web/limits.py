"""How much clients may ask for at a time, and how long they may take: for all of them, and for each."""

import resource
from collections import Counter
from collections.abc import Hashable

from attrs import field

from claudeproxy.model.kinds import define, frozen
from claudeproxy.model.problems import Problem, full, rate_limited

#: Seconds after which one who was turned away may come again; clients take it for the least, and wait longer.
COME_AGAIN = 2
#: Descriptors that the daemon needs for itself: log, listening sockets, state file, child process.
_OWN_DESCRIPTORS = 64


@define(eq=False)
class Crowd:
    """Who is being answered just now. An exchange, or whatever stands for a request, is in it at most once."""

    _present: dict[Hashable, Hashable] = field(factory=dict, init=False)
    _of_each: Counter[Hashable] = field(factory=Counter, init=False)

    def enter(self, exchange: Hashable, whom: Hashable | None, most: int, most_of_each: int) -> Problem | None:
        """Lets it in, or tells why not; 0 is without a limit. ``whom`` it belongs to counts unless it is None."""
        if most and len(self._present) >= most:
            words = f"claudeproxy answers {most} requests already (max_requests); please try again."
            return full(words, COME_AGAIN)
        if whom is not None:
            if most_of_each and self._of_each[whom] >= most_of_each:
                words = f"{most_of_each} of your requests are being answered already (max_requests_per_key)"
                return rate_limited(words, COME_AGAIN)
            self._of_each[whom] += 1
        self._present[exchange] = whom
        return None

    def leave(self, exchange: Hashable) -> None:
        """It is answered, or its client gone; also for one that was never let in."""
        whom = self._present.pop(exchange, None)
        if whom is not None:
            self._of_each[whom] -= 1
            if not self._of_each[whom]:
                del self._of_each[whom]

    def __len__(self) -> int:
        return len(self._present)


@frozen
class Terms:
    """What a connection must keep to: the terms in force when it was opened."""

    #: The longest request line and headers together, in bytes.
    longest_head: int = 16 * 1024
    #: Seconds for the headers, and the time in which a body must make progress.
    request_time: float = 30.0
    #: Seconds without a request.
    idle_time: float = 60.0
    #: How many connections there may be; 0 is without a limit.
    most_connections: int = 0


def affordable_connections() -> int:
    """How many clients the process has descriptors for, with one for a backend beside each; 0 is without a limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 0 if limit == resource.RLIM_INFINITY else max(8, (limit - _OWN_DESCRIPTORS) // 2)
