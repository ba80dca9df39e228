"""The network in memory does what a real one does, as far as the tests rely on it."""

from typing import Any

from attrs import define
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import CannotListenError, ConnectionDone, ConnectionLost, DNSLookupError
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes.callers import Caller, caller
from tests.fakes.network import HIGH_WATER, Network


@define(eq=False)
class Source:
    """A producer that only counts what it is told."""

    told: list[str]

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")

    def stopProducing(self) -> None:
        self.told.append("stop")


class NetworkTests(SynchronousTestCase):
    """`Network`."""

    def setUp(self) -> None:
        self.network = Network()
        self.network.listenTCP(80, Factory.forProtocol(Protocol))
        self.near: Caller = caller(self.network, 80)
        self.far = self.near.transport.peer

    def connect(self, host: str, port: int) -> Deferred[Any]:
        connecting = HostnameEndpoint(self.network, host, port, timeout=5).connect(Factory.forProtocol(Protocol))
        self.network.pass_time(1)
        return connecting

    def test_writes(self) -> None:
        """One write is one read, in order, and nothing arrives before the network is pumped."""
        self.far.write(b"a")
        self.far.writeSequence([b"b", b"c"])
        self.assertEqual(self.near.reads, [])
        self.network.pump()
        self.assertEqual(self.near.reads, [b"a", b"bc"])

    def test_pressure(self) -> None:
        """A paused end gets nothing; its peer's producer is paused above the mark, and resumed when it reads."""
        source = Source([])
        self.far.registerProducer(source, True)
        self.near.transport.pauseProducing()
        self.far.write(b"x" * HIGH_WATER)
        self.far.write(b"y")
        self.network.pump()
        self.assertEqual((self.near.reads, source.told), ([], ["pause"]))
        self.near.transport.resumeProducing()
        self.network.pump()
        self.assertEqual((len(self.near.raw), source.told), (HIGH_WATER + 1, ["pause", "resume"]))

    def test_polite(self) -> None:
        """Who closes politely is gone once all that was written has been read."""
        self.near.transport.pauseProducing()
        self.far.write(b"last words")
        self.far.loseConnection()
        self.network.pump()
        self.assertIsNone(self.near.lost)
        self.near.transport.resumeProducing()
        self.network.pump()
        self.assertEqual(self.near.raw, b"last words")
        assert self.near.lost is not None
        self.assertIsNotNone(self.near.lost.check(ConnectionDone))

    def test_rude(self) -> None:
        """Who aborts is gone at once, and what was on its way with him; producers are told."""
        source = Source([])
        self.near.transport.pauseProducing()
        self.near.transport.registerProducer(source, True)
        self.far.write(b"lost")
        self.far.abortConnection()
        self.network.pump()
        assert self.near.lost is not None
        self.assertIsNotNone(self.near.lost.check(ConnectionLost))
        self.assertEqual((self.near.raw, source.told), (b"", ["stop"]))

    def test_connecting(self) -> None:
        """Connections are made, refused, never answered, or have no address."""
        self.successResultOf(self.connect("127.0.0.1", 80))
        self.successResultOf(self.connect("localhost", 80))
        self.failureResultOf(self.connect("127.0.0.1", 81))
        self.failureResultOf(self.connect("nowhere.example", 80), DNSLookupError)
        self.network.black_holes.add(80)
        waiting = self.connect("127.0.0.1", 80)
        self.assertNoResult(waiting)
        self.network.pass_time(5)
        self.failureResultOf(waiting)

    def test_listening(self) -> None:
        """A port is taken by one; 0 is any free one; who stopped listening is not reached any more."""
        self.assertRaises(CannotListenError, self.network.listenTCP, 80, Factory())
        port = self.network.listenTCP(0, Factory.forProtocol(Protocol))
        self.successResultOf(self.connect("127.0.0.1", port.getHost().port))
        port.stopListening()
        self.failureResultOf(self.connect("127.0.0.1", port.getHost().port))

    def test_time(self) -> None:
        """Time passes from one thing that is due to the next, each at its own moment."""
        seen: list[float] = []
        self.network.callLater(2, lambda: self.network.callLater(1, lambda: seen.append(self.network.seconds())))
        self.network.callLater(1, lambda: seen.append(self.network.seconds()))
        self.network.pass_time(10)
        self.assertEqual((seen, self.network.seconds()), ([1.0, 3.0], 10.0))
