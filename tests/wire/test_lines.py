"""Bytes in any split become the same lines (PROTOCOL rows 64, 68, 69, 71)."""

import re

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.wire.lines import LineSplitter, LineTooLong
from tests import strategies

MIXED = b"one\ntwo\r\nthree\rfour\r\r\n\n\nfive \xe2\x82\xac\n\rsix"
LINES = [b"one", b"two", b"three", b"four", b"", b"", b"", b"five \xe2\x82\xac", b""]


def read(pieces: list[bytes], longest: int = 10**6) -> tuple[list[bytes], bytes]:
    splitter = LineSplitter(longest)
    lines = [line for piece in pieces for line in splitter.receive(piece)]
    return lines, splitter.close()


def independent(data: bytes) -> tuple[list[bytes], bytes]:
    """The same, by a regular expression over the whole."""
    *lines, rest = re.split(rb"\r\n|\r|\n", data)
    return lines, rest


class LineTests(SynchronousTestCase):
    """`LineSplitter`."""

    def test_whole(self) -> None:
        """LF, CRLF and CR end lines, in any mixture; what stands after the last one is kept."""
        self.assertEqual(read([MIXED]), (LINES, b"six"))

    def test_byte_by_byte(self) -> None:
        """It makes no difference if every byte comes alone."""
        self.assertEqual(read([bytes([each]) for each in MIXED]), (LINES, b"six"))

    def test_every_split(self) -> None:
        """Nor where two reads meet, be it between CR and LF or within a character."""
        for place in range(len(MIXED) + 1):
            self.assertEqual(read([MIXED[:place], MIXED[place:]]), (LINES, b"six"), place)

    def test_empty_reads(self) -> None:
        """A read of nothing between CR and LF changes nothing."""
        self.assertEqual(read([b"a\r", b"", b"\nb\n"]), ([b"a", b"b"], b""))

    def test_cr_is_an_end(self) -> None:
        """A line that ends in CR is not kept waiting for the byte after it."""
        self.assertEqual(LineSplitter().receive(b"a\r"), [b"a"])

    @given(
        st.lists(st.sampled_from([b"\r", b"\n", b"a", b"\xe2", b"\x85", b"\xe2\x80\xa8", b"bc"])).map(b"".join),
        st.data(),
    )
    def test_any_split(self, data: bytes, draw: st.DataObject) -> None:
        """Any bytes in any split give the lines of the whole, as an independent splitter finds them."""
        self.assertEqual(read(draw.draw(strategies.splits(data))), independent(data))

    def test_closed(self) -> None:
        """The rest is given once."""
        splitter = LineSplitter()
        splitter.receive(b"rest")
        self.assertEqual((splitter.close(), splitter.close()), (b"rest", b""))

    def test_longest(self) -> None:
        """A line may be as long as the limit, and not longer, whether its end has come or not."""
        self.assertEqual(read([b"x" * 10 + b"\n"], 10), ([b"x" * 10], b""))
        self.assertRaises(LineTooLong, read, [b"x" * 11], 10)
        self.assertRaises(LineTooLong, read, [b"x" * 11 + b"\n"], 10)
        self.assertRaises(LineTooLong, read, [b"x" * 6, b"x" * 5 + b"\n"], 10)
        self.assertRaises(LineTooLong, read, [b"x" * 6] * 3, 10)

    def test_work(self) -> None:
        """A line of 4 MB in pieces of 100 bytes is put together once, not again for every piece (row 71)."""
        splitter = LineSplitter()
        piece = b"x" * 100
        for _ in range(40_000):
            self.assertEqual(splitter.receive(piece), [])
        self.assertEqual(list(map(len, splitter.receive(b"\n"))), [4_000_000])
