"""What `web.metrics` counted, as Prometheus wants to see it.

The Prometheus client is loaded with the first question, and a large answer is written in pieces, between which other
requests have their turn.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy
from itertools import accumulate
from typing import Any

from attrs import field
from twisted import __version__ as twisted_version
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from claudeproxy.model.kinds import define, frozen
from claudeproxy.web.exchange import Exchange
from claudeproxy.web.live import Live
from claudeproxy.web.metrics import Labels, Metrics, Spreads, Totals

#: So many samples are written at a time: some milliseconds.
PIECE = 200

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"
#: Name, kind, labels and help of each metric, in the order in which they are shown.
METRICS: tuple[tuple[str, str, Labels, str], ...] = (
    (
        "requests_total",
        COUNTER,
        ("route", "model", "backend", "status", "outcome"),
        "Requests that were answered or left.",
    ),
    ("request_duration_seconds", HISTOGRAM, ("route", "model", "backend"), "From a request to the end of its answer."),
    ("first_token_seconds", HISTOGRAM, ("model", "backend"), "From a request to the first token of its answer."),
    (
        "inter_token_seconds",
        HISTOGRAM,
        ("model", "backend"),
        "Between two tokens, once an answer as its mean: from the first token to the last, by output tokens less one.",
    ),
    (
        "tokens_total",
        COUNTER,
        ("kind", "model", "backend"),
        "Tokens by kind, each in one only: input, cached, cache_written, output.",
    ),
    ("key_requests_total", COUNTER, ("key",), "Requests by the name of their key."),
    ("key_tokens_total", COUNTER, ("key", "kind"), "Tokens by the name of the request's key, and by kind."),
    (
        "requests_in_flight",
        GAUGE,
        ("backend",),
        "Requests that are being answered; those of no backend without a name.",
    ),
    ("streams_open", GAUGE, ("backend",), "Streams that are being answered."),
    ("answers_waiting", GAUGE, (), "Answers that lost their clients and wait for a retry."),
    ("joined_answers_total", COUNTER, (), "Requests that were given the answer which an earlier one had asked for."),
    ("client_retries_total", COUNTER, (), "Requests whose client said that it had sent them before."),
    ("backend_resends_total", COUNTER, ("backend",), "Requests sent again, because a kept connection had been closed."),
    (
        "cache_verdicts_total",
        COUNTER,
        ("cause",),
        "What became of the prompt cache of sessions, or why a prefix broke.",
    ),
    ("repairs_total", COUNTER, ("kind", "backend"), "Answers in which something was repaired or left out."),
    ("fields_dropped_total", COUNTER, ("field", "backend"), "Requests of which a field was not sent to the backend."),
    (
        "fields_emulated_total",
        COUNTER,
        ("field", "backend"),
        "Requests of which a field was done in the backend's stead.",
    ),
    ("counts_total", COUNTER, ("source",), "Counts of tokens that were asked for, by how they were found."),
    ("reloads_total", COUNTER, ("result",), "Reloads of the settings, ok and refused."),
    ("backend_up", GAUGE, ("backend",), "1 if the backend was there when it was last asked, else 0."),
    ("backend_known", GAUGE, ("backend",), "1 once it is known whether the backend is there, else 0."),
    ("log_lines_lost_total", COUNTER, (), "Lines of the log that could not be written."),
    ("build_info", GAUGE, ("version", "python", "twisted"), "What runs; always 1."),
)


@frozen
class Sources:
    """What others count, asked for when it is shown."""

    live: Callable[[], Live]
    #: Requests that have not left.
    running: Callable[[], Iterable[Exchange]]
    #: Answers that wait for their clients.
    waiting: Callable[[], int]
    #: By backend.
    resends: Mapping[str, int]
    #: By cause.
    verdicts: Mapping[str, int]
    log_lines_lost: Callable[[], int]


@define(eq=False)
class Exposition:
    """Shows one proxy's metrics."""

    _metrics: Metrics
    _sources: Sources
    _clock: IReactorTime
    _registry: Any = field(default=None, init=False)

    async def answer(self, request: Request) -> bytes:
        """The body of an answer to ``request``, in the format that it asks for; its type is set."""
        from prometheus_client.exposition import choose_encoder

        try:
            encode, kind = choose_encoder((request.getHeader(b"accept") or b"").decode("ascii", "replace"))
        except (ValueError, TypeError):  # it names a version that is no number
            encode, kind = choose_encoder("")
        request.setHeader(b"content-type", kind.encode())
        pieces: list[bytes] = []
        for headed, families in _pieces(self.registry.collect()):
            if pieces:
                await deferLater(self._clock, 0)
            pieces.append(_encoded(encode, headed, families))
        if kind.startswith("application/openmetrics-text"):
            pieces.append(_END)
        return b"".join(pieces)

    @property
    def registry(self) -> Any:
        """The proxy's own, so that two in one process do not clash."""
        if self._registry is None:
            from prometheus_client.process_collector import ProcessCollector
            from prometheus_client.registry import CollectorRegistry

            self._registry = CollectorRegistry(auto_describe=False)
            self._registry.register(self)
            ProcessCollector(registry=self._registry)
        return self._registry

    def collect(self) -> Iterator[Any]:
        """All metrics, for the registry."""
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        figures = self._figures()
        for name, kind, labels, words in METRICS:
            name = f"claudeproxy_{name}"
            found = figures[name.removeprefix("claudeproxy_")]
            if isinstance(found, Spreads):
                histogram = HistogramMetricFamily(name, words, labels=labels)
                for values, spread in list(found.by_labels.items()):
                    bounds = [*(_bound(each) for each in spread.bounds), "+Inf"]
                    buckets = list(zip(bounds, accumulate(spread.counts), strict=True))
                    histogram.add_metric(values, buckets, spread.sum)
                yield histogram
                continue
            family = (CounterMetricFamily if kind == COUNTER else GaugeMetricFamily)(name, words, labels=labels)
            for values, value in found.items():
                family.add_metric(values, value)
            yield family

    def _figures(self) -> Mapping[str, Spreads | Mapping[Labels, float]]:
        metrics, sources = self._metrics, self._sources
        backends = sources.live().backends
        flying = Totals()
        streaming = Totals()
        for name in backends:
            flying.add((name,), 0)
            streaming.add((name,), 0)
        for exchange in sources.running():
            flying.add((exchange.backend,))
            if exchange.streams and exchange.stop is not None:
                streaming.add((exchange.backend,))
        up = {name: each.is_up for name, each in backends.items()}
        return {
            "requests_total": dict(metrics.requests.by_labels),
            "request_duration_seconds": metrics.durations,
            "first_token_seconds": metrics.first_tokens,
            "inter_token_seconds": metrics.paces,
            "tokens_total": dict(metrics.tokens.by_labels),
            "key_requests_total": dict(metrics.by_key.by_labels),
            "key_tokens_total": dict(metrics.tokens_by_key.by_labels),
            "requests_in_flight": flying.by_labels,
            "streams_open": streaming.by_labels,
            "answers_waiting": {(): sources.waiting()},
            "joined_answers_total": {(): metrics.joined},
            "client_retries_total": {(): metrics.repetitions},
            "backend_resends_total": {(name,): sources.resends.get(name, 0) for name in {*backends, *sources.resends}},
            "cache_verdicts_total": _by_one(sources.verdicts),
            "repairs_total": dict(metrics.repairs.by_labels),
            "fields_dropped_total": dict(metrics.dropped.by_labels),
            "fields_emulated_total": dict(metrics.emulated.by_labels),
            "counts_total": dict(metrics.count_sources.by_labels),
            "reloads_total": _by_one(metrics.reloads),
            "backend_up": {(name,): float(is_up is True) for name, is_up in up.items()},
            "backend_known": {(name,): float(is_up is not None) for name, is_up in up.items()},
            "log_lines_lost_total": {(): sources.log_lines_lost()},
            "build_info": {_build(): 1},
        }


class MetricsPage(Resource):
    """`Exposition` as a leaf of any tree of resources; who may see it, is the tree's affair."""

    isLeaf = True

    def __init__(self, exposition: Exposition, log: Logger) -> None:
        super().__init__()
        self._exposition = exposition
        self._log = log

    def render_GET(self, request: Request) -> Any:
        """The work ends with its client."""
        answering = Deferred.fromCoroutine(self._answer(request))
        request.notifyFinish().addErrback(lambda _: answering.cancel())
        answering.addErrback(self._failed, request)
        return NOT_DONE_YET

    async def _answer(self, request: Request) -> None:
        body = await self._exposition.answer(request)
        request.setHeader(b"content-length", b"%d" % len(body))
        request.write(body)
        request.finish()

    def _failed(self, failure: Failure, request: Request) -> None:
        if not failure.check(CancelledError):
            self._log.failure("the metrics cannot be shown", failure=failure)
            request.setResponseCode(500)
            request.finish()


_END = b"# EOF\n"


def _pieces(families: Iterable[Any]) -> Iterator[tuple[bool, list[Any]]]:
    """The families in lists of no more than so many samples. A large one comes in several, of which all but the first
    are to be written without a heading: False."""
    small: list[Any] = []
    room = PIECE
    for family in families:
        samples = family.samples
        if small and len(samples) > room:
            yield True, small
            small, room = [], PIECE
        if len(samples) <= PIECE:
            small.append(family)
            room -= len(samples)
            continue
        for start in range(0, len(samples), PIECE):
            part = copy(family)
            part.samples = samples[start : start + PIECE]
            yield start == 0, [part]
    if small:
        yield True, small


@frozen
class _Piece:
    """Some families, in the place of a registry."""

    families: list[Any]

    def collect(self) -> list[Any]:
        return self.families


def _encoded(encode: Callable[[Any], bytes], headed: bool, families: list[Any]) -> bytes:
    text = encode(_Piece(families)).removesuffix(_END)
    if headed:
        return text
    lines = text.splitlines(keepends=True)
    return b"".join(line for line in lines if not line.startswith(b"#"))


def _bound(seconds: float) -> str:
    return str(float(seconds))


def _by_one(found: Mapping[str, int]) -> dict[Labels, float]:
    return {(name,): count for name, count in found.items()}


def _build() -> Labels:
    from importlib.metadata import PackageNotFoundError, version

    try:
        ours = version("claudeproxy")
    except PackageNotFoundError:
        ours = "unknown"  # it runs out of a checkout
    return ours, "{}.{}.{}".format(*sys.version_info), twisted_version
