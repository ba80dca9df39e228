"""One request and its answer, as the log tells it."""

from collections.abc import Callable

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.http import Request

from claudeproxy.model.events import Usage
from claudeproxy.routing.sessions import Turn

#: Asked for by monitors and by clients that warm up: worth a line only to who looks for it.
_QUIET = frozenset({"/health", "/", "/api/hello"})


@define(eq=False)
class Exchange:
    """Filled in on the way; logged once, when the client has its answer or is gone (STYLE P19)."""

    id: str
    method: str
    path: str
    client: str
    session: str
    began: float
    model: str = ""
    backend: str = ""
    backend_model: str = ""
    first_token: float | None = None
    usage: Usage | None = None
    outcome: str = ""
    #: What was not sent to the backend, and what was done in its stead.
    dropped: str = ""
    emulated: str = ""
    #: It was given the answer that an earlier request of the same content had asked for.
    joined: bool = False
    #: How the prompt goes on from the conversation's last one, and what became of the cache.
    turn: Turn | None = None
    #: What was repaired or left out in the answer.
    remarks: tuple[str, ...] = ()
    #: Ends the answer before its time, with an error that says why. Set while there is a stream to end.
    stop: Callable[[], None] | None = None

    def log(self, log: Logger, now: float, status: int) -> None:
        """The line. It holds no content and no secret."""
        quiet = (self.path.rstrip("/") or "/") in _QUIET
        write = log.debug if quiet and status < 400 else log.info
        usage = self.usage or Usage()
        for remark in dict.fromkeys(self.remarks):
            log.warn("{request_id} {backend}: {remark}", request_id=self.id, backend=self.backend, remark=remark)
        write(
            "{client} {session} {method} {path} {status} {outcome} {duration:.3f}s{route}{tokens}{cache}{joined} "
            "{request_id}",
            client=self.client,
            session=self.session[:8] or "-",
            method=self.method,
            path=self.path,
            status=status,
            outcome=self.outcome or ("ok" if status < 400 else "refused"),
            duration=now - self.began,
            route=f" {self.model} -> {self.backend}/{self.backend_model}" if self.backend else "",
            tokens=self._tokens(usage),
            cache=f" cache={self.turn.words}" if self.turn is not None else "",
            joined=" joined" if self.joined else "",
            request_id=self.id,
            model=self.model,
            backend=self.backend,
            backend_model=self.backend_model,
            first_token=None if self.first_token is None else self.first_token - self.began,
            input_tokens=usage.input,
            cached_tokens=usage.cache_read,
            output_tokens=usage.output,
        )

    def _tokens(self, usage: Usage) -> str:
        first = "" if self.first_token is None else f" first {self.first_token - self.began:.3f}s"
        if self.usage is None:
            return first
        return f"{first} in {usage.prompt} cached {usage.cache_read} out {usage.output}"


@define(eq=False)
class Exchanges:
    """All requests that are being answered, so that a daemon that stops can wait for them."""

    _clock: IReactorTime
    _log: Logger
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
            began=self._clock.seconds(),
        )
        self._running[request] = exchange
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
        # 499 is the word of other servers for a client that left before it was answered.
        status = request.code if request.startedWriting or how is None else 499
        exchange.log(self._log, self._clock.seconds(), status)
        for running, done in self._waiting[:]:
            running.discard(request)
            if not running:
                self._waiting.remove((running, done))
                if not done.called:
                    done.callback(None)


def printable(data: bytes | str, spaces: bool = False) -> str:
    """What a client sent, fit for a line of a log; with ``spaces``, not for a single field of it."""
    text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
    return "".join(c if c.isprintable() and (spaces or c != " ") else "?" for c in text[:200])
