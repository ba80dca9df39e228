"""Bytes that leave at once: over real sockets, with a reactor that only notes what it is asked to watch."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from twisted.internet import main, tcp, unix
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactor, StringTransport
from twisted.protocols.haproxy._wrapper import HAProxyProtocolWrapper, HAProxyWrappingFactory
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from claudeproxy.web.prompt import PromptServer, PromptUNIXServer, make_prompt, prompt_writer
from tests.fakes.watching import WatchingReactor

LARGE = bytes(range(256)) * 4096


@implementer(IHalfCloseableProtocol)
class Ends(Protocol):
    """Notes how its connection ended."""

    lost: Failure | None = None
    half_lost = 0

    def connectionLost(self, reason: Failure = main.CONNECTION_DONE) -> None:
        self.lost = reason

    def readConnectionLost(self) -> None:
        """Nothing more will come."""

    def writeConnectionLost(self) -> None:
        self.half_lost += 1


class Producer:
    """Notes whether it is to produce."""

    paused = 0
    resumed = 0
    stopped = 0

    def pauseProducing(self) -> None:
        self.paused += 1

    def resumeProducing(self) -> None:
        self.resumed += 1

    def stopProducing(self) -> None:
        self.stopped += 1


class PromptCase(SynchronousTestCase):
    """A transport, and the client's end of its socket."""

    def setUp(self) -> None:
        ours, self.client = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.client.settimeout(5)
        self.addCleanup(self.client.close)
        self.addCleanup(ours.close)
        self.reactor = WatchingReactor()
        self.ends = Ends()
        self.transport = self.make(ours)
        self.ends.makeConnection(self.transport)

    def make(self, ours: socket.socket) -> Any:
        return PromptServer(ours, self.ends, ("", 0), None, 0, self.reactor)  # type: ignore[arg-type]

    def read(self, size: int) -> bytes:
        """So many bytes as the client gets them, while the reactor turns."""
        data = b""
        while len(data) < size:
            self.reactor.turn()
            piece = self.client.recv(size - len(data))
            if not piece:
                break
            data += piece
        return data

    def at_once(self) -> bytes:
        """What the client has without a turn of the reactor."""
        self.client.setblocking(False)
        try:
            return self.client.recv(2**20)
        except BlockingIOError:
            return b""
        finally:
            self.client.settimeout(5)

    @contextmanager
    def sends(self) -> Iterator[list[int]]:
        """The sizes of what is given to the socket."""
        sizes: list[int] = []
        real = self.transport.socket

        class Counted:
            def send(self, data: bytes) -> int:
                sizes.append(len(data))
                return real.send(data)

            def __getattr__(self, name: str) -> Any:
                return getattr(real, name)

        self.transport.socket = Counted()
        yield sizes
        self.transport.socket = real


class PromptTests(PromptCase):
    """`write_promptly`."""

    def test_at_once(self) -> None:
        """The bytes are there when it returns; the reactor was not asked for anything."""
        with self.sends() as sizes:
            for each in (b"one", b"two"):
                self.transport.write_promptly(each)
                self.assertEqual(self.at_once(), each)
        self.assertEqual((sizes, self.reactor.watched), ([3, 3], 0))

    def test_with_what_was_written_before(self) -> None:
        """What waits for the reactor's next round goes along, before it, in one piece; nothing waits then."""
        self.transport.write(b"head, ")
        self.transport.writeSequence([b"more, "])
        with self.sends() as sizes:
            self.transport.write_promptly(b"body")
        self.assertEqual(self.at_once(), b"head, more, body")
        self.assertEqual((sizes, self.reactor.writing), ([16], set()))
        self.reactor.turn()
        self.assertEqual(self.at_once(), b"")

    def test_in_parts(self) -> None:
        """What the socket does not take follows in order, and what is written later follows that."""
        self.transport.write_promptly(LARGE)
        self.assertEqual(self.reactor.writing, {self.transport})
        self.transport.write_promptly(b"then")
        self.transport.write(b"last")
        self.assertEqual(self.read(len(LARGE) + 8), LARGE + b"thenlast")
        self.reactor.turn()
        self.assertEqual(self.reactor.writing, set())
        self.transport.write_promptly(b"at once again")
        self.assertEqual(self.at_once(), b"at once again")

    def test_a_socket_that_takes_nothing(self) -> None:
        """It waits as with `write`."""
        with self.assertRaises(BlockingIOError):
            while True:
                self.transport.socket.send(b"x")
        full = len(self.at_once_all())
        self.assertGreater(full, 0)
        with self.assertRaises(BlockingIOError):
            while True:
                self.transport.socket.send(b"x")
        self.transport.write_promptly(b"waits")
        self.assertEqual(self.reactor.writing, {self.transport})
        self.at_once_all()
        self.reactor.turn()
        self.assertEqual(self.at_once_all(), b"waits")

    def at_once_all(self) -> bytes:
        data = b""
        while piece := self.at_once():
            data += piece
        return data

    def test_a_client_that_stops_reading(self) -> None:
        """Its producer is paused above the buffer's size, and resumed when all is out."""
        producer = Producer()
        self.transport.registerProducer(producer, True)
        self.transport.write_promptly(b"small")
        self.assertEqual(producer.paused, 0)
        self.transport.write_promptly(LARGE)
        self.assertEqual((producer.paused, producer.resumed), (1, 0))
        self.transport.write_promptly(b"!")
        self.assertEqual(self.read(5 + len(LARGE) + 1), b"small" + LARGE + b"!")
        self.reactor.turn()
        self.assertEqual(producer.resumed, 1)

    def test_paused_by_what_was_written_before(self) -> None:
        """A producer that was paused by a large `write` is resumed once all is out, however it went."""
        producer = Producer()
        self.transport.registerProducer(producer, True)
        self.transport.write(LARGE)
        self.transport.write_promptly(b"!")
        self.assertEqual(self.read(len(LARGE) + 1), LARGE + b"!")
        self.reactor.turn()
        self.assertEqual((producer.paused > 0, producer.resumed), (True, 1))

    def test_a_client_that_vanished(self) -> None:
        """Nothing is raised; the reactor finds the connection broken, and all are told once."""
        producer = Producer()
        self.transport.registerProducer(producer, True)
        self.client.close()
        self.transport.write_promptly(b"to nobody")
        self.assertIsNone(self.ends.lost)
        self.reactor.turn()
        assert self.ends.lost is not None
        self.assertIs(self.ends.lost.type, type(main.CONNECTION_LOST))
        self.assertEqual(producer.stopped, 1)
        self.transport.write_promptly(b"after its end")
        self.assertEqual(self.reactor.writing, set())

    def test_vanished_with_something_waiting(self) -> None:
        """The same where an ordinary write waits already."""
        self.transport.write(b"before")
        self.client.close()
        self.transport.write_promptly(b"to nobody")
        self.reactor.turn()
        self.assertIsNotNone(self.ends.lost)

    def test_closing(self) -> None:
        """What was written leaves before a polite end, what comes after it does too, as with `write`."""
        self.transport.write_promptly(LARGE)
        self.transport.loseConnection()
        self.transport.write_promptly(b"late")
        self.assertEqual(self.read(len(LARGE) + 4), LARGE + b"late")
        self.reactor.turn()
        self.assertIsNotNone(self.ends.lost)

    def test_half_closed(self) -> None:
        """After the end of our side nothing is sent any more; what was written before it is."""
        self.transport.write_promptly(LARGE)
        self.transport.loseWriteConnection()
        self.assertEqual(self.read(len(LARGE)), LARGE)
        self.reactor.turn()
        self.assertEqual(self.ends.half_lost, 1)
        self.transport.write_promptly(b"never")
        self.assertEqual(self.client.recv(100), b"")
        self.assertIsNone(self.ends.lost)

    def test_aborted(self) -> None:
        """Of an aborted connection nothing leaves any more."""
        self.transport.abortConnection()
        self.transport.write_promptly(b"never")
        self.assertEqual(self.at_once(), b"")
        self.reactor.advance(0)
        self.assertIsNotNone(self.ends.lost)


class UNIXTests(PromptTests):
    """The same through a UNIX socket."""

    def make(self, ours: socket.socket) -> Any:
        return PromptUNIXServer(ours, self.ends, None, None, 0, self.reactor)


class PortTests(SynchronousTestCase):
    """`make_prompt`."""

    def test_ports(self) -> None:
        """Twisted's own listening ports accept such connections from now on; others stay as they are."""
        reactor: Any = MemoryReactor()
        ports: list[Any] = [tcp.Port(0, Factory(), reactor=reactor), unix.Port("name", Factory(), reactor=reactor)]
        other = object()
        make_prompt([*ports, other])
        self.assertEqual([each.transport for each in ports], [PromptServer, PromptUNIXServer])
        make_prompt(ports)
        self.assertEqual([each.transport for each in ports], [PromptServer, PromptUNIXServer])


class WriterTests(PromptCase):
    """`prompt_writer`."""

    def test_ours(self) -> None:
        """A connection of ours, and one that only had its client's address read before it, are written to at once."""
        self.assertEqual(prompt_writer(self.transport), self.transport.write_promptly)
        wrapped = HAProxyProtocolWrapper(HAProxyWrappingFactory(Factory()), Protocol())
        wrapped.makeConnection(self.transport)
        self.assertEqual(prompt_writer(wrapped), self.transport.write_promptly)

    def test_wrapped(self) -> None:
        """What changes what is written is not passed by, though it gives out what is beneath it for its own."""
        for wrapper in (TLSMemoryBIOProtocol, ProtocolWrapper):
            wrapped = wrapper(WrappingFactory(Factory()), Protocol())
            wrapped.transport = self.transport
            self.assertTrue(hasattr(wrapped, "write_promptly"))
            self.assertEqual(prompt_writer(wrapped), wrapped.write)
        plain = StringTransport()
        self.assertEqual(prompt_writer(plain), plain.write)
