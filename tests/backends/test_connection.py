"""What every request to a backend has in common is found out once (issue 7)."""

from typing import Any

from hyperlink import EncodedURL
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.backends.connection import BackendAgent, BackendPool, ready_url
from tests.fakes.network import Network


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
