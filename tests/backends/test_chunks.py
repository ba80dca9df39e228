"""Chunks in any split become the same body, the same end and the same errors as with Twisted's own reader."""

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import _ChunkedTransferDecoder, _DataLoss

from claudeproxy.backends.chunks import ChunkReader
from tests import strategies

BODY = b"5\r\nhello\r\n0A\r\n0123456789\r\n1\r\n\n\r\n0\r\n\r\n"
Outcome = tuple[bytes, list[bytes], str]

#: What servers send, what they may send, and what they must not.
PARTS = st.sampled_from(
    [
        *(b"1\r\na\r\n", b"3\r\nabc\r\n", b"0004\r\nwxyz\r\n", b"a\r\n0123456789\r\n", b"5\r\n0\r\n\r\n\r\n"),
        *(b"1;name=value\r\na\r\n", b'2;q="x"\r\nab\r\n', b"1 \r\na\r\n", b"1;\0\r\na\r\n", b"1_0\r\n" + b"x" * 16),
        *(b"1\r\na\n", b"1\na\r\n", b"-1\r\na\r\n", b"+1\r\na\r\n", b"0x1\r\na\r\n", b"1\r\nab\r\n"),
        *(b"x\r\n", b"\r\n", b"f" * 17 + b"\r\n"),
        *(b"0\r\n\r\n", b"0\r\nTrailer: 1\r\n\r\n", b"000\r\n\r\nmore", b"0" * 2000),
    ]
)


def read(reader: type[_ChunkedTransferDecoder], pieces: list[bytes]) -> Outcome:
    """The body, what came after its end, and how it ended."""
    body: list[bytes] = []
    after: list[bytes] = []
    one = reader(body.append, after.append)
    try:
        for piece in pieces:
            if after:
                break
            one.dataReceived(piece)
        one.noMoreData()
    except Exception as fault:
        return b"".join(body), after, "cut" if isinstance(fault, _DataLoss) else repr(fault)
    return b"".join(body), after, ""


class ChunkTests(SynchronousTestCase):
    """`ChunkReader`."""

    def test_whole(self) -> None:
        """The chunks' contents, joined, and that the body is whole."""
        self.assertEqual(read(ChunkReader, [BODY]), (b"hello0123456789\n", [b""], ""))

    def test_byte_by_byte(self) -> None:
        """It makes no difference if every byte comes alone."""
        self.assertEqual(read(ChunkReader, [bytes([each]) for each in BODY]), (b"hello0123456789\n", [b""], ""))

    def test_every_split(self) -> None:
        """Nor where two reads meet."""
        for at in range(len(BODY)):
            self.assertEqual(read(ChunkReader, [BODY[:at], BODY[at:]]), (b"hello0123456789\n", [b""], ""), at)

    def test_every_size(self) -> None:
        """A read that is one whole chunk, and one that is nearly so, whatever its length."""
        for size in (*range(1, 300), *range(4090, 4110), *range(65530, 65550)):
            for told in (size - 1, size, size + 1):
                pieces = [b"%x\r\n" % told + b"\r" * size + b"\r\n", b"0\r\n\r\n"]
                self.assertEqual(read(ChunkReader, pieces), read(_ChunkedTransferDecoder, pieces), (size, told))

    def test_one_piece_a_read(self) -> None:
        """All that one read brings is handed over once, also if it begins and ends within a chunk."""
        chunks = b"".join(b"%x\r\n%b\r\n" % (size, b"x" * size) for size in range(1, 200))
        pieces: list[bytes] = []
        reader = ChunkReader(pieces.append, lambda rest: None)
        for number, start in enumerate(range(0, len(chunks), 1000), 1):
            reader.dataReceived(chunks[start : start + 1000])
            self.assertEqual(len(pieces), number)
        self.assertEqual(b"".join(pieces), b"x" * sum(range(1, 200)))

    def test_the_end_comes_last(self) -> None:
        """What the last read brings is handed over before its end is told, and what follows is no part of it."""
        told: list[object] = []
        reader = ChunkReader(told.append, lambda rest: told.append(("end", rest)))
        reader.dataReceived(BODY + b"HTTP/1.1 200 OK\r\n")
        self.assertEqual(told, [b"hello0123456789\n", ("end", b"HTTP/1.1 200 OK\r\n")])

    def test_one_large_chunk(self) -> None:
        """A chunk of megabytes is handed over as it comes, not collected."""
        pieces: list[bytes] = []
        reader = ChunkReader(pieces.append, lambda rest: None)
        reader.dataReceived(b"800000\r\n")
        for _ in range(8):
            reader.dataReceived(b"x" * 2**20)
        self.assertEqual([len(each) for each in pieces], [2**20] * 8)
        self.assertEqual(len(reader._buffer), 0)

    @given(st.lists(PARTS, max_size=8), st.data())
    @example([b"1\r\nab\r\n"], None)
    def test_as_twisted_does(self, parts: list[bytes], data: st.DataObject | None) -> None:
        """Whatever comes, however it is split: the same body, the same rest, the same error."""
        whole = b"".join(parts)
        pieces = [whole] if data is None else data.draw(strategies.splits(whole))
        self.assertEqual(read(ChunkReader, pieces), read(_ChunkedTransferDecoder, pieces))
