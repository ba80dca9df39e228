"""How answers leave: JSON, problems, streams. The only place that turns a `Problem` into HTTP."""

from collections.abc import Callable
from typing import Any, Protocol

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.web.http import Request

from claudeproxy.backends.generation import Generation
from claudeproxy.model.events import Event, Failed, MessageDelta, MessageStop, Ping
from claudeproxy.model.problems import Problem, stopping
from claudeproxy.translate.message import MessageAssembly
from claudeproxy.web.exchange import Exchange
from claudeproxy.wire.events import problem_json, stream_bytes
from claudeproxy.wire.json import encode

_LAST = (MessageStop, Failed)


def answer_json(request: Request, value: Any, status: int = 200) -> bytes:
    """A JSON answer, as what a Klein route returns."""
    body = encode(value)
    request.setResponseCode(status)
    request.setHeader(b"content-type", b"application/json")
    request.setHeader(b"content-length", b"%d" % len(body))
    return body


def answer_problem(request: Request, problem: Problem, request_id: str) -> bytes:
    """A problem as HTTP: Anthropic's envelope, and the headers that steer a client's retries (PROTOCOL 1.3, 3)."""
    if problem.retry_after is not None:
        request.setHeader(b"retry-after", b"%d" % problem.retry_after)
    if problem.should_retry is not None:
        request.setHeader(b"x-should-retry", b"true" if problem.should_retry else b"false")
    return answer_json(request, problem_json(problem, request_id), problem.status)


class Answer(Protocol):
    """One way of giving a client the events of a generation."""

    def deliver(self, events: list[Event]) -> None:
        """The next events; the last one is MessageStop or Failed."""

    async def carry(self, generation: Generation) -> bytes | None:
        """Until the answer is out. What it returns is still to be written. Cancelling cancels the generation."""


def _note(exchange: Exchange, events: list[Event], generation: Generation | None, now: float) -> None:
    """What the log line needs of the events."""
    if exchange.first_token is None and generation is not None and generation.spoken:
        exchange.first_token = now
    if isinstance(events[-1], _LAST):
        exchange.remarks = tuple(generation.remarks) if generation is not None else ()
        for event in events:
            if isinstance(event, MessageDelta):
                exchange.usage = event.usage
                exchange.outcome = event.stop_reason
            elif isinstance(event, Failed):
                exchange.outcome = event.problem.outcome


@define(eq=False)
class StreamAnswer:
    """Server-sent events (PROTOCOL 2).

    The status waits for the backend's first event, but at most ``grace`` seconds: instant failures are real HTTP
    errors, and a slow prefill is no silence. After ``quiet`` seconds without an event comes a ping. Each delivery is
    one write. A client that reads slowly pauses the backend.
    """

    _request: Request
    _exchange: Exchange
    _clock: IReactorTime
    _grace: float
    _quiet: float
    _generation: Generation | None = field(default=None, init=False)
    _committed: bool = field(default=False, init=False)
    _written: float = field(default=0.0, init=False)
    _timer: IDelayedCall | None = field(default=None, init=False)
    _refused: Problem | None = field(default=None, init=False)
    _done: Deferred[None] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._done = Deferred(lambda _: self._abandon())

    def deliver(self, events: list[Event]) -> None:
        if self._done.called or not events:
            return
        now = self._clock.seconds()
        _note(self._exchange, events, self._generation, now)
        if not self._committed:
            last = events[-1]
            if isinstance(last, Failed):
                self._refused = last.problem
                self._finish()
                return
            self._commit()
        self._request.write(stream_bytes(events, self._exchange.id))
        self._written = now
        if isinstance(events[-1], _LAST):
            self._finish()

    async def carry(self, generation: Generation) -> bytes | None:
        if not self._done.called:
            self._generation = generation
            self._exchange.stop = lambda: generation.fail(_STOPPING)
            if not self._committed:
                waited = self._clock.seconds() - self._exchange.began
                self._timer = self._clock.callLater(max(0.0, self._grace - waited), self._lose_patience)
            else:
                self._request.registerProducer(generation, True)
        await self._done
        if self._refused is not None:
            return answer_problem(self._request, self._refused, self._exchange.id)
        return None

    def _lose_patience(self) -> None:
        self._timer = None
        if self._generation is not None:
            self._generation.begin()

    def _commit(self) -> None:
        self._committed = True
        self._stop_timer()
        self._request.setHeader(b"content-type", b"text/event-stream; charset=utf-8")
        self._request.setHeader(b"cache-control", b"no-cache")
        self._request.setHeader(b"x-accel-buffering", b"no")
        if self._generation is not None:
            self._request.registerProducer(self._generation, True)
        self._timer = self._clock.callLater(self._quiet, self._ping)

    def _ping(self) -> None:
        silent = self._clock.seconds() - self._written
        if silent >= self._quiet:
            silent = 0.0
            if self._generation is None or not self._generation.paused:
                # A client that does not read gets no pings either: they would pile up.
                self._request.write(stream_bytes([Ping()]))
                self._written = self._clock.seconds()
        self._timer = self._clock.callLater(self._quiet - silent, self._ping)

    def _finish(self) -> None:
        self._stop_timer()
        self._exchange.stop = None
        if self._committed and self._generation is not None:
            self._request.unregisterProducer()
        self._done.callback(None)

    def _abandon(self) -> None:
        """The client is gone; its connection has forgotten the producer by itself (STYLE P14)."""
        self._stop_timer()
        self._exchange.stop = None
        if self._generation is not None:
            self._generation.cancel()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


@define(eq=False)
class WholeAnswer:
    """One JSON message, once it is complete; a failure keeps its HTTP status to the very end."""

    _request: Request
    _exchange: Exchange
    _clock: IReactorTime
    _generation: Generation | None = field(default=None, init=False)
    _assembly: MessageAssembly = field(factory=MessageAssembly, init=False)
    _refused: Problem | None = field(default=None, init=False)
    _done: Deferred[None] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._done = Deferred(lambda _: self._abandon())

    def deliver(self, events: list[Event]) -> None:
        if self._done.called or not events:
            return
        _note(self._exchange, events, self._generation, self._clock.seconds())
        for event in events:
            self._assembly.add(event)
        last = events[-1]
        if isinstance(last, _LAST):
            self._refused = last.problem if isinstance(last, Failed) else None
            self._done.callback(None)

    async def carry(self, generation: Generation) -> bytes | None:
        self._generation = generation
        self._exchange.stop = lambda: generation.fail(_STOPPING)
        await self._done
        self._exchange.stop = None
        if self._refused is not None:
            return answer_problem(self._request, self._refused, self._exchange.id)
        return answer_json(self._request, self._assembly.message)

    def _abandon(self) -> None:
        self._exchange.stop = None
        if self._generation is not None:
            self._generation.cancel()


_STOPPING = stopping()

AnswerMaker = Callable[[Request, Exchange], Answer]
