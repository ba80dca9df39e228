"""Events of a stream that are the same but for one text.

A server that streams an answer sends one event again and again, and only one string in it is another one each time.
Who has found out where that string stands need not take the whole event apart to read it.
"""

from collections.abc import Callable
from typing import Any

from attrs import field

from claudeproxy.model.kinds import frozen
from claudeproxy.wire.json import NotJSON, decode, encode

#: What a string of JSON may not hold, or what does not stand for itself there.
_TELLING = bytes(range(0x20)) + b'"\\'
_PROBE = "a text that stands nowhere else"


@frozen
class Stencil:
    """Server-sent events of one line that differ in the inside of one string."""

    _before: bytes
    _after: bytes
    _start: int = field(init=False)
    _rest: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_start", len(self._before))
        object.__setattr__(self, "_rest", len(self._after))

    def text(self, data: bytes) -> str:
        """The text, if ``data`` is exactly one such event and its text is spelled plainly; else ""."""
        if not (data.startswith(self._before) and data.endswith(self._after)):
            return ""
        text = data[self._start : -self._rest]
        if text.translate(None, _TELLING) != text:
            return ""
        try:
            return text.decode()
        except UnicodeDecodeError:
            return ""


def cut(data: bytes, text: str, place: Callable[[Any], Any]) -> Stencil | None:
    """The stencil of an event that holds ``text``; ``place`` finds it in the event's JSON value.

    None unless it is proved that other texts can stand in its stead: one is put there, and must be found.
    """
    quoted = encode(text)
    at = data.find(quoted)
    whole = data.startswith(b"data:") and data.endswith(b"\n\n") and data.count(b"\n") == 2
    if not whole or at < 0 or data.find(quoted, at + 1) >= 0 or b"\\" in quoted:
        return None
    before, after = data[: at + 1], data[at + len(quoted) - 1 :]
    try:
        value = decode((before + _PROBE.encode() + after)[5:])
    except NotJSON:
        return None
    return Stencil(before, after) if place(value) == _PROBE else None
