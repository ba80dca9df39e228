"""
A network in memory: a reactor whose TCP connections are pairs of queues, and whose clock only moves when told.

Unlike the pipes of `treq.testing` it knows back-pressure: an end that is paused gets nothing, and a writer whose peer
does not read is paused itself above `HIGH_WATER` bytes. One write arrives as one read, so that writes can be counted.
Nothing moves but in `pump`, `pass_time` and what they call, so that a test may look at every moment in between.
"""

from collections import deque
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from attrs import Factory, define, field
from twisted.internet.address import IPv4Address
from twisted.internet.error import (
    CannotListenError,
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    UserError,
)
from twisted.internet.error import TimeoutError as ConnectTimedOut
from twisted.internet.interfaces import IHostnameResolver, IPushProducer, ITCPTransport
from twisted.internet.protocol import Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from zope.interface import implementer

__all__ = ["HIGH_WATER", "Connector", "End", "Network"]

#: How many bytes wait for a peer that does not read before the producer is paused: as in Twisted's own transports.
HIGH_WATER = 64 * 1024


@implementer(ITCPTransport, IPushProducer)
@define(eq=False)
class End:
    """One end of a connection: the transport of one protocol."""

    port: int
    protocol: Any = None
    peer: "End" = field(default=None)
    #: What the peer wrote and the protocol has not read, a segment a write.
    inbox: deque[bytes] = Factory(deque)
    waiting: int = 0
    #: The most bytes that ever waited here.
    most_waiting: int = 0
    is_paused: bool = False
    is_lost: bool = False
    disconnecting: bool = False
    _aborted: bool = False
    _producer: Any = None
    _streaming: bool = True
    _producer_paused: bool = False

    def write(self, data: bytes) -> None:
        assert isinstance(data, bytes)
        if self.is_lost or self._aborted or self.peer.is_lost or not data:
            return
        self.peer.inbox.append(data)
        self.peer.waiting += len(data)
        self.peer.most_waiting = max(self.peer.most_waiting, self.peer.waiting)
        if self._producer is not None and self.peer.waiting > HIGH_WATER and not self._producer_paused:
            self._producer_paused = True
            self._producer.pauseProducing()

    def writeSequence(self, data: Any) -> None:
        self.write(b"".join(data))

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert self._producer is None, "a second producer"
        self._producer, self._streaming, self._producer_paused = producer, streaming, False
        if self.is_lost or self._aborted:
            producer.stopProducing()
        elif not streaming:
            producer.resumeProducing()

    def unregisterProducer(self) -> None:
        self._producer = None

    def pauseProducing(self) -> None:
        self.is_paused = True

    def resumeProducing(self) -> None:
        if not self.disconnecting:
            self.is_paused = False

    def stopProducing(self) -> None:
        self.loseConnection()

    def loseConnection(self, reason: object = None) -> None:
        self.disconnecting = True

    def abortConnection(self) -> None:
        self.disconnecting = self._aborted = True

    def loseWriteConnection(self) -> None:
        raise NotImplementedError

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", "127.0.0.1", 40_000)

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", "127.0.0.1", self.port)

    def getTcpNoDelay(self) -> bool:
        return True

    def setTcpNoDelay(self, enabled: bool) -> None:
        pass

    def getTcpKeepAlive(self) -> bool:
        return True

    def setTcpKeepAlive(self, enabled: bool) -> None:
        pass

    # What the network does with it.

    def advance(self) -> bool:
        """Do the next thing that is due here; False if there is none."""
        if self.is_lost:
            return False
        if self._aborted:
            self._lose(ConnectionAborted())
            return True
        if self.disconnecting:
            if self.peer.inbox and not self.peer.is_lost:
                return False  # a polite end waits until all is out
            self._lose(ConnectionDone())
            return True
        if self.peer._aborted and self.peer.is_lost:
            self._lose(ConnectionLost())
            return True
        if self.is_paused:
            return False
        if self.inbox:
            data = self.inbox.popleft()
            self.waiting -= len(data)
            self.protocol.dataReceived(data)
            self.peer._drained()
            return True
        if self.peer.is_lost:
            self._lose(ConnectionDone())
            return True
        return False

    def _drained(self) -> None:
        if self._producer is None or self.peer.waiting:
            return
        if not self._streaming or self._producer_paused:
            self._producer_paused = False
            self._producer.resumeProducing()

    def _lose(self, reason: BaseException) -> None:
        self.is_lost = True
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.stopProducing()
        self.protocol.connectionLost(Failure(reason))


@define(eq=False)
class Connector:
    """A connection on its way."""

    network: "Network"
    host: str
    port: int
    factory: Any
    timeout: float
    is_open: bool = True
    #: It was given up by the one who wanted it.
    was_stopped: bool = False
    _timer: Any = None

    def begin(self) -> None:
        """Wait for an answer, at most the timeout."""
        self.factory.doStart()
        self.factory.startedConnecting(self)
        self._timer = self.network.callLater(self.timeout, self.fail, ConnectTimedOut())

    def stopConnecting(self) -> None:
        self.was_stopped = True
        self.fail(UserError())

    def disconnect(self) -> None:
        self.stopConnecting()

    def getDestination(self) -> IPv4Address:
        return IPv4Address("TCP", self.host, self.port)

    def fail(self, reason: BaseException) -> None:
        """There will be no connection."""
        if self._settled():
            self.factory.clientConnectionFailed(self, Failure(reason))

    def succeed(self, listener: Any) -> None:
        """There is one, to ``listener``'s factory."""
        if self._settled():
            near = self.factory.buildProtocol(self.getDestination())
            self.network.join(near, listener, self.port)

    def _settled(self) -> bool:
        if not self.is_open:
            return False
        self.is_open = False
        if self._timer.active():
            self._timer.cancel()
        return True


@define(eq=False)
class _Listening:
    network: "Network"
    port: int

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", "127.0.0.1", self.port)

    def startListening(self) -> None:
        pass

    def stopListening(self) -> None:
        del self.network.listeners[self.port]


@implementer(IHostnameResolver)
@define(eq=False)
class _Names:
    known: set[str]

    def resolveHostName(
        self,
        resolutionReceiver: Any,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Any = None,
        transportSemantics: str = "TCP",
    ) -> Any:
        resolutionReceiver.resolutionBegan(None)
        if hostName in self.known or _is_address(hostName):
            resolutionReceiver.addressResolved(IPv4Address("TCP", "127.0.0.1", portNumber))
        resolutionReceiver.resolutionComplete()


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


class Network(MemoryReactorClock):
    """A reactor. Connections to ports where nobody listens are refused; to those in ``black_holes`` never answered."""

    def __init__(self) -> None:
        super().__init__()
        self.listeners: dict[int, Any] = {}
        self.black_holes: set[int] = set()
        self.names = {"localhost"}
        self.nameResolver = _Names(self.names)
        self.connecting: list[Connector] = []
        #: All ends there ever were, the dialling one of a connection before the other.
        self.ends: list[End] = []
        self.later: list[Callable[[], object]] = []

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        if port in self.listeners:
            raise CannotListenError(interface, port, OSError(98, "Address already in use"))
        port = port or 30_000 + len(self.listeners)
        self.listeners[port] = factory
        return _Listening(self, port)

    def connectTCP(self, host: str, port: int, factory: Any, timeout: float = 30, bindAddress: object = None) -> Any:
        connector = Connector(self, host, port, factory, timeout)
        self.connecting.append(connector)
        connector.begin()
        return connector

    def callFromThread(self, call: Any, *args: Any, **kwargs: Any) -> None:
        self.later.append(lambda: call(*args, **kwargs))

    def dial(self, port: int, protocol: Protocol) -> End:
        """Connect ``protocol`` to whoever listens; the end that is its transport."""
        return self.join(protocol, self.listeners[port], port)

    def join(self, near: Any, listener: Any, port: int) -> End:
        """Connect ``near`` to a new protocol of the factory ``listener``."""
        far = listener.buildProtocol(IPv4Address("TCP", "127.0.0.1", 40_000))
        one, other = End(port, near), End(port, far)
        one.peer, other.peer = other, one
        self.ends += [one, other]
        other.protocol.makeConnection(other)
        one.protocol.makeConnection(one)
        return one

    def pump(self) -> None:  # type: ignore[override]
        """Until nothing moves any more."""
        for _ in range(1_000_000):
            if not self._step() and not self._due():
                return
        raise AssertionError("it never comes to rest")

    def timers(self, word: str) -> list[str]:
        """The functions that wait for their time and have this word in their name."""
        waiting: Any = self.getDelayedCalls()
        return [name for call in waiting if word in (name := repr(call.func))]

    def pass_time(self, seconds: float) -> None:
        """Let time pass, from one thing that is due to the next."""
        self.pump()
        end = self.seconds() + seconds
        while (due := min((call.getTime() for call in self.getDelayedCalls()), default=end + 1)) <= end:
            self.advance(max(0.0, due - self.seconds()))
            self.pump()
        self.advance(max(0.0, end - self.seconds()))
        self.pump()

    def _due(self) -> bool:
        """Does what waits for the next round of the reactor; False if nothing does."""
        if min((call.getTime() for call in self.getDelayedCalls()), default=self.seconds() + 1) > self.seconds():
            return False
        self.advance(0)
        return True

    def _step(self) -> bool:
        if self.later:
            self.later.pop(0)()
            return True
        for connector in self.connecting[:]:
            if not connector.is_open:
                self.connecting.remove(connector)
            elif connector.port not in self.black_holes:
                self.connecting.remove(connector)
                listener = self.listeners.get(connector.port)
                if listener is None:
                    connector.fail(ConnectionRefusedError())
                else:
                    connector.succeed(listener)
                return True
        # A list, because what happens may open connections.
        return any([end.advance() for end in list(self.ends) if not end.is_lost])
