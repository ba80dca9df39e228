"""Where log lines go, which of them, and in which form."""

from typing import Any

from twisted.logger import (
    FilteringLogObserver,
    ILogObserver,
    Logger,
    LogLevel,
    LogLevelFilterPredicate,
    globalLogPublisher,
)

from claudeproxy.service.scribe import Scribe

NAMESPACE = "claudeproxy"


class Logs:
    """Makes the loggers of one proxy. Their level is its own: a program that embeds it keeps the say over the rest.

    ``scribe`` writes the log of the whole process, where that is ours to write.
    """

    def __init__(self, observer: ILogObserver = globalLogPublisher, scribe: Scribe | None = None) -> None:
        self._predicate = LogLevelFilterPredicate()
        self._observer: Any = FilteringLogObserver(observer, [self._predicate])
        self._scribe = scribe

    def set_level(self, name: str) -> None:
        """The least important lines that are still written: debug, info, warn or error."""
        self._predicate.setLogLevelForNamespace(NAMESPACE, LogLevel.levelWithName(name))

    def set_form(self, name: str) -> None:
        """How lines are written, if they are ours to write: text or json."""
        if self._scribe is not None:
            self._scribe.form = name

    @property
    def lost(self) -> int:
        """The lines that could not be written."""
        return 0 if self._scribe is None else self._scribe.lost

    def logger(self, part: str) -> Logger:
        """The logger of one part of the proxy."""
        return Logger(namespace=f"{NAMESPACE}.{part}", observer=self._observer)
