"""An answer that is passed on as it comes: status, headers and bytes of an Anthropic server (PROTOCOL 4.10)."""

from collections.abc import Awaitable
from typing import Any, ClassVar

from attrs import field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss, Request
from twisted.web.iweb import IResponse
from zope.interface import implementer

from claudeproxy.backends.client import describe, leave_unread
from claudeproxy.backends.hush import NO_HUSH, Hush, Muffler
from claudeproxy.backends.patience import Limits, Patience
from claudeproxy.model.events import Failed, Ping
from claudeproxy.model.kinds import define
from claudeproxy.model.problems import Problem, Refusal, bad_gateway, overloaded, stopping
from claudeproxy.translate.forwarding import headers_back
from claudeproxy.translate.overheard import Overheard
from claudeproxy.web.answers import cut
from claudeproxy.web.exchange import Exchange
from claudeproxy.wire.events import stream_bytes


@implementer(IPushProducer)
@define(eq=False)
class Relay(Protocol):
    """Carries one answer. A client that reads slowly slows the server down; one that leaves hangs up on it.

    The status leaves with the first bytes of the body: until then a failure is an HTTP error of ours. A stream that
    is silent for ``quiet`` seconds gets a ping, but never inside an event; one that breaks between two events ends
    with an error event, and what breaks anywhere else is cut, as the client's own connection would be.
    """

    _request: Request
    _exchange: Exchange
    _clock: IReactorTime
    _quiet: float
    _limits: Limits = field(default=Limits(0.0))
    #: Takes the server's own key out of its errors.
    _hush: Hush = NO_HUSH
    #: For the body of one, which may be cut anywhere.
    _muffler: Muffler | None = field(default=None, init=False)
    _overheard: Overheard = field(factory=Overheard, init=False)
    _opening: Deferred[None] | None = field(default=None, init=False)
    _response: IResponse | None = field(default=None, init=False)
    #: Status and headers are set.
    _committed: bool = field(default=False, init=False)
    #: It is a stream of events that others may be put between.
    _streams: bool = field(default=False, init=False)
    _tail: bytes = field(default=b"", init=False)
    #: Bytes of the answer.
    _received: int = field(default=0, init=False)
    #: When the client was last written to, and when the server was last heard.
    _written: float = field(default=0.0, init=False)
    _heard: float = field(default=0.0, init=False)
    _paused: bool = field(default=False, init=False)
    _timer: IDelayedCall | None = field(default=None, init=False)
    _patience: Patience = field(init=False)
    #: Nothing more is passed on.
    _over: bool = field(default=False, init=False)
    _done: Deferred[None] = field(init=False)

    #: How an event ends, with the server's own line ends.
    _ENDS: ClassVar[tuple[bytes, ...]] = (b"\n\n", b"\r\n\r\n", b"\r\r")

    def __attrs_post_init__(self) -> None:
        self._done = Deferred(lambda _: self._abandon())
        self._patience = Patience(self._clock, self._limits, self._last_heard, self._lose_patience)

    async def carry(self, answer: Awaitable[IResponse]) -> None:
        """Until the answer is out. Raises `Refusal` if there is none. Cancelling hangs up."""
        self._exchange.stop = lambda: self._end_with(stopping())
        self._patience.begin()
        self._opening = Deferred.fromCoroutine(self._open(answer))
        self._opening.addErrback(self._never_opened)
        await self._done

    # What the client's side asks, as of any producer.

    def pauseProducing(self) -> None:
        self._paused = True
        if self.transport is not None:
            self._producer.pauseProducing()

    def resumeProducing(self) -> None:
        self._paused = False
        self._heard = self._clock.seconds()  # a silence that the client asked for is not the server's
        if self.transport is not None:
            self._producer.resumeProducing()

    def stopProducing(self) -> None:
        """The client's connection broke; whoever waits for `carry` is told as well, and cancels it."""

    # What the server's connection says.

    def connectionMade(self) -> None:
        if self._over:
            self._hang_up()
            return
        self._written = self._clock.seconds()
        self._request.registerProducer(self, True)
        if self._streams:
            self._timer = self._clock.callLater(self._quiet, self._ping)

    def dataReceived(self, data: bytes) -> None:
        if self._over:
            return
        now = self._heard = self._clock.seconds()
        self._received += len(data)
        if self._muffler is not None:
            data = self._muffler.receive(data)
        if self._overheard.receive(data) and self._exchange.first_token is None:
            self._exchange.first_token = self._exchange.journey.first_token = now
            self._patience.listen()
        if self._overheard.complaint is not None:
            data = self._hush.body(data)
        self._tail = (self._tail + data[-4:])[-4:]
        self._write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.transport = None
        if self._over:
            return
        if self._muffler is not None and (rest := self._muffler.close()):
            self._overheard.receive(rest)
            self._write(rest)
        whole = reason.check(ResponseDone, PotentialDataLoss) is not None
        if whole:
            self._overheard.close()
        # A message tells its end: without it the answer was cut, however properly the server closed what it had.
        if self._overheard.over or (whole and not self._overheard.begun):
            self._finish()
        elif whole:
            self._end_with(self._broken("closed the connection in the middle of its answer."))
        else:
            self._end_with(self._broken(f"broke off its answer: {describe(reason.value)}"))

    # The rest is between us.

    async def _open(self, answer: Awaitable[IResponse]) -> None:
        response = await answer
        if 300 <= response.code < 400 and response.code != 304:  # row 79; the client would take its body and key along
            leave_unread(response)
            words = f"Backend {self._exchange.backend} redirects, which is not followed with credentials."
            raise Refusal(bad_gateway(words))
        self._response = response
        kind, packing = (_joined(response, name) for name in (b"content-type", b"content-encoding"))
        plain = response.code < 300 and packing in (b"", b"identity")
        self._streams = plain and kind.startswith(b"text/event-stream")
        self._overheard.streams = self._exchange.streams = self._streams
        self._heard = self._clock.seconds()
        if response.code >= 400:
            self._muffler = Muffler(self._hush) if packing in (b"", b"identity") else None
            self._patience.listen()  # the words of a refusal need no thought
        response.deliverBody(self._exchange.journey.ear(self, self._hush.body))

    def _never_opened(self, failure: Failure) -> None:
        if self._over:
            return  # it was given up by us
        self._stop_watching()
        if failure.check(CancelledError):
            # Not by us: whoever runs the backend has given it up.
            failure = Failure(Refusal(overloaded(f"Backend {self._exchange.backend} was stopped.")))
        self._over = True
        self._done.errback(failure)

    def _write(self, data: bytes) -> None:
        self._commit()
        self._request.write(data)
        self._written = self._clock.seconds()

    def _commit(self) -> None:
        """Status and headers, as the server sent them."""
        response: Any = self._response
        if self._committed or response is None:
            return
        self._committed = True
        self._exchange.committed = self._exchange.journey.first_byte = self._clock.seconds()
        request: Any = self._request
        request.setResponseCode(response.code, response.phrase)
        # The HTTP client leaves an empty content-encoding where it has undone one, and where there was none.
        received = [
            (name, each)
            for name, values in response.headers.getAllRawHeaders()
            for each in values
            if each or name.lower() != b"content-encoding"
        ]
        back = headers_back(received, self._exchange.id)
        for name, _ in back:
            request.responseHeaders.removeHeader(name)  # such as our own request-id: the server's stays
        for name, value in back:
            request.responseHeaders.addRawHeader(name, value)
        request.defaultContentType = None  # what the server does not say, we do not know
        if request.method == b"HEAD":
            for value in response.headers.getRawHeaders(b"content-length", ()):
                request.setHeader(b"content-length", value)  # that of the body which GET would bring
        elif isinstance(response.length, int) and not self._streams and response.code not in (204, 304):
            request.setHeader(b"content-length", b"%d" % response.length)

    def _broken(self, how: str) -> Problem:
        """Before the first token it is as if the server had not been there."""
        words = f"Backend {self._exchange.backend} {how}"
        return overloaded(words) if self._exchange.first_token is None else bad_gateway(words)

    def _end_with(self, problem: Problem) -> None:
        """The answer ends before its time."""
        if self._over:
            return
        self._exchange.fails(problem)
        self._over = True
        self._hang_up()
        if not self._committed:
            self._close()
            self._done.errback(Refusal(problem))
        elif self._streams and self._between_events:
            self._write(stream_bytes([Failed(problem)], self._exchange.id))
            self._finish()
        else:
            self._stop_watching()
            cut(self._request)

    def _finish(self) -> None:
        self._over = True
        self._commit()
        self._overheard.close()
        response: Any = self._response
        refused = "refused" if response is not None and response.code >= 400 else ""
        self._exchange.outcome = self._exchange.outcome or refused or self._overheard.outcome
        if self._exchange.problem is None and (refused or self._overheard.complaint is not None):
            self._exchange.problem = self._overheard_problem(response.code)
        self._close()
        self._done.callback(None)

    def _overheard_problem(self, status: int) -> Problem:
        """What the server said went wrong, for those who record it: the client has its own words."""
        heard, words = self._overheard, self._hush.words(self._overheard.complaint or "")
        return Problem(status if status >= 400 else 500, heard.outcome or "error", words, self._exchange.outcome)

    def _abandon(self) -> None:
        """The client is gone; its connection has forgotten the producer by itself (STYLE P14)."""
        self._over = True
        self._stop_watching()
        self._hang_up()

    def _close(self) -> None:
        self._stop_watching()
        if self._response is not None:
            self._request.unregisterProducer()

    def _hang_up(self) -> None:
        if self._opening is not None and not self._opening.called:
            self._opening.cancel()
        transport, self.transport = self.transport, None
        if transport is not None:
            IPushProducer(transport).stopProducing()

    def _ping(self) -> None:
        silent = self._clock.seconds() - self._written
        if silent >= self._quiet:
            silent = 0.0
            # To a client that does not read they would pile up.
            if self._between_events and not self._paused and not self._overheard.over:
                self._exchange.pings += 1
                self._write(stream_bytes([Ping()]))
        self._timer = self._clock.callLater(self._quiet - silent, self._ping)

    def _last_heard(self) -> float | None:
        return None if self._paused else self._heard

    def _lose_patience(self, how: str) -> None:
        if self._overheard.over:  # all has been said; only the connection goes on
            self._hang_up()
            self._finish()
        else:
            self._end_with(self._broken(how))

    def _stop_watching(self) -> None:
        """The log line is all that is still to come."""
        self._exchange.stop = None
        self._exchange.usage = self._overheard.usage
        if self._streams:
            self._exchange.last_token = self._heard
        elif self._overheard.usage is None:  # an error, a count, a list: it had no tokens, and no first one
            self._exchange.first_token = self._exchange.journey.first_token = None
        last_byte = self._heard if self._received else None
        self._exchange.journey.ends(self._clock.seconds(), last_byte, self._received)
        self._patience.end()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    @property
    def _between_events(self) -> bool:
        return not self._tail or self._tail.endswith(self._ENDS)

    @property
    def _producer(self) -> IPushProducer:
        return IPushProducer(self.transport)


def _joined(response: IResponse, name: bytes) -> bytes:
    """A header's values in lower case."""
    return b",".join(response.headers.getRawHeaders(name) or ()).strip().lower()
