"""A connection to a server that never gets as far as an answer."""

from typing import Any

from twisted.internet.interfaces import ISSLTransport
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from twisted.web._newclient import Request
from twisted.web.client import ResponseNeverReceived
from twisted.web.http_headers import Headers
from zope.interface import directlyProvides

from claudeproxy.backends.bounded import BoundedConnection


class Transport(StringTransport):
    """One of TCP's."""

    def setTcpNoDelay(self, enabled: bool) -> None:
        """As every HTTP client asks of it."""


class HandshakeTests(SynchronousTestCase):
    """A TLS handshake has the time that a connection has."""

    def connected(self, tls: bool) -> tuple[BoundedConnection, StringTransport, Clock]:
        clock = Clock()
        connection = BoundedConnection(lambda _: None, clock, 10.0)
        transport: Any = Transport()
        if tls:
            directlyProvides(transport, ISSLTransport)
        connection.makeConnection(transport)
        return connection, transport, clock

    def request(self, connection: BoundedConnection) -> Any:
        return connection.request(Request(b"GET", b"/", Headers({b"host": [b"box"]}), None))

    def test_never(self) -> None:
        """Without one the request fails, and the connection is gone."""
        connection, transport, clock = self.connected(tls=True)
        asked = self.request(connection)
        clock.advance(9.9)
        self.assertNoResult(asked)
        clock.advance(0.2)
        fault = self.failureResultOf(asked, ResponseNeverReceived).value
        self.assertIn("No TLS handshake within 10 s", str(fault.reasons[0].value))
        self.assertTrue(transport.disconnected)

    def test_in_time(self) -> None:
        """After one an answer may take as long as it likes; a connection that is lost leaves no timer."""
        connection, _, clock = self.connected(tls=True)
        asked = self.request(connection)
        connection.handshakeCompleted()
        clock.advance(1000)
        self.assertNoResult(asked)
        connection.dataReceived(b"HTTP/1.1 204 No Content\r\n\r\n")
        self.assertEqual(self.successResultOf(asked).code, 204)
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_plain(self) -> None:
        """Without TLS nothing is waited for."""
        _, _, clock = self.connected(tls=False)
        self.assertEqual(clock.getDelayedCalls(), [])
