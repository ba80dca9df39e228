"""Where log lines go, and which of them."""

from typing import Any

from twisted.logger import (
    FilteringLogObserver,
    ILogObserver,
    Logger,
    LogLevel,
    LogLevelFilterPredicate,
    globalLogPublisher,
)

NAMESPACE = "claudeproxy"


class Logs:
    """Makes the loggers of one proxy. Their level is its own: a program that embeds it keeps the say over the rest."""

    def __init__(self, observer: ILogObserver = globalLogPublisher) -> None:
        self._predicate = LogLevelFilterPredicate()
        self._observer: Any = FilteringLogObserver(observer, [self._predicate])

    def set_level(self, name: str) -> None:
        """The least important lines that are still written: debug, info, warn or error."""
        self._predicate.setLogLevelForNamespace(NAMESPACE, LogLevel.levelWithName(name))

    def logger(self, part: str) -> Logger:
        """The logger of one part of the proxy."""
        return Logger(namespace=f"{NAMESPACE}.{part}", observer=self._observer)
