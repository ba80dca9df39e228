"""The file or terminal that twistd's options name for the log, as twistd itself would take it."""

import os
import signal
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from threading import RLock
from types import FrameType
from typing import Any, cast

from twisted.python.logfile import LogFile as TwistedLogFile

from claudeproxy.service.scribe import Sheet

#: For new files, whatever the umask is (STYLE P31); one that is there keeps its own.
MODE = 0o600


class LogFile(TwistedLogFile):
    """twistd's log file: a new one after every megabyte, and when it is told to.

    Beside that it bears what others do to it: it may be cut (logrotate's ``copytruncate``), or moved away before it is
    told to rotate; and a new one that cannot be opened is tried again with the next line.
    """

    _file: Any

    def __init__(self, name: str, directory: str) -> None:
        self._lock = RLock()
        super().__init__(name, directory)

    def write(self, data: bytes) -> int | None:
        """How much of it is written. Raises `OSError`."""
        with self._lock:
            if self._file.closed:
                self._openFile()
            if self.shouldRotate():
                self.rotate()
            written = cast("int | None", self._file.write(data))
            self.size += written or 0
            return written

    def shouldRotate(self) -> bool:
        if self.size < self.rotateLength:
            return False
        found = os.fstat(self._file.fileno())  # somebody may have cut it since
        self.size = found.st_size if stat.S_ISREG(found.st_mode) else 0
        return bool(self.size >= self.rotateLength)

    def rotate(self) -> None:
        """Begins a new file; the one so far is moved, unless somebody has done that."""
        with self._lock:
            if self._is_moved():
                old = self._file
                self._openFile()
                old.close()
            elif stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
                super().rotate()

    def _openFile(self) -> None:
        is_new = not os.path.exists(self.path)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, MODE)
        if is_new:  # the umask may have taken more away; and a file that was there before may have had another mode
            os.fchmod(descriptor, MODE if self.defaultMode is None else self.defaultMode)
        self._file = os.fdopen(descriptor, "ab", 0)
        self.closed = False
        self.size = os.fstat(descriptor).st_size

    def _is_moved(self) -> bool:
        mine = os.fstat(self._file.fileno())
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            return True
        return (mine.st_dev, mine.st_ino) != (there.st_dev, there.st_ino)


def sheet_of(options: Mapping[str, Any]) -> Sheet | None:
    """Where twistd's own log would go; None where its options name another kind of log, and where it should refuse
    them itself. Raises `OSError` if a file cannot be opened."""
    if options.get("logger") or options.get("syslog"):
        return None
    name, in_front = options.get("logfile"), bool(options.get("nodaemon") or options.get("debug"))
    if name == "-" or (in_front and not name):
        return _terminal() if in_front else None
    file = LogFile.fromFullPath(str(Path(name or "twistd.log").absolute()))
    if os.geteuid() == 0 and options.get("uid") is not None:
        group = options.get("gid")
        os.fchown(file._file.fileno(), options["uid"], -1 if group is None else group)  # whose process rotates it
    _rotate_on_signal(file)
    return cast("Sheet", file)


def _terminal() -> Sheet:
    """Standard output without its buffer, which would keep what could not be written."""
    if sys.stdout is None:  # it was closed before we began
        return cast("Sheet", open(os.devnull, "wb", 0))
    sys.stdout.flush()
    return cast("Sheet", getattr(sys.stdout.buffer, "raw", sys.stdout.buffer))


def _rotate_on_signal(file: LogFile) -> None:
    if signal.getsignal(signal.SIGUSR1) in (None, signal.SIG_DFL):

        def rotate(number: int, frame: FrameType | None) -> None:
            from twisted.internet import reactor

            cast("Any", reactor).callFromThread(file.rotate)

        signal.signal(signal.SIGUSR1, rotate)
