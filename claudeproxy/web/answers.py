"""How answers leave: JSON, problems, streams. The only place that turns a `Problem` into HTTP."""

from typing import Any, ClassVar, Protocol

from attrs import evolve, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.web.http import Request

from claudeproxy.backends.generation import Straight
from claudeproxy.model.events import (
    Event,
    Failed,
    MessageDelta,
    MessageStart,
    MessageStop,
    Ping,
    tells,
)
from claudeproxy.model.kinds import define, frozen
from claudeproxy.model.problems import Problem, stopping
from claudeproxy.translate.message import MessageAssembly
from claudeproxy.translate.usage import scaled
from claudeproxy.web.exchange import Exchange
from claudeproxy.web.site import in_one_write
from claudeproxy.web.tape import Tape
from claudeproxy.wire.events import encode_event, problem_json, stream_bytes
from claudeproxy.wire.json import encode

_LAST = (MessageStop, Failed)


def answer_json(request: Request, value: Any, status: int = 200) -> bytes:
    """A JSON answer, as what a Klein route returns."""
    body = encode(value)
    request.setResponseCode(status)
    request.setHeader(b"content-type", b"application/json")
    request.setHeader(b"content-length", b"%d" % len(body))
    return b"" if request.method == b"HEAD" else body


def answer_problem(request: Request, problem: Problem, request_id: str) -> bytes:
    """A problem as HTTP: Anthropic's envelope, and the headers that steer a client's retries (PROTOCOL 1.3, 3)."""
    if problem.retry_after is not None:
        request.setHeader(b"retry-after", b"%d" % problem.retry_after)
    if problem.should_retry is not None:
        request.setHeader(b"x-should-retry", b"true" if problem.should_retry else b"false")
    return answer_json(request, problem_json(problem, request_id), problem.status)


def cut(request: Request) -> None:
    """Breaks the client's connection: what it has of its answer must not pass for the whole."""
    transport: Any = request.transport
    transport.abortConnection()


class Answer(Protocol):
    """One way of giving a client the events of an answer."""

    streams: ClassVar[bool]
    scale: float

    def deliver(self, events: list[Event]) -> None:
        """The next events; the last one is MessageStop or Failed."""

    @property
    def straight(self) -> Straight | None:
        """Who can be given in their place the bytes of events that only say more of the text, if anybody."""

    async def carry(self, tape: Tape) -> bytes | None:
        """Until the answer is out. What it returns is still to be written. Cancelling leaves the tape."""


@frozen
class Times:
    """How long an answer may be silent, in seconds."""

    #: For the backend's first event before the status leaves, so that instant failures are real HTTP errors.
    grace: float
    #: Without an event before a ping is sent.
    quiet: float
    #: Without news of the model before signs of life leave in the form that every client takes for one (CLIENTS.md:
    #: with pings alone Claude Code gives up after 300 or 600 s).
    patience: float


def _note(exchange: Exchange, events: list[Event], tape: Tape | None, now: float) -> None:
    """What the log line needs of the events."""
    if exchange.first_token is None and tape is not None and tape.spoken:
        exchange.first_token = now
    if isinstance(events[-1], _LAST):
        exchange.last_token = now
        if tape is not None:
            exchange.remarks = tuple(tape.remarks)
        for event in events:
            if isinstance(event, MessageDelta):
                exchange.usage = event.usage
                exchange.outcome = event.stop_reason
            elif isinstance(event, Failed):
                exchange.fails(event.problem)


def _told(events: list[Event], scale: float) -> list[Event]:
    """The events as the client is told them."""
    if scale == 1.0:
        return events
    return [
        evolve(event, usage=scaled(event.usage, scale)) if isinstance(event, MessageStart | MessageDelta) else event
        for event in events
    ]


@define(eq=False)
class StreamAnswer:
    """Server-sent events (PROTOCOL 2).

    A slow prefill is no silence: there are pings, and after a long time signs of life in an open block. Each delivery
    is one write. A client that reads slowly pauses the backend.
    """

    streams: ClassVar[bool] = True
    _request: Request
    _exchange: Exchange
    _clock: IReactorTime
    _times: Times
    #: By how much the prompt's counts are told larger than they are.
    scale: float = field(default=1.0, init=False)
    _tape: Tape | None = field(default=None, init=False)
    _committed: bool = field(default=False, init=False)
    _written: float = field(default=0.0, init=False)
    #: When the model last let hear of itself.
    _heard: float = field(default=0.0, init=False)
    #: The log knows of the first token.
    _noted: bool = field(default=False, init=False)
    #: The last event is out, or nobody is there to hear it.
    _over: bool = field(default=False, init=False)
    _timer: IDelayedCall | None = field(default=None, init=False)
    _refused: Problem | None = field(default=None, init=False)
    _done: Deferred[None] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._heard = self._clock.seconds()
        self._done = Deferred(lambda _: self._abandon())

    def deliver(self, events: list[Event]) -> None:
        if self._over or not events:
            return
        now = self._clock.seconds()
        last = events[-1]
        ends = isinstance(last, _LAST)
        if ends or not self._noted:
            _note(self._exchange, events, self._tape, now)
            self._noted = self._exchange.first_token is not None
        if not self._committed:
            if isinstance(last, Failed):
                self._refused = last.problem
                self._finish()
                return
            self._commit()
        if self.scale != 1.0:
            events = _told(events, self.scale)
        id = self._exchange.id if ends else ""  # only failures say it
        data = encode_event(last, id) if len(events) == 1 else stream_bytes(events, id)
        if ends:
            with in_one_write(self._request):  # with the end of the body
                self._request.write(data)
                self._finish()
            return
        self._request.write(data)
        self._written = now
        if tells(last) or any(map(tells, events)):
            self._heard = now

    @property
    def straight(self) -> Straight | None:
        return self._request.write if self._noted and self._committed else None

    async def carry(self, tape: Tape) -> bytes | None:
        if not self._over:
            self._tape = tape
            self._exchange.stop = lambda: tape.fail(_STOPPING)
            if not self._committed:
                waited = self._clock.seconds() - self._exchange.began
                self._timer = self._clock.callLater(max(0.0, self._times.grace - waited), self._time_is_up)
            else:
                self._request.registerProducer(tape, True)
        await self._done
        if self._refused is not None:
            return answer_problem(self._request, self._refused, self._exchange.id)
        return None

    def _time_is_up(self) -> None:
        self._timer = None
        if self._committed:
            self._break_silence()
        elif self._tape is not None:
            self._exchange.impatient = True
            self._tape.begin()

    def _commit(self) -> None:
        self._committed = True
        self._exchange.committed = self._clock.seconds()
        self._request.setHeader(b"content-type", b"text/event-stream; charset=utf-8")
        self._request.setHeader(b"cache-control", b"no-cache")
        self._request.setHeader(b"x-accel-buffering", b"no")
        if self._tape is not None:
            self._request.registerProducer(self._tape, True)
        if self._timer is not None:
            self._timer.reset(self._times.quiet)
        else:
            self._timer = self._clock.callLater(self._times.quiet, self._time_is_up)

    def _break_silence(self) -> None:
        if self._tape is not None and self._tape.passed > self._written:
            self._written = self._heard = self._tape.passed
        silent = self._clock.seconds() - self._written
        if silent >= self._times.quiet:
            silent = 0.0
            if self._tape is None or not self._tape.paused:
                # A client that does not read gets no signs of life either: they would pile up.
                self._show_life(self._clock.seconds())
        if not self._over:
            self._timer = self._clock.callLater(self._times.quiet - silent, self._time_is_up)

    def _show_life(self, now: float) -> None:
        before = self._written
        if self._tape is not None and now - self._heard >= self._times.patience:
            self._tape.keep_alive()
        if self._written != before:
            self._exchange.signs_of_life += 1
        elif not self._over:
            self._exchange.pings += 1
            self._request.write(stream_bytes([Ping()]))
            self._written = now

    def _finish(self) -> None:
        self._over = True
        self._stop_timer()
        self._exchange.stop = None
        if self._committed and self._tape is not None:
            self._request.unregisterProducer()
        self._done.callback(None)

    def _abandon(self) -> None:
        """The client is gone; its connection has forgotten the producer by itself (STYLE P14)."""
        self._over = True
        self._stop_timer()
        self._exchange.stop = None
        if self._tape is not None:
            self._tape.leave()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


@define(eq=False)
class WholeAnswer:
    """One JSON message, once it is complete; a failure keeps its HTTP status to the end.

    Only an answer that takes longer than any client's or load balancer's patience is begun before it is there: blanks
    before the JSON keep the connection. Its failure can have no status any more, and cuts the connection instead,
    which every client takes for one.
    """

    streams: ClassVar[bool] = False
    straight: ClassVar[None] = None
    _request: Request
    _exchange: Exchange
    _clock: IReactorTime
    _times: Times
    #: By how much the prompt's counts are told larger than they are.
    scale: float = field(default=1.0, init=False)
    _tape: Tape | None = field(default=None, init=False)
    _assembly: MessageAssembly = field(factory=MessageAssembly, init=False)
    _refused: Problem | None = field(default=None, init=False)
    _begun: bool = field(default=False, init=False)
    _timer: IDelayedCall | None = field(default=None, init=False)
    _done: Deferred[None] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._done = Deferred(lambda _: self._abandon())

    def deliver(self, events: list[Event]) -> None:
        if self._done.called or not events:
            return
        _note(self._exchange, events, self._tape, self._clock.seconds())
        for event in _told(events, self.scale):
            self._assembly.add(event)
        last = events[-1]
        if isinstance(last, _LAST):
            self._refused = last.problem if isinstance(last, Failed) else None
            self._done.callback(None)

    async def carry(self, tape: Tape) -> bytes | None:
        self._tape = tape
        if not self._done.called:
            self._exchange.stop = lambda: tape.fail(_STOPPING)
            self._timer = self._clock.callLater(self._times.patience, self._break_silence)
        await self._done
        self._stop_timer()
        self._exchange.stop = None
        if not self._begun:
            if self._refused is not None:
                return answer_problem(self._request, self._refused, self._exchange.id)
            return answer_json(self._request, self._assembly.message)
        if self._refused is not None:
            cut(self._request)
            return None
        return encode(self._assembly.message)

    def _break_silence(self) -> None:
        if not self._begun:
            self._begun = True
            self._exchange.committed = self._clock.seconds()
            self._request.setHeader(b"content-type", b"application/json")
        self._exchange.pings += 1
        self._request.write(b"\n")
        self._timer = self._clock.callLater(self._times.quiet, self._break_silence)

    def _abandon(self) -> None:
        self._stop_timer()
        self._exchange.stop = None
        if self._tape is not None:
            self._tape.leave()

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None


_STOPPING = stopping()
