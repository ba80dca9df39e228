"""JSON values, one a line, as Ollama streams (PROTOCOL 4.8, row 83); or a body that is one JSON text (row 72)."""

from collections.abc import Callable, Iterator
from typing import Any

from attrs import field

from claudeproxy.model.kinds import define
from claudeproxy.wire.json import NotJSON, decode
from claudeproxy.wire.lines import LONGEST_LINE, LineSplitter, LineTooLong


@define
class ValueReader:
    """Reads JSON in any split: values on lines with any end, blank lines, a last line without its end, a leading BOM.

    A body whose first line is no value by itself is one text over many lines: its value is there at the end. Bytes
    stay bytes until a line is whole, so no character is ever cut (row 68).
    """

    #: Reads one value; it raises `NotJSON`.
    _decode: Callable[[bytes], Any] = decode
    longest: int = LONGEST_LINE
    #: How many values were given.
    count: int = field(default=0, init=False)
    #: The bytes at which `NotJSON` was raised.
    rejected: bytes = field(default=b"", init=False)
    _lines: LineSplitter = field(factory=LineSplitter, init=False)
    _at_start: bool = field(default=True, init=False)
    #: The lines of a body that is one text.
    _text: list[bytes] = field(factory=list, init=False)
    _size: int = field(default=0, init=False)

    def receive(self, data: bytes) -> Iterator[Any]:
        """The values of the lines that ``data`` completes; to be exhausted before the next call.

        Raises `wire.lines.LineTooLong`, and `wire.json.NotJSON` at a line that is none: the values before it were
        given by then.
        """
        for line in self._lines.receive(data):
            yield from self._line(line)

    def close(self) -> Iterator[Any]:
        """The value of the last line, should its end be missing, or that of the whole text. Raises as `receive`."""
        yield from self._line(self._lines.close())
        if self._text:
            yield self._value(b"\n".join(self._text))

    def _line(self, line: bytes) -> Iterator[Any]:
        line = line.strip()
        if self._at_start and line:
            self._at_start = False
            line = line.removeprefix(b"\xef\xbb\xbf").lstrip()
        if not line:
            return
        if not self._text:
            try:
                value = self._value(line)
            except NotJSON:
                if self.count:
                    raise
            else:
                yield value
                return
        self._size += len(line)
        if self._size > self.longest:
            raise LineTooLong(f"a text of more than {self.longest} bytes")
        self._text.append(line)

    def _value(self, data: bytes) -> Any:
        try:
            value = self._decode(data)
        except NotJSON:
            self.rejected = data
            raise
        self.count += 1
        return value
