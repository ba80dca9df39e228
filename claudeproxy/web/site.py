"""The HTTP server's own part: requests with a bounded body, and no access log beside ours."""

import re
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.http_headers import Headers
from twisted.web.resource import IResource
from twisted.web.server import Request, Site

from claudeproxy.model.problems import invalid_request
from claudeproxy.wire.events import problem_json
from claudeproxy.wire.json import encode

#: RFC 9112 3.2.2: a request for a whole address, and its host, which counts for more than the header.
_WHOLE_ADDRESS = re.compile(rb"https?://(?P<host>[^/?#]+)", re.IGNORECASE)


class BoundedRequest(Request):
    """Keeps its body in memory, never in a file, and none of a body above the limit (STYLE P21).

    The rest of such a body is read and forgotten, so that the client is there to hear the answer: 413.
    """

    channel: "KnownChannel"
    defaultContentType = b"application/json"
    oversized = False
    #: In bytes. The site sets it for each connection.
    longest_body = 32 * 1024 * 1024
    _kept = 0
    _content_types: Sequence[bytes] = ()

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        # Twisted would take the body of a form apart, for seconds and before the gate, and refuse one with a bare 400.
        # It must not see what the body is, before `process`.
        self._content_types = self.requestHeaders.getRawHeaders(b"content-type", ())
        self.requestHeaders.removeHeader(b"content-type")
        whole = _WHOLE_ADDRESS.match(path)
        if whole is not None:  # a client that takes us for its proxy; the address is the word that counts
            self.requestHeaders.setRawHeaders(b"host", [whole["host"]])
            rest = path[whole.end() :]
            path = rest if rest.startswith(b"/") else b"/" + rest
        super().requestReceived(command, path, version)

    def process(self) -> None:
        if self._content_types:
            self.requestHeaders.setRawHeaders(b"content-type", self._content_types)
        if self.path == b"*":  # else answered without the gate
            self.path = self.uri = b"/*"
        super().process()

    def write(self, data: bytes) -> None:
        if self.chunked and data and not self.finished and not self._disconnected:
            self.sentLength += len(data)
            self.channel.write_promptly(b"%x\r\n%b\r\n" % (len(data), data))
        else:
            super().write(data)

    def gotLength(self, length: int | None) -> None:
        self.content = BytesIO()
        self.oversized = length is not None and length > self.longest_body

    def handleContentChunk(self, data: bytes) -> None:
        self._kept += len(data)
        if self._kept > self.longest_body:
            self.oversized = True
            self.content = BytesIO()
        if not self.oversized:
            assert self.content is not None
            self.content.write(data)


class KnownChannel(HTTPChannel):
    """A client's connection, which its site knows of for as long as it is open."""

    site: "ProxySite"
    #: Writes what is not to wait for the reactor's next round, where the transport can do that.
    write_promptly: Callable[[bytes], None]

    def lineLengthExceeded(self, line: bytes) -> None:
        self._respondToBadRequestAndDisconnect()

    def _respondToBadRequestAndDisconnect(self) -> None:
        # What is no HTTP has no request either, and yet gets the envelope (issue 2, item 3).
        problem = invalid_request("This is not a valid HTTP/1.1 request.")
        request_id = f"req_{self.site.new_id()}"
        body = encode(problem_json(problem, request_id))
        head = (
            b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
            b"request-id: %b\r\nConnection: close\r\n\r\n"
        )
        assert self.transport is not None
        self.transport.write(head % (len(body), request_id.encode()) + body)
        self.loseConnection()

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Headers) -> None:
        # As Twisted does, but in one piece: it gives its transport each word, and that looks at each of them thrice.
        lines = [b"%b: %b\r\n" % (name, value) for name, values in headers.getAllRawHeaders() for value in values]
        self.write(b"%b %b %b\r\n%b\r\n" % (version, code, reason, b"".join(lines)))

    def connectionMade(self) -> None:
        super().connectionMade()
        transport: Any = self.transport
        self.write_promptly = getattr(transport, "write_promptly", transport.write)
        self.site.opened(self)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # Twisted always gives a reason
        super().connectionLost(reason)
        self.site.closed(self)


class ProxySite(Site):
    """Serves ``resource`` to HTTP/1.1 clients; ``longest_body`` gives the limit in force, in bytes."""

    noisy = False
    protocol = KnownChannel  # type: ignore[assignment]  # without HTTP/2, which no client of ours speaks

    def __init__(
        self, resource: IResource, longest_body: Callable[[], int], new_id: Callable[[], str], reactor: Any
    ) -> None:
        super().__init__(resource, reactor=reactor)
        self.new_id = new_id
        self._longest_body = longest_body
        self._connections: set[KnownChannel] = set()
        self._farewell: Deferred[None] | None = None
        self.requestFactory = self._request  # type: ignore[assignment]  # anything that makes a request will do

    def opened(self, connection: KnownChannel) -> None:
        """A client came."""
        self._connections.add(connection)

    def closed(self, connection: KnownChannel) -> None:
        """A client left, or was left."""
        self._connections.discard(connection)
        self._say_farewell()

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

    def _request(self, channel: HTTPChannel, *args: Any, **kwargs: Any) -> BoundedRequest:
        request = BoundedRequest(channel, *args, **kwargs)
        request.longest_body = self._longest_body()
        request.site = self
        return request
