"""What ``twistd claudeproxy`` runs."""

import os
from pathlib import Path
from typing import Any

from twisted.application.service import IService, MultiService
from twisted.logger import ILogObserver

from claudeproxy.backends.gguf import UnusableModel
from claudeproxy.backends.tokenizer import BadTokenizer
from claudeproxy.routing.sources import SettingsError
from claudeproxy.service.log_file import sheet_of
from claudeproxy.service.observers import Logs
from claudeproxy.service.options import Options
from claudeproxy.service.proxy import CannotListen, Proxy
from claudeproxy.service.reading import Reader, Unreadable
from claudeproxy.service.reload import ReloadOnHangup
from claudeproxy.service.scribe import Scribe
from claudeproxy.service.workshop import check_embedded, check_tokenizers

__all__ = ["Daemon", "Options", "makeService"]


class Daemon(MultiService):
    """The proxy, and its reload on SIGHUP. ``in_front`` of a terminal, a taken port ends it with one plain line.

    As a part of twistd's application it brings the observer of the log along, ``scribe``, if there is one.
    """

    def __init__(self, in_front: bool, scribe: Scribe | None = None) -> None:
        super().__init__()
        self._in_front = in_front
        self._scribe = scribe

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


def makeService(options: Options) -> IService:
    """What twistd calls. Whatever is wrong with the settings is said here, before anything listens."""
    from twisted.internet import reactor

    folder = Path.cwd()
    config = None if options["config"] is None else folder / options["config"]
    reader = Reader(config, folder, dict(os.environ), options.given())
    try:
        settled = reader.read()
        check_embedded(settled.settings)
        check_tokenizers(settled.settings)
    except (SettingsError, Unreadable, UnusableModel, BadTokenizer) as fault:
        raise SystemExit(f"claudeproxy: {fault}") from None
    scribe = _scribe(options.parent)
    logs = Logs(scribe=scribe)
    proxy = Proxy(settled.settings, reactor, logs=logs)
    daemon = Daemon(bool(options.parent and options.parent.get("nodaemon")), scribe)
    proxy.setServiceParent(daemon)
    ReloadOnHangup(proxy, reader, settled, reactor, logs.logger("reload")).setServiceParent(daemon)
    return daemon


def _scribe(twistd_options: Any) -> Scribe | None:
    """Who writes the log: nobody of ours under `twist`, or where twistd was told of another log."""
    if twistd_options is None or "logfile" not in twistd_options:
        return None
    try:
        sheet = sheet_of(twistd_options)
    except OSError as fault:
        raise SystemExit(f"claudeproxy: the log file cannot be opened: {fault.filename}: {fault.strerror}") from None
    return None if sheet is None else Scribe(sheet)
