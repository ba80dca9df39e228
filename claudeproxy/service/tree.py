"""What ``twistd claudeproxy`` runs."""

import gc
import os
import resource
import signal
from pathlib import Path
from typing import Any, cast

from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import ILogObserver, Logger

from claudeproxy.backends.unusable import BadTokenizer, UnusableModel
from claudeproxy.routing.sources import SettingsError
from claudeproxy.service.listening import BadAddress, CannotListen
from claudeproxy.service.log_file import sheet_of
from claudeproxy.service.observers import Logs
from claudeproxy.service.options import Options
from claudeproxy.service.proxy import Proxy
from claudeproxy.service.reading import Reader, Unreadable
from claudeproxy.service.reload import ReloadOnHangup
from claudeproxy.service.scribe import Scribe
from claudeproxy.service.systemd import Systemd
from claudeproxy.service.workshop import check_files

__all__ = ["Daemon", "Options", "makeService"]


class Daemon(MultiService):
    """The proxy, and its reload on SIGHUP; systemd is told what becomes of it. ``in_front`` of a terminal, a taken port
    ends it with one plain line. Who tells it twice to stop is in a hurry.

    As a part of twistd's application it brings the observer of the log along, ``scribe``, if there is one.
    """

    def __init__(
        self,
        proxy: Proxy,
        systemd: Systemd,
        in_front: bool,
        scribe: Scribe | None = None,
        on_hangup: ReloadOnHangup | None = None,
    ) -> None:
        super().__init__()
        self._proxy = proxy
        self._systemd = systemd
        self._on_hangup = on_hangup
        self._in_front = in_front
        self._scribe = scribe
        self._handlers: dict[int, Any] = {}
        proxy.setServiceParent(self)
        if on_hangup is not None:
            on_hangup.setServiceParent(self)

    def setServiceParent(self, parent: Any) -> None:
        super().setServiceParent(parent)
        if self._scribe is not None and hasattr(parent, "setComponent"):
            parent.setComponent(ILogObserver, self._scribe)  # twistd looks there before it makes one itself

    def privilegedStartService(self) -> None:
        try:
            super().privilegedStartService()
        except CannotListen as fault:
            if self._in_front:
                raise SystemExit(f"claudeproxy: {fault}") from None
            raise  # twistd passes it on to the terminal that it came from

    def startService(self) -> None:
        super().startService()
        self._systemd.ready(f"Serves on {', '.join(self._proxy.urls)}.")
        self._systemd.begin_watchdog()
        # What was made until now stays for good: to look for garbage in it takes 50 ms, in which all streams stand.
        gc.freeze()

    def stopService(self) -> Deferred[Any]:
        from twisted.internet import reactor

        self._systemd.stopping(self._proxy.longest_drain)
        # Twisted has no answer to a second signal but a traceback.
        for number in (signal.SIGINT, signal.SIGTERM):
            self._handlers[number] = signal.signal(
                number, lambda *_: cast(IReactorFromThreads, reactor).callFromThread(self._proxy.hurry)
            )
        stopping: Deferred[Any] = super().stopService()
        return stopping.addBoth(self._ended)

    def _ended(self, result: Any) -> Any:
        self._systemd.end_watchdog()
        while self._handlers:
            number, handler = self._handlers.popitem()
            signal.signal(number, handler or signal.SIG_DFL)
        if self._on_hangup is not None:
            self._on_hangup.let_go()  # not before: a signal that comes while it drains must not end it
        return result


def raise_descriptor_limit(log: Logger) -> None:
    """Lets this process open as many files and connections as the system allows it to at all: every client and every
    backend's answer is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):  # some systems say "infinite" and mean another number
        hard = soft
    log.debug("at most {hard} files and connections; it was {soft}", hard=hard, soft=soft)


def makeService(options: Options) -> IService:
    """What twistd calls. Whatever is wrong with the settings is said here, before anything listens."""
    from twisted.internet import reactor

    folder = Path.cwd()
    config = None if options["config"] is None else folder / options["config"]
    reader = Reader(config, folder, dict(os.environ), options.given())
    try:
        settled = reader.read()
        check_files(settled.settings)
        scribe = _scribe(options.parent)
        logs = Logs(scribe=scribe)
        proxy = Proxy(settled.settings, reactor, logs=logs)
    except (SettingsError, Unreadable, UnusableModel, BadTokenizer, BadAddress) as fault:
        raise SystemExit(f"claudeproxy: {fault}") from None
    raise_descriptor_limit(logs.logger("service"))
    systemd = Systemd(dict(os.environ), reactor, logs.logger("systemd"), os.getpid())
    on_hangup = ReloadOnHangup(proxy, reader, settled, reactor, logs.logger("reload"), systemd)
    in_front = bool(options.parent and options.parent.get("nodaemon"))
    return Daemon(proxy, systemd, in_front, scribe, on_hangup)


def _scribe(twistd_options: Any) -> Scribe | None:
    """Who writes the log: nobody of ours under `twist`, or where twistd was told of another log."""
    if twistd_options is None or "logfile" not in twistd_options:
        return None
    try:
        sheet = sheet_of(twistd_options)
    except OSError as fault:
        raise SystemExit(f"claudeproxy: the log file cannot be opened: {fault.filename}: {fault.strerror}") from None
    return None if sheet is None else Scribe(sheet)
