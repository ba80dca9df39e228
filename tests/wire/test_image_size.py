"""Sizes of images, from files written here byte by byte."""

import struct
from base64 import b64encode

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.wire.image_size import FARTHEST, size_of, size_of_base64
from claudeproxy.wire.png import png


def segment(marker: int, payload: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(payload) + 2) + payload


def jpeg(*before: bytes, frame: int = 0xC0) -> bytes:
    """A JPEG of 300 by 200 pixels, as far as its frame's header."""
    header = segment(frame, b"\x08" + struct.pack(">HH", 200, 300) + b"\x01\x01\x11\x00")
    return b"\xff\xd8" + segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0") + b"".join(before) + header + b"\xff\xda\0\2\x12"


def webp(kind: bytes, payload: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", len(payload) + 12) + b"WEBP" + kind + struct.pack("<I", len(payload)) + payload


IMAGES = {
    "png": png(3, 2, bytes(range(18)), 10**6),
    "gif": b"GIF89a"
    + struct.pack("<HH", 3, 2)
    + b"\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\x03\0\x02\0\0\x02\x02\x44\x01\0;",
    "webp, lossy": webp(b"VP8 ", b"\x30\x01\0\x9d\x01\x2a" + struct.pack("<HH", 3 | 1 << 14, 2) + bytes(8)),
    "webp, lossless": webp(b"VP8L", b"\x2f" + struct.pack("<I", 2 | 1 << 14) + bytes(8)),
    "webp, extended": webp(b"VP8X", b"\x10\0\0\0" + b"\x02\0\0" + b"\x01\0\0"),
}


class ImageSizeTests(SynchronousTestCase):
    """`size_of` and `size_of_base64`."""

    def test_each_kind(self) -> None:
        """The size stands in the header of PNG, GIF and the three kinds of WebP."""
        for name, data in IMAGES.items():
            with self.subTest(name):
                self.assertEqual(size_of(data), (3, 2))
                self.assertEqual(size_of_base64(b64encode(data).decode()), (3, 2))

    def test_jpeg(self) -> None:
        """A JPEG's frame is found behind other segments, filling and bare markers, whatever its coding."""
        tables = segment(0xC4, bytes(40)) + segment(0xDB, b"\xff\xc0" * 30)
        for data in (
            jpeg(),
            jpeg(tables),
            jpeg(b"\xff\xff\xff", segment(0xFE, b"hello"), b"\xff\x01"),
            jpeg(frame=0xC2),
        ):
            self.assertEqual(size_of(data), (300, 200))
            self.assertEqual(size_of_base64(b64encode(data).decode()), (300, 200))

    def test_late_frame(self) -> None:
        """A frame may come late, but is not looked for beyond a bound."""
        early = jpeg(segment(0xE1, bytes(60000)), segment(0xE2, bytes(60000)))
        self.assertEqual(size_of_base64(b64encode(early).decode()), (300, 200))
        late = jpeg(*[segment(0xE2, bytes(60000))] * (FARTHEST // 60000 + 1))
        self.assertIsNone(size_of_base64(b64encode(late).decode()))

    def test_cut(self) -> None:
        """A file that ends anywhere has a size or none, never an error."""
        for name, data in {**IMAGES, "jpeg": jpeg(segment(0xDB, bytes(65)))}.items():
            for end in range(len(data)):
                with self.subTest(name, end=end):
                    self.assertIn(size_of(data[:end]), (None, size_of(data)))
                    text = b64encode(data).decode()[:end]
                    self.assertIn(size_of_base64(text), (None, size_of(data)))

    def test_none(self) -> None:
        """What is no image of these kinds, or has no size, has none."""
        empty = b"GIF89a" + bytes(8)
        for data in (
            b"",
            b"BM" + bytes(60),
            b"<svg>",
            webp(b"ALPH", bytes(20)),
            empty,
            b"\xff\xd8\xff\xd9",
            jpeg()[:20],
        ):
            self.assertIsNone(size_of(data))
        for text in ("", "/9j/", "not base64!", "ä" * 200, "\ud800" * 40, "iVBORw0KGgo"):
            self.assertIsNone(size_of_base64(text))

    @given(st.sampled_from([*IMAGES.values(), jpeg()]), st.binary(max_size=60), st.integers(0, 60))
    def test_damage(self, data: bytes, noise: bytes, at: int) -> None:
        """Noise anywhere in a header never raises, and a size is never below one pixel."""
        found = size_of(data[:at] + noise + data[at + len(noise) :])
        self.assertTrue(found is None or min(found) > 0)
