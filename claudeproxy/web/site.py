"""The HTTP server's own part: requests with a bounded body, and no access log beside ours."""

import re
import select
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from heapq import nsmallest
from io import BytesIO
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, ISSLTransport
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from twisted.web.resource import IResource
from twisted.web.server import Request, Site

from claudeproxy.model.problems import Problem, full
from claudeproxy.web.channel import TimedChannel
from claudeproxy.web.guard import check_one_host
from claudeproxy.web.limits import COME_AGAIN, Terms
from claudeproxy.web.prompt import prompt_writer
from claudeproxy.web.turns import Turns

#: RFC 9112 3.2.2: a request for a whole address, and its host, which counts for more than the header.
_WHOLE_ADDRESS = re.compile(rb"https?://(?P<host>[^/?#]+)", re.IGNORECASE)
#: As much of a body is kept before it is asked whether its client may come in at all.
_BLIND_TRUST = 256 * 1024
#: So many connections are looked at for one that may be closed for another.
_LOOKS = 16


def _anybody(request: Request) -> bool:
    return True


#: A connection that has been quiet for so many seconds is closed when the daemon stops. One that was busy a moment ago
#: may ask once more: its next request may be on its way already, and would be lost.
QUIET = 1.0


def is_readable(descriptor: Any) -> bool:
    """Whether there is something to read that the reactor has not read yet: bytes, or somebody who wants to come in."""
    fileno = getattr(descriptor, "fileno", None)
    number = -1 if fileno is None else fileno()
    if number < 0:
        return False
    poll = select.poll()
    poll.register(number, select.POLLIN)
    return bool(poll.poll(0))


def in_one_write(request: Any) -> AbstractContextManager[None]:
    """What is written to the request's connection meanwhile leaves together, if it has one that is ours."""
    channel = getattr(request, "channel", None)  # none any more if its client is gone, or has its answer
    return channel.in_one_write() if isinstance(channel, KnownChannel) else nullcontext()


class BoundedRequest(Request):
    """Keeps its body in memory, never in a file, and none of a body above the limit (STYLE P21), nor a long one of a
    client that will be turned away.

    The rest of such a body is read and forgotten, so that the client is there to hear the answer: 413.
    """

    channel: "KnownChannel"
    defaultContentType = b"application/json"
    # What is true of nearly every request is told here, and not in each: an object of more than 29 attributes of its
    # own costs 1.3 KB more (CPython shares the names of no more than that), and Twisted's request has 27.
    oversized = False
    _trusted = False
    _content_types: Sequence[bytes] = ()

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        # Twisted would take the body of a form apart, for seconds and before the gate, and refuse one with a bare 400.
        # It must not see what the body is, before `process`.
        self._content_types = self.requestHeaders.getRawHeaders(b"content-type", ())
        self.requestHeaders.removeHeader(b"content-type")
        whole = _WHOLE_ADDRESS.match(path)
        if whole is not None:  # a client that takes us for its proxy; the address is the word that counts
            hosts = self.requestHeaders.getRawHeaders(b"host", ())
            if check_one_host(len(hosts), version) is None:  # else the gate is to see that
                self.requestHeaders.setRawHeaders(b"host", [whole["host"]])
            rest = path[whole.end() :]
            path = rest if rest.startswith(b"/") else b"/" + rest
        super().requestReceived(command, path, version)

    def be_the_last(self) -> None:
        """Its connection is closed after the answer, and the client is told so before. An answer that has begun is too
        late for that."""
        if not self.startedWriting:
            self.setHeader(b"connection", b"close")
            self.channel.persistent = False

    def process(self) -> None:
        self.channel.site.turns.take(self._begin)

    def _begin(self) -> None:
        if self._disconnected:
            return
        if self.channel.site.is_draining:
            self.be_the_last()
        if self._content_types:
            self.requestHeaders.setRawHeaders(b"content-type", self._content_types)
        if self.path == b"*":  # else answered without the gate
            self.path = self.uri = b"/*"
        super().process()

    def render(self, resrc: IResource) -> None:
        self.responseHeaders.removeHeader(b"server")  # which version of what serves here is nobody's affair
        super().render(resrc)

    def write(self, data: bytes) -> None:
        if self.chunked and data and not self.finished and not self._disconnected:
            self.sentLength += len(data)
            self.channel.write_promptly(b"%x\r\n%b\r\n" % (len(data), data))
        else:
            with in_one_write(self):  # its headers and the first of its body
                super().write(data)

    def gotLength(self, length: int | None) -> None:
        self.content = BytesIO()
        if length is not None and length > self.channel.site.longest_body():
            self.oversized = True

    def handleContentChunk(self, data: bytes) -> None:
        if self.oversized:
            return
        assert self.content is not None
        kept = self.content.tell() + len(data)
        if kept > _BLIND_TRUST and not self._trusted:
            self._trusted = True
            self.oversized = not self.channel.site.welcome(self)
        if kept > self.channel.site.longest_body():
            self.oversized = True
        if self.oversized:
            self.content = BytesIO()
        else:
            self.content.write(data)


class KnownChannel(TimedChannel):
    """A client's connection, which its site knows of for as long as it is open."""

    site: "ProxySite"
    _farewell: IDelayedCall | None = None
    #: Writes without waiting for the reactor's next round, where the transport can do that.
    write_promptly: Callable[[bytes], None]
    #: What is to leave in one write.
    _gathered: list[bytes] | None

    def requestDone(self, request: Any) -> None:
        self._release()  # before anything that follows from the next request
        super().requestDone(request)  # what came meanwhile is read now
        if self.site.is_draining:
            if self.persistent:
                self.retire()
            else:
                self._end_soon()

    def retire(self) -> None:
        """The daemon stops: a request that is here is the last one; a client that is quiet for `QUIET` seconds is
        left."""
        for request in self.requests:
            request.be_the_last()
        if self.idle_since is not None and self._farewell is None and self.transport is not None:
            left = self.idle_since + QUIET - self.site.reactor.seconds()
            if left > 0:
                self._farewell = self.site.reactor.callLater(left, self._leave_if_quiet)
            else:
                self._leave_if_quiet()

    def _leave_if_quiet(self) -> None:
        self._farewell = None
        if self.idle_since is None:
            return
        if is_readable(self.transport):
            self._farewell = self.site.reactor.callLater(QUIET, self._leave_if_quiet)
            return
        self.loseConnection()
        self._end_soon()

    def _end_soon(self) -> None:
        """With TLS the connection would wait for the client to confirm that it ends, which some never do."""
        if self._farewell is None and self.transport is not None:
            self._farewell = self.site.reactor.callLater(QUIET, self._hang_up)

    def _hang_up(self) -> None:
        self._farewell = None
        beneath = getattr(self.transport, "transport", None)
        if beneath is not None:
            beneath.loseConnection()  # which still sends what is to be sent

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Headers) -> None:
        # As Twisted does, but in one piece: it gives its transport each word, and that looks at each of them thrice.
        lines = [b"%b: %b\r\n" % (name, value) for name, values in headers.getAllRawHeaders() for value in values]
        self.write_promptly(b"%b %b %b\r\n%b\r\n" % (version, code, reason, b"".join(lines)))

    def isSecure(self) -> bool:
        return bool(ISSLTransport.providedBy(self.transport))  # Twisted looks for adapters, which takes longer

    def write(self, data: bytes) -> None:
        self.write_promptly(data)

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        self.write_promptly(b"".join(iovec))

    @contextmanager
    def in_one_write(self) -> Iterator[None]:
        """What is written meanwhile leaves at the end, or before the connection does, together."""
        if self._gathered is not None:
            yield
            return
        self._gathered = []
        self.write_promptly = self._gathered.append
        try:
            yield
        finally:
            self._release()

    def _release(self) -> None:
        gathered, self._gathered = self._gathered, None
        if gathered is None:
            return
        self.write_promptly = prompt_writer(self.transport)
        if gathered:
            self.write_promptly(gathered[0] if len(gathered) == 1 else b"".join(gathered))

    def loseConnection(self) -> None:
        self._release()
        super().loseConnection()

    def connectionMade(self) -> None:
        super().connectionMade()
        self._gathered, self.write_promptly = None, prompt_writer(self.transport)
        self.site.opened(self, self._wait.terms.most_connections)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # Twisted always gives a reason
        if self._farewell is not None:
            self._farewell.cancel()
            self._farewell = None
        super().connectionLost(reason)
        self.site.closed(self)


class ProxySite(Site):
    """Serves ``resource`` to HTTP/1.1 clients; ``longest_body`` gives the limit in force, in bytes, and ``terms`` what
    a new connection must keep to. A body is not worth its memory for a client who is not ``welcome``. ``refused`` is
    told who is turned away before there is a request, and why, and gives the id for the answer."""

    noisy = False
    protocol = KnownChannel  # type: ignore[assignment]  # without HTTP/2, which no client of ours speaks
    requestFactory = BoundedRequest  # a class, which Twisted asks fastest what it provides
    #: Whether the daemon stops: no connection gets more than one answer any more.
    is_draining = False

    def __init__(
        self,
        resource: IResource,
        longest_body: Callable[[], int],
        refused: Callable[[str, Problem], str],
        reactor: Any,
        terms: Callable[[], Terms] = Terms,
        welcome: Callable[[Request], bool] = _anybody,
    ) -> None:
        super().__init__(resource, reactor=reactor, timeout=None)
        self.refused = refused
        self.terms = terms
        self.welcome = welcome
        self.longest_body = longest_body
        self.turns = Turns(reactor)
        self._connections: set[KnownChannel] = set()
        self.reactor: Any = reactor
        self._farewell: Deferred[None] | None = None

    def opened(self, connection: KnownChannel, most: int) -> None:
        """A client came. If there are more than ``most``, the one that lay idle for longest has to go, else the new
        one; 0 is without a limit."""
        if most and len(self._connections) >= most:
            idle = self._longest_idle()
            if idle is not None:
                idle.loseConnection()
            else:
                words = "claudeproxy has as many connections as it can have (max_connections); please try again."
                connection.refuse(full(words, COME_AGAIN), linger=0)
        self._connections.add(connection)
        if self.is_draining:
            connection.retire()

    def _longest_idle(self) -> KnownChannel | None:
        idle = [(each.idle_since, at) for at, each in enumerate(self._connections) if each.idle_since is not None]
        everyone = list(self._connections)
        for _, at in nsmallest(_LOOKS, idle):
            if not is_readable(everyone[at].transport):  # else its request is here, and only not read yet
                return everyone[at]
        return None

    def expects(self, request: BoundedRequest) -> bool:
        """Whether a client that asks before it sends its body should send it."""
        return not request.oversized and self.welcome(request)

    def closed(self, connection: KnownChannel) -> None:
        """A client left, or was left."""
        self._connections.discard(connection)
        self._say_farewell()

    def acceptableProtocols(self) -> list[bytes]:
        """What TLS offers: no HTTP/2, also where its package is installed."""
        return [b"http/1.1"]

    def drain(self) -> Deferred[None]:
        """Every connection is closed after its answer, or as soon as it has been quiet for a while; fires when all are
        closed. Cancelling leaves them."""
        self.is_draining = True
        farewell: Deferred[None] = Deferred()
        self._farewell = farewell
        for connection in list(self._connections):
            connection.retire()
        self._say_farewell()
        return farewell

    def close_connections(self) -> Deferred[None]:
        """Closes each connection as soon as its last bytes are out; fires when all are closed."""
        farewell: Deferred[None] = Deferred()
        self._farewell = farewell
        for connection in list(self._connections):
            connection.loseConnection()
        self._say_farewell()
        return farewell

    def _say_farewell(self) -> None:
        if self._farewell is not None and not self._connections:
            farewell, self._farewell = self._farewell, None
            if not farewell.called:
                farewell.callback(None)

    def log(self, request: Any) -> None:
        """Says nothing: `web.exchange` logs every request, also those whose client went away (STYLE P19)."""
