"""A bound for what a server may send before its answer begins: Twisted takes headers, and 1xx answers, without end."""

from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web._newclient import HTTP11ClientProtocol
from twisted.web.client import _HTTP11ClientFactory
from twisted.web.iweb import IResponse

#: Bytes. Servers' own answers have less than a tenth of it.
LONGEST_HEAD = 256 * 1024


class HeadTooLong(ValueError):
    """The server sends headers without end."""


class BoundedConnection(HTTP11ClientProtocol):
    """Twisted's connection to a server, which gives up above `LONGEST_HEAD` bytes that are no answer yet."""

    #: What has come since the request; None while an answer is read, or none is waited for.
    _waited: int | None = None

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


class BoundedConnections(_HTTP11ClientFactory):
    """What a pool makes its connections with; there is no public way to choose another kind."""

    noisy = False  # else it logs two lines a connection

    def buildProtocol(self, addr: object) -> BoundedConnection:
        return BoundedConnection(self._quiescentCallback)
