"""PDFs as text and pictures: what is taken, what is left out, and why something cannot be read."""

import base64
import random
import struct
import sys
import zlib
from unittest.mock import patch

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.model.documents import Paper, Unreadable
from claudeproxy.wire import pdf as module
from claudeproxy.wire.pdf import (
    BAD_BASE64,
    DAMAGED,
    DAMAGED_PAGE,
    ENCRYPTED,
    IMAGE_BYTES,
    IMAGE_PAGES,
    LONG_EDGE,
    NO_PACKAGE,
    NOT_A_PDF,
    SCALE,
    TEXT_PAGES,
    UNKNOWN_ENCRYPTION,
    read_base64,
    read_pdf,
)
from claudeproxy.wire.png import png
from tests.fakes.pdfs import LIGATURE, pdf


def paper(data: bytes, with_images: bool = False) -> Paper:
    """What was read; it must be readable."""
    result = read_pdf(data, with_images)
    assert isinstance(result, Paper), result
    return result


def pixels(image: bytes) -> tuple[int, int, bytes]:
    """Width, height and RGB of a PNG, by the rules of its specification as far as they are used here."""
    assert image.startswith(b"\x89PNG\r\n\x1a\n")
    place, data = 8, b""
    while place < len(image):
        size, name = struct.unpack(">I4s", image[place : place + 8])
        body = image[place + 8 : place + 8 + size]
        assert zlib.crc32(name + body) == int.from_bytes(image[place + 8 + size : place + 12 + size])
        if name == b"IHDR":
            width, height, depth, colour, *rest = struct.unpack(">IIBBBBB", body)
            assert (depth, rest) == (8, [0, 0, 0])
        elif name == b"IDAT":
            data = zlib.decompress(body)
        place += 12 + size
    stride = width * (3 if colour == 2 else 1)
    above, rows = bytes(stride), []
    for start in range(0, len(data), stride + 1):
        row = data[start + 1 : start + 1 + stride]
        if data[start] == 2:
            row = bytes((byte + other) & 0xFF for byte, other in zip(row, above, strict=True))
        rows.append(row)
        above = row
    flat = b"".join(rows)
    return width, height, flat if colour == 2 else bytes(byte for byte in flat for _ in range(3))


def noise(width: int, height: int) -> list[bytes]:
    """Rows of a picture that no packing makes smaller."""
    source = random.Random(1)
    return [source.randbytes(width * 3) for _ in range(height)]


class TextTests(SynchronousTestCase):
    def test_pages(self) -> None:
        """Each page's text is one string, in the order of the pages; without being asked for, no page is drawn."""
        self.assertEqual(paper(pdf("one", "two", "")), Paper(("one", "two", "")))

    def test_line_ends(self) -> None:
        """Lines end with a line feed alone, and the last one has no end."""
        self.assertEqual(paper(pdf("first\nsecond")).pages, ("first\nsecond",))

    def test_ligatures(self) -> None:
        """A ligature is the letters it is made of."""
        self.assertEqual(paper(pdf(f"{LIGATURE}nal")).pages, ("final",))

    def test_hyphen(self) -> None:
        """A word that is broken at the end of a line stays as it is printed: the hyphen, then the line's end."""
        self.assertEqual(paper(pdf("a hyphen-\nation")).pages, ("a hyphen-\nation",))

    def test_controls(self) -> None:
        """No NUL and no other control character but the line's end comes through."""
        (text,) = paper(pdf("a\0b\x01c\x7fd")).pages
        self.assertEqual([character for character in text if ord(character) < 32 or ord(character) == 127], [])

    def test_notes_and_forms(self) -> None:
        """What somebody wrote onto the page or into its form is part of the text, and of the picture."""
        filled = paper(pdf("Name:", note="by hand", field_value="Ada"), with_images=True)
        self.assertEqual(filled.pages, ("Name:\nby hand Ada",))
        self.assertNotEqual(filled.images, paper(pdf("Name:"), with_images=True).images)

    def test_limit(self) -> None:
        """Pages beyond the limit are left out and counted."""
        long = paper(pdf(*(f"page {number}" for number in range(TEXT_PAGES + 3))))
        self.assertEqual((len(long.pages), long.pages[-1], long.left_out), (TEXT_PAGES, f"page {TEXT_PAGES - 1}", 3))


class ImageTests(SynchronousTestCase):
    def test_size(self) -> None:
        """The longer edge of a page has the limit's pixels, upright or not, but a small page is not blown up."""
        upright, flat = ((612, 792), (1212, 1568)), ((792, 612), (1568, 1212))
        small, line = ((72, 36), (72 * SCALE, 36 * SCALE)), ((14400, 0.1), (1568, 1))
        for size, expected in (upright, flat, small, line):
            (image,) = paper(pdf("x", size=size), with_images=True).images
            self.assertEqual(struct.unpack(">II", image[16:24]), expected)

    def test_picture(self) -> None:
        """The picture shows the page: white paper, and colours in their places."""
        red_over_blue = [b"\xff\0\0" * 2, b"\0\0\xff" * 2]
        (image,) = paper(pdf("", size=(50, 50), photo=red_over_blue), with_images=True).images
        width, height, rgb = pixels(image)
        self.assertEqual((rgb[:3], rgb[-3:], len(rgb)), (b"\xff\0\0", b"\0\0\xff", width * height * 3))
        (text,) = paper(pdf("x"), with_images=True).images
        self.assertEqual(pixels(text)[2][:3], b"\xff\xff\xff")

    def test_limit(self) -> None:
        """Only the first pages are drawn; the text of the others is still there."""
        long = paper(pdf(*("x" * (IMAGE_PAGES + 2))), with_images=True)
        self.assertEqual((len(long.images), len(long.pages), long.left_out), (IMAGE_PAGES, IMAGE_PAGES + 2, 0))

    def test_photograph(self) -> None:
        """A page whose picture would be too large is drawn at half the size, which always fits."""
        (image,) = paper(pdf("", size=(792, 792), photo=noise(1568, 1568)), with_images=True).images
        self.assertEqual(struct.unpack(">II", image[16:24]), (LONG_EDGE // 2, LONG_EDGE // 2))
        self.assertLessEqual(len(image), IMAGE_BYTES)

    def test_all_pictures(self) -> None:
        """When all pictures together become too large, the rest of the pages is text only."""
        data = pdf("a", "b", "c")
        one = len(paper(data, with_images=True).images[0])
        with patch.object(module, "IMAGES_BYTES", 2 * one + one // 2):
            some = paper(data, with_images=True)
        self.assertEqual((len(some.images), some.pages), (2, ("a", "b", "c")))

    @given(st.integers(1, 9), st.integers(1, 9), st.booleans(), st.sampled_from([0, 10**6]), st.randoms())
    def test_png(self, width: int, height: int, grey: bool, small: int, source: random.Random) -> None:
        """A PNG holds exactly the pixels it was made of, in grey or colour, packed either way."""
        rgb = b"".join(source.randbytes(1) * 3 if grey else source.randbytes(3) for _ in range(width * height))
        self.assertEqual(pixels(png(width, height, rgb, small)), (width, height, rgb))

    def test_png_smaller(self) -> None:
        """What packs badly is packed by the differences of its rows."""
        row = random.Random(1).randbytes(300)
        rgb = b"".join(bytes((byte + shift) & 0xFF for byte in row) for shift in range(100))
        self.assertLess(len(png(100, 100, rgb, 0)), len(png(100, 100, rgb, 10**6)) / 4)


class SameTests(SynchronousTestCase):
    def test_same(self) -> None:
        """The same bytes give the same paper, whatever was read in between, so that a prompt's cache is hit."""
        data = pdf("one\ntwo", note="note", field_value="value")
        first = read_pdf(data, True)
        for other in (pdf("x", encrypted=True), data[:300], pdf("y")):
            read_pdf(other, True)
            self.assertEqual(read_pdf(data, True), first)

    def test_reasons_are_their_own(self) -> None:
        """A reason does not depend on what went wrong before."""
        for _ in range(2):
            self.assertEqual(read_pdf(pdf("x", encrypted=True), False), ENCRYPTED)
            self.assertEqual(read_pdf(pdf(), False), DAMAGED)


class UnreadableTests(SynchronousTestCase):
    def test_not_a_pdf(self) -> None:
        """What has no mark of a PDF near its beginning is none."""
        for data in (b"", b"\x89PNG\r\n\x1a\n", b"x" * 2000 + pdf("x")):
            self.assertEqual(read_pdf(data, False), NOT_A_PDF)
        self.assertEqual(paper(b"junk first\n" + pdf("x")).pages, ("x",))

    def test_encrypted(self) -> None:
        """A document with a password says so."""
        self.assertEqual(read_pdf(pdf("secret", encrypted=True), True), ENCRYPTED)

    def test_unknown_encryption(self) -> None:
        """So does one that is encrypted in a way nobody knows."""
        strange = pdf("secret", encrypted=True).replace(b"/Standard", b"/Ownmade!")
        self.assertEqual(read_pdf(strange, True), UNKNOWN_ENCRYPTION)

    def test_damaged(self) -> None:
        """A document of which no page can be found is damaged."""
        whole = pdf("x")
        for data in (whole[:20], b"%PDF-1.7\n", whole.replace(b"/Catalog", b"/Xatalog").replace(b"/Pages", b"/Xages")):
            self.assertEqual(read_pdf(data, True), DAMAGED)

    def test_damaged_page(self) -> None:
        """Of a document with one damaged page the others are read; that one says so, and its picture is blank."""
        data = pdf("one", "two").replace(b"/Kids[8 0 R", b"/Kids[3 0 R", 1)
        first, second = (found := paper(data, with_images=True)).pages
        self.assertEqual((first, second), (DAMAGED_PAGE, "two"))
        self.assertEqual(set(pixels(found.images[0])[2]), {0xFF})

    def test_cut(self) -> None:
        """A document whose end or table of contents is broken still gives its pages."""
        whole = pdf("one", "two")
        for data in (whole[: whole.index(b"startxref")], whole.replace(b" 00000 n", b" 00000 f")):
            self.assertEqual(paper(data).pages, ("one", "two"))

    def test_no_package(self) -> None:
        """Without the optional package the reason says how to get it."""
        with patch.dict(sys.modules, {"pypdfium2": None}):
            self.assertEqual(read_pdf(pdf("x"), True), NO_PACKAGE)
        self.assertIn("claudeproxy[documents]", NO_PACKAGE.reason)

    def test_base64(self) -> None:
        """Base64 is read with or without line ends; broken base64 says so."""
        text = base64.encodebytes(pdf("x")).decode()
        self.assertEqual(read_base64(text, False), Paper(("x",)))
        self.assertEqual(read_base64(text.replace("\n", ""), False), Paper(("x",)))
        for broken in ("abcde", "JVBERi0ä"):
            self.assertEqual(read_base64(broken, False), BAD_BASE64)

    @settings(max_examples=200, deadline=None)
    @given(st.binary(max_size=300), st.booleans(), st.booleans())
    def test_garbage(self, garbage: bytes, marked: bool, with_images: bool) -> None:
        """Garbage is unreadable, with or without a PDF's mark; nothing is raised."""
        data = b"%PDF-1.7\n" * marked + garbage
        self.assertIsInstance(read_pdf(data, with_images), Unreadable)

    @settings(max_examples=150, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 2000), st.binary(min_size=1, max_size=4)), min_size=1, max_size=6))
    def test_mutilated(self, wounds: list[tuple[int, bytes]]) -> None:
        """A document with wounds anywhere gives a paper or a reason, the same each time; nothing is raised.

        But for the shades of a picture, if the wound is in the name of the font.
        """
        data = bytearray(pdf("one\ntwo", note="note", field_value="value", size=(60, 60)))
        for place, bytes_there in wounds:
            place %= len(data)
            data[place : place + len(bytes_there)] = bytes_there
        first, second = (read_pdf(bytes(data), True) for _ in range(2))
        if isinstance(first, Paper) and isinstance(second, Paper):
            self.assertEqual(len(first.images), len(second.images))
            first, second = evolve(first, images=()), evolve(second, images=())
        self.assertEqual(first, second)

    @given(st.text(max_size=50))
    def test_garbage_text(self, text: str) -> None:
        """Nor is anything raised by what is no base64."""
        self.assertIsInstance(read_base64(text, False), Unreadable)
