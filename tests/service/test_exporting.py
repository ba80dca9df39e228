"""Where traces go, and that a daemon that stops does not wait for ever until they are gone."""

import logging
import os
from threading import Event
from typing import Any
from unittest import mock

from opentelemetry.sdk.trace import SpanProcessor
from twisted.internet.defer import Deferred
from twisted.logger import LogEvent, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.routing.findings import SettingsError
from claudeproxy.routing.settings import Settings
from claudeproxy.service.exporting import FLUSH, Exporting, _resource
from claudeproxy.service.observers import Logs
from claudeproxy.service.trace_parts import check_tracing
from claudeproxy.web.tracing import Tracing
from tests.fakes.network import Network


class Slow(SpanProcessor):
    """Takes its time to shut down."""

    def __init__(self) -> None:
        self.may_end, self.has_ended = Event(), Event()

    def shutdown(self) -> None:
        self.may_end.wait(30)
        self.has_ended.set()


class ExportingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.network = Network()
        self.slow = Slow()
        self.addCleanup(self.slow.may_end.set)
        self.events: list[LogEvent] = []
        observer: Any = self.events.append
        log = Logs(observer).logger("tracing")
        self.exporting = Exporting(Tracing(), self.network, log, lambda: self.slow)
        self.exporting.start()

    def stop(self) -> "Deferred[None]":
        return Deferred.fromCoroutine(self.exporting.stop())

    def test_flushed(self) -> None:
        """Stopping waits until the last traces are sent, and can be followed by a start."""
        stopping = self.stop()
        self.network.pass_time(FLUSH / 2)
        self.assertNoResult(stopping)
        self.slow.may_end.set()
        while not stopping.called:  # the thread tells the reactor
            self.network.pump()
        self.successResultOf(stopping)
        self.assertEqual(self.events, [])
        self.assertEqual(self.network.getDelayedCalls(), [])
        self.exporting.start()
        self.assertIsNotNone(self.exporting.tracing.tracer)
        self.successResultOf(self.stop_at_once())

    def stop_at_once(self) -> "Deferred[None]":
        stopping = self.stop()
        while not stopping.called:
            self.network.pump()
        return stopping

    def test_collector_hangs(self) -> None:
        """A collector that hangs is not waited for."""
        stopping = self.stop()
        self.network.pass_time(FLUSH)
        self.successResultOf(stopping)
        self.assertIn("could not be sent", formatEvent(self.events[0]))
        self.assertIsNone(self.exporting.tracing.tracer)
        self.slow.may_end.set()
        self.slow.has_ended.wait(10)
        self.network.pump()  # a late word from the thread is no fault

    def test_complaints(self) -> None:
        """What OpenTelemetry complains of is in our log, from whichever thread, as long as it runs."""
        source = logging.getLogger("opentelemetry.exporter")
        source.warning("collector %s is away", "x")
        self.assertEqual(self.events, [])  # it may come from another thread
        self.network.pump()
        self.assertIn("collector x is away", formatEvent(self.events[0]))
        self.slow.may_end.set()
        self.successResultOf(self.stop_at_once())
        with self.assertLogs("opentelemetry.exporter"):
            source.warning("later")
        self.network.pump()
        self.assertEqual(len(self.events), 1)

    def test_headers(self) -> None:
        """It repeats headers that are misspelt, and they hold the collector's key: that is left out of our log."""
        for name in ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"):
            for written in ("x-team=a, Authorization: Bearer canary-91bd", "authorization=Bearer%20canary-91bd"):
                with mock.patch.dict(os.environ, {name: written}):
                    logging.getLogger("opentelemetry.util").warning("bad: %s", written.partition(", ")[2] or written)
                    logging.getLogger("opentelemetry.util").warning("it answers: no such token canary-91bd")
        self.network.pump()
        lines = [formatEvent(event) for event in self.events]
        self.assertEqual(len([line for line in lines if "bad: <secret>" in line]), 4)
        self.assertNotIn("canary", "".join(lines))
        self.slow.may_end.set()
        self.successResultOf(self.stop_at_once())

    def test_sizes(self) -> None:
        """Sizes that OpenTelemetry would stumble over, when everything is open already, are refused before."""
        for variables, words in (
            ({"OTEL_BSP_MAX_QUEUE_SIZE": "-1"}, "OTEL_BSP_MAX_QUEUE_SIZE: expected a number above 0, found -1"),
            ({"OTEL_BSP_SCHEDULE_DELAY": "0"}, "OTEL_BSP_SCHEDULE_DELAY"),
            ({"OTEL_BSP_MAX_QUEUE_SIZE": "100"}, "expected no more than OTEL_BSP_MAX_QUEUE_SIZE (100), found 512"),
        ):
            with mock.patch.dict(os.environ, variables):
                fault = self.assertRaises(SettingsError, check_tracing, Settings(tracing=True))
                self.assertIn(words, str(fault))
                check_tracing(Settings())
        with mock.patch.dict(os.environ, {"OTEL_BSP_MAX_QUEUE_SIZE": "many"}):
            check_tracing(Settings(tracing=True))

    def test_named(self) -> None:
        """The service is called claudeproxy, or as the environment says."""
        for variables, name in (
            ({}, "claudeproxy"),
            ({"OTEL_SERVICE_NAME": "mine"}, "mine"),
            ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=theirs"}, "theirs"),
        ):
            with mock.patch.dict(os.environ, variables):
                self.assertEqual(_resource().attributes["service.name"], name)
