"""The arguments of a call, mended where a model wrote nearly JSON (PROTOCOL 5.1; the rows named are its rows)."""

import re
from typing import Any

from claudeproxy.wire.json import NotJSON, decode, encode_text


def mended(arguments: str, closing: bool) -> str:
    """Arguments with unambiguous faults put right (rows 13, 14, 17); anything else as it is, for the client to judge.

    ``closing`` allows to add missing brackets at the end, which is wrong where the answer was cut.
    """
    text = arguments.strip()
    if text in ("", "null"):
        return "{}"
    value = _value(text)
    if isinstance(value, dict):
        return without_halves(text)
    if isinstance(value, str) and isinstance(_value(value), dict):
        return without_halves(value)
    if value is not _INVALID:
        return without_halves(text)  # row 16: valid, but no object
    unfenced = _without_raw_controls(_without_fence(text))
    for attempt in (unfenced, _without_trailing_commas(unfenced), *([_closed(unfenced)] if closing else [])):
        if isinstance(_value(attempt), dict):
            return without_halves(attempt.strip())
    return arguments


_INVALID = object()
_FENCE = "```"
#: A JSON string, closed or not, or a comma before a closing bracket: strings are matched so that commas in them stay.
#: Possessive, because a model may stop in the middle of a megabyte, and nobody is to wait for a second reading of it.
_STRING_OR_COMMA = re.compile(r'("(?:[^"\\]++|\\.)*+(?:"|\\?\Z))|,(?=\s*[}\]])', re.DOTALL)
_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_CONTROL = re.compile("[\0-\x1f]")
_ESCAPE_OR_CONTROL = re.compile(r"\\.|([\0-\x1f])", re.DOTALL)
#: Every escape of a JSON string; the group is half of a surrogate pair that stands alone.
_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"|([{}\[\]])|(")', re.DOTALL)


def _without_fence(text: str) -> str:
    if len(text) < 2 * len(_FENCE) or not (text.startswith(_FENCE) and text.endswith(_FENCE)):
        return text
    inner = text[len(_FENCE) : -len(_FENCE)]
    return (inner[4:] if inner[:4].lower() == "json" else inner).strip()


def _without_raw_controls(text: str) -> str:
    """Line ends, tabs and the like within strings as their escapes; one behind a backslash has two readings."""
    if not _CONTROL.search(text):
        return text
    return _STRING.sub(lambda found: _ESCAPE_OR_CONTROL.sub(_escaped, found[0]), text)


def _escaped(found: re.Match[str]) -> str:
    if not found[1]:
        return found[0]
    return "\\ufffd" if found[1] == "\0" else encode_text(found[1])[1:-1]  # row 63 wants no NUL


def without_halves(text: str) -> str:
    """JSON without the escapes that are half a character, which strict clients refuse (row 63)."""
    return _ESCAPE.sub(lambda found: "\\ufffd" if found[1] else found[0], text) if "\\u" in text else text


def _without_trailing_commas(text: str) -> str:
    return _STRING_OR_COMMA.sub(lambda found: found[1] or "", text)


def _closed(text: str) -> str:
    """The text with its missing closing brackets; as it is if anything else is missing, such as a quote."""
    missing: list[str] = []
    for found in _STRING_OR_BRACKET.finditer(text):
        bracket = found[1]
        if found[2]:
            return text
        if bracket in ("{", "["):
            missing.append("}" if bracket == "{" else "]")
        elif bracket and (not missing or missing.pop() != bracket):
            return text
    return text + "".join(reversed(missing))


def _value(text: str) -> Any:
    try:
        return decode(text.encode("utf-8", "surrogatepass"))
    except NotJSON:
        return _INVALID


def is_object(text: str) -> bool:
    """Whether it is the JSON of an object, whole."""
    return isinstance(_value(text), dict)
