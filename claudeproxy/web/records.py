"""What an operator may look at, behind a gate of its own: hangs on the public listener or on one for itself."""

import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from klein import Klein
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.resource import IResource, Resource
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from claudeproxy.model.kinds import define
from claudeproxy.model.problems import Problem, Refusal, forbidden, invalid_request, not_found, wrong_method
from claudeproxy.routing.keys import Key
from claudeproxy.routing.settings import Settings
from claudeproxy.web.answers import answer_json, answer_problem
from claudeproxy.web.bodies import plain_path
from claudeproxy.web.exchange import printable
from claudeproxy.web.gate import check_page, check_path, credentials, query
from claudeproxy.web.guard import check_key
from claudeproxy.web.live import Live
from claudeproxy.web.recorder import Recorder
from claudeproxy.web.whence import is_local

_DEFAULT_LIMIT = 20


@define(eq=False)
class RecordsAPI:
    """The routes below ``/admin``, all of them JSON."""

    app: ClassVar[Klein] = Klein()

    _live: Callable[[], Live]
    _recorder: Recorder
    _clock: IReactorTime
    _new_id: Callable[[], str]

    def resource(self) -> IResource:
        """The routes behind their gate, to be put into any Site."""
        return RecordsGate(self.app.resource(), self._live, self._new_id)

    @app.route("/admin/requests", methods=["GET"], strict_slashes=False)
    def requests(self, request: Request) -> bytes:
        """The newest first."""
        self._check_recorder()
        asked = query(request)
        found = self._recorder.newest(asked.get("session", ""), asked.get("status", ""), _limit(asked))
        now = self._clock.seconds()
        return answer_json(request, {"data": [record.brief(now) for record in found], "kept": len(self._recorder)})

    @app.route("/admin/requests/<path:request_id>", methods=["GET"])
    def one(self, request: Request, request_id: str) -> bytes:
        """All of one request; ``last`` is the newest that asked for a model, if there is one."""
        self._check_recorder()
        found = self._recorder.last() if request_id == "last" else self._recorder.find(request_id)
        if found is None:
            raise Refusal(not_found(f"The request {printable(request_id)} is not known, or no longer."))
        settings = self._live().settings
        content = not (settings.keys or settings.admin_keys) or shows_admin_key(request, settings)
        return answer_json(request, found.whole(self._clock.seconds(), content))

    @app.handle_errors(Refusal)
    def refused(self, request: Any, failure: Failure) -> bytes:
        refusal: Any = failure.value
        return _answer(request, refusal.problem)

    @app.handle_errors(HTTPException)
    def unroutable(self, request: Any, failure: Failure) -> bytes:
        where = printable(request.path)
        if isinstance(failure.value, MethodNotAllowed):
            request.setHeader("allow", "GET, HEAD")
            return _answer(request, wrong_method(f"{printable(request.method)} is not allowed on {where}"))
        return _answer(request, not_found(f"There is nothing at {where}"))

    def _check_recorder(self) -> None:
        if not self._live().settings.recorder_size:
            raise Refusal(not_found("The flight recorder is off; the setting recorder_size turns it on."))


class RecordsGate(Resource):
    """Lets in who sits at this machine, and who shows an admin key; whatever hangs behind it needs no check."""

    isLeaf = True

    def __init__(self, inner: IResource, live: Callable[[], Live], new_id: Callable[[], str]) -> None:
        super().__init__()
        self._inner = inner
        self._live = live
        self._new_id = new_id

    def render(self, request: Any) -> Any:
        if not request.responseHeaders.hasHeader(b"request-id"):  # on a listener of its own
            request.setHeader(b"request-id", f"req_{self._new_id()}".encode())
        request.setHeader(b"cache-control", b"no-store")
        request.postpath = plain_path(request.postpath)
        problem = check_admin(request, self._live()) or check_path(b"/" + b"/".join(request.postpath))
        return self._inner.render(request) if problem is None else _answer(request, problem)


def check_admin(request: Request, live: Live) -> Problem | None:
    """Why this request may not look behind the scenes; None if it may."""
    problem = check_page(request, live)
    if problem is not None or is_local(request):
        return problem
    if not live.settings.admin_keys:
        return forbidden("This is for this machine alone; others need one of the admin_keys, and none is set.")
    found = check_key(live.settings.admin_keys, *credentials(request))
    return found if isinstance(found, Problem) else None


def shows_admin_key(request: Request, settings: Settings) -> bool:
    """Whether one of the admin keys came along."""
    return isinstance(check_key(settings.admin_keys, *credentials(request)), Key)


def _answer(request: Request, problem: Problem) -> bytes:
    given = request.responseHeaders.getRawHeaders(b"request-id") or [b""]
    return answer_problem(request, problem, given[0].decode("ascii", "replace"))


def _limit(asked: Mapping[str, str]) -> int:
    text = asked.get("limit", "")
    if text and not re.fullmatch("[1-9][0-9]{0,5}", text):
        raise Refusal(invalid_request("limit: Input should be a whole number above 0"))
    return int(text or _DEFAULT_LIMIT)
