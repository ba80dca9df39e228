"""Listens to an answer for what it tells of the backend's cache (issue 5, part 3)."""

from collections.abc import Callable

from claudeproxy.backends.generation import Machine
from claudeproxy.backends.interfaces import Deliver
from claudeproxy.model.events import Event, Failed, MessageDelta, MessageStop, TextDelta, ThinkingDelta, Usage
from claudeproxy.routing.sessions import Sessions, Turn

_PIECES = (TextDelta, ThinkingDelta)


def remembering(
    sessions: Sessions, turn: Turn, machine: Machine, now: Callable[[], float], deliver: Deliver
) -> Deliver:
    """``deliver``; before the end of the answer is delivered, ``turn`` has its verdict.

    Counts that the backend did not tell are estimates, and prove nothing.
    """
    last: list[Usage] = []

    def heard(events: list[Event]) -> None:
        if type(events[-1]) not in _PIECES:  # before them nothing can have told of the end
            last[:] = [each.usage for each in events if isinstance(each, MessageDelta)][-1:] or last
            if isinstance(events[-1], MessageStop | Failed):
                whole = isinstance(events[-1], MessageStop) and machine.counted
                sessions.finish(turn, last[0] if whole and last else None, now())
        deliver(events)

    return heard
