"""An answer that is passed on as it comes: status, headers and bytes of an Anthropic server (PROTOCOL 4.10)."""

from collections.abc import Awaitable
from typing import ClassVar

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss, Request
from twisted.web.iweb import IResponse

from claudeproxy.model.events import Failed, Ping
from claudeproxy.model.problems import Problem, bad_gateway, stopping
from claudeproxy.translate.forwarding import headers_back
from claudeproxy.translate.overheard import Overheard
from claudeproxy.web.answers import cut
from claudeproxy.web.exchange import Exchange
from claudeproxy.wire.events import stream_bytes


@define(eq=False)
class Relay(Protocol):
    """Carries one answer. A client that reads slowly slows the server down; one that leaves hangs up on it.

    A stream that is silent for ``quiet`` seconds gets a ping, but never inside an event; one that breaks between two
    events ends with an error event, one that breaks within an event is cut, as the client's own connection would be.
    """

    _request: Request
    _exchange: Exchange
    _clock: IReactorTime
    _quiet: float
    _overheard: Overheard = field(factory=Overheard, init=False)
    _streams: bool = field(default=False, init=False)
    _tail: bytes = field(default=b"", init=False)
    _written: float = field(default=0.0, init=False)
    _timer: IDelayedCall | None = field(default=None, init=False)
    _done: Deferred[None] = field(init=False)

    #: How an event ends, with the server's own line ends.
    _ENDS: ClassVar[tuple[bytes, ...]] = (b"\n\n", b"\r\n\r\n", b"\r\r")

    def __attrs_post_init__(self) -> None:
        self._done = Deferred(lambda _: self._abandon())

    async def carry(self, answer: Awaitable[IResponse]) -> None:
        """Until the answer is out. Cancelling hangs up."""
        response = await answer
        self._begin(response)
        response.deliverBody(self)
        await self._done

    def _begin(self, response: IResponse) -> None:
        request = self._request
        request.setResponseCode(response.code, response.phrase)
        received = [(name, each) for name, values in response.headers.getAllRawHeaders() for each in values]
        back = headers_back(received, self._exchange.id)
        for name, _ in back:
            request.responseHeaders.removeHeader(name)  # such as our own request-id: the server's stays
        for name, value in back:
            request.responseHeaders.addRawHeader(name, value)
        kind = b"".join(response.headers.getRawHeaders(b"content-type") or ()).lower()
        self._streams = kind.startswith(b"text/event-stream")
        self._overheard.streams = self._streams
        if response.code >= 400:
            self._exchange.outcome = "refused"
        if response.length == 0 or request.method == b"HEAD":
            return
        if isinstance(response.length, int) and not self._streams:
            request.setHeader(b"content-length", b"%d" % response.length)

    def connectionMade(self) -> None:
        if self._done.called:
            self._producer.stopProducing()
            return
        self._request.registerProducer(self._producer, True)
        self._exchange.stop = lambda: self._end_with(stopping())
        self._written = self._clock.seconds()
        if self._streams:
            self._timer = self._clock.callLater(self._quiet, self._ping)

    def dataReceived(self, data: bytes) -> None:
        if self._done.called:
            return
        self._request.write(data)
        self._written = self._clock.seconds()
        self._tail = (self._tail + data[-4:])[-4:]
        if self._overheard.receive(data) and self._exchange.first_token is None:
            self._exchange.first_token = self._written

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.transport = None
        if self._done.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):
            self._finish()
        else:
            self._end_with(bad_gateway(f"Backend {self._exchange.backend} broke off its answer."))

    def _end_with(self, problem: Problem) -> None:
        """The answer ends before its time."""
        if self._done.called:
            return
        self._exchange.outcome = problem.outcome
        producer, self.transport = self.transport, None
        if self._streams and self._between_events:
            self._request.write(stream_bytes([Failed(problem)], self._exchange.id))
            self._finish()
        else:
            cut(self._request)
        if producer is not None:
            IPushProducer(producer).stopProducing()

    def _finish(self) -> None:
        self._stop_timer()
        self._exchange.stop = None
        self._overheard.close()
        self._exchange.usage = self._overheard.usage
        self._exchange.outcome = self._exchange.outcome or self._overheard.outcome
        self._request.unregisterProducer()
        self._done.callback(None)

    def _abandon(self) -> None:
        self._stop_timer()
        self._exchange.stop = None
        self._exchange.usage = self._overheard.usage
        if self.transport is not None:
            self._producer.stopProducing()

    def _ping(self) -> None:
        silent = self._clock.seconds() - self._written
        if silent >= self._quiet:
            silent = 0.0
            if self._between_events:
                self._request.write(stream_bytes([Ping()]))
                self._written = self._clock.seconds()
        self._timer = self._clock.callLater(self._quiet - silent, self._ping)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def _between_events(self) -> bool:
        return not self._tail or self._tail.endswith(self._ENDS)

    @property
    def _producer(self) -> IPushProducer:
        return IPushProducer(self.transport)
