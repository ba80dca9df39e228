"""Server-sent events: bytes to events, as tolerant as PROTOCOL 5.3 asks; and Anthropic's events to bytes."""

from attrs import define, field, frozen

from claudeproxy.wire.lines import LineSplitter


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
    _at_start: bool = field(default=True, init=False)

    def receive(self, data: bytes) -> list[ServerSentEvent]:
        """The events that ``data`` completes. Raises `wire.lines.LineTooLong`."""
        events: list[ServerSentEvent] = []
        for line in self._lines.receive(data):
            self._take(line, events)
        return events

    def close(self) -> list[ServerSentEvent]:
        """The last event, should its blank line be missing (row 70)."""
        events: list[ServerSentEvent] = []
        self._take(self._lines.close(), events)
        self._take(b"", events)
        return events

    def _take(self, line: bytes, events: list[ServerSentEvent]) -> None:
        if self._at_start and line:
            self._at_start = False
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line.startswith(b"data:"):
            self._data.append(line[6:] if line[5:6] == b" " else line[5:])
        elif not line:
            if self._data or self._name:
                events.append(ServerSentEvent(self._name, b"\n".join(self._data)))
                self._data.clear()
                self._name = ""
        elif line.startswith(b"event:"):
            self._name = line[6:].strip().decode("utf-8", "replace")
