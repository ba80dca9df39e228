"""What ``twistd claudeproxy`` runs."""

import gc
import os
from pathlib import Path

from twisted.application.service import IService, MultiService

from claudeproxy.backends.gguf import UnusableModel
from claudeproxy.backends.tokenizer import BadTokenizer
from claudeproxy.routing.sources import SettingsError
from claudeproxy.service.observers import Logs
from claudeproxy.service.options import Options
from claudeproxy.service.proxy import CannotListen, Proxy
from claudeproxy.service.reading import Reader, Unreadable
from claudeproxy.service.reload import ReloadOnHangup
from claudeproxy.service.workshop import check_embedded, check_tokenizers

__all__ = ["Daemon", "Options", "makeService"]


class Daemon(MultiService):
    """The proxy, and its reload on SIGHUP. ``in_front`` of a terminal, a taken port ends it with one plain line."""

    def __init__(self, in_front: bool) -> None:
        super().__init__()
        self._in_front = in_front

    def privilegedStartService(self) -> None:
        try:
            super().privilegedStartService()
        except CannotListen as fault:
            if self._in_front:
                raise SystemExit(f"claudeproxy: {fault}") from None
            raise  # twistd passes it on to the terminal that it came from

    def startService(self) -> None:
        super().startService()
        # What was made until now stays for good: to look for garbage in it takes 50 ms, in which all streams stand.
        gc.freeze()


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
    logs = Logs()
    proxy = Proxy(settled.settings, reactor, logs=logs)
    daemon = Daemon(in_front=bool(options.parent and options.parent["nodaemon"]))
    proxy.setServiceParent(daemon)
    ReloadOnHangup(proxy, reader, settled, reactor, logs.logger("reload")).setServiceParent(daemon)
    return daemon
