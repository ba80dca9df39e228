"""Connections to backends: Twisted's, with the shortest way for the bytes of a body, and with what is the same for
every request to a place found out but once."""

from functools import lru_cache, partial
from typing import Any

from attrs import field
from hyperlink import EncodedURL
from twisted.internet import tcp
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.interfaces import IAddress, IConsumer, IReactorTime, IStreamClientEndpoint
from twisted.python.failure import Failure
from twisted.web._newclient import HTTPClientParser, Request, TransportProxyProducer, _ensureValidURI
from twisted.web.client import URI, Agent, HTTPConnectionPool, _HTTP11ClientFactory
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer, IResponse
from zope.interface import implementer

from claudeproxy.backends.bounded import BoundedConnection
from claudeproxy.backends.chunks import ChunkReader
from claudeproxy.model.kinds import define, frozen

#: So many URLs are known at a time; a backend that is passed through may be asked for many.
_KNOWN_URLS = 64

_DECODERS = {**HTTPClientParser._transferDecoders, b"chunked": ChunkReader}


@implementer(IBodyProducer)
@define(eq=False)
class BytesBody:
    """A request body that is at hand as a whole. It is given away once: Twisted holds it until the answer has ended."""

    _data: bytes
    length: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.length = len(self._data)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self.take())
        return succeed(None)

    def pauseProducing(self) -> None:
        """Nothing to pause: all was written at once."""

    def resumeProducing(self) -> None:
        """Nothing to resume."""

    def stopProducing(self) -> None:
        """Nothing to stop."""

    def take(self) -> bytes:
        """The body, for who needs no producer."""
        data, self._data = self._data, b""
        return data


class _Lines(list[bytes]):
    """Collects what is written to it."""

    writeSequence = list.extend


class WholeRequest(Request):
    """A request whose body is at hand, if it has one: it is written in one piece, without the machinery for a body that
    is still being made."""

    bodyProducer: BytesBody | None

    def writeTo(self, transport: Any) -> Deferred[None]:
        body = b"" if self.bodyProducer is None else self.bodyProducer.take()
        lines = _Lines()
        has_length = self.bodyProducer is not None or self.method in (b"PUT", b"POST")
        self._writeHeaders(lines, b"Content-Length: %d\r\n" % len(body) if has_length else None)
        lines.append(body)
        send_at_once(transport, b"".join(lines))
        return succeed(None)


def send_at_once(transport: Any, data: bytes) -> None:
    """Writes what the socket takes now, and not after a round through the reactor, and leaves the rest to that. Under
    TLS it goes the ordinary way."""
    is_idle = type(transport) is tcp.Client and not (transport.dataBuffer or transport._tempDataBuffer)
    if is_idle and transport.connected:
        try:
            sent = transport.socket.send(data)
        except OSError:
            sent = 0  # it takes nothing now, or is broken: the reactor will find out, and tell whom it concerns
        data = data[sent:]
    if data:
        transport.write(data)


class _Hesitant(TransportProxyProducer):
    """Twisted pauses a connection while nobody has asked for the body of its answer, which nearly always happens in the
    same moment: then the reactor need not forget the connection and learn of it again."""

    _is_new = True
    _is_due = False

    def pauseProducing(self) -> None:
        if self._is_new:
            self._is_new, self._is_due = False, True
        else:
            super().pauseProducing()

    def resumeProducing(self) -> None:
        if self._is_due:
            self._is_due = False
        else:
            super().resumeProducing()

    def settle(self) -> None:
        """The moment is over."""
        if self._is_due:
            self._is_due = False
            super().pauseProducing()


class BackendConnection(BoundedConnection):
    """Speaks HTTP/1.1 with a backend. What one read brings of a body is handed over in one piece."""

    _transportProxy: _Hesitant | None

    def connectionMade(self) -> None:
        super().connectionMade()
        transport: Any = self.transport
        if type(transport) is tcp.Client:
            transport.protocol = self  # else the endpoint's wrapper, whose work is done, would stay in between

    def request(self, request: Request) -> Deferred[IResponse]:
        answer = super().request(request)
        if self._parser is not None:
            self._parser._transferDecoders = _DECODERS
            self._transportProxy = _Hesitant(self.transport)
            self._parser.transport = self._transportProxy  # type: ignore[assignment]  # as Twisted does
        return answer

    def dataReceived(self, data: bytes) -> None:
        parser: Any = self._parser
        if parser is None or parser.line_mode or parser._busyReceiving or parser._buffer or parser.paused:
            super().dataReceived(data)
            if self._transportProxy is not None:
                self._transportProxy.settle()
            return
        decoder, response = parser.bodyDecoder, parser.response
        if response._state == "CONNECTED" and type(decoder) is ChunkReader:
            # Its reader stays until the end: no need to ask for each piece who that is, nor who takes chunks apart.
            decoder.dataCallback, decoder.give_up = response._bodyProtocol.dataReceived, self._giveUp
            self.dataReceived = decoder.dataReceived  # type: ignore[method-assign]
        try:
            decoder.dataReceived(data)
        except Exception:  # synchronous code, so no cancellation passes here
            self._giveUp(Failure())

    def _disconnectParser(self, reason: Any) -> None:
        self.__dict__.pop("dataReceived", None)  # what the answer before came through is done with
        super()._disconnectParser(reason)


class _Connections(_HTTP11ClientFactory):
    """What a pool makes its connections with; there is no public way to choose another kind."""

    noisy = False  # else two lines of the log for each connection

    def __init__(self, quiescent: Any, metadata: str, clock: IReactorTime, patience: float) -> None:
        super().__init__(quiescent, metadata)
        self._clock = clock
        self._patience = patience

    def buildProtocol(self, addr: IAddress | None) -> BackendConnection:
        return BackendConnection(self._quiescentCallback, self._clock, self._patience)


class BackendPool(HTTPConnectionPool):
    """Connections that are kept for the next request; a TLS handshake may take ``patience`` seconds."""

    def __init__(self, reactor: Any, patience: float) -> None:
        super().__init__(reactor, persistent=True)
        factory: Any = partial(_Connections, clock=reactor, patience=patience)
        self._factory = factory


@frozen
class _Place:
    uri: URI
    #: As the Host header says it.
    host: bytes
    endpoint: IStreamClientEndpoint
    #: As the request's first line says it.
    path: bytes
    #: Under which the pool keeps connections to it.
    key: tuple[bytes, bytes, int]


class BackendAgent(Agent):
    """Asks a backend. An address is connected to without asking anybody for its name."""

    def __init__(self, reactor: Any, connect_timeout: float, pool: HTTPConnectionPool) -> None:
        super().__init__(reactor, connectTimeout=connect_timeout, pool=pool)
        self._connect_timeout = connect_timeout
        self._place = lru_cache(_KNOWN_URLS)(self._find)

    def request(
        self, method: bytes, uri: bytes, headers: Headers | None = None, bodyProducer: IBodyProducer | None = None
    ) -> Deferred[IResponse]:
        place = self._place(uri)
        headers = Headers() if headers is None else headers
        if not headers.hasHeader(b"host"):
            headers.addRawHeader(b"host", place.host)  # Twisted makes a copy to do so
        kind = WholeRequest if bodyProducer is None or type(bodyProducer) is BytesBody else Request
        request = kind._construct(method, place.path, headers, bodyProducer, self._pool.persistent, place.uri)
        connected = self._pool.getConnection(place.key, place.endpoint)
        return connected.addCallback(lambda connection: connection.request(request))

    def _find(self, url: bytes) -> _Place:
        uri = URI.fromBytes(_ensureValidURI(url.strip()))
        host = self._computeHostValue(uri.scheme, uri.host, uri.port)
        return _Place(uri, host, self._endpoint(uri), uri.originForm, (uri.scheme, uri.host, uri.port))

    def _endpoint(self, uri: URI) -> IStreamClientEndpoint:
        host = uri.host.decode("ascii", "replace")
        kind = TCP4ClientEndpoint if isIPAddress(host) else TCP6ClientEndpoint if isIPv6Address(host) else None
        if kind is None or uri.scheme != b"http":
            return self._getEndpoint(uri)  # type: ignore[no-any-return]
        return kind(self._reactor, host, uri.port, timeout=self._connect_timeout)


class _ReadyURL(EncodedURL):
    """A URL that is as it will be sent: treq asks each one for that, which takes longer than all the rest it does."""

    def __init__(self, url: EncodedURL) -> None:
        super().__init__(
            url.scheme, url.host, url.path, url.query, url.fragment, url.port, url.rooted, url.userinfo, url.uses_netloc
        )
        self._sent = url.to_text()

    def to_uri(self) -> EncodedURL:
        return self

    def to_text(self, with_password: bool = False) -> str:
        return super().to_text(True) if with_password else self._sent


@lru_cache(_KNOWN_URLS)
def ready_url(url: str) -> EncodedURL:
    """``url`` for treq. Raises what treq would raise, but not for an IPv6 address, which treq takes for a name."""
    parsed = EncodedURL.from_text(url)
    return _ReadyURL(parsed if ":" in parsed.host else parsed.to_uri())
