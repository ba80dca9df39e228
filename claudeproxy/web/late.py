"""What goes wrong in a route when its client has gone: nobody is there to be told, and Klein would log its words."""

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure

from claudeproxy.backends.discretion import discreet
from claudeproxy.model.problems import Refusal

Route = Callable[..., Awaitable[bytes | None]]


def unless_gone(route: Route) -> Route:
    """The same route; a failure of it that comes too late ends there, and in the log if it is one of ours."""

    @wraps(route)
    async def watched(api: Any, request: Any, *rest: Any, **named: Any) -> bytes | None:
        try:
            return await route(api, request, *rest, **named)
        except CancelledError:
            raise
        except Exception as fault:  # it goes on to Klein, and its handlers, as long as there is a client
            if api.serves(request):
                raise
            if not isinstance(fault, Refusal):
                api.tell_late(request, discreet(Failure()))
            return None

    return watched
