"""Connections to backends: Twisted's, with the shortest way for the bytes of a body."""

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.python.failure import Failure
from twisted.web._newclient import HTTP11ClientProtocol, HTTPClientParser, Request
from twisted.web.client import HTTPConnectionPool, _HTTP11ClientFactory
from twisted.web.iweb import IResponse

from claudeproxy.backends.chunks import ChunkReader

_DECODERS = {**HTTPClientParser._transferDecoders, b"chunked": ChunkReader}


class BackendConnection(HTTP11ClientProtocol):
    """Speaks HTTP/1.1 with a backend. What one read brings of a body is handed over in one piece."""

    def request(self, request: Request) -> Deferred[IResponse]:
        answer = super().request(request)
        if self._parser is not None:
            self._parser._transferDecoders = _DECODERS
        return answer

    def dataReceived(self, data: bytes) -> None:
        parser: Any = self._parser
        if parser is None or parser.line_mode or parser._busyReceiving or parser._buffer or parser.paused:
            super().dataReceived(data)
            return
        try:
            parser.bodyDecoder.dataReceived(data)
        except Exception:  # synchronous code, so no cancellation passes here
            self._giveUp(Failure())


class _Factory(_HTTP11ClientFactory):
    noisy = False  # else two lines of the log for each connection

    def buildProtocol(self, addr: IAddress | None) -> BackendConnection:
        return BackendConnection(self._quiescentCallback)


class BackendPool(HTTPConnectionPool):
    """Connections that are kept for the next request."""

    _factory = _Factory
