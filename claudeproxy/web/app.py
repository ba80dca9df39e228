"""The routes of the Messages API (PROTOCOL 1.1), and the gate in front of them."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from math import ceil
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import field
from klein import Klein
from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger, LogLevel
from twisted.web.http import Request
from twisted.web.resource import IResource
from werkzeug.exceptions import MethodNotAllowed, NotFound

from claudeproxy.backends.client import leave_unread
from claudeproxy.backends.interfaces import Backend, Call, Forwarder, Letter
from claudeproxy.backends.tally import EXACT
from claudeproxy.model.anthropic import MessagesRequest
from claudeproxy.model.kinds import define
from claudeproxy.model.problems import Refusal, not_found
from claudeproxy.routing.sessions import kin_of
from claudeproxy.routing.table import Route
from claudeproxy.translate.window import Fit
from claudeproxy.web.answers import Answer, StreamAnswer, Times, WholeAnswer, answer_json
from claudeproxy.web.bodies import letter_of
from claudeproxy.web.exchange import Exchange, Exchanges, printable
from claudeproxy.web.exposition import Exposition
from claudeproxy.web.faults import Faults, answer_faults, unless_gone
from claudeproxy.web.gate import Gate, every_credential, query
from claudeproxy.web.guard import own_keys
from claudeproxy.web.health import Health
from claudeproxy.web.identity import identity, identity_of
from claudeproxy.web.live import Live
from claudeproxy.web.models import catalogue, page
from claudeproxy.web.tape import Orphanage, Tape, Terms
from claudeproxy.wire.requests import model_of, read_count, read_messages, read_object

if TYPE_CHECKING:
    from claudeproxy.web.relay import Relay

#: So many different losses are told once each; more can only be made up by a client.
_MOST_TOLD = 1000
#: What is done under each path of the API.
_METHODS = {"messages": "POST", "messages/count_tokens": "POST", "models": "GET"}


@define(eq=False)
class MessagesAPI:
    """Looks like Anthropic's API to a client. A route takes the request apart, asks, and puts the answer together."""

    app: ClassVar[Klein] = Klein()

    _live: Callable[[], Live]
    _exchanges: Exchanges
    _clock: IReactorTime
    _log: Logger
    _new_id: Callable[[], str]
    #: What has been counted; None where nobody counts.
    exposition: Exposition | None = field(default=None, init=False)
    #: The answers that wait for their clients to come back.
    orphanage: Orphanage = field(init=False)
    faults: Faults = field(init=False)
    _health: Health = field(init=False)
    #: What was told of already: backend and losses.
    _told: set[tuple[str, str, str]] = field(factory=set, init=False)

    def __attrs_post_init__(self) -> None:
        self.orphanage = Orphanage(self._clock)
        self.faults = Faults(self._exchanges, self._log)
        self._health = Health(self._live, self._exchanges)

    def resource(self, admin: IResource | None = None) -> Gate:
        """The API behind its gate, to be put into any Site; with what ``admin`` has below ``/admin``."""
        return Gate(self.app, self._live, self._exchanges, admin)

    @app.route("/v1/messages", methods=["POST"], strict_slashes=False)
    @unless_gone
    async def messages(self, request: Request) -> bytes | None:
        # All that is known of the request is forgotten while its answer runs, which may take minutes.
        answering = await self._answering(request)
        return await answering

    async def _answering(self, request: Request) -> Awaitable[bytes | None]:
        """What is still to be waited for, once the backend is asked."""
        live = self._live()
        exchange = self._exchanges.of(request)
        letter = _letter(request, exchange, live)
        data = read_object(letter.body, live.settings.nesting_limit)
        exchange.journey.begins(letter.body, data)
        route, backend = _routed(live, exchange, model_of(data))
        if backend.forwarder is not None:
            return self._forward(request, exchange, backend.forwarder, letter, route.model)
        parsed = read_messages(data)
        exchange.streams = parsed.request.stream
        answer = self._answer(request, exchange, parsed.request, live)
        tape = self._orphan(request, exchange, data)
        if tape is not None:
            self._tell(request, exchange, exchange.dropped, exchange.emulated)
            answer.scale = tape.scale
            tape.play_to(answer, "msg_" + self._new_id())
        else:
            kin = kin_of(exchange.agent, exchange.request_class)
            call = Call(parsed.request, letter, exchange.session, kin, exchange.journey)
            prepared = await backend.prepare(call, route.model)
            exchange.backend_model = printable(prepared.model)
            exchange.turn = prepared.turn
            self._tell(request, exchange, prepared.dropped + parsed.unknown, prepared.emulated)
            tape = self._tape(request, exchange, letter, answer, live)
            tape.maker, tape.scale = backend, live.scale(prepared.window)
            answer.scale = tape.scale
            message_id = "msg_" + self._new_id()
            tape.roll(backend.generate(prepared, message_id, parsed.request.model, tape.deliver))
        return answer.carry(tape)

    @app.route("/v1/messages/count_tokens", methods=["POST"], strict_slashes=False)
    @unless_gone
    async def count_tokens(self, request: Request) -> bytes | None:
        live = self._live()
        exchange = self._exchanges.of(request)
        letter = _letter(request, exchange, live)
        data = read_object(letter.body, live.settings.nesting_limit)
        exchange.journey.begins(letter.body, data)
        route, backend = _routed(live, exchange, model_of(data))
        if backend.forwarder is not None and await self._forward_count(request, exchange, backend, letter, route.model):
            return None
        count = await backend.count(letter, lambda: read_count(data).request, route.model)
        exchange.backend_model = printable(count.model)
        exchange.journey.fit = Fit(count.tokens, count.source, count.window)
        self._tell(request, exchange, count.dropped, ())
        exchange.count_source = count.source
        request.setHeader("x-claudeproxy-count-source", count.source)
        scale = live.scale(count.window) if backend.forwarder is None else 1.0  # as its answers tell it
        return answer_json(request, {"input_tokens": ceil(count.tokens * scale)})

    @app.route("/v1/models", methods=["GET"], strict_slashes=False)
    @unless_gone
    async def models(self, request: Request) -> bytes:
        return answer_json(request, page(await self._catalogue(), query(request)))

    @app.route("/v1/models/<path:name>", methods=["GET"])
    @unless_gone
    async def model(self, request: Request, name: str) -> bytes:
        entry = (await self._catalogue()).get(name)
        if entry is None:
            raise Refusal(not_found(f"model: {name}"))
        return answer_json(request, entry)

    @app.route("/v1/<path:rest>", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
    @unless_gone
    async def elsewhere(self, request: Request, rest: str) -> None:
        """Files, batches and what is still to come (PROTOCOL 1.1): the affair of the default backend, if that is an
        Anthropic server. A route, because Klein cancels no error handler when its client leaves."""
        live = self._live()
        default = next(iter(live.backends.values()))
        if default.forwarder is None:
            raise MethodNotAllowed([_METHODS[rest]]) if rest in _METHODS else NotFound
        exchange = self._exchanges.of(request)
        exchange.backend = default.name
        await self._forward(request, exchange, default.forwarder, _letter(request, exchange, live), "")

    @app.route("/health", methods=["GET"])
    def health(self, request: Request) -> bytes:
        return self._health.lives(request)

    @app.route("/health/ready", methods=["GET"])
    def ready(self, request: Request) -> bytes:
        return self._health.is_ready(request)

    @app.route("/metrics", methods=["GET"])
    async def metrics(self, request: Request) -> bytes:
        if self.exposition is None or self._live().settings.metrics != "public":
            raise NotFound
        return await self.exposition.answer(request)

    @app.route("/", methods=["GET"])
    @app.route("/api/hello", methods=["GET"])
    def hello(self, request: Request) -> bytes:
        """Claude Code warms its connection up here, with HEAD."""
        return answer_json(request, {"service": "claudeproxy"})

    answer_faults(app)

    def _answer(self, request: Request, exchange: Exchange, asked: MessagesRequest, live: Live) -> Answer:
        settings = live.settings
        times = Times(settings.grace_ms / 1000, settings.ping_ms / 1000, settings.liveness_ms / 1000)
        kind = StreamAnswer if asked.stream else WholeAnswer
        return kind(request, exchange, self._clock, times)

    def _tape(self, request: Request, exchange: Exchange, letter: Letter, answer: Answer, live: Live) -> Tape:
        # Kept as its bytes, until the client has heard something: its values would take more than twice as much.
        key = partial(identity_of, request, exchange.session, letter.body) if exchange.session else None
        terms = Terms(live.settings.interrupt_ms / 1000, live.settings.linger_ms / 1000)
        return Tape(self._clock, key, terms, self.orphanage, answer, exchange.origin)

    def _orphan(self, request: Request, exchange: Exchange, data: Mapping[str, Any]) -> Tape | None:
        """The answer that the same client asked for before, and then lost."""
        if not len(self.orphanage) or not exchange.session:
            return None
        tape = self.orphanage.adopt(identity(request, exchange.session, data))
        if tape is not None:
            exchange.joins(tape.origin)
            exchange.remarks = tuple(tape.remarks)
        return tape

    def _tell(self, request: Request, exchange: Exchange, dropped: Iterable[str], emulated: Iterable[str]) -> None:
        """Nothing is lost silently: the headers tell the caller, the log the operator."""
        if exchange.turn is not None:
            request.setHeader("x-claudeproxy-cache", exchange.turn.continuity.header)
        exchange.dropped, exchange.emulated = tuple(_names(dropped)), tuple(_names(emulated))
        for name, level, words, found in (
            ("x-claudeproxy-dropped", LogLevel.warn, "not sent to", exchange.dropped),
            ("x-claudeproxy-emulated", LogLevel.info, "done in the stead of", exchange.emulated),
        ):
            if names := ", ".join(found):
                request.setHeader(name, names.encode("ascii", "replace").decode()[:1000])
                self._say_once(level, exchange, words, names)

    def _say_once(self, level: Any, exchange: Exchange, words: str, names: str) -> None:
        """An agent's every turn has the same losses: to say it once is enough."""
        told = (exchange.backend, words, names) in self._told
        if not told and len(self._told) < _MOST_TOLD:
            self._told.add((exchange.backend, words, names))
        self._log.emit(
            LogLevel.debug if told else level,
            "{request_id} {words} {backend}: {names}",
            words=words,
            backend=exchange.backend,
            names=names,
            **exchange.told,
        )

    async def _catalogue(self) -> dict[str, dict[str, Any]]:
        """All models that requests may name, by name."""
        live = self._live()
        backends = list(live.backends.values())
        offers = await gatherResults([Deferred.fromCoroutine(each.offers()) for each in backends])
        return catalogue(
            live.table.names(), live.resolve, {each.name: found for each, found in zip(backends, offers, strict=True)}
        )

    async def _forward_count(
        self, request: Request, exchange: Exchange, backend: Backend, letter: Letter, model: str
    ) -> bool:
        """Whether a server that is passed through has counted itself, or said why not; some have no such route."""
        forwarder = backend.forwarder
        assert forwarder is not None
        try:
            response = await forwarder.forward(letter, model, exchange.journey)
            if response.code in (404, 405, 501):
                leave_unread(response)
                return False
            if response.code == 200:
                exchange.count_source = EXACT
                request.setHeader("x-claudeproxy-count-source", EXACT)
            await self._relay(request, exchange, forwarder).carry(succeed(response))
            return True
        finally:
            exchange.journey.ends(self._clock.seconds())

    def _forward(
        self, request: Request, exchange: Exchange, forwarder: Forwarder, letter: Letter, model: str
    ) -> Awaitable[None]:
        return self._relay(request, exchange, forwarder).carry(forwarder.forward(letter, model, exchange.journey))

    def _relay(self, request: Request, exchange: Exchange, forwarder: Forwarder) -> "Relay":
        from claudeproxy.web.relay import Relay  # memory that only those need who have a server to pass on to

        quiet = self._live().settings.ping_ms / 1000
        return Relay(request, exchange, self._clock, quiet, forwarder.limits, forwarder.hush)


def _names(found: Iterable[str]) -> Iterable[str]:
    """For a header and a line of the log: each name once."""
    return dict.fromkeys(printable(name, spaces=True) for name in found)


def _routed(live: Live, exchange: Exchange, model: str) -> tuple[Route, Backend]:
    """Where a request for ``model`` goes, noted for the log."""
    exchange.model = printable(model)
    route, backend = live.route(model)
    exchange.backend, exchange.backend_model, exchange.rule = backend.name, printable(route.model), route.rule
    return route, backend


def _letter(request: Request, exchange: Exchange, live: Live) -> Letter:
    settings = live.settings
    known = (*settings.keys, *settings.admin_keys)
    keys = [key for each in every_credential(request) for key in own_keys(known, *each)] if known else []
    return letter_of(request, settings.body_limit_mb * 1024 * 1024, keys, exchange.told)
