"""What systemd is told of the daemon's state: one datagram each (sd_notify(3)). Elsewhere nobody is told anything."""

import socket
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

from attrs import field
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from claudeproxy.model.kinds import define

#: What a daemon that stops may take beside draining, in seconds.
_MARGIN = 10.0


@define(eq=False)
class Systemd:
    """The service manager, if one wants to know. ``environ`` is the daemon's own environment, ``pid`` its process."""

    _environ: Mapping[str, str]
    _reactor: Any
    _log: Logger
    _pid: int
    _monotonic: Callable[[], float] = monotonic
    _watchdog: LoopingCall | None = field(default=None, init=False)

    def ready(self, status: str) -> None:
        """It serves; also after a reload. ``status`` is for `systemctl status`."""
        self._tell("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """It reads its settings anew; `ready` ends that."""
        microseconds = int(self._monotonic() * 1e6)
        self._tell("RELOADING=1", f"MONOTONIC_USEC={microseconds}", "STATUS=Reads its settings.")

    def stopping(self, drain: float) -> None:
        """It ends, which may take ``drain`` seconds and a little more."""
        longest = int((drain + _MARGIN) * 1e6)
        self._tell("STOPPING=1", f"EXTEND_TIMEOUT_USEC={longest}", "STATUS=Finishes the running answers.")

    def begin_watchdog(self) -> None:
        """From now on it tells that it lives, twice in the time that systemd was set to wait for that, if it was."""
        given = self._environ.get("WATCHDOG_USEC", "")
        meant = self._environ.get("WATCHDOG_PID", str(self._pid)) == str(self._pid)
        if given.isdigit() and int(given) and meant and self._watchdog is None:
            self._watchdog = LoopingCall(self._tell, "WATCHDOG=1")
            self._watchdog.clock = self._reactor
            self._watchdog.start(int(given) / 2e6)

    def end_watchdog(self) -> None:
        """It tells that no more."""
        if self._watchdog is not None:
            self._watchdog.stop()
            self._watchdog = None

    def _tell(self, *words: str) -> None:
        place = self._environ.get("NOTIFY_SOCKET", "")
        if not place.startswith(("/", "@")):
            return
        name = "\0" + place[1:] if place.startswith("@") else place
        message = "\n".join(word.replace("\n", " ") for word in words).encode()
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as messenger:
                messenger.setblocking(False)
                messenger.sendto(message, name)
        except OSError as fault:  # whoever it was has gone, or is too busy; the daemon's own work is not its affair
            self._log.warn("systemd cannot be told {words}: {reason}", words=words[0], reason=fault.strerror)
