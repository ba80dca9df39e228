"""Listens to an answer's end for what it tells of the backend's cache (issue 5, part 3)."""

from collections.abc import Callable

from claudeproxy.backends.generation import Machine
from claudeproxy.backends.interfaces import Deliver
from claudeproxy.model.events import Event, MessageDelta, MessageStop
from claudeproxy.routing.sessions import Sessions, Turn


def remembering(sessions: Sessions, turn: Turn, machine: Machine, now: Callable[[], float]) -> Deliver:
    """To be told of an answer's last events, before the client is: ``turn`` has its verdict then.

    Counts that the backend did not tell are estimates, and prove nothing.
    """

    def heard(events: list[Event]) -> None:
        last = [each.usage for each in events if isinstance(each, MessageDelta)]
        whole = isinstance(events[-1], MessageStop) and machine.counted
        sessions.finish(turn, last[-1] if whole and last else None, now())

    return heard
