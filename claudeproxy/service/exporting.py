"""Where traces go: OTLP over HTTP, from a thread of its own, as the standard ``OTEL_…`` variables say.

Loaded only when the setting `tracing` is on.
"""

import logging
import os
import re
from collections.abc import Callable, Iterator
from threading import Thread
from typing import Any
from urllib.parse import unquote

from attrs import field
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger, LogLevel

from claudeproxy.model.kinds import define
from claudeproxy.web.tracing import Tracing

#: How long a daemon that stops waits for its last traces to leave, in seconds.
FLUSH = 5.0
_HEADERS = re.compile("OTEL_EXPORTER_OTLP_([A-Z]+_)?HEADERS")
#: A shorter piece of them may be part of any word.
_SHORTEST = 8


def over_http() -> SpanProcessor:
    """Collects spans, and sends them from its own thread."""
    return BatchSpanProcessor(OTLPSpanExporter())


@define(eq=False)
class Exporting:
    """Gives ``tracing`` its tracer while it runs. Threads begin at `start`, since a daemon forks before that."""

    tracing: Tracing
    _reactor: Any
    _log: Logger
    _make: Callable[[], SpanProcessor] = over_http
    _provider: TracerProvider | None = field(default=None, init=False)
    _heard: "_Forwarded | None" = field(default=None, init=False)

    def start(self) -> None:
        self._heard = _Forwarded(self._reactor, self._log)
        self._heard.begin()
        self._provider = provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        provider.add_span_processor(self._make())
        self.tracing.tracer = provider.get_tracer("claudeproxy")

    async def stop(self) -> None:
        """Sends what is left, but waits for that no longer than `FLUSH`."""
        self.tracing.tracer = None
        provider, self._provider = self._provider, None
        if provider is None:
            return
        done: Deferred[None] = Deferred()

        def over() -> None:
            if not done.called:
                done.callback(None)

        def flush() -> None:
            provider.shutdown()
            self._reactor.callFromThread(over)

        # Not one of the reactor's threads: it would wait for that as long as it takes.
        Thread(target=flush, name="traces", daemon=True).start()
        limit = self._reactor.callLater(FLUSH, done.cancel)
        try:
            await done
        except CancelledError:
            if limit.active():  # it was not our limit
                raise
            self._log.warn("the last traces could not be sent within {seconds:g} s", seconds=FLUSH)
        finally:
            if limit.active():
                limit.cancel()
            if self._heard is not None:
                self._heard.end()


def _without_headers(words: str) -> str:
    """The headers for the collector hold its key, and are repeated whole where they are misspelt."""
    found = {piece for name, value in os.environ.items() if _HEADERS.fullmatch(name) for piece in _pieces(value)}
    for piece in sorted(found, key=len, reverse=True):
        words = words.replace(piece, "<secret>") if len(piece) >= _SHORTEST else words
    return words


def _pieces(headers: str) -> Iterator[str]:
    for each in headers.split(","):
        value = unquote(each.partition("=")[2].strip())
        yield from (each.strip(), each.partition("=")[2].strip(), value, *value.split(), *each.split())


def _resource() -> Resource:
    """The service is called claudeproxy, unless the environment says otherwise."""
    found = Resource.create()
    named = not str(found.attributes.get(SERVICE_NAME, "")).startswith("unknown_service")
    return found if named else found.merge(Resource({SERVICE_NAME: "claudeproxy"}))


class _Forwarded(logging.Handler):
    """What OpenTelemetry complains of, such as a collector that does not answer, is a line of our log."""

    _LEVELS = ((logging.ERROR, LogLevel.error), (logging.WARNING, LogLevel.warn), (0, LogLevel.debug))

    def __init__(self, reactor: Any, log: Logger) -> None:
        super().__init__()
        self._reactor = reactor
        self._log = log
        self._source = logging.getLogger("opentelemetry")

    def begin(self) -> None:
        self._source.addHandler(self)
        self._source.propagate = False

    def end(self) -> None:
        self._source.removeHandler(self)
        self._source.propagate = True

    def emit(self, record: logging.LogRecord) -> None:
        level = next(ours for theirs, ours in self._LEVELS if record.levelno >= theirs)
        words = _without_headers(record.getMessage())  # a traceback of theirs would tell nothing more
        self._reactor.callFromThread(self._log.emit, level, "OpenTelemetry: {words}", words=words)
