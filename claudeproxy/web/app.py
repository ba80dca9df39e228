"""The routes of the Messages API (PROTOCOL 1.1), and the gate in front of them."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from attrs import define, field
from klein import Klein
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.resource import IResource, Resource
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from claudeproxy.model.anthropic import MessagesRequest
from claudeproxy.model.problems import Problem, Refusal, from_status, internal, not_found, stopping, wrong_method
from claudeproxy.web.answers import Answer, StreamAnswer, WholeAnswer, answer_json, answer_problem
from claudeproxy.web.bodies import body_of
from claudeproxy.web.exchange import Exchange, Exchanges, printable
from claudeproxy.web.guard import check_host, check_key, check_origin
from claudeproxy.web.live import Live
from claudeproxy.web.models import model_json, page
from claudeproxy.wire.requests import parse_count, parse_messages

#: So many different losses are told once each; more can only be made up by a client.
_MOST_TOLD = 1000


@define(eq=False)
class MessagesAPI:
    """Looks like Anthropic's API to a client. A route takes the request apart, asks, and puts the answer together."""

    app: ClassVar[Klein] = Klein()

    _live: Callable[[], Live]
    _exchanges: Exchanges
    _clock: IReactorTime
    _log: Logger
    _new_id: Callable[[], str]
    #: What was warned of already: backend and losses.
    _told: set[tuple[str, str]] = field(factory=set, init=False)

    def resource(self) -> IResource:
        """The API behind its gate, to be put into any Site."""
        return Gate(self.app.resource(), self._live, self._exchanges)

    @app.route("/v1/messages", methods=["POST"], strict_slashes=False)
    async def messages(self, request: Request) -> bytes | None:
        live = self._live()
        exchange = self._exchanges.of(request)
        parsed = parse_messages(body_of(request, _limit(live)))
        asked = parsed.request
        route, backend = live.route(asked.model)
        exchange.model, exchange.backend = printable(asked.model), backend.name
        exchange.backend_model = printable(route.model)
        prepared = await backend.prepare(asked, route.model, exchange.session)
        exchange.backend_model = printable(prepared.model)
        self._tell_dropped(request, exchange, prepared.dropped + parsed.unknown)
        answer = self._answer(request, exchange, asked, live)
        generation = backend.generate(prepared, "msg_" + self._new_id(), asked.model, answer.deliver)
        return await answer.carry(generation)

    @app.route("/v1/messages/count_tokens", methods=["POST"], strict_slashes=False)
    async def count_tokens(self, request: Request) -> bytes:
        live = self._live()
        exchange = self._exchanges.of(request)
        parsed = parse_count(body_of(request, _limit(live)))
        route, backend = live.route(parsed.request.model)
        exchange.model, exchange.backend = printable(parsed.request.model), backend.name
        exchange.backend_model = printable(route.model)
        count = await backend.count(parsed.request, route.model)
        exchange.backend_model = printable(count.model)
        request.setHeader("x-claudeproxy-count-source", count.source)
        return answer_json(request, {"input_tokens": count.tokens})

    @app.route("/v1/models", methods=["GET"], strict_slashes=False)
    async def models(self, request: Request) -> bytes:
        return answer_json(request, page(await self._names(), _query(request)))

    @app.route("/v1/models/<path:name>", methods=["GET"])
    async def model(self, request: Request, name: str) -> bytes:
        if name not in await self._names():
            raise Refusal(not_found(f"model: {name}"))
        return answer_json(request, model_json(name))

    @app.route("/health", methods=["GET"])
    def health(self, request: Request) -> bytes:
        return answer_json(request, {"status": "ok"})

    @app.route("/", methods=["GET"])
    @app.route("/api/hello", methods=["GET"])
    def hello(self, request: Request) -> bytes:
        """Claude Code warms its connection up here, with HEAD."""
        return answer_json(request, {"service": "claudeproxy"})

    @app.handle_errors(Refusal)
    def refused(self, request: Any, failure: Failure) -> bytes:
        refusal: Any = failure.value
        return self._problem(request, refusal.problem)

    @app.handle_errors(HTTPException)
    def unroutable(self, request: Any, failure: Failure) -> bytes:
        where = request.path.decode("utf-8", "replace")
        match failure.value:
            case MethodNotAllowed(valid_methods=methods):
                request.setHeader("allow", ", ".join(sorted(methods or ())))
                return self._problem(request, wrong_method(f"{request.method.decode()} is not allowed on {where}"))
            case HTTPException(code=int(code)) if code != 404:
                return self._problem(request, from_status(code, f"{where}: {failure.getErrorMessage()}"))
        return self._problem(request, not_found(f"There is nothing at {where}"))

    @app.handle_errors(CancelledError)
    def gone(self, request: Any, failure: Failure) -> None:
        """The client is: nobody is there to answer."""

    @app.handle_errors(Exception)
    def broken(self, request: Any, failure: Failure) -> bytes | None:
        if not self._exchanges.has(request):
            self._log.failure("a request failed after its client had gone", failure=failure)
            return None
        exchange = self._exchanges.of(request)
        self._log.failure("{request_id} failed", failure=failure, request_id=exchange.id)
        if request.startedWriting:
            request.loseConnection()  # a stream that is cut is an error to every client; a clean end would not be
            return None
        return self._problem(request, internal(exchange.id))

    def _problem(self, request: Request, problem: Problem) -> bytes:
        exchange = self._exchanges.of(request)
        exchange.outcome = problem.outcome
        return answer_problem(request, problem, exchange.id)

    def _answer(self, request: Request, exchange: Exchange, asked: MessagesRequest, live: Live) -> Answer:
        if not asked.stream:
            return WholeAnswer(request, exchange, self._clock)
        settings = live.settings
        return StreamAnswer(request, exchange, self._clock, settings.grace_ms / 1000, settings.ping_ms / 1000)

    def _tell_dropped(self, request: Request, exchange: Exchange, dropped: tuple[str, ...]) -> None:
        """Nothing is lost silently: the header tells the caller, the log the operator."""
        if dropped:
            exchange.dropped = dropped
            names = ", ".join(dict.fromkeys(printable(name, spaces=True) for name in dropped))
            request.setHeader("x-claudeproxy-dropped", names.encode("ascii", "replace").decode()[:1000])
            # An agent's every turn has the same losses: one warning is enough.
            warned = (exchange.backend, names) in self._told
            if not warned and len(self._told) < _MOST_TOLD:
                self._told.add((exchange.backend, names))
            (self._log.debug if warned else self._log.warn)(
                "{request_id} not sent to {backend}: {names}",
                request_id=exchange.id,
                backend=exchange.backend,
                names=names,
            )

    async def _names(self) -> list[str]:
        """The names that requests may use: the map's, the default's, and those of the backends' own models."""
        live = self._live()
        names = [*live.table.names(), *filter(None, [live.settings.default_model])]
        for backend in live.backends.values():
            names += [name if len(live.backends) == 1 else f"{backend.name}/{name}" for name in await backend.models()]
        return list(dict.fromkeys(names))


class Gate(Resource):
    """Stands before every route: numbers the request, and turns away who may not ask (issue 2, item 8)."""

    isLeaf = True
    #: Asked for by monitors and warm-ups that have no key.
    _open: ClassVar[frozenset[bytes]] = frozenset({b"/health", b"/", b"/api/hello"})

    def __init__(self, inner: IResource, live: Callable[[], Live], exchanges: Exchanges) -> None:
        super().__init__()
        self._inner = inner
        self._live = live
        self._exchanges = exchanges

    def render(self, request: Any) -> Any:
        exchange = self._exchanges.enter(request)
        request.setHeader("request-id", exchange.id)
        request.postpath = plain_path(request.postpath)
        problem = self._check(request)
        if problem is None:
            return self._inner.render(request)
        exchange.outcome = problem.outcome
        return answer_problem(request, problem, exchange.id)

    def _check(self, request: Any) -> Problem | None:
        if self._exchanges.draining:
            request.setHeader("connection", "close")
            return stopping()
        settings = self._live().settings
        path = b"/" + b"/".join(request.postpath)
        problem = check_host(_header(request, b"host") or "", settings.host, settings.allowed_hosts)
        problem = problem or check_origin(
            _header(request, b"origin"), _header(request, b"sec-fetch-site"), settings.allowed_origins
        )
        if problem is None and path not in self._open:
            keys = [key.reveal() for key in settings.keys]
            problem = check_key(keys, _header(request, b"x-api-key"), _header(request, b"authorization"))
        if problem is None and "\ufffd" in _text(path):  # Klein would answer in plain text
            problem = not_found(f"There is nothing at {printable(path)}")
        return problem


def plain_path(segments: list[bytes]) -> list[bytes]:
    """The path below any prefix: clients append ``/v1/messages`` to whatever their base URL is (PROTOCOL 1.1)."""
    if b"v1" not in segments:
        return segments
    start = segments.index(b"v1")
    while segments[start + 1 : start + 2] == [b"v1"]:
        start += 1
    return segments[start:]


def _limit(live: Live) -> int:
    return live.settings.body_limit_mb * 1024 * 1024


def _query(request: Request) -> Mapping[str, str]:
    arguments: dict[bytes, list[bytes]] = request.args or {}
    return {_text(name): _text(values[-1]) for name, values in arguments.items()}


def _header(request: Any, name: bytes) -> str | None:
    """A header as text, whatever its bytes are: Twisted's own decoding raises for what is no UTF-8."""
    value = request.getHeader(name)
    return None if value is None else _text(value)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
