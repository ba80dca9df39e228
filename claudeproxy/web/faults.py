"""What a client is told when a route did not answer, and what the log is; the same for every set of routes."""

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

from klein import Klein
from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import Request
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from claudeproxy.backends.discretion import discreet
from claudeproxy.model.kinds import define
from claudeproxy.model.problems import Problem, Refusal, from_status, internal, not_found, wrong_method
from claudeproxy.web.answers import answer_problem
from claudeproxy.web.exchange import Exchanges

Route = Callable[..., Awaitable[bytes | None]]


@define(eq=False)
class Faults:
    """Makes answers of what routes raise, and lines of the log of what was a fault of ours."""

    _exchanges: Exchanges
    _log: Logger

    def refused(self, request: Request, refusal: Any) -> bytes | None:
        """The client is told why."""
        return self._told(request, refusal.problem) if self.serves(request) else None

    def unroutable(self, request: Any, fault: Any) -> bytes:
        """There is no such path, or not with this method."""
        where = request.path.decode("utf-8", "replace")
        match fault:
            case MethodNotAllowed(valid_methods=methods):
                request.setHeader("allow", ", ".join(sorted(methods or ())))
                return self._told(request, wrong_method(f"{request.method.decode()} is not allowed on {where}"))
            case HTTPException(code=int(code)) if code >= 400 and code != 404:  # a redirect leads to what it is called
                return self._told(request, from_status(code, f"{where}: {fault}"))
        return self._told(request, not_found(f"There is nothing at {where}"))

    def broken(self, request: Any, failure: Failure) -> bytes | None:
        """A fault of ours."""
        if not self.serves(request):
            self.tell_late(request, failure)
            return None
        exchange = self._exchanges.of(request)
        self._log.failure("{request_id} failed", failure=discreet(failure), **exchange.told)
        if request.startedWriting:
            request.loseConnection()  # a stream that is cut is an error to every client; a clean end would not be
            return None
        return self._told(request, internal(exchange.id))

    def serves(self, request: Request) -> bool:
        """Whether its client is still there."""
        return self._exchanges.has(request)

    def tell_late(self, request: Request, failure: Failure) -> None:
        """To the log, as there is nobody else."""
        told = self._exchanges.of(request).told
        self._log.failure("{request_id} failed after its client had gone", failure=discreet(failure), **told)

    def _told(self, request: Request, problem: Problem) -> bytes:
        exchange = self._exchanges.of(request)
        exchange.fails(problem)
        return answer_problem(request, problem, exchange.id)


def answer_faults(app: Klein) -> None:
    """Has what the routes of ``app`` raise answered by the attribute ``faults`` of whoever they belong to."""

    def refused(api: Any, request: Any, failure: Failure) -> Any:
        return api.faults.refused(request, failure.value)

    def unroutable(api: Any, request: Any, failure: Failure) -> Any:
        return api.faults.unroutable(request, failure.value)

    def gone(api: Any, request: Any, failure: Failure) -> None:
        """The client is: nobody is there to answer."""

    def broken(api: Any, request: Any, failure: Failure) -> Any:
        return api.faults.broken(request, failure)

    handlers: Any = {Refusal: refused, HTTPException: unroutable, CancelledError: gone, Exception: broken}
    for kind, handler in handlers.items():  # the first that fits
        app.handle_errors(kind)(handler)


def unless_gone(route: Route) -> Route:
    """The same route; a failure that comes when its client has gone ends there, where Klein would log its words."""

    @wraps(route)
    async def watched(api: Any, request: Any, *rest: Any, **named: Any) -> bytes | None:
        try:
            return await route(api, request, *rest, **named)
        except CancelledError:
            raise
        except Exception as fault:  # it goes on to Klein, and its handlers, as long as there is a client
            if api.faults.serves(request):
                raise
            if not isinstance(fault, Refusal):
                api.faults.tell_late(request, Failure())
            return None

    return watched
