"""JSON values, one a line: how Ollama streams (PROTOCOL 4.8, row 83)."""

from collections.abc import Iterator
from typing import Any

from attrs import define, field

from claudeproxy.wire.json import decode
from claudeproxy.wire.lines import LineSplitter


@define
class ValueReader:
    """Reads lines of JSON in any split: any line end, blank lines, a last line without its end, a leading BOM.

    Bytes stay bytes until a line is whole, so no character is ever cut (row 68).
    """

    _lines: LineSplitter = field(factory=LineSplitter, init=False)
    _at_start: bool = field(default=True, init=False)

    def receive(self, data: bytes) -> Iterator[Any]:
        """The values of the lines that ``data`` completes; to be exhausted before the next call.

        Raises `wire.lines.LineTooLong`, and `wire.json.NotJSON` at a line that is none: the values before it were
        given by then.
        """
        for line in self._lines.receive(data):
            yield from self._value(line)

    def close(self) -> Iterator[Any]:
        """The value of the last line, should its end be missing. Raises `wire.json.NotJSON`."""
        yield from self._value(self._lines.close())

    def _value(self, line: bytes) -> Iterator[Any]:
        line = line.strip()
        if self._at_start and line:
            self._at_start = False
            line = line.removeprefix(b"\xef\xbb\xbf").lstrip()
        if line:
            yield decode(line)
