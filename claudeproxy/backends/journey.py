"""What happens to one request between its route and the end of its answer, for those who record or trace it.

Whoever carries the request notes here what it knows anyway, a moment or a number, a few times a request and never for
an event of a stream. The journey belongs to the generation: a client that joins an answer shares the journey of the
request that began it.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Protocol
from urllib.parse import urlsplit

from attrs import field
from twisted.internet.interfaces import IProtocol
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from claudeproxy.model.kinds import define
from claudeproxy.translate.forwarding import Header
from claudeproxy.translate.outline import Outline, outline
from claudeproxy.translate.window import Fit

#: So many messages of what was sent are outlined: the client's are there in any case.
_SENT = 10
#: The place in a trace is ours, once we take part in it.
_OF_A_TRACE = frozenset({b"traceparent", b"tracestate"})
#: Why a request was sent once more.
STALE, MILDER = "the connection was stale", "the model refuses to be asked to think so"


@define(eq=False)
class Attempt:
    """One request to a backend. Times are seconds of the clock."""

    #: Scheme, host and port, without path and credentials.
    address: str
    size: int
    sent: float
    #: Why it was sent though another one was before; "" for the first.
    why: str = ""
    #: When status and headers of the answer were there.
    answered: float | None = None
    status: int = 0


class Trail(Protocol):
    """Who follows the calls to the backend, so that the backend can go on with the trace."""

    def sends(self, journey: "Journey", attempt: Attempt) -> Iterable[Header]:
        """A request is about to leave; the headers that tell the backend which trace it belongs to."""

    def ended(self, journey: "Journey") -> None:
        """The backend has said its last, or was hung up on."""


@define(eq=False)
class Journey:
    """One request's way. It holds no content, unless somebody asked for that with `keep`."""

    #: The id of the request that began it.
    id: str = ""
    #: Whether structures are to be noted.
    outlined: bool = False
    #: How many bytes of each body may be kept as they are.
    keep: int = 0
    trail: Trail | None = None
    asked: Outline | None = None
    asked_size: int = 0
    #: The backend's kind, where it is known.
    dialect: str = ""
    #: The prompt as it was counted, the window, and the longest answer that was asked for.
    fit: Fit | None = None
    #: The longest answer that the backend was asked for, in tokens, where that is less; None if it is not.
    cut_to: int | None = None
    sent: Outline | None = None
    attempts: list[Attempt] = field(factory=list)
    first_byte: float | None = None
    first_token: float | None = None
    #: When the backend was last heard, and when the answer was over, whole or not.
    last_byte: float | None = None
    ended: float | None = None
    #: Bytes of the backend's answer.
    received: int = 0
    #: How many clients wait for it just now.
    listeners: int = 1
    #: What was kept of the client's body, of the one that was sent, and of the answer as it came.
    kept: dict[str, bytearray] = field(factory=dict)

    def begins(self, body: bytes, asked: Mapping[str, Any]) -> None:
        """The client's body, and what it says."""
        self.asked_size = len(body)
        if self.outlined:
            self.asked = outline(asked)
        self.keeps("request", body)

    def translated(self, body: Mapping[str, Any], dialect: str, fit: Fit, cut_to: int | None) -> None:
        """What the backend is about to be asked."""
        self.dialect, self.fit, self.cut_to = dialect, fit, cut_to
        if self.outlined:
            self.sent = outline(body, _SENT)

    def sends(
        self, now: float, url: str, body: bytes | None, headers: Iterable[Header], why: str = ""
    ) -> Iterable[Header]:
        """A request is about to leave; gives its headers back, with those of the trace."""
        attempt = Attempt(_server_of(url), len(body or b""), now, why)
        self.attempts.append(attempt)
        if self.keep and body:
            self.kept.pop("sent", None)
            self.keeps("sent", body)
        if self.trail is None:
            return headers
        traced = list(self.trail.sends(self, attempt))
        return [*(pair for pair in headers if pair[0].lower() not in _OF_A_TRACE), *traced]

    def answered(self, now: float, status: int) -> None:
        """Status and headers of the answer are there."""
        self.attempts[-1].answered, self.attempts[-1].status = now, status

    def ends(self, now: float, last_byte: float | None = None, received: int = 0) -> None:
        """The backend has said its last, or was hung up on. Only the first time counts."""
        if self.ended is None:
            self.ended, self.last_byte, self.received = now, last_byte, received
            if self.trail is not None:
                self.trail.ended(self)

    def keeps(self, what: str, data: bytes) -> None:
        """Content, as far as it is wanted."""
        if self.keep:
            kept = self.kept.setdefault(what, bytearray())
            kept += data[: self.keep - len(kept)]

    def ear(self, reader: IProtocol, hide: Callable[[bytes], bytes]) -> IProtocol:
        """Who is to be given the answer's body in the place of ``reader``: itself, if nothing is kept of it. ``hide``
        takes out what nobody may see."""
        return _Ear(reader, lambda what, data: self.keeps(what, hide(data))) if self.keep else reader


@lru_cache(64)
def _server_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


@define(eq=False)
class _Ear(TwistedProtocol):
    """Keeps what it hears, and passes it on."""

    _reader: Any
    _keep: Callable[[str, bytes], None]

    def connectionMade(self) -> None:
        self._reader.makeConnection(self.transport)

    def dataReceived(self, data: bytes) -> None:
        self._keep("received", data)
        self._reader.dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._reader.connectionLost(reason)
