"""Bytes in any split to complete lines."""

from attrs import field

from claudeproxy.model.kinds import define

#: PROTOCOL 5, parser rule: a single line may hold a whole tool call with megabytes of arguments.
LONGEST_LINE = 64 * 1024 * 1024


class LineTooLong(ValueError):
    """The peer sent a line above the limit."""


@define
class LineSplitter:
    """Splits at LF, CRLF and CR, whichever comes (PROTOCOL row 64), and keeps an unfinished line for the next bytes.

    Work grows with the bytes, not with the number of pieces they come in (row 71).
    """

    longest: int = LONGEST_LINE
    _pieces: list[bytes] = field(factory=list, init=False)
    _held: int = field(default=0, init=False)
    _after_cr: bool = field(default=False, init=False)

    @property
    def between(self) -> bool:
        """Whether a line begins with the next byte, whatever it is."""
        return not self._pieces and not self._after_cr

    def receive(self, data: bytes) -> list[bytes]:
        """The lines that ``data`` completes, without their ends. Raises `LineTooLong`."""
        if self._after_cr and data:
            # The line ended at the CR already: an LF right after it belongs to that end.
            self._after_cr = False
            if data[0] == 10:
                data = data[1:]
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        end = data.rfind(b"\n")
        if end < 0:
            self._keep(data)
            return []
        lines = data[:end].split(b"\n")
        if self._pieces:
            self._pieces.append(lines[0])
            lines[0] = b"".join(self._pieces)
            self._pieces.clear()
            self._held = 0
        if len(lines[0]) > self.longest:
            raise LineTooLong(f"a line of more than {self.longest} bytes")
        self._keep(data[end + 1 :])
        return lines

    def close(self) -> bytes:
        """What stood after the last line's end."""
        rest = b"".join(self._pieces)
        self._pieces.clear()
        self._held = 0
        return rest

    def _keep(self, piece: bytes) -> None:
        if not piece:
            return
        self._pieces.append(piece)
        self._held += len(piece)
        if self._held > self.longest:
            raise LineTooLong(f"a line of more than {self.longest} bytes")
