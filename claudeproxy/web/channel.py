"""A client's connection, which never waits for ever: the pace of its requests, and what is no request at all.

It is in one of six phases, and in all but one of them for a limited time only::

    idle       no byte of a request     idle_time       closed in silence
    head       the first bytes          request_time    408
    body       until it is whole        request_time    408, if there came less than 1 KiB a second
    answering  until it is answered     for ever        a prefill may take a quarter of an hour
    refused    an error was written     a second        closed; what comes meanwhile is read and forgotten
    closing    its last bytes leave     idle_time       cut

The timer is lazy: it is made for the first limit, and looks at its end whether that still holds, so that a request
that comes in one piece and is answered at once costs no timer.
"""

import re
from enum import Enum
from typing import Any

from attrs import field
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure
from twisted.web.http import RESPONSES, HTTPChannel
from twisted.web.http_headers import Headers

from claudeproxy.model.kinds import define
from claudeproxy.model.problems import Problem, head_too_large, invalid_request, too_slow
from claudeproxy.web.exchange import host_of
from claudeproxy.web.limits import Terms
from claudeproxy.wire.events import problem_json
from claudeproxy.wire.json import encode

#: The least pace of a body, in bytes a second.
SLOWEST = 1024
#: So long, in seconds, a client may go on sending after it was refused. Who closes on one that sends takes the answer
#: away from it.
_LINGER = 1.0
#: What Twisted adds to a connection later than at its beginning. CPython keeps the names of attributes once for all
#: objects of a class, at most 29, but only those that one has before there are many: each is 1.3 KB smaller then.
_LATER = (
    *("_buffer", "_busyReceiving", "line_mode", "length", "persistent", "_command", "_path", "_version"),
    *("_receivedHeaderSize", "_receivedHeaderCount", "_HTTPChannel__first_line", "_HTTPChannel__header"),
    *("_requestProducer", "_requestProducerStreaming"),
)
_BLANK_LINE = b"\r\n\r\n"
#: A line that goes on with the one before (RFC 9112 5.2), or a blank one at the beginning: Twisted knows what to do.
_FOLDED = re.compile(rb"\A\r\n|\r\n[ \t]")
#: What Twisted has no words for.
_REASONS = {431: b"Request Header Fields Too Large"}
#: No length of a body has more digits; Python would not even read 5,000 of them.
_MOST_DIGITS = 18
#: Names of headers as clients spell them, and as Twisted does; "" for those that it has to look at itself. So many are
#: known, of so many bytes.
_KNOWN_NAMES: dict[bytes, bytes] = {}
_MOST_NAMES = 256
_LONGEST_NAME = 64


def _learn_name(name: bytes) -> None:
    if name not in _KNOWN_NAMES and len(_KNOWN_NAMES) < _MOST_NAMES and len(name) <= _LONGEST_NAME:
        ((canonical, _),) = Headers({name: [b""]}).getAllRawHeaders()
        _KNOWN_NAMES[name] = b"" if canonical in (b"Content-Length", b"Transfer-Encoding") else canonical


class Phase(Enum):
    """What is waited for."""

    IDLE = "idle"
    HEAD = "head"
    BODY = "body"
    ANSWERING = "answering"
    REFUSED = "refused"
    CLOSING = "closing"


@define(eq=False)
class _Wait:
    """What is waited for, and since when. Not the connection's own attributes, of which Twisted's has enough."""

    phase: Phase | None = None
    since: float = 0.0
    #: Bytes of the body since then.
    received: int = 0
    timer: IDelayedCall | None = None
    #: What the client must keep to.
    terms: Terms = field(factory=Terms)


class TimedChannel(HTTPChannel):
    """Says what is wrong with a client in the envelope, and gives it up in time. Its site knows the terms."""

    site: Any
    _wait: _Wait

    @property
    def idle_since(self) -> float | None:
        """Since when no request was begun, in the clock's seconds; None while there is one."""
        return self._wait.since if self._wait.phase is Phase.IDLE else None

    @property
    def totalHeadersSize(self) -> int:  # type: ignore[override]  # as Twisted asks for it
        return self._wait.terms.longest_head

    @property
    def MAX_LENGTH(self) -> int:  # type: ignore[override]  # of a line: the same
        return self._wait.terms.longest_head

    def refuse(self, problem: Problem, linger: float = _LINGER) -> None:
        """Answers without a request, and then closes."""
        if self._wait.phase in (Phase.REFUSED, Phase.CLOSING):
            return
        assert self.transport is not None
        request_id = self.site.refused(host_of(self.transport.getPeer()), problem)
        body = encode(problem_json(problem, request_id))
        retry = b"" if problem.retry_after is None else b"Retry-After: %d\r\n" % problem.retry_after
        head = (
            b"HTTP/1.1 %d %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
            b"request-id: %b\r\n%bConnection: close\r\n\r\n"
        )
        reason = RESPONSES.get(problem.status) or _REASONS.get(problem.status, b"Error")
        self.transport.write(head % (problem.status, reason, len(body), request_id.encode(), retry) + body)
        self._buffer = b""
        self.dataReceived = lambda data: None  # type: ignore[method-assign]
        self._turn_to(Phase.REFUSED)
        if not linger:
            self.loseConnection()

    # What Twisted calls.

    def connectionMade(self) -> None:
        self._wait = _Wait(terms=self.site.terms())
        super().connectionMade()
        for name in _LATER:
            setattr(self, name, getattr(self, name, None))
        self._turn_to(Phase.IDLE)

    def dataReceived(self, data: bytes) -> None:
        self._wait.received += len(data)
        super().dataReceived(self._after_head(data) if self._wait.phase is Phase.IDLE else data)
        if self._buffer and self.line_mode and b"\n" in self._buffer and not self._busyReceiving:
            # All lines that ended rightly are out of it: this one would never end.
            self._respondToBadRequestAndDisconnect()
        self._look()

    def requestDone(self, request: Any) -> None:
        if self._wait.phase not in (Phase.REFUSED, Phase.CLOSING):
            self._wait.phase = None
        super().requestDone(request)
        self._look()

    def loseConnection(self) -> None:
        super().loseConnection()
        self._turn_to(Phase.CLOSING)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # Twisted always gives a reason
        super().connectionLost(reason)
        self._wait.phase = Phase.CLOSING
        if self._wait.timer is not None:
            self._wait.timer.cancel()
            self._wait.timer = None

    def _after_head(self, data: bytes) -> bytes:
        """Takes the lines of a head that came whole, and gives what is behind them. Twisted takes it line by line, and
        moves all that is behind each of them."""
        end = data.find(_BLANK_LINE)
        head = data[: max(0, end)]
        if not head or end > self._wait.terms.longest_head or _FOLDED.search(head):
            return data
        first, *lines = head.split(b"\r\n")
        self.lineReceived(first)
        for line in lines:
            if self._wait.phase is not Phase.IDLE:  # refused
                return b""
            self.headerReceived(line)
        return data[end + len(b"\r\n") :] if self._wait.phase is Phase.IDLE else b""

    def lineLengthExceeded(self, line: bytes) -> None:
        self.refuse(head_too_large(self._wait.terms.longest_head))

    def headerReceived(self, line: bytes) -> bool:
        # As Twisted does, but in one step, for names that it took before and that say nothing of the body's length.
        name, colon, value = line.partition(b":")
        known, value = _KNOWN_NAMES.get(name) if colon else None, value.strip(b" \t")
        is_sound = self._receivedHeaderCount < self.maxHeaders and value == value.translate(None, b"\0\r\n")
        if known and is_sound:
            self.requests[-1].requestHeaders._rawHeaders.setdefault(known, []).append(value)
            self._receivedHeaderCount += 1
            return True
        taken = bool(super().headerReceived(line))
        if taken:
            _learn_name(name)
        return taken

    def _maybeChooseTransferDecoder(self, header: bytes, data: bytes) -> bool:
        if header == b"Content-Length" and len(data) > _MOST_DIGITS:
            return bool(self._failChooseTransferDecoder())
        if header == b"Transfer-Encoding" and (data.lower() != b"chunked" or self._version == b"HTTP/1.0"):
            # Twisted passes over "identity", also after "chunked", where others see no length at all (RFC 9112 6.3).
            return bool(self._failChooseTransferDecoder())
        return bool(super()._maybeChooseTransferDecoder(header, data))

    def _send100Continue(self) -> None:
        request = self.requests[-1]
        if self.site.expects(request):
            super()._send100Continue()
            return
        # It is answered before its body is sent, which must not pass for the next request.
        self.length = 0
        self.persistent = False
        request.responseHeaders.setRawHeaders(b"connection", [b"close"])

    def _respondToBadRequestAndDisconnect(self) -> None:
        # What is no HTTP has no request either, and yet gets the envelope (issue 2, item 3).
        if self._receivedHeaderSize > self.totalHeadersSize or self._receivedHeaderCount > self.maxHeaders:
            self.refuse(head_too_large(self._wait.terms.longest_head))
        else:
            self.refuse(invalid_request("This is not a valid HTTP/1.1 request."))

    # Time.

    def _look(self) -> None:
        if self._wait.phase in (Phase.REFUSED, Phase.CLOSING):
            return
        if self._handlingRequest:
            self._turn_to(Phase.ANSWERING)
        elif not self.line_mode:
            self._turn_to(Phase.BODY)
        else:
            self._turn_to(Phase.HEAD if self.requests or self._buffer else Phase.IDLE)

    def _turn_to(self, phase: Phase) -> None:
        if phase is self._wait.phase or self._wait.phase is Phase.CLOSING:
            return
        self._wait.phase = phase
        if phase is not Phase.ANSWERING:
            self._begin()

    def _begin(self) -> None:
        """The phase's time begins now."""
        self._wait.since, self._wait.received = self._now(), 0
        self._arm(self._wait.since + self._limit())

    def _limit(self) -> float:
        if self._wait.phase in (Phase.HEAD, Phase.BODY):
            return self._wait.terms.request_time
        return _LINGER if self._wait.phase is Phase.REFUSED else self._wait.terms.idle_time

    def _now(self) -> float:
        return float(self.site.reactor.seconds())

    def _arm(self, when: float) -> None:
        if self._wait.timer is None:
            self._wait.timer = self.site.reactor.callLater(max(0.0, when - self._now()), self._time_is_up)
        elif self._wait.timer.getTime() > when:
            self._wait.timer.reset(max(0.0, when - self._now()))

    def _time_is_up(self) -> None:
        self._wait.timer = None
        if self._wait.phase is Phase.ANSWERING:
            return
        due = self._wait.since + self._limit()
        if due > self._now():
            self._arm(due)
        elif self._wait.phase is Phase.BODY and self._wait.received >= SLOWEST * self._limit():
            self._begin()
        elif self._wait.phase in (Phase.HEAD, Phase.BODY):
            self.refuse(too_slow(self._wait.phase.value))
        elif self._wait.phase is Phase.CLOSING:
            transport: Any = self.transport
            transport.abortConnection()
        else:
            self.loseConnection()
