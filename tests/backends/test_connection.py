"""Connections to backends: what is found out once, how a request leaves, when its answer is read (issue 7)."""

import socket
from typing import Any

from hyperlink import EncodedURL
from twisted.internet import tcp
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from twisted.web._newclient import Request, RequestGenerationFailed
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer

from claudeproxy.backends.connection import (
    BackendAgent,
    BackendConnection,
    BackendPool,
    BytesBody,
    WholeRequest,
    ready_url,
    send_at_once,
)
from tests.fakes.network import Network
from tests.fakes.watching import WatchingReactor


class URLTests(SynchronousTestCase):
    """`ready_url`."""

    def test_as_treq_would(self) -> None:
        """It says what treq would have made of the text, without being asked to make it."""
        for url in ("http://127.0.0.1:9/v1/a", "https://bücher.example/v1/a?b=c%20d&e", "http://h/a%2Fb?x"):
            ready = ready_url(url)
            self.assertEqual(ready.to_text(), EncodedURL.from_text(url).to_uri().to_text())
            self.assertIs(ready.to_uri(), ready)

    def test_six(self) -> None:
        """An IPv6 address is none of the names that treq would encode."""
        self.assertEqual(ready_url("http://[::1]:9/v1").to_uri().to_text(), "http://[::1]:9/v1")


class PlaceTests(SynchronousTestCase):
    """`BackendAgent`."""

    def setUp(self) -> None:
        network = Network()
        self.agent = BackendAgent(network, 5, BackendPool(network, 5))

    def endpoint(self, url: bytes) -> Any:
        return self.agent._place(url).endpoint

    def test_addresses(self) -> None:
        """An address is connected to directly; a name is looked up."""
        self.assertIsInstance(self.endpoint(b"http://127.0.0.1:9/v1"), TCP4ClientEndpoint)
        self.assertIsInstance(self.endpoint(b"http://[::1]:9/v1"), TCP6ClientEndpoint)
        self.assertIsInstance(self.endpoint(b"http://box:9/v1"), HostnameEndpoint)
        self.assertNotIsInstance(self.endpoint(b"https://127.0.0.1:9/v1"), TCP4ClientEndpoint)

    def test_once(self) -> None:
        """The same URL is looked at once; the host is told as Twisted tells it."""
        place = self.agent._place(b"http://[::1]:9/v1")
        self.assertIs(self.agent._place(b"http://[::1]:9/v1"), place)
        self.assertEqual(place.host, b"[::1]:9")
        self.assertEqual(self.agent._place(b"http://box/v1").host, b"box")

    def test_nonsense(self) -> None:
        """A URL that cannot be sent raises what Twisted raises."""
        self.assertRaises(ValueError, self.agent._place, b"http://box/a b")


class Transport(StringTransport):
    """One of TCP's, which notes what is asked of it as a producer."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def setTcpNoDelay(self, enabled: bool) -> None:
        """As every HTTP client asks of it."""

    def pauseProducing(self) -> None:
        self.asked.append("pause")

    def resumeProducing(self) -> None:
        self.asked.append("resume")


class Reader(Protocol):
    """Reads a body."""

    def __init__(self) -> None:
        self.data = b""

    def dataReceived(self, data: bytes) -> None:
        self.data += data


class PauseTests(SynchronousTestCase):
    """When a backend is not read from."""

    HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n"

    def setUp(self) -> None:
        self.transport = Transport()
        self.connection = BackendConnection(lambda _: None, Clock(), 5)
        self.connection.makeConnection(self.transport)
        request = WholeRequest(b"GET", b"/", Headers({b"host": [b"box"]}), None, persistent=True)
        self.answer = self.connection.request(request)
        self.reader = Reader()

    def test_body_wanted(self) -> None:
        """A body that is asked for as soon as there is a head costs no pause."""
        self.answer.addCallback(lambda response: response.deliverBody(self.reader))
        self.connection.dataReceived(self.HEAD + b"abc")
        self.assertEqual((self.transport.asked, self.reader.data), ([], b"abc"))

    def test_body_not_wanted_yet(self) -> None:
        """While nobody asks for the body no more of it is read."""
        self.connection.dataReceived(self.HEAD + b"abc")
        self.assertEqual(self.transport.asked, ["pause"])
        self.successResultOf(self.answer).deliverBody(self.reader)
        self.assertEqual((self.transport.asked, self.reader.data), (["pause", "resume"], b"abc"))
        self.connection.dataReceived(b"def")
        self.assertEqual(self.reader.data, b"abcdef")

    def test_reader_pauses(self) -> None:
        """Who reads the body may pause at any time, also with the first piece."""

        def read(response: Any) -> None:
            response.deliverBody(self.reader)
            self.reader.transport.pauseProducing()

        self.answer.addCallback(read)
        self.connection.dataReceived(self.HEAD + b"abc")
        self.assertEqual(self.transport.asked, ["pause"])


class WholeRequestTests(SynchronousTestCase):
    """Requests whose bodies are at hand."""

    def sent(self, method: bytes, body: IBodyProducer | None) -> bytes:
        transport = Transport()
        connection = BackendConnection(lambda _: None, Clock(), 5)
        connection.makeConnection(transport)
        connection.request(
            WholeRequest(method, b"/v1?a", Headers({b"host": [b"box"], b"x-a": [b"1", b"2"]}), body, True)
        )
        return transport.value()

    def test_as_twisted_would(self) -> None:
        """The bytes are those that Twisted writes."""
        for method, body in ((b"GET", None), (b"POST", None), (b"POST", b""), (b"POST", b"{}"), (b"PUT", None)):
            plain = StringTransport()
            headers = Headers({b"host": [b"box"], b"x-a": [b"1", b"2"]})
            Request(method, b"/v1?a", headers, None if body is None else BytesBody(body), True).writeTo(plain)
            sent = self.sent(method, None if body is None else BytesBody(body))
            self.assertEqual(sent, plain.value(), (method, body))

    def test_nonsense(self) -> None:
        """What cannot be said is not sent, and the request fails."""
        connection = BackendConnection(lambda _: None, Clock(), 5)
        connection.makeConnection(transport := Transport())
        asked = connection.request(WholeRequest(b"GET", b"/", Headers({}), None, True))
        self.failureResultOf(asked, RequestGenerationFailed)
        self.assertEqual(transport.value(), b"")


class AtOnceTests(SynchronousTestCase):
    """`send_at_once`, over real sockets."""

    def setUp(self) -> None:
        ours, self.far = socket.socketpair()
        self.addCleanup(self.far.close)
        self.addCleanup(ours.close)
        ours.setblocking(False)
        self.far.setblocking(False)
        client: Any = tcp.Client.__new__(tcp.Client)
        tcp.Connection.__init__(client, ours, Protocol(), WatchingReactor())  # type: ignore[arg-type]
        client.connected = True
        self.client = client

    def test_idle(self) -> None:
        """All of it is there at once, and nothing waits for the reactor."""
        send_at_once(self.client, b"hello")
        self.assertEqual(self.far.recv(100), b"hello")
        self.assertEqual(self.client.reactor.writing, set())

    def test_large(self) -> None:
        """What the socket does not take follows, in order."""
        data = bytes(range(256)) * 20_000
        send_at_once(self.client, data)
        self.assertEqual(self.client.reactor.writing, {self.client})
        send_at_once(self.client, b"!")
        seen = bytearray()
        while len(seen) <= len(data):
            self.client.doWrite()
            seen += self.far.recv(2**20)
        self.assertEqual(bytes(seen), data + b"!")

    def test_broken(self) -> None:
        """A socket that is broken is the reactor's affair."""
        self.far.close()
        send_at_once(self.client, b"hello")
        self.assertEqual(self.client.reactor.writing, {self.client})
        self.assertIsInstance(self.client.doWrite(), ConnectionLost)

    def test_gone(self) -> None:
        """To nobody nothing is written."""
        self.client.connected = False
        send_at_once(self.client, b"hello")
        with self.assertRaises(BlockingIOError):
            self.far.recv(100)
