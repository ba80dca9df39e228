"""Events of a stream that are the same but for one text, and what is made of them.

A server that streams an answer sends one event again and again, and only one string in it is another one each time.
Who has found out where that string stands need not take the whole event apart to read it, nor spell it anew: JSON is
spelled alike on both sides, so that its bytes are copied into an event of ours.
"""

import re
from collections.abc import Callable
from typing import Any

from attrs import field

from claudeproxy.model.kinds import define
from claudeproxy.wire.json import NotJSON, decode, encode

#: What a string of JSON may not hold, or what does not stand for itself there.
_TELLING = bytes(range(0x20)) + b'"\\'
#: What may be inside a string as it stands, since it would be spelled so anew.
_SPELLED_ALIKE = re.compile(rb'(?:[^"\\\x00-\x1f]|\\["\\nrtbf])*+')
_PROBE = "a text that stands nowhere else"


@define(eq=False)
class Stencil:
    """Server-sent events of one line that differ in the inside of one string; what stands around that string in them,
    and what is to stand around it."""

    _before: bytes
    _after: bytes
    head: bytes
    _tail: bytes
    #: How many events it was made of.
    used: int = field(default=0, init=False)
    _start: int = field(init=False)
    _rest: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._start, self._rest = len(self._before), len(self._after)

    def copied(self, data: bytes) -> bytes:
        """The event that is made of ``data``, if they are exactly one such event and its text, not an empty one, is
        spelled as we would; else nothing."""
        if not (data.startswith(self._before) and data.endswith(self._after)):
            return b""
        text = data[self._start : -self._rest]
        if not text or (text.translate(None, _TELLING) != text and not _SPELLED_ALIKE.fullmatch(text)):
            return b""
        if not text.isascii():
            try:
                text.decode()
            except UnicodeDecodeError:
                return b""
        self.used += 1
        return b"%b%b%b" % (self.head, text, self._tail)


def cut(data: bytes, text: str, place: Callable[[Any], Any], head: bytes, tail: bytes) -> Stencil | None:
    """The stencil of an event that holds ``text``; ``place`` finds it in the event's JSON value. ``head`` and ``tail``
    are what is to stand around the text, within quotes, in what is made of such events.

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
    return Stencil(before, after, head, tail) if place(value) == _PROBE else None
