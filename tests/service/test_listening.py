"""Doors that are opened in one process, on files of its own; `tests.e2e.test_listening` has those of real daemons."""

import os
import socket
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.routing.addresses import Address
from claudeproxy.service.listening import CannotListen, Listening


class Greeting(Protocol):
    """Greets all who are let in."""

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.getHandle().send(b"Come in")  # now: this reactor never turns


class UnixTests(SynchronousTestCase):
    """What lies where a unix socket is to be."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "s.sock"
        self.lock = Path(f"{self.path}.lock")

    def listen(self) -> None:
        """Opens the door and closes it. Who came in between is let in, though the reactor had not looked yet, and it is
        closed at once: whoever came after the last one that is let in would have a connection, and lose it."""
        written = f"unix:{self.path}"
        reactor: Any = MemoryReactorClock()
        listening = Listening.at("listen", [written], [Address.read(written)], reactor, Logger())
        factory: Any = Factory.forProtocol(Greeting)
        factory.noisy = False
        listening.listen(factory, "LISTEN")
        with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
            first.settimeout(5)
            first.connect(str(self.path))
            self.successResultOf(Deferred.fromCoroutine(listening.close()))
            self.assertEqual(first.recv(9), b"Come in")
            self.assertRaises(FileNotFoundError, second.connect, str(self.path))

    def test_left_over(self) -> None:
        """The socket of a daemon that was killed is replaced, also if another process has that one's number: in a
        container this is most often our own."""
        for number in (os.getpid(), os.getppid()):
            left = socket.socket(socket.AF_UNIX)
            left.bind(str(self.path))
            left.close()
            self.lock.symlink_to(str(number))
            self.listen()
            self.assertFalse(self.path.exists())

    def test_taken(self) -> None:
        """One that somebody listens at stays, and so does a file that is no socket."""
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(self.path))
            other.listen()
            self.lock.symlink_to(str(os.getppid()))
            self.assertRaises(CannotListen, self.listen)
            self.assertTrue(self.lock.is_symlink())
        self.path.unlink()
        self.lock.unlink()
        self.path.write_text("mine")
        self.assertRaises(CannotListen, self.listen)
        self.assertEqual(self.path.read_text(), "mine")
