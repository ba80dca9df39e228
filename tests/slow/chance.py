"""
Chance with a memory: each try has a number, from which all of it follows.

CLAUDEPROXY_FUZZ_SEED=17 begins with try 17, CLAUDEPROXY_FUZZ_SECONDS=300 goes on for so long (30 without it; 0 makes
one try), so that a failure, which names its try, is seen again with both.
"""

import os
import signal
import time
from collections.abc import Callable
from copy import deepcopy
from itertools import pairwise
from random import Random
from typing import Any

from attrs import frozen

from tests.strategies import HALF_CHARACTERS, NASTY_PIECES

#: No try may take longer, in seconds; most take a thousandth of it.
LONGEST = 10.0
_WORDS = (
    *NASTY_PIECES,
    *HALF_CHARACTERS,
    "",
    "stop",
    "length",
    "tool_calls",
    "text",
    "tool_use",
    "thinking",
    "call_1",
    "Bash",
    '{"a":1}',
    "[]",
    "x" * 5000,
    "cp1.eJw",
)
_NUMBERS = (0, 1, -1, 2, 7, 200, 400, 429, 500, 2**31, 2**53 + 1, 2**70, -(2**63), 0.5, -0.0, 1e308, 1e-320)


class Broken(AssertionError):
    """What was tried broke; the text says how to see it again."""


class _Stuck(BaseException):
    """A try takes too long. No ``except Exception`` on the way catches it."""


@frozen
class Effort:
    """How much was tried."""

    tries: int
    seconds: float
    slowest: float


def try_out(what: str, attempt: Callable[[Random], object]) -> Effort:
    """One try after the other until the time is up. Raises `Broken` for the first that fails or takes too long."""
    first = int(os.environ.get("CLAUDEPROXY_FUZZ_SEED") or time.time_ns() // 1000 % 10**9)
    seconds = float(os.environ.get("CLAUDEPROXY_FUZZ_SECONDS") or 30)
    began = time.monotonic()
    number, slowest = first, 0.0
    print(f"{what}, from try {number} on")
    while True:
        started = time.monotonic()
        try:
            _in_time(attempt, Random(number))
        except (Exception, _Stuck) as fault:
            again = f"CLAUDEPROXY_FUZZ_SEED={number} CLAUDEPROXY_FUZZ_SECONDS=0"
            raise Broken(f"{what}, try {number - first + 1}: {fault!r:.9000}; to see it again: {again}") from fault
        took = time.monotonic() - started
        slowest = max(slowest, took)
        number += 1
        if time.monotonic() - began >= seconds:
            return Effort(number - first, time.monotonic() - began, slowest)


def _in_time(attempt: Callable[[Random], object], chance: Random) -> None:
    def stop(number: int, frame: Any) -> None:
        raise _Stuck(f"stuck in {frame}")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, LONGEST, 1.0)
    try:
        attempt(chance)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def any_value(chance: Random, depth: int = 3) -> Any:
    """Any JSON value."""
    match chance.randrange(9 if depth else 7):
        case 0:
            return None
        case 1:
            return chance.random() < 0.5
        case 2 | 3:
            return chance.choice(_NUMBERS)
        case 4 | 5 | 6:
            return "".join(chance.choices(_WORDS, k=chance.choice((1, 1, 1, 3))))
        case 7:
            return [any_value(chance, depth - 1) for _ in range(chance.randrange(4))]
        case _:
            return {chance.choice(_WORDS): any_value(chance, depth - 1) for _ in range(chance.randrange(4))}


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every place in a JSON value: its container and its key there."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        here = waiting.pop()
        inner = here.items() if isinstance(here, dict) else enumerate(here) if isinstance(here, list) else ()
        for key, child in inner:
            found.append((here, key))
            waiting.append(child)
    return found


def bent_value(chance: Random, value: Any, others: list[Any]) -> Any:
    """The value with a few of its parts replaced, dropped, doubled, moved, or taken from one of the ``others``."""
    root = [deepcopy(value)]
    for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
        spots = places(root)
        holder, key = chance.choice(spots)
        match chance.randrange(7):
            case 0 | 1:
                holder[key] = any_value(chance)
            case 2 if len(spots) > 1 and holder is not root:
                del holder[key]
            case 3 if isinstance(holder, list):
                holder.insert(chance.randrange(len(holder) + 1), deepcopy(holder[key]))
            case 4:
                other, there = chance.choice(spots)
                if other is not root:
                    holder[key] = deepcopy(other[there])
            case 5:
                other, there = chance.choice(places([chance.choice(others)]))
                holder[key] = deepcopy(other[there])
            case _ if isinstance(holder[key], dict):
                holder[key][chance.choice(_WORDS)] = any_value(chance)
    return root[0]


def bent_bytes(chance: Random, data: bytes) -> bytes:
    """The bytes with a few of them flipped, cut out, doubled, moved, or made up."""
    body = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        start = chance.randrange(len(body) + 1)
        end = min(len(body), start + int(chance.expovariate(0.05)) + 1)
        piece = bytes(body[start:end])
        match chance.randrange(6):
            case 0 | 1 if piece:
                body[start] ^= 1 << chance.randrange(8)
            case 2:
                del body[start:end]
            case 3:
                body[start:start] = piece
            case 4:
                del body[start:end]
                place = chance.randrange(len(body) + 1)
                body[place:place] = piece
            case _:
                made_up = chance.choice((chance.randbytes(4), chance.choice(_WORDS).encode("utf-8", "surrogatepass")))
                body[start:start] = made_up
    return bytes(body)


def in_pieces(chance: Random, data: bytes) -> list[bytes]:
    """The same bytes in pieces."""
    match chance.randrange(4):
        case 0:
            return [data]
        case 1:
            size = chance.choice((1, 2, 3, 7, 64))
            return [data[place : place + size] for place in range(0, len(data), size)]
        case _:
            cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.randrange(1, 12)))
            edges = [0, *cuts, len(data)]
            return [data[left:right] for left, right in pairwise(edges) if left < right]
