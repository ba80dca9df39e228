"""Reading HTTP's chunks: as Twisted does, but all that one read brings is handed over in one piece.

Twisted hands over each chunk by itself, which makes a write of ours out of every event though a hundred may have come
at once; and it takes each apart in several steps. Here the plain case is read in one go, and what is not plain (chunk
extensions, trailers, nonsense, the end) is left to Twisted, so that it fares as it always did.
"""

import re
from collections.abc import Callable

from twisted.python.failure import Failure
from twisted.web.http import _ChunkedTransferDecoder

#: A chunk's length as nearly every server writes it. Not 0, which is the end, and no more digits than fit any body.
_PLAIN = re.compile(rb"(?=0*+[1-9a-fA-F])([0-9a-fA-F]{1,15})\r\n")

#: By the bytes of a read that is one whole chunk, how it begins.
_HEADS: dict[int, bytes] = {}
#: Longer reads are rarely alike, and their beginnings not worth the memory.
_SHORT = 2048


def _head(size: int) -> bytes:
    """How one whole chunk, ``size`` bytes with all that is around it, begins: with its length as nearly every server
    writes it. Empty if no chunk is so long."""
    for digits in range(1, 16):
        length = size - digits - len(b"\r\n" * 2)
        head = b"%x\r\n" % max(0, length)
        if length > 0 and len(head) == digits + 2:
            if size <= _SHORT:
                _HEADS[size] = head
            return head
    return b""


class ChunkReader(_ChunkedTransferDecoder):
    """Interprets a chunked body; whatever Twisted refuses is refused with the same error."""

    dataCallback: Callable[[bytes], None]
    #: Who is told of a fault, here or where the body is read. Without anybody it is raised.
    give_up: Callable[[Failure], object] | None = None

    def dataReceived(self, data: bytes) -> None:
        """The next bytes of the body, in any split."""
        try:
            if self.state == "CHUNK_LENGTH" and not self._buffer:
                head = _HEADS.get(len(data)) or _head(len(data))
                if head and data.startswith(head) and data.endswith(b"\r\n"):
                    self.dataCallback(data[len(head) : -2])  # by far the most frequent: one whole chunk
                    return
            self._read(data)
        except Exception:  # synchronous code, so no cancellation passes here
            if self.give_up is None:
                raise
            self.give_up(Failure())

    def _read(self, data: bytes) -> None:
        if self.state in ("TRAILER", "FINISHED"):
            super().dataReceived(data)
            return
        if self._buffer:  # a piece of a line: at most a length and its extensions
            data = bytes(self._buffer) + data
            self._buffer.clear()
            self._start = 0
        pieces: list[bytes] = []
        rest = self._plain(data, pieces)
        if pieces:
            self.dataCallback(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if rest < len(data):
            super().dataReceived(data[rest:] if rest else data)

    def _plain(self, data: bytes, pieces: list[bytes]) -> int:
        """Takes whole and half chunks out of ``data``, as far as they are plain; returns where that ends."""
        place, size = 0, len(data)
        while place < size:
            if self.state == "CHUNK_LENGTH":
                found = _PLAIN.match(data, place)
                if found is None:
                    break
                place = found.end()
                self.length = int(found[1], 16)
                self.state = "BODY"
            elif self.state == "BODY":
                end = place + self.length
                if end > size:
                    pieces.append(data[place:] if place else data)
                    self.length -= size - place
                    return size
                pieces.append(data[place:end])
                place = end
                self.state = "CRLF"
            elif data.startswith(b"\r\n", place):
                place += 2
                self.state = "CHUNK_LENGTH"
            else:
                break
        return place
