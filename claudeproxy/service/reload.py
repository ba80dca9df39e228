"""Reload on SIGHUP: the new settings are read and checked whole before anything changes."""

import signal
from types import FrameType
from typing import Any

from attrs import evolve, field
from twisted.application.service import Service
from twisted.logger import Logger

from claudeproxy.backends.unusable import BadTokenizer, UnusableModel
from claudeproxy.model.kinds import define
from claudeproxy.routing.declarations import only_restart
from claudeproxy.routing.settings import Settings
from claudeproxy.routing.sources import SettingsError, Settled, changes
from claudeproxy.service.certificates import BadCertificate
from claudeproxy.service.proxy import Proxy
from claudeproxy.service.reading import Reader, Unreadable
from claudeproxy.service.systemd import Systemd


@define(eq=False, slots=False, repr=False)  # signal.signal makes one of the whole proxy each time
class ReloadOnHangup(Service):
    """While it runs, SIGHUP makes it read the settings again. Bad ones are refused in the log, the old ones stay.

    While the daemon stops, SIGHUP does nothing: what the system does with it otherwise would end the running answers.
    `let_go` is for the end of that.
    """

    _proxy: Proxy
    _reader: Reader
    _settled: Settled
    _reactor: Any
    _log: Logger
    _systemd: Systemd
    _previous: Any = field(default=None, init=False)

    def startService(self) -> None:
        super().startService()
        self._previous = signal.signal(signal.SIGHUP, self._hung_up)

    def let_go(self) -> None:
        """The signal does again what it did before."""
        signal.signal(signal.SIGHUP, self._previous or signal.SIG_DFL)

    def reload(self) -> None:
        """Reads the settings anew and, if they are good, hands them to the proxy. Systemd is told of it."""
        self._systemd.reloading()
        status = "Serves; a reload failed, the log says why."
        try:
            settled = self._read()
            self._proxy.reload(settled.settings)
            status = "Serves; the settings were read again."
        except (SettingsError, Unreadable, UnusableModel, BadTokenizer, BadCertificate) as fault:
            for line in str(fault).splitlines():
                self._log.error("reload refused, the old settings stay: {line}", line=line)
            status = "Serves with the old settings: the new ones were refused, the log says why."
            return
        finally:
            self._systemd.ready(status)
        self._say_what_changed(settled)
        # What needs a restart is not in force, and must not be compared with the next time.
        in_force = {each: getattr(self._settled.settings, each) for each in only_restart(Settings)}
        self._settled = evolve(settled, settings=evolve(settled.settings, **in_force))

    def _read(self) -> Settled:
        try:
            return self._reader.read()
        except (SettingsError, Unreadable):
            self._proxy.reload_refused()
            raise

    def _say_what_changed(self, settled: Settled) -> None:
        changed = changes(self._settled, settled)
        effective = [name for name in changed.changed if name not in changed.restart]
        self._log.info("settings reloaded; changed: {names}", names=", ".join(effective) or "nothing")
        for name in changed.restart:
            self._log.warn("{name} changed, which needs a restart; the old value stays", name=name)
        for name, source in changed.ineffective.items():
            self._log.warn(
                "{name} of the settings file has no effect: it is pinned by the {source}", name=name, source=source
            )

    def _hung_up(self, number: int, frame: FrameType | None) -> None:
        # A signal may come anywhere in the code: the reactor runs the reload between two events.
        self._reactor.callFromThread(self._reload_unless_stopping)

    def _reload_unless_stopping(self) -> None:
        if self.running:
            self.reload()
        else:
            self._log.info("the settings are not read again, because the daemon stops")
