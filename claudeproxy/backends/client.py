"""HTTP to one backend: the one place where treq is spoken."""

from collections import Counter
from collections.abc import Coroutine, Iterable, Iterator, Mapping
from http.cookiejar import Cookie, CookieJar
from typing import Any

from attrs import field
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.error import ConnectError, ConnectingCancelledError, DNSLookupError
from twisted.internet.error import TimeoutError as ConnectTimedOut
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import HTTPConnectionPool, ResponseDone, ResponseNeverReceived
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from claudeproxy.backends.connection import BackendAgent, BackendPool, BytesBody, ready_url
from claudeproxy.backends.hush import NO_HUSH, Hush
from claudeproxy.backends.journey import STALE, Journey
from claudeproxy.model.kinds import define, frozen
from claudeproxy.model.problems import Problem, Refusal, overloaded
from claudeproxy.routing.expectations import NO_SECRET, Secret, as_secret
from claudeproxy.wire.json import NotJSON, decode

Header = tuple[bytes, bytes]

#: Below the keep-alive of the servers we know (llama.cpp and uvicorn: 5 s), so that we close first (STYLE P9).
KEPT_ALIVE = 4.0
#: A connection that a server closed while it lay idle fails at once; later than this, the request was being served.
STALE_WITHIN = 1.0
#: Questions beside the answers themselves (what are you, how many tokens is this) may take so long, in seconds.
QUESTION_TIME = 5.0
#: Error bodies are read up to here.
LONGEST_ERROR = 64 * 1024
#: Other answers that are read whole: model lists, properties, counts.
LONGEST_ANSWER = 16 * 1024 * 1024


class NoCookies(CookieJar):
    """Keeps no cookie and sends none: all clients of the proxy share a backend, and must not share a session there
    (STYLE P10)."""

    def add_cookie_header(self, request: Any) -> None:
        """None."""

    def extract_cookies(self, response: Any, request: Any) -> None:
        """None."""

    def __iter__(self) -> Iterator[Cookie]:
        return iter(())


_NO_COOKIES: Any = NoCookies()


@implementer(IAgent)
@frozen(eq=False)
class IdentityAgent:
    """Asks for no compression: an event must leave the backend when it happens (STYLE P8: treq asks for gzip)."""

    _agent: IAgent

    def request(
        self, method: bytes, uri: bytes, headers: Headers | None = None, bodyProducer: IBodyProducer | None = None
    ) -> Deferred[IResponse]:
        plain = Headers() if headers is None else headers  # treq's own copy, made to ask for gzip
        plain.setRawHeaders(b"accept-encoding", [b"identity"])
        return self._agent.request(method, uri, plain, bodyProducer)


@frozen
class Target:
    """Where a backend listens. ``base`` ends without a slash; for OpenAI-compatible servers it ends in ``/v1``."""

    base: str
    key: Secret = field(default=NO_SECRET, converter=as_secret)

    @property
    def root(self) -> str:
        """The server's own root, where llama.cpp and vLLM keep what OpenAI does not have."""
        return self.base.removesuffix("/v1")


@define(eq=False)
class BackendClient:
    """Requests to one backend. Failures to reach it are `Refusal`, never exceptions of the HTTP client."""

    name: str
    _http: HTTPClient
    _clock: IReactorTime
    _pool: HTTPConnectionPool | None = None
    #: How often a request was sent again, by the backend's name.
    resends: "Counter[str]" = field(factory=Counter)
    #: Takes the backend's key out of what it says.
    hush: Hush = NO_HUSH

    @classmethod
    def over_network(
        cls,
        name: str,
        reactor: Any,
        connect_timeout: float,
        resends: "Counter[str] | None" = None,
        key: Secret = NO_SECRET,
    ) -> "BackendClient":
        """A client with connections of its own, kept alive between requests; ``connect_timeout`` in seconds. The
        ``key`` is the backend's, which no words of it may tell."""
        pool = BackendPool(reactor, connect_timeout)
        pool.maxPersistentPerHost = 256
        pool.cachedConnectionTimeout = KEPT_ALIVE  # type: ignore[assignment]  # callLater takes any number
        pool.retryAutomatically = False
        agent = BackendAgent(reactor, connect_timeout, pool)
        client = cls.over_agent(name, agent, reactor, pool)
        client.resends = client.resends if resends is None else resends
        client.hush = Hush(key)
        return client

    @classmethod
    def over_agent(
        cls, name: str, agent: IAgent, clock: IReactorTime, pool: HTTPConnectionPool | None = None
    ) -> "BackendClient":
        """A client on any agent; the tests' lives in memory."""
        http = HTTPClient(IdentityAgent(agent), _NO_COOKIES, data_to_body_producer=BytesBody)
        return cls(name, http, clock, pool)

    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str], journey: Journey | None = None, why: str = ""
    ) -> IResponse:
        """The response once its headers are there, its body still to come. Raises `Refusal`."""
        return await self.send(b"POST", url, body, _pairs(headers), journey, why)

    async def send(
        self,
        method: bytes,
        url: str,
        body: bytes | None,
        headers: Iterable[Header],
        journey: Journey | None = None,
        why: str = "",
    ) -> IResponse:
        """The same for any method, with headers that may come more than once. ``why`` is the reason of a repetition,
        for the ``journey``."""
        sent = self._clock.seconds()
        headers = list(headers)
        try:
            return await self._journeyed(method, url, body, headers, journey, why)
        except ResponseNeverReceived as fault:
            if _cancelled(fault):
                raise CancelledError from None
            if self._clock.seconds() - sent > STALE_WITHIN:
                raise Refusal(self._unreachable(fault)) from None
        self.resends[self.name] += 1
        if self._pool is not None:
            self._pool.closeCachedConnections()  # those that lay idle beside it may be stale as well
        try:  # the pool's connection was stale: once more, nothing was received yet (STYLE P9)
            return await self._journeyed(method, url, body, headers, journey, STALE)
        except ResponseNeverReceived as fault:
            raise Refusal(self._unreachable(fault)) from None

    async def get(self, url: str, headers: Mapping[str, str]) -> tuple[int, Any]:
        """Status and JSON value (None if it is none) of a small resource. Raises `Refusal`, late ones included."""
        return await self.question(b"GET", url, None, _pairs(headers))

    async def ask(self, url: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, Any]:
        """The same for a POST."""
        return await self.question(b"POST", url, body, _pairs(headers))

    async def question(self, method: bytes, url: str, body: bytes | None, headers: Iterable[Header]) -> tuple[int, Any]:
        """The same for any method."""
        return await self._in_time(self._small(method, url, body, headers))

    def close(self) -> Deferred[None]:
        """Closes the connections that lie idle."""
        return succeed(None) if self._pool is None else self._pool.closeCachedConnections()

    async def _in_time(self, question: Coroutine[Any, Any, tuple[int, Any]]) -> tuple[int, Any]:
        asking = Deferred.fromCoroutine(question)
        limit = self._clock.callLater(QUESTION_TIME, asking.cancel)
        try:
            return await asking
        except (CancelledError, Refusal):
            if limit.active():  # it was not our limit: the asker is gone, or the backend
                raise
            words = f"Backend {self.name} did not answer within {QUESTION_TIME:g} s."
            raise Refusal(overloaded(words)) from None
        finally:
            if limit.active():
                limit.cancel()

    async def _small(self, method: bytes, url: str, body: bytes | None, headers: Iterable[Header]) -> tuple[int, Any]:
        try:
            response = await self._request(method, url, body, headers)
        except ResponseNeverReceived as fault:
            if _cancelled(fault):
                raise CancelledError from None
            raise Refusal(self._unreachable(fault)) from None
        text = await read_body(response, LONGEST_ANSWER)
        try:
            return response.code, decode(text)
        except NotJSON:
            return response.code, None

    async def _journeyed(
        self, method: bytes, url: str, body: bytes | None, given: Iterable[Header], journey: Journey | None, why: str
    ) -> IResponse:
        if journey is None:
            return await self._request(method, url, body, given)
        response = await self._request(method, url, body, journey.sends(self._clock.seconds(), url, body, given, why))
        journey.answered(self._clock.seconds(), response.code)
        return response

    async def _request(self, method: bytes, url: str, body: bytes | None, given: Iterable[Header]) -> IResponse:
        headers = Headers()
        for name, value in given:
            headers.addRawHeader(name, value)
        try:
            response: IResponse = await self._http.request(
                method.decode("ascii", "replace"),
                ready_url(url),
                headers=headers,
                data=body,
                cookies=_NO_COOKIES,
                allow_redirects=False,  # row 79: no redirect is followed with credentials
                unbuffered=True,
            )
            return response
        except (CancelledError, ResponseNeverReceived):
            raise
        except ConnectingCancelledError:
            raise CancelledError from None
        except (ConnectError, ConnectTimedOut, DNSLookupError) as fault:
            raise Refusal(self._unreachable(fault)) from None
        except Exception as fault:
            # Whatever else the client raises (a broken response, a failed TLS handshake) is the backend's doing.
            raise Refusal(self._unreachable(fault)) from None

    def _unreachable(self, fault: BaseException) -> Problem:
        return overloaded(self.hush.words(f"Backend {self.name} cannot be reached: {describe(fault)}"))


def _pairs(headers: Mapping[str, str]) -> list[Header]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


def describe(fault: BaseException | None) -> str:
    """An error of Twisted's in a few words."""
    for reason in getattr(fault, "reasons", None) or ():
        return describe(reason.value if isinstance(reason, Failure) else reason)
    words = str(fault).strip().rstrip(".")
    return words or type(fault).__name__


def _cancelled(fault: ResponseNeverReceived) -> bool:
    return any(isinstance(reason, Failure) and reason.check(CancelledError) for reason in fault.reasons or ())


async def read_body(
    response: IResponse, longest: int, clock: IReactorTime | None = None, patience: float = 0.0
) -> bytes:
    """The body, cut at ``longest`` bytes, and with a ``clock`` after ``patience`` seconds. Cancelling closes the
    connection (STYLE P1)."""
    reader = _Reader(longest)
    response.deliverBody(reader)
    limit = None if clock is None or reader.done.called else clock.callLater(patience, reader.cut)
    try:
        return await reader.done
    finally:
        if limit is not None and limit.active():
            limit.cancel()


def leave_unread(response: IResponse) -> None:
    """Closes the connection of a response whose body nobody wants."""
    response.deliverBody(_Reader(0))


@define(eq=False)
class _Reader(Protocol):
    _longest: int
    done: Deferred[bytes] = field(init=False)
    _pieces: list[bytes] = field(factory=list, init=False)
    _size: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self.done = Deferred(lambda _: self._hang_up())

    def connectionMade(self) -> None:
        if not self._longest:
            self.cut()

    def dataReceived(self, data: bytes) -> None:
        if self._size >= self._longest:
            return
        self._pieces.append(data)
        self._size += len(data)
        if self._size >= self._longest:
            self.cut()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        # An error text that was cut is still worth showing.
        if not self.done.called or reason.check(ResponseDone, PotentialDataLoss):
            self._finish()

    def cut(self) -> None:
        """What has come is enough."""
        self._finish()
        self._hang_up()

    def _finish(self) -> None:
        if not self.done.called:
            self.done.callback(b"".join(self._pieces)[: self._longest])

    def _hang_up(self) -> None:
        if self.transport is not None:
            self.transport.stopProducing()  # type: ignore[attr-defined]
