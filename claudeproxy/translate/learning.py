"""Estimates of a prompt's tokens that learn from the real ones, for each model (pure; PROTOCOL 6.4, issue 4).

Theory. The tokens of a prompt are taken for a sum: each number of `Size` times a weight of the model's own. Where
nothing is known the weights are those of English and code with a vocabulary of usual size, which comes to about one
token for 3.6 bytes. Every real count corrects all weights at once by recursive least squares (a Kalman filter whose
state hardly moves): each in proportion to how much it had to do with the number, and how uncertain it still is. The
uncertainty of all weights together is a matrix, and grows a little with every count, so that old ones are forgotten.

Of a conversation of which a beginning has been counted only the rest is estimated; and if the next real count comes,
it is what was added that is learned from. What a template does with a beginning, however odd, is thus in the count.

A count that no estimate comes near is not believed, until there were three of them in a row: then the model has
changed, or its server, and all is learned anew. A template that drops the tools is no such case: the weight of tools
is the least certain of all, and becomes 0 by one count.
"""

from collections import OrderedDict
from collections.abc import Iterator
from math import isfinite, sqrt
from operator import mul
from typing import Any

from attrs import field

from claudeproxy.model.kinds import define, frozen
from claudeproxy.translate.prompt_size import Size

ESTIMATE, LEARNED = "estimate", "learned"
#: Models that are remembered; those that were used last.
MODELS = 256
#: Beginnings of conversations whose counts are remembered, of all models together.
BEGINNINGS = 1024

#: In the order of `Size.vector`, and a constant: tokens for each, and how far off that may be as a part of it.
_DEFAULTS = (
    (0.09, 0.30),  # letters
    (0.60, 0.30),  # words
    (0.90, 0.30),  # digits: from one to three in a token
    (1.10, 0.30),  # stretches of punctuation
    (0.50, 0.30),  # stretches of line ends
    (0.03, 0.30),  # any other byte of ASCII
    (0.45, 0.50),  # bytes beyond ASCII
    (1 / 3.6, 0.60),  # bytes of schemas: some templates write them shorter, some drop them
    (8.0, 0.60),  # tools
    (4.0, 1.00),  # messages
    (1.0, 1.00),  # tokens of images
    (3.0, 20.0),  # the reply's priming, and what a template says by itself
)
#: Vocabularies are larger or smaller for text and schemas alike: so far may all of the first eight be off together.
_COMMON, _TOGETHER = 0.2, 8
_WEIGHTS = tuple(weight for weight, _ in _DEFAULTS)
_COUNT = len(_DEFAULTS)
_NONE = (0,) * _COUNT
_START = tuple(
    tuple(
        (_WEIGHTS[i] * _DEFAULTS[i][1]) ** 2 * (i == j)
        + _COMMON**2 * _WEIGHTS[i] * _WEIGHTS[j] * (max(i, j) < _TOGETHER)
        for j in range(_COUNT)
    )
    for i in range(_COUNT)
)
#: The part of its first uncertainty that each weight regains with every count.
_FORGETTING = 0.003
#: How far a sum may be off though its weights are right: some tokens, and a part of what it comes to. Less of a whole
#: prompt, in which texts of many kinds make up for each other.
_NOISE, _NOISE_OF_WHOLE, _NOISE_OF_REST = 4.0, 0.03, 0.1
#: Beyond so many times its uncertainty a count is far off. Then it is believed only if it is not farther off than a
#: part of the whole, and some tokens.
_FAR, _BELIEVED, _BELIEVED_TOKENS = 5.0, 0.4, 50.0
#: So many in a row that are not believed are right.
_STUBBORN = 3
#: So many messages may stand behind a beginning for it to be found.
_ADDED = 64

_Vector = tuple[int, ...]
_Key = tuple[str, str]


@frozen
class Estimate:
    """So many tokens, by ``estimate`` or ``learned``."""

    tokens: int
    source: str
    #: How many of them were counted: those of the beginning that an earlier prompt was.
    counted: int = 0


@define
class _Model:
    weights: list[float] = field(factory=lambda: list(_WEIGHTS))
    #: The uncertainty: the covariance of the weights' errors.
    spread: list[list[float]] = field(factory=lambda: [list(row) for row in _START])
    counts: int = 0
    #: Counts in a row that were not believed.
    oddities: int = 0

    def shares(self, vector: _Vector) -> list[float]:
        """How much each weight's error has to do with the sum's."""
        return [_sum(row, vector) for row in self.spread]

    def believes(self, vector: _Vector, shares: list[float], off: float, noise: float, whole: float) -> bool:
        doubt = max(0.0, _sum(shares, vector))
        return abs(off) <= max(_FAR * sqrt(noise * noise + doubt), _BELIEVED * whole + _BELIEVED_TOKENS)

    def correct(self, vector: _Vector, shares: list[float], tokens: int, noise: float) -> None:
        off, doubt = tokens - _sum(self.weights, vector), max(0.0, _sum(shares, vector))
        # What is far off teaches little: other things than text may be behind it.
        total = max(doubt + noise * noise, doubt + (off / _FAR) ** 2)
        step = off / total
        # A weight below 0 would make a prompt smaller by adding to it.
        self.weights = [max(0.0, weight + share * step) for weight, share in zip(self.weights, shares, strict=True)]
        for i, row in enumerate(self.spread):
            part = shares[i] / total
            self.spread[i] = row = [old - part * share for old, share in zip(row, shares, strict=True)]
            first = _START[i][i]
            row[i] = max(row[i], 0.0) + (_FORGETTING * first if row[i] < first else 0.0)
        self.counts += 1


@define(eq=False)
class Learned:
    """What was learned of all models, each known by its backend's name and its own."""

    _models: OrderedDict[_Key, _Model] = field(factory=OrderedDict, init=False)
    #: The counted beginnings: by the model and the end of a trail, what was counted and its tokens.
    _beginnings: OrderedDict[tuple[_Key, int], tuple[_Vector, int]] = field(factory=OrderedDict, init=False)

    def estimate(self, backend: str, model: str, size: Size) -> Estimate:
        """The tokens of a prompt for ``model``; at least 1. More of anything never makes them fewer, as long as it
        goes on from the same beginning."""
        known = self._models.get((backend, model))
        if known is None or not known.counts:
            return Estimate(max(1, round(_sum(_WEIGHTS, (*size.vector, 1)))), ESTIMATE)
        self._models.move_to_end((backend, model))
        vector = (*size.vector, 1)
        counted, tokens = self._beginning((backend, model), size) or (_NONE, 0)
        return Estimate(max(1, round(tokens + _sum(known.weights, _less(vector, counted)))), LEARNED, tokens)

    def learn(self, backend: str, model: str, size: Size, tokens: int) -> bool:
        """Corrects the model's weights by the real ``tokens`` of a prompt; tells whether they were believed."""
        if not 0 < tokens < 10**9:
            return False
        key = backend, model
        known = self._models.get(key) or _Model()
        vector, beginning = (*size.vector, 1), self._beginning(key, size)
        counted, before, part = (*beginning, _NOISE_OF_REST) if beginning else (_NONE, 0, _NOISE_OF_WHOLE)
        added, more = _less(vector, counted), tokens - before
        if not more and known.counts and added == _NONE:
            return True  # the very prompt that was counted before, with the same result: nothing to learn
        expected = _sum(known.weights, added)
        noise = _NOISE + part * abs(expected)
        shares = known.shares(added)
        if known.believes(added, shares, more - expected, noise, before + expected):
            known.oddities = 0
        else:
            known.oddities += 1
            if known.oddities < _STUBBORN:
                self._keep(key, known)
                return False
            known = _Model()
            self._forget(key)
            added, more, noise = vector, tokens, _NOISE + _NOISE_OF_WHOLE * tokens
            shares = known.shares(added)
        known.correct(added, shares, more, noise)
        self._keep(key, known)
        if size.trail:
            self._beginnings[key, size.trail[-1]] = vector, tokens
            self._beginnings.move_to_end((key, size.trail[-1]))
        if len(self._beginnings) > BEGINNINGS:
            self._beginnings.popitem(last=False)
        return True

    def dump(self) -> dict[str, Any]:
        """What `load` reads: JSON values, about 1 KB a model. Conversations are not in it."""
        return {"version": 1, "models": [_dumped(key, model) for key, model in self._models.items() if model.counts]}

    def load(self, dumped: object) -> int:
        """Adds what `dump` gave, as far as it is whole; tells how many models that were."""
        match dumped:
            case {"version": 1, "models": list(entries)}:
                found = dict(each for entry in entries[-MODELS:] for each in _loaded(entry))
            case _:
                return 0
        for key, model in found.items():
            self._keep(key, model)
        return len(found)

    def _beginning(self, key: _Key, size: Size) -> tuple[_Vector, int] | None:
        """The longest part of a prompt that has been counted."""
        for mark in size.trail[: -_ADDED - 1 : -1]:
            found = self._beginnings.get((key, mark))
            if found is not None:
                return found
        return None

    def _keep(self, key: _Key, model: _Model) -> None:
        self._models[key] = model
        self._models.move_to_end(key)
        if len(self._models) > MODELS:
            self._forget(self._models.popitem(last=False)[0])

    def _forget(self, key: _Key) -> None:
        for old in [each for each in self._beginnings if each[0] == key]:
            del self._beginnings[old]


def _sum(weights: Any, vector: Any) -> float:
    return float(sum(map(mul, weights, vector)))


def _less(vector: _Vector, other: _Vector) -> _Vector:
    return tuple(a - b for a, b in zip(vector, other, strict=True))


def _dumped(key: _Key, model: _Model) -> dict[str, Any]:
    """The matrix is symmetric: half of it is enough."""
    half = [model.spread[i][j] for i in range(_COUNT) for j in range(i + 1)]
    weights, spread = ([float(f"{value:.6g}") for value in values] for values in (model.weights, half))
    return {"backend": key[0], "model": key[1], "counts": model.counts, "weights": weights, "spread": spread}


def _loaded(entry: object) -> Iterator[tuple[_Key, _Model]]:
    match entry:
        case {"backend": str(backend), "model": str(model), "counts": int(counts), "weights": list(weights),
              "spread": list(half)}:  # fmt: skip
            pass
        case _:
            return
    if len(weights) != _COUNT or len(half) != _COUNT * (_COUNT + 1) // 2 or not all(map(_number, (*weights, *half))):
        return
    spread = [[0.0] * _COUNT for _ in range(_COUNT)]
    values = iter(half)
    for i in range(_COUNT):
        for j in range(i + 1):
            spread[i][j] = spread[j][i] = float(next(values))
    # A damaged matrix would drive the weights anywhere.
    certain = all(spread[i][j] ** 2 <= 1.01 * spread[i][i] * spread[j][j] for i in range(_COUNT) for j in range(i))
    if (
        certain
        and counts > 0
        and min(weights) >= 0
        and all(0 < spread[i][i] <= 2 * _START[i][i] for i in range(_COUNT))
    ):
        yield (backend, model), _Model([float(weight) for weight in weights], spread, counts)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
