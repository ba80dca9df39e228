"""Which log lines are written (issue 2, item 2)."""

from twisted.logger import LogEvent, Logger
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.service.observers import Logs

LEVELS = ("debug", "info", "warn", "error")


class LogsTests(SynchronousTestCase):
    """`Logs`."""

    def setUp(self) -> None:
        self.events: list[LogEvent] = []
        self.logs = Logs(self.events.append)  # type: ignore[arg-type]

    def written(self, logger: Logger) -> list[str]:
        self.events.clear()
        for level in LEVELS:
            getattr(logger, level)("a line")
        logger.critical("a line")
        return [event["log_level"].name for event in self.events]

    def test_levels(self) -> None:
        """The level says which lines are the least important that are still written, for every part."""
        for number, level in enumerate(LEVELS):
            self.logs.set_level(level)
            for part in ("web", "backends", "requests"):
                self.assertEqual(self.written(self.logs.logger(part)), [*LEVELS[number:], "critical"])

    def test_at_any_time(self) -> None:
        """A reload changes it for the loggers that are there already."""
        logger = self.logs.logger("web")
        self.logs.set_level("error")
        self.assertEqual(self.written(logger), ["error", "critical"])
        self.logs.set_level("debug")
        self.assertEqual(len(self.written(logger)), 5)

    def test_two_proxies(self) -> None:
        """Two proxies in one program have each their own."""
        others: list[LogEvent] = []
        other = Logs(others.append)  # type: ignore[arg-type]
        self.logs.set_level("error")
        other.set_level("debug")
        self.assertEqual(self.written(self.logs.logger("web")), ["error", "critical"])
        other.logger("web").debug("a line")
        self.assertEqual(len(others), 1)

    def test_named(self) -> None:
        """Every line says whose it is."""
        self.logs.set_level("debug")
        self.logs.logger("web").info("a line")
        self.assertEqual(self.events[0]["log_namespace"], "claudeproxy.web")
