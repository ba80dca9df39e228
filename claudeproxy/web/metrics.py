"""Counts what happens to requests (issue 6). Nothing is counted per event, and no label has more than so many values.

It counts in plain dictionaries; `web.exposition` shows them as Prometheus wants to see them.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence

from attrs import field
from twisted.web.http import Request

from claudeproxy.model.kinds import define
from claudeproxy.web.exchange import Exchange

#: What stands for all values of a label that came after the most there may be.
OTHER = "other"
#: Of names that others choose: models, fields, outcomes of servers that are passed through.
MOST_NAMES = 100
#: Sets of labels in one metric; a histogram's are twenty series each.
MOST_SETS, MOST_HISTOGRAMS = 1000, 200

#: Upper bounds in seconds. Prefills and answers take from a blink to an hour; a token a millisecond to some seconds.
WAITS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600)
PACES = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)

Labels = tuple[str, ...]


@define(eq=False)
class Names:
    """The values that a label has had; at most so many, and `OTHER` for all that come later."""

    most: int = MOST_NAMES
    _known: set[str] = field(factory=set, init=False)

    def of(self, name: str) -> str:
        """The value to count it under."""
        if name in self._known:
            return name
        if len(self._known) >= self.most:
            return OTHER
        self._known.add(name)
        return name


@define(eq=False)
class Totals:
    """A number for each set of labels; the sets that come after the most there may be are one."""

    most: int = MOST_SETS
    by_labels: dict[Labels, float] = field(factory=dict, init=False)

    def add(self, labels: Labels, amount: float = 1) -> None:
        totals = self.by_labels
        if labels not in totals and len(totals) >= self.most:
            labels = (OTHER,) * len(labels)
        totals[labels] = totals.get(labels, 0) + amount


@define(eq=False)
class Spread:
    """How often values were found between two of the ``bounds``, and their sum."""

    bounds: Sequence[float]
    counts: list[int] = field(init=False)
    sum: float = field(default=0.0, init=False)

    def __attrs_post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


@define(eq=False)
class Spreads:
    """A `Spread` for each set of labels, likewise."""

    bounds: Sequence[float]
    most: int = MOST_HISTOGRAMS
    by_labels: dict[Labels, Spread] = field(factory=dict, init=False)

    def add(self, labels: Labels, value: float) -> None:
        if value < 0:
            return  # a clock that was set back
        spread = self.by_labels.get(labels)
        if spread is None:
            if len(self.by_labels) >= self.most:
                labels = (OTHER,) * len(labels)
            spread = self.by_labels.setdefault(labels, Spread(self.bounds))
        spread.add(value)


@define(eq=False)
class Metrics:
    """A witness that counts. One for each proxy."""

    requests: Totals = field(factory=Totals, init=False)
    durations: Spreads = field(factory=lambda: Spreads(WAITS), init=False)
    first_tokens: Spreads = field(factory=lambda: Spreads(WAITS), init=False)
    paces: Spreads = field(factory=lambda: Spreads(PACES), init=False)
    tokens: Totals = field(factory=Totals, init=False)
    by_key: Totals = field(factory=Totals, init=False)
    tokens_by_key: Totals = field(factory=Totals, init=False)
    joined: int = field(default=0, init=False)
    repetitions: int = field(default=0, init=False)
    repairs: Totals = field(factory=Totals, init=False)
    dropped: Totals = field(factory=Totals, init=False)
    emulated: Totals = field(factory=Totals, init=False)
    count_sources: Totals = field(factory=Totals, init=False)
    #: By their results, ok and refused.
    reloads: Counter[str] = field(factory=lambda: Counter(ok=0, refused=0), init=False)
    _models: Names = field(factory=Names, init=False)
    _outcomes: Names = field(factory=Names, init=False)
    _statuses: Names = field(factory=Names, init=False)
    _keys: Names = field(factory=Names, init=False)
    _remarks: Names = field(factory=Names, init=False)
    _fields: Names = field(factory=Names, init=False)

    def entered(self, exchange: Exchange, request: Request) -> None:
        """Nothing is known yet but what its client says of it."""
        if exchange.repetition:
            self.repetitions += 1

    def left(self, exchange: Exchange) -> None:
        """All of it is known now."""
        route, backend, model = exchange.route, exchange.backend, self._models.of(exchange.backend_model)
        status, outcome = self._statuses.of(str(exchange.status)), self._outcomes.of(exchange.result)
        self.requests.add((route, model, backend, status, outcome))
        self.durations.add((route, model, backend), exchange.ended - exchange.began)
        if exchange.joined:
            self.joined += 1
        if exchange.count_source:
            self.count_sources.add((exchange.count_source,))
        if exchange.first_token is not None:
            self.first_tokens.add((model, backend), exchange.first_token - exchange.began)
        if exchange.usage is not None:
            self._count_tokens(exchange, model)
        if exchange.key:
            self.by_key.add((self._keys.of(exchange.key),))
        if exchange.remarks:
            self._count(self.repairs, self._remarks, exchange.remarks, backend)
        if exchange.dropped:
            self._count(self.dropped, self._fields, exchange.dropped, backend)
        if exchange.emulated:
            self._count(self.emulated, self._fields, exchange.emulated, backend)

    def _count_tokens(self, exchange: Exchange, model: str) -> None:
        usage, backend = exchange.usage, exchange.backend
        assert usage is not None
        for kind, count in (
            ("input", usage.input),
            ("cached", usage.cache_read),
            ("cache_written", usage.cache_creation),
            ("output", usage.output),
        ):
            if count:
                self.tokens.add((kind, model, backend), count)
                if exchange.key:
                    self.tokens_by_key.add((self._keys.of(exchange.key), kind), count)
        first, last = exchange.first_token, exchange.last_token
        if exchange.joined:
            return  # what it missed came at once
        if first is not None and last is not None and last > first and usage.output > 1:
            self.paces.add((model, backend), (last - first) / (usage.output - 1))

    @staticmethod
    def _count(totals: Totals, names: Names, found: Iterable[str], backend: str) -> None:
        for kind in {kind_of(each) for each in found}:  # each kind once a request
            totals.add((names.of(kind), backend))


def kind_of(told: str) -> str:
    """What a remark or a loss is about, without its particulars: these come after a colon or in brackets."""
    return told.partition(":")[0].partition(" (")[0]
