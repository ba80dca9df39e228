"""
Bounds for what comes before a server's answer. Twisted takes headers, and 1xx answers, without end, and waits for ever
for a TLS handshake: its time limit for a connection ends when TCP has one.
"""

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import TimeoutError as ConnectTimedOut
from twisted.internet.interfaces import IDelayedCall, IHandshakeListener, IReactorTime, ISSLTransport
from twisted.python.failure import Failure
from twisted.web._newclient import HTTP11ClientProtocol
from twisted.web.iweb import IResponse
from zope.interface import implementer

#: Bytes. Servers' own answers have less than a quarter of it.
LONGEST_HEAD = 64 * 1024


class HeadTooLong(ValueError):
    """The server sends headers without end."""


@implementer(IHandshakeListener)
class BoundedConnection(HTTP11ClientProtocol):
    """Twisted's connection to a server, which gives up above `LONGEST_HEAD` bytes that are no answer yet, and after
    ``patience`` seconds without a TLS handshake."""

    #: What has come since the request; None while an answer is read, or none is waited for.
    _waited: int | None = None
    _handshake: IDelayedCall | None = None

    def __init__(self, quiescent: Any, clock: IReactorTime, patience: float) -> None:
        super().__init__(quiescent)
        self._clock = clock
        self._patience = patience

    def connectionMade(self) -> None:
        super().connectionMade()
        if ISSLTransport.providedBy(self.transport):
            self._handshake = self._clock.callLater(self._patience, self._lose_patience)

    def handshakeCompleted(self) -> None:
        if self._handshake is not None:
            self._handshake.cancel()
            self._handshake = None

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # Twisted always gives a reason
        self.handshakeCompleted()
        super().connectionLost(reason)

    def request(self, request: Any) -> Deferred[IResponse]:
        def answered(result: Any) -> Any:
            self._waited = None
            return result

        self._waited = 0
        return super().request(request).addBoth(answered)

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        if self._waited is not None:
            self._waited += len(data)
            if self._waited > LONGEST_HEAD:
                self._waited = None
                fault = HeadTooLong(f"It sent headers of more than {LONGEST_HEAD // 1024} KiB")
                self._giveUp(Failure(fault))  # its own word for losing a connection; there is no public one

    def _lose_patience(self) -> None:
        self._handshake = None
        transport: Any = self.transport
        transport.abortConnection()  # a polite end would wait for the handshake, too
        self._disconnectParser(Failure(ConnectTimedOut(string=f"No TLS handshake within {self._patience:g} s")))
