"""What systemd is told, over a real datagram socket (issue 6)."""

import socket
import tempfile
from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.service.observers import Logs
from claudeproxy.service.systemd import Systemd


class SystemdTests(SynchronousTestCase):
    """`Systemd`."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = str(Path(folder.name) / "notify")
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.listener.close)
        self.listener.bind(self.path)
        self.listener.setblocking(False)
        self.clock = Clock()
        self.events: list[object] = []

    def systemd(self, place: str | None = None, **environ: str) -> Systemd:
        log = Logs(self.events.append).logger("systemd")  # type: ignore[arg-type]
        given = {"NOTIFY_SOCKET": self.path if place is None else place, **environ}
        return Systemd(given, self.clock, log, 42, lambda: 12.5)

    def heard(self) -> list[str]:
        messages = []
        while True:
            try:
                messages.append(self.listener.recv(4096).decode())
            except BlockingIOError:
                return messages

    def test_states(self) -> None:
        """Serving, reloading and stopping are told, each with a line for people."""
        systemd = self.systemd()
        systemd.ready("Serves.")
        systemd.reloading()
        systemd.stopping(30.0)
        ready, reloading, stopping = self.heard()
        self.assertEqual(ready, "READY=1\nSTATUS=Serves.")
        self.assertTrue(reloading.startswith("RELOADING=1\nMONOTONIC_USEC=12500000\nSTATUS="), reloading)
        self.assertTrue(stopping.startswith("STOPPING=1\nEXTEND_TIMEOUT_USEC=40000000\nSTATUS="), stopping)

    def test_one_line(self) -> None:
        """What is said to people cannot say anything to systemd."""
        self.systemd().ready("a\nSTOPPING=1")
        self.assertEqual(self.heard(), ["READY=1\nSTATUS=a STOPPING=1"])

    def test_abstract(self) -> None:
        """The socket may be one without a file."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.bind(f"\0{self.path}")
            self.systemd("@" + self.path).ready("x")
            self.assertTrue(other.recv(100).startswith(b"READY=1"))

    def test_nobody(self) -> None:
        """Without systemd nobody is told anything; one that is gone does no harm, and the log says so."""
        self.systemd("").ready("x")
        self.assertEqual(self.events, [])
        self.listener.close()
        self.systemd().ready("x")
        self.assertEqual(len(self.events), 1)

    def test_watchdog(self) -> None:
        """A sign of life is given twice in the time that systemd waits for it, from the beginning to the end."""
        systemd = self.systemd(WATCHDOG_USEC="20000000", WATCHDOG_PID="42")
        systemd.begin_watchdog()
        self.clock.pump([9.9, 0.2, 9.9, 0.2])
        self.assertEqual(self.heard(), ["WATCHDOG=1"] * 3)
        systemd.end_watchdog()
        self.clock.pump([10, 10])
        self.assertEqual(self.heard(), [])

    def test_no_watchdog(self) -> None:
        """None is given if systemd does not wait for one, or waits for another process's."""
        for environ in ({}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "5000000", "WATCHDOG_PID": "7"}):
            self.systemd(**environ).begin_watchdog()
        self.clock.advance(100)
        self.assertEqual(self.heard(), [])
