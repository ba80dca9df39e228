"""One request and its answer, and those who want to know of it (STYLE P19)."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from attrs import field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.web.http import Request

from claudeproxy.backends.journey import Journey
from claudeproxy.model.events import Usage
from claudeproxy.model.kinds import define, frozen
from claudeproxy.model.problems import Problem
from claudeproxy.routing.sessions import Turn
from claudeproxy.web.limits import Crowd
from claudeproxy.web.rules import UNMATCHED


@frozen
class Origin:
    """What is known of an answer from the request that began it, for every other one that is given it."""

    journey: Journey
    backend: str
    backend_model: str
    dropped: tuple[str, ...]
    emulated: tuple[str, ...]
    turn: Turn | None


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
    #: The rule that its path fits, as `web.rules` tells it; never the path itself.
    route: str
    #: When it came and when it left, in the clock's seconds; which may be long after one another.
    began: float
    ended: float = 0.0
    #: The HTTP status; 499, other servers' word for it, for a client that left before it was answered.
    status: int = 0
    #: The name of the key that it showed, never the key; "" where none is asked for.
    key: str = ""
    #: How often the client says that it has sent the request before.
    repetition: int = 0
    model: str = ""
    backend: str = ""
    #: By which rule of the model table the backend and its model were found.
    rule: str = ""
    backend_model: str = ""
    #: Whether the answer is a stream.
    streams: bool = False
    first_token: float | None = None
    #: When the last of a streamed answer came from the backend.
    last_token: float | None = None
    usage: Usage | None = None
    outcome: str = ""
    #: What the client was told, if that was an error.
    problem: Problem | None = None
    #: What was not sent to the backend, and what was done in its stead.
    dropped: tuple[str, ...] = ()
    emulated: tuple[str, ...] = ()
    #: How the tokens were counted that were asked for.
    count_source: str = ""
    #: It was given the answer that an earlier request of the same content had asked for.
    joined: bool = False
    #: How the prompt goes on from the conversation's last one, and what became of the cache.
    turn: Turn | None = None
    #: What was repaired or left out in the answer.
    remarks: tuple[str, ...] = ()
    #: When the answer's status left, if that was before its end; and whether it had to, because the backend was slow.
    committed: float | None = None
    impatient: bool = False
    #: What was sent to keep the client waiting: pings or blanks, and empty pieces of an answer.
    pings: int = 0
    signs_of_life: int = 0
    #: What became of it at the backend.
    journey: Journey = field(factory=Journey)
    #: Ends the answer before its time, with an error that says why. Set while there is a stream to end.
    stop: Callable[[], None] | None = None

    @property
    def result(self) -> str:
        """How it ended, in one word, whatever happened."""
        return self.outcome or ("ok" if self.status < 400 else "refused")

    @property
    def told(self) -> dict[str, Any]:
        """What every line of the log that belongs to it says of it, as fields."""
        fields = {
            "request_id": self.id,
            "session": self.session,
            "agent": self.agent,
            "request_class": self.request_class,
        }
        return {**fields, "key": self.key} if self.key else fields

    def fails(self, problem: Problem) -> None:
        """The client is told so."""
        self.problem, self.outcome = problem, problem.outcome

    @property
    def origin(self) -> Origin:
        """Of the answer that is made for it."""
        return Origin(self.journey, self.backend, self.backend_model, self.dropped, self.emulated, self.turn)

    def joins(self, origin: Origin) -> None:
        """It is given the answer that another request has begun."""
        self.joined, self.journey, self.turn = True, origin.journey, origin.turn
        self.backend, self.backend_model = origin.backend, origin.backend_model
        self.dropped, self.emulated = origin.dropped, origin.emulated
        self.journey.listeners += 1


class Witness(Protocol):
    """Who wants to know of requests: the log, and whoever counts, records or traces them."""

    def entered(self, exchange: Exchange, request: Request) -> None:
        """A request came in; what the client said of itself is known, and nothing else."""

    def left(self, exchange: Exchange) -> None:
        """Its client has its answer, or is gone; nothing will change any more. Also of one that never entered, because
        it did not become a request."""


@define(eq=False)
class Exchanges:
    """All requests that are being answered, so that a daemon that stops can wait for them."""

    _clock: IReactorTime
    _witnesses: Sequence[Witness]
    _new_id: Callable[[], str]
    _running: dict[Request, Exchange] = field(factory=dict, init=False)
    #: Those that have left too, for as long as anybody holds their requests.
    _known: WeakKeyDictionary[Request, Exchange] = field(factory=WeakKeyDictionary, init=False)
    _waiting: list[tuple[set[Request], Deferred[None]]] = field(factory=list, init=False)
    #: Those of them that count towards the limits.
    crowd: Crowd = field(factory=Crowd, init=False)
    #: Set once the daemon stops: who comes on a connection that is still open is served, as the last on it.
    draining: bool = False
    #: Set once its time for that is over: new requests are turned away.
    closed: bool = False

    def enter(self, request: Request, route: str) -> Exchange:
        """A request for ``route`` came in; it leaves by itself when it ends, however it does."""
        request_id = "req_" + self._new_id()
        exchange = Exchange(
            id=request_id,
            method=printable(request.method),
            path=printable(request.uri.partition(b"?")[0]),
            client=host_of(request.getClientAddress()),
            session=printable(request.getHeader(b"x-claude-code-session-id") or b""),
            agent=printable(request.getHeader(b"x-claude-code-agent-id") or b""),
            request_class=printable(request.getHeader(b"x-claude-code-request-class") or b""),
            route=route,
            began=self._clock.seconds(),
            repetition=_count(request.getHeader(b"x-stainless-retry-count")),
            journey=Journey(request_id),
        )
        self._running[request] = self._known[request] = exchange
        for witness in self._witnesses:
            witness.entered(exchange, request)
        request.notifyFinish().addBoth(self._leave, request)
        return exchange

    def refused(self, client: str, problem: Problem) -> str:
        """Somebody is turned away who has not made a whole request: the witnesses hear of it, and the id that its
        answer gets is in the log, too."""
        now = self._clock.seconds()
        exchange = Exchange(f"req_{self._new_id()}", "-", "-", client, "", "", "", UNMATCHED, now, now, problem.status)
        exchange.fails(problem)
        for witness in self._witnesses:
            witness.left(exchange)
        return exchange.id

    def of(self, request: Request) -> Exchange:
        """The exchange of a request that entered, whether or not it has left."""
        return self._known[request]

    def has(self, request: Request) -> bool:
        """Whether the request has not left yet: its client may go away at any moment."""
        return request in self._running

    def running(self) -> Iterable[Exchange]:
        """Those that have not left."""
        return self._running.values()

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
        self.crowd.leave(exchange)
        if how is not None and not exchange.outcome:
            exchange.outcome = "client_gone"
        exchange.outcome = printable(exchange.outcome)  # it may be a server's own word
        exchange.ended = self._clock.seconds()
        exchange.journey.listeners -= 1
        exchange.status = request.code if request.startedWriting or how is None else 499
        for witness in self._witnesses:
            witness.left(exchange)
        for running, done in self._waiting[:]:
            running.discard(request)
            if not running:
                self._waiting.remove((running, done))
                if not done.called:
                    done.callback(None)


def host_of(address: Any) -> str:
    """Of a client's address; a unix socket has none."""
    return getattr(address, "host", None) or "local"


def _count(header: bytes | None) -> int:
    return int(header) if header and header.isdigit() and len(header) < 4 else 0


def printable(data: bytes | str, spaces: bool = False) -> str:
    """What a client sent, fit for a line of a log; with ``spaces``, not for a single field of it."""
    text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
    if len(text) <= 200 and text.isprintable() and (spaces or " " not in text):
        return text
    return "".join(c if c.isprintable() and (spaces or c != " ") else "?" for c in text[:200])
