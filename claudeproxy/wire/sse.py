"""Server-sent events: bytes to events, as tolerant as PROTOCOL 5.3 asks; and Anthropic's events to bytes."""

import re

from attrs import field

from claudeproxy.model.kinds import define, frozen
from claudeproxy.wire.lines import LONGEST_LINE, LineSplitter, LineTooLong

#: How much of a body is looked at, in bytes, for a line that tells that it is an event stream.
TELLING = 1024
#: What keeping a line costs beside its bytes, roughly.
_LINE = 64
_BOM = b"\xef\xbb\xbf"
_EVENT_LINE = re.compile(rb"(?:\A|[\r\n])(?::|(?:data|event|id|retry)[:\r\n])")


def is_event_stream(head: bytes) -> bool | None:
    """Whether a body is an event stream by its first bytes; None if more of them are needed.

    What a server calls its body is not asked, because some call it wrongly (PROTOCOL rows 72, 73). The answer for
    more of the same bytes is never another one.
    """
    head = head.lstrip()
    if _BOM.startswith(head):
        return None
    head = head.removeprefix(_BOM)
    if head.startswith((b"{", b"[", b'"', b"<")):
        return False
    if _EVENT_LINE.search(head, 0, TELLING):
        return True
    return False if len(head) >= TELLING else None


@frozen
class ServerSentEvent:
    """One event as it came: ``name`` is "" where there was no event line, ``data`` the joined data lines."""

    name: str
    data: bytes


@define
class EventReader:
    """Reads an event stream in any split.

    Accepts a leading BOM, any line end, comments, unknown fields, ``data:`` without a space, a last event without
    its blank line (rows 64-70). Bytes stay bytes until an event is whole, so no character is ever cut (row 68).
    """

    _lines: LineSplitter = field(factory=LineSplitter, init=False)
    _name: str = field(default="", init=False)
    _data: list[bytes] = field(factory=list, init=False)
    #: Bytes of an event's lines after its first one.
    _more: int = field(default=0, init=False)
    _at_start: bool = field(default=True, init=False)
    #: An event begins with the next byte, or a blank line stands between two.
    _between: bool = field(default=False, init=False)

    @property
    def between(self) -> bool:
        """Whether an event begins with the next byte."""
        return self._between

    def receive(self, data: bytes) -> list[ServerSentEvent]:
        """The events that ``data`` completes. Raises `wire.lines.LineTooLong`, for all lines of one event together."""
        events: list[ServerSentEvent] = []
        if not self._between:
            # An event was cut by the end of the last read, which most often ends in this one.
            end = data.find(b"\n\n") + 2
            head, data = (data[:end], data[end:]) if end > 1 else (data, b"")
            self._slowly(head, events)
            if not self._between:
                self._slowly(data, events)
                return events
        end = data.rfind(b"\n\n")
        if end >= 0 and b"\r" not in data and len(data) <= LONGEST_LINE:
            for whole in data[:end].split(b"\n\n"):
                if whole.startswith(b"data:") and b"\n" not in whole:  # by far the most frequent
                    events.append(ServerSentEvent("", whole[6:] if whole[5:6] == b" " else whole[5:]))
                else:
                    for line in whole.split(b"\n"):
                        self._take(line, events)
                    self._take(b"", events)
            data = data[end + 2 :]
        if data:
            self._slowly(data, events)
        return events

    def close(self) -> list[ServerSentEvent]:
        """The last event, should its blank line be missing (row 70)."""
        events: list[ServerSentEvent] = []
        self._more = 0  # no more can come
        self._take(self._lines.close(), events)
        self._take(b"", events)
        return events

    def _slowly(self, data: bytes, events: list[ServerSentEvent]) -> None:
        """Line by line, wherever they end."""
        lines = self._lines
        for line in lines.receive(data):
            self._take(line, events)
        self._between = lines.between and not (self._data or self._name or self._at_start)

    def _take(self, line: bytes, events: list[ServerSentEvent]) -> None:
        if self._at_start and line:
            self._at_start = False
            line = line.removeprefix(_BOM)
        if line.startswith(b"data:"):
            if self._data:
                self._count(line)
            self._data.append(line[6:] if line[5:6] == b" " else line[5:])
        elif not line:
            self._more = 0
            if self._data or self._name:
                events.append(ServerSentEvent(self._name, b"\n".join(self._data)))
                self._data.clear()
                self._name = ""
        elif line.startswith(b"event:"):
            self._name = line[6:].strip().decode("utf-8", "replace")

    def _count(self, line: bytes) -> None:
        self._more += len(line) + _LINE
        if self._more > LONGEST_LINE:
            raise LineTooLong(f"an event of more than {LONGEST_LINE} bytes")
