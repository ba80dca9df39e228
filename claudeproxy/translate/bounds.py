"""Which bounds of a value a grammar can hold (PROTOCOL 7.7.19), tried with the compiler of llama.cpp.

It writes repetitions out, so that great ones are refused, or made to be slow. A lower bound above the upper one makes
a grammar that nothing fits: the server never ends, or fails at the first letter. Bounds that are no whole numbers, and
those of integers beyond 64 bits, are refused. Of expressions it takes some that it reads otherwise than anybody else:
with ``.`` the text may even end its own string, and what comes is no JSON. Formats that it does not know are no matter
to it, but to others.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

#: Pairs of bounds, and the greatest that is written out.
_COUNTS = (("minItems", "maxItems", 64), ("minLength", "maxLength", 512))
#: So many no answer has, of whatever kind: an upper bound from here on is none.
_BEYOND_ANSWERS = 500_000
#: The bounds of numbers, and how much further in those begin that are exclusive.
_LOWS = {"minimum": 0, "exclusiveMinimum": 1}
_HIGHS = {"maximum": 0, "exclusiveMaximum": -1}
_GREATEST_NUMBER = 2**53
#: Formats that all compilers know, or take for any text.
_FORMATS = ("date", "time", "date-time", "uuid", "uri", "email")
#: An expression from end to end, of nothing but letters, digits, some marks that mean themselves, classes of them, and
#: repetitions that are short.
_PATTERN = re.compile(
    r"\^(?:(?:[A-Za-z0-9_/-]|\[(?:a-z|A-Z|0-9|[A-Za-z0-9_])+-?\])(?:[*+?]|\{[0-9]{1,2}(?:,(?:[0-9]{1,2})?)?\})?)+\$"
)
_REPETITION = re.compile(r"\{([0-9]+),([0-9]+)\}")


def unheld(schema: Mapping[str, Any]) -> dict[str, bool]:
    """The bounds in ``schema`` that must go, each with whether that makes any difference."""
    return dict(_unheld(schema))


def _unheld(schema: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    for low, high, most in _COUNTS:
        least = schema.get(low, 0)
        bad = [name for name in (low, high) if name in schema and not _is_count(schema[name], most)]
        if not bad and high in schema and least > schema[high]:
            bad = [low, high]
        yield from ((name, not (name == high and _is_beyond_answers(schema[name]))) for name in bad)
    yield from ((name, True) for name in _bad_numbers(schema))
    if "format" in schema and not (_is_text(schema) and schema["format"] in _FORMATS):
        yield "format", True
    if "pattern" in schema and not (_is_text(schema) and _is_plain(schema["pattern"])):
        yield "pattern", True


def _is_count(value: Any, most: int) -> bool:
    return type(value) is int and 0 <= value <= most


def _is_beyond_answers(value: Any) -> bool:
    return type(value) is int and value >= _BEYOND_ANSWERS


def _bad_numbers(schema: Mapping[str, Any]) -> list[str]:
    kinds = (int, float) if schema.get("type") == "number" else (int,)
    given = [name for name in (*_LOWS, *_HIGHS) if name in schema]
    bad = [name for name in given if type(schema[name]) not in kinds or abs(schema[name]) > _GREATEST_NUMBER]
    if bad or schema.get("type") == "number":
        return bad
    lows = [schema[name] + step for name, step in _LOWS.items() if name in schema]
    highs = [schema[name] + step for name, step in _HIGHS.items() if name in schema]
    return given if lows and highs and max(lows) > min(highs) else []


def _is_text(schema: Mapping[str, Any]) -> bool:
    return schema.get("type") in ("string", ["string", "null"])


def _is_plain(pattern: Any) -> bool:
    if not (isinstance(pattern, str) and _PATTERN.fullmatch(pattern)):
        return False
    return all(int(low) <= int(high) for low, high in _REPETITION.findall(pattern))
