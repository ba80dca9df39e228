"""Spans of OpenTelemetry: one for a request (SERVER), one for its call to the backend (CLIENT), never any content.

Loaded only when the setting `tracing` is on. Nothing relies on context variables, which callbacks do not keep: the
spans hang on the request's journey. Times are the clock's. Names are those of the semantic conventions for HTTP and for
GenAI (https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/).

A call's span ends when the backend has said its last and every client has left: only then all of it is known, such as
the tokens, and who joined it.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from attrs import field
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from twisted.web.http import Request

from claudeproxy.backends.journey import Attempt, Journey
from claudeproxy.model.events import Usage
from claudeproxy.model.kinds import define
from claudeproxy.translate.forwarding import Header
from claudeproxy.web.exchange import Exchange, printable
from claudeproxy.web.rules import MESSAGES, UNMATCHED, UNWORTHY

_PROPAGATOR = TraceContextTextMapPropagator()
#: What the conventions let stand as it is: the values of a span's name must be few.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "QUERY"})
#: What the conventions call who runs the model; a server of no known family at least speaks as OpenAI's does.
_PROVIDERS = {"generic": "openai", "kimi": "moonshot_ai", "ollama-compat": "ollama", "": "anthropic"}

Attributes = Mapping[str, str | bool | int | float | list[str]]


@define(eq=False)
class Tracing:
    """A `web.exchange.Witness`. It traces while it has a tracer."""

    tracer: Tracer | None = None
    _spans: dict[str, Span] = field(factory=dict, init=False)

    def entered(self, exchange: Exchange, request: Request) -> None:
        if self.tracer is None or exchange.route in UNWORTHY:
            return
        # Without a context given, OpenTelemetry would look for one in a context variable.
        caller = _PROPAGATOR.extract(_carrier(request), Context())
        name = exchange.method if exchange.method in _METHODS else "HTTP"
        span = self.tracer.start_span(
            name if exchange.route == UNMATCHED else f"{name} {exchange.route}",
            caller,
            SpanKind.SERVER,
            _of_request(exchange, request),
            start_time=_nanoseconds(exchange.began),
        )
        self._spans[exchange.id] = span
        exchange.journey.trail = CallTrail(self.tracer, set_span_in_context(span, Context()), exchange)

    def left(self, exchange: Exchange) -> None:
        span = self._spans.pop(exchange.id, None)
        if span is None:
            return
        span.set_attributes(dict(_of_answer(exchange)))
        if exchange.status >= 500 or (exchange.problem is not None and exchange.problem.status >= 500):
            span.set_status(Status(StatusCode.ERROR))
        span.end(_nanoseconds(exchange.ended))
        trail = exchange.journey.trail
        if isinstance(trail, CallTrail):
            trail.left(exchange)


@define(eq=False)
class CallTrail:
    """A `backends.journey.Trail`: the span of one journey's call, however often it was sent."""

    _tracer: Tracer
    _parent: Context
    #: The request that began the journey, then the one that left it last.
    _exchange: Exchange
    _span: Span | None = field(default=None, init=False)

    def sends(self, journey: Journey, attempt: Attempt) -> Iterable[Header]:
        if self._span is None:
            self._span = self._begin(journey, attempt)
        else:
            self._span.add_event("resend", {"reason": attempt.why}, _nanoseconds(attempt.sent))
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, set_span_in_context(self._span, Context()))
        return [(name.encode(), value.encode()) for name, value in carrier.items()]

    def ended(self, journey: Journey) -> None:
        if not journey.listeners:
            self._end(journey)

    def left(self, exchange: Exchange) -> None:
        """A client has left; what is known of the answer, it knows."""
        self._exchange = exchange
        journey = exchange.journey
        if journey.ended is not None and not journey.listeners:
            self._end(journey)

    def _begin(self, journey: Journey, attempt: Attempt) -> Span:
        parts = urlsplit(attempt.address)
        told: dict[str, Any] = {"server.address": parts.hostname or "", "http.request.method": self._exchange.method}
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
        if port is not None:
            told["server.port"] = port
        name = self._exchange.method
        if self._chats:
            name = f"chat {self._exchange.backend_model}"
            told |= _of_question(journey, self._exchange)
        return self._tracer.start_span(name, self._parent, SpanKind.CLIENT, told, start_time=_nanoseconds(attempt.sent))

    def _end(self, journey: Journey) -> None:
        span, self._span = self._span, None
        if span is None:
            return
        last, exchange = journey.attempts[-1], self._exchange
        told: dict[str, Any] = {"claudeproxy.outcome": exchange.result}
        if len(journey.attempts) > 1:
            told["http.request.resend_count"] = len(journey.attempts) - 1
        if last.status:
            told["http.response.status_code"] = last.status
        if journey.first_token is not None:
            told["gen_ai.response.time_to_first_chunk"] = journey.first_token - last.sent
        if self._chats:
            told |= dict(_of_message(exchange))
            if exchange.streams:  # of a call that is passed through it shows only now
                told["gen_ai.request.stream"] = True
        if exchange.problem is not None:
            told["error.type"] = exchange.problem.outcome
            span.set_status(Status(StatusCode.ERROR))
        span.set_attributes(told)
        span.end(_nanoseconds(exchange.ended if journey.ended is None else journey.ended))

    @property
    def _chats(self) -> bool:
        return self._exchange.route == MESSAGES


def _of_request(exchange: Exchange, request: Request) -> Attributes:
    told: dict[str, Any] = {
        "http.request.method": exchange.method,
        "url.path": exchange.path,
        "url.scheme": "https" if request.isSecure() else "http",
        "client.address": exchange.client,
        "claudeproxy.request_id": exchange.id,
    }
    for name, value in (
        ("http.route", "" if exchange.route == UNMATCHED else exchange.route),
        ("user_agent.original", printable(request.getHeader(b"user-agent") or b"", spaces=True)),
        ("gen_ai.conversation.id", exchange.session),
    ):
        if value:
            told[name] = value
    if exchange.method not in _METHODS:
        told |= {"http.request.method": "_OTHER", "http.request.method_original": exchange.method}
    host = request.getHost()
    if hasattr(host, "port"):
        told |= {"server.address": host.host, "server.port": host.port}
    return told


def _of_answer(exchange: Exchange) -> Iterator[tuple[str, Any]]:
    yield "http.response.status_code", exchange.status
    yield "claudeproxy.outcome", exchange.result
    if exchange.model:
        yield "gen_ai.request.model", exchange.model
    if exchange.joined:
        yield "claudeproxy.joined", exchange.journey.id
    if exchange.problem is not None:
        yield "error.type", exchange.problem.outcome
    if exchange.turn is not None:
        yield "claudeproxy.cache", exchange.turn.words


def _of_question(journey: Journey, exchange: Exchange) -> dict[str, Any]:
    told: dict[str, Any] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": _PROVIDERS.get(journey.dialect, journey.dialect),
        "gen_ai.request.model": exchange.backend_model,
        "claudeproxy.backend": exchange.backend,
    }
    if exchange.session:
        told["gen_ai.conversation.id"] = exchange.session
    if journey.dialect:
        told["gen_ai.request.stream"] = True
    most = journey.cut_to or (journey.fit.wanted if journey.fit is not None else None)
    if most is not None:
        told["gen_ai.request.max_tokens"] = most
    return told


def _of_message(exchange: Exchange) -> Iterator[tuple[str, Any]]:
    if exchange.problem is not None or exchange.usage is None:
        return
    usage: Usage = exchange.usage
    yield "gen_ai.response.model", exchange.backend_model
    yield "gen_ai.response.finish_reasons", [exchange.outcome]
    yield "gen_ai.usage.input_tokens", usage.prompt
    yield "gen_ai.usage.output_tokens", usage.output
    yield "gen_ai.usage.cache_read.input_tokens", usage.cache_read
    yield "gen_ai.usage.cache_creation.input_tokens", usage.cache_creation
    if usage.thinking is not None:
        yield "gen_ai.usage.reasoning.output_tokens", usage.thinking


def _carrier(request: Request) -> dict[str, list[str]]:
    """The caller's place in a trace; several headers of one name are one list (W3C Trace Context 3.3.1.1)."""
    return {
        name: [value.decode("latin-1") for value in request.requestHeaders.getRawHeaders(name.encode(), ())]
        for name in ("traceparent", "tracestate")
    }


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
