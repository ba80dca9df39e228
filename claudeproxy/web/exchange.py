"""One request and its answer, and those who want to know of it (STYLE P19)."""

from collections.abc import Callable, Sequence
from typing import Protocol

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.web.http import Request

from claudeproxy.model.events import Usage
from claudeproxy.routing.sessions import Turn


@define(eq=False)
class Exchange:
    """Filled in on the way. It holds no content and no secret."""

    id: str
    method: str
    path: str
    client: str
    #: Claude Code's own words for the conversation, its agent, and the class of the request; "" where there are none.
    session: str
    agent: str
    request_class: str
    #: When it came and when it left, in the clock's seconds; which may be long after one another.
    began: float
    ended: float = 0.0
    #: The HTTP status; 499, other servers' word for it, for a client that left before it was answered.
    status: int = 0
    model: str = ""
    backend: str = ""
    backend_model: str = ""
    #: Whether the client wants the answer as a stream.
    streams: bool = False
    first_token: float | None = None
    usage: Usage | None = None
    outcome: str = ""
    #: What was not sent to the backend, and what was done in its stead.
    dropped: tuple[str, ...] = ()
    emulated: tuple[str, ...] = ()
    #: It was given the answer that an earlier request of the same content had asked for.
    joined: bool = False
    #: How the prompt goes on from the conversation's last one, and what became of the cache.
    turn: Turn | None = None
    #: What was repaired or left out in the answer.
    remarks: tuple[str, ...] = ()
    #: Ends the answer before its time, with an error that says why. Set while there is a stream to end.
    stop: Callable[[], None] | None = None


class Witness(Protocol):
    """Who wants to know of requests: the log, and whoever counts, records or traces them."""

    def entered(self, exchange: Exchange, request: Request) -> None:
        """A request came in; what the client said of itself is known, and nothing else."""

    def left(self, exchange: Exchange) -> None:
        """Its client has its answer, or is gone; nothing will change any more."""


@define(eq=False)
class Exchanges:
    """All requests that are being answered, so that a daemon that stops can wait for them."""

    _clock: IReactorTime
    _witnesses: Sequence[Witness]
    _new_id: Callable[[], str]
    _running: dict[Request, Exchange] = field(factory=dict, init=False)
    _waiting: list[tuple[set[Request], Deferred[None]]] = field(factory=list, init=False)
    #: Set once the daemon stops: new requests are turned away.
    draining: bool = False

    def enter(self, request: Request) -> Exchange:
        """A request came in; it leaves by itself when it ends, however it does."""
        address = request.getClientAddress()
        exchange = Exchange(
            id="req_" + self._new_id(),
            method=printable(request.method),
            path=printable(request.uri.partition(b"?")[0]),
            client=getattr(address, "host", None) or "local",
            session=printable(request.getHeader(b"x-claude-code-session-id") or b""),
            agent=printable(request.getHeader(b"x-claude-code-agent-id") or b""),
            request_class=printable(request.getHeader(b"x-claude-code-request-class") or b""),
            began=self._clock.seconds(),
        )
        self._running[request] = exchange
        for witness in self._witnesses:
            witness.entered(exchange, request)
        request.notifyFinish().addBoth(self._leave, request)
        return exchange

    def of(self, request: Request) -> Exchange:
        """The exchange of a request that entered and has not left."""
        return self._running[request]

    def has(self, request: Request) -> bool:
        """Whether the request has not left yet: its client may go away at any moment."""
        return request in self._running

    def finished(self) -> Deferred[None]:
        """Fires once all that run just now have ended; what comes later is not waited for."""
        done: Deferred[None] = Deferred()
        if self._running:
            self._waiting.append((set(self._running), done))
        else:
            done.callback(None)
        return done

    def stop_all(self) -> None:
        """Ends all answers that are still on their way, each with an error that says why."""
        for exchange in list(self._running.values()):
            if exchange.stop is not None:
                exchange.stop()

    def __len__(self) -> int:
        return len(self._running)

    def _leave(self, how: object, request: Request) -> None:
        exchange = self._running.pop(request)
        if how is not None and not exchange.outcome:
            exchange.outcome = "client_gone"
        exchange.ended = self._clock.seconds()
        exchange.status = request.code if request.startedWriting or how is None else 499
        for witness in self._witnesses:
            witness.left(exchange)
        for running, done in self._waiting[:]:
            running.discard(request)
            if not running:
                self._waiting.remove((running, done))
                if not done.called:
                    done.callback(None)


def printable(data: bytes | str, spaces: bool = False) -> str:
    """What a client sent, fit for a line of a log; with ``spaces``, not for a single field of it."""
    text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
    if len(text) <= 200 and text.isprintable() and (spaces or " " not in text):
        return text
    return "".join(c if c.isprintable() and (spaces or c != " ") else "?" for c in text[:200])
