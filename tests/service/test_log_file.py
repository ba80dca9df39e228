"""The log file of the daemon: whose it is, and how it rotates (issue 6, "Logs"; STYLE P31)."""

import io
import os
import signal
import stat
import sys
import tempfile
from pathlib import Path
from typing import Any

from twisted.application.app import AppLogger
from twisted.application.service import Application
from twisted.application.twist._options import TwistOptions
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import ILogObserver, Logger
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.routing.settings import Settings
from claudeproxy.service.log_file import LogFile, sheet_of
from claudeproxy.service.options import Options
from claudeproxy.service.proxy import Proxy
from claudeproxy.service.scribe import Scribe
from claudeproxy.service.systemd import Systemd
from claudeproxy.service.tree import Daemon, makeService


class LogFileTests(SynchronousTestCase):
    """`LogFile`."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "own.log"

    def opened(self) -> LogFile:
        file = LogFile.fromFullPath(str(self.path))
        self.addCleanup(lambda: file._file.close())
        return file

    def mode(self, path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    def moved(self, number: int = 1) -> Path:
        return self.path.with_name(f"own.log.{number}")

    def test_mode(self) -> None:
        """A new file is its owner's alone, whatever the umask."""
        for mask in (0o000, 0o022, 0o077, 0o277):
            before = os.umask(mask)
            try:
                file = self.opened()
            finally:
                os.umask(before)
            self.assertEqual(self.mode(self.path), 0o600, oct(mask))
            file.rotate()
            self.assertEqual(self.mode(self.path), 0o600, oct(mask))
            self.path.unlink()

    def test_mode_that_was_given(self) -> None:
        """A file that is there keeps its mode, and hands it on to its successors."""
        self.path.write_bytes(b"old\n")
        self.path.chmod(0o640)
        file = self.opened()
        file.write(b"more\n")
        file.rotate()
        self.assertEqual(self.moved().read_bytes(), b"old\nmore\n")
        self.assertEqual((self.mode(self.path), self.mode(self.moved())), (0o640, 0o640))

    def test_every_megabyte(self) -> None:
        """A new one begins after every megabyte, as twistd's does."""
        file = self.opened()
        for _ in range(21):
            file.write(b"x" * 99_999 + b"\n")
        sizes = [path.stat().st_size for path in (self.path, self.moved(1), self.moved(2))]
        self.assertEqual(sizes, [100_000, 1_000_000, 1_000_000])

    def test_moved_away(self) -> None:
        """If somebody has moved it, as logrotate does, telling it to rotate begins a new one and moves nothing."""
        file = self.opened()
        file.write(b"old\n")
        self.path.rename(self.moved(7))
        file.write(b"still old\n")
        file.rotate()
        file.write(b"new\n")
        self.assertEqual(self.moved(7).read_bytes(), b"old\nstill old\n")
        self.assertEqual(self.path.read_bytes(), b"new\n")
        self.assertFalse(self.moved(1).exists())
        self.path.rename(self.moved(8))
        self.path.write_bytes(b"")  # logrotate's `create`
        file.rotate()
        file.write(b"newer\n")
        self.assertEqual(self.path.read_bytes(), b"newer\n")

    def test_cut(self) -> None:
        """If somebody has cut it (copytruncate), it goes on from the beginning, and is as small as it looks."""
        file = self.opened()
        file.write(b"x" * 900_000)
        os.truncate(self.path, 0)
        file.write(b"y" * 200_000)
        file.write(b"z")
        self.assertEqual(self.path.read_bytes(), b"y" * 200_000 + b"z")
        self.assertFalse(self.moved().exists())

    def test_cannot_be_opened_again(self) -> None:
        """A rotation that cannot open the new file fails once; the next line tries again."""
        file = self.opened()
        file.write(b"old\n")
        open_file = file._openFile

        def fail() -> None:
            file._openFile = open_file  # type: ignore[method-assign]
            raise OSError("no more files")

        file._openFile = fail  # type: ignore[method-assign]
        self.assertRaises(OSError, file.rotate)
        file.write(b"new\n")
        self.assertEqual((self.moved().read_bytes(), self.path.read_bytes()), (b"old\n", b"new\n"))

    def test_no_file(self) -> None:
        """What is no file is written to, and never rotated."""
        file = LogFile.fromFullPath("/dev/null")
        self.addCleanup(lambda: file._file.close())
        for _ in range(12):
            self.assertEqual(file.write(b"x" * 100_000), 100_000)
        file.rotate()
        self.assertEqual(file.write(b"x"), 1)

    def test_full(self) -> None:
        """What does not fit is an OSError."""
        file = LogFile.fromFullPath("/dev/full")
        self.addCleanup(lambda: file._file.close())
        self.assertRaises(OSError, file.write, b"x")


class OptionsTests(SynchronousTestCase):
    """`sheet_of`: what twistd's options mean."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name).resolve()
        before = Path.cwd()
        os.chdir(self.folder)
        self.addCleanup(os.chdir, before)
        self.addCleanup(signal.signal, signal.SIGUSR1, signal.getsignal(signal.SIGUSR1))
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)

    def sheet(self, **options: Any) -> Any:
        sheet = sheet_of({"logfile": None, "nodaemon": 0, "syslog": 0, "logger": None, **options})
        if isinstance(sheet, LogFile):
            self.addCleanup(lambda: sheet._file.close())
        return sheet

    def test_file(self) -> None:
        """A file that is named, in front and in the background; in the background without a name twistd.log."""
        for options, name in (
            ({"logfile": "own.log"}, "own.log"),
            ({"logfile": "own.log", "nodaemon": 1}, "own.log"),
            ({"logfile": str(self.folder / "far.log")}, "far.log"),
            ({}, "twistd.log"),
        ):
            self.assertEqual(self.sheet(**options).path, str(self.folder / name))

    def test_in_front(self) -> None:
        """In front without a name, and for -, it is standard output without a buffer."""
        raw = io.BytesIO()
        terminal = io.TextIOWrapper(io.BufferedWriter(raw))  # type: ignore[arg-type,type-var]
        self.patch(sys, "stdout", terminal)
        for options in ({"nodaemon": 1}, {"nodaemon": 1, "logfile": "-"}, {"debug": 1}):
            self.assertIs(self.sheet(**options), raw)
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_closed(self) -> None:
        """Where there is no standard output, the log goes nowhere."""
        self.patch(sys, "stdout", None)
        sheet = self.sheet(nodaemon=1)
        self.addCleanup(sheet.close)
        self.assertEqual(sheet.write(b"line"), 4)

    def test_others(self) -> None:
        """Where the options name another kind of log, or what twistd refuses, it is twistd's affair."""
        for options in ({"logger": object()}, {"syslog": 1}, {"logfile": "-"}):
            self.assertIsNone(self.sheet(**options))
        self.assertEqual(list(self.folder.iterdir()), [])
        self.assertEqual(signal.getsignal(signal.SIGUSR1), signal.SIG_DFL)

    def test_signal(self) -> None:
        """SIGUSR1 rotates, unless somebody else has the signal."""
        self.sheet(logfile="own.log")
        self.assertTrue(callable(signal.getsignal(signal.SIGUSR1)))
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        self.sheet(logfile="own.log")
        self.assertEqual(signal.getsignal(signal.SIGUSR1), signal.SIG_IGN)

    def test_privileges(self) -> None:
        """A file that root opens for a daemon of another user is that user's."""
        given: list[tuple[int, int]] = []
        self.patch(os, "fchown", lambda descriptor, uid, gid: given.append((uid, gid)))
        self.patch(os, "geteuid", lambda: 0)
        self.sheet(logfile="a.log")
        self.sheet(logfile="b.log", uid=65534, gid=None)
        self.sheet(logfile="c.log", uid=65534, gid=7)
        self.assertEqual(given, [(65534, -1), (65534, 7)])

    def test_cannot_be_opened(self) -> None:
        """A file that cannot be opened is an OSError that names it."""
        fault = self.assertRaises(OSError, self.sheet, logfile="nowhere/own.log")
        self.assertEqual(fault.filename, str(self.folder / "nowhere/own.log"))


class RunnerTests(SynchronousTestCase):
    """Who runs the daemon."""

    def test_twist(self) -> None:
        """`twist` has options of its own, and writes its log itself."""
        self.patch(os, "environ", {"PROVIDER": "openai", "PROVIDER_BASE_URL": "http://127.0.0.1:1/v1"})
        options = Options()
        options.parent = TwistOptions()
        daemon = makeService(options)
        assert isinstance(daemon, Daemon)
        application = Application("claudeproxy")
        daemon.setServiceParent(application)
        self.assertIsNone(application.getComponent(ILogObserver, None))


class ApplicationTests(SynchronousTestCase):
    """The daemon as a part of twistd's application."""

    def daemon(self, scribe: Scribe | None) -> Daemon:
        reactor: Any = MemoryReactorClock()
        return Daemon(Proxy(Settings(), reactor), Systemd({}, reactor, Logger(), 1), False, scribe)

    def test_observer(self) -> None:
        """twistd takes our observer for its own."""
        scribe = Scribe(io.BytesIO())
        application = Application("claudeproxy")
        self.daemon(scribe).setServiceParent(application)
        self.assertIs(application.getComponent(ILogObserver), scribe)
        logger = AppLogger({})
        self.patch(AppLogger, "_initialLog", lambda self: None)
        began: list[Any] = []
        self.patch(sys.modules["twisted.application.app"].logger.globalLogBeginner, "beginLoggingTo", began.append)
        logger.start(application)
        self.assertEqual(began, [[scribe]])

    def test_without(self) -> None:
        """Without one, and in a service of somebody else, nothing is set."""
        application = Application("claudeproxy")
        self.daemon(None).setServiceParent(application)
        self.assertIsNone(application.getComponent(ILogObserver, None))
