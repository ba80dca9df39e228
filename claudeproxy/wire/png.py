"""Pixels as a PNG file, so that nobody needs an imaging library (pure)."""

import struct
import zlib

_GREY, _RGB = 0, 2
_NO_FILTER, _UP = b"\0", b"\2"


def png(width: int, height: int, rgb: bytes, small: int) -> bytes:
    """The file of ``width * height`` pixels of three bytes each; the same pixels give the same file.

    Text on paper is smallest as it is. Only a file that would have more than ``small`` bytes, which is a photograph,
    is tried with each row given as the difference to the row above: about 40 % less.
    """
    colour, pixels, stride = _RGB, rgb, width * 3
    if rgb[0::3] == rgb[1::3] == rgb[2::3]:
        colour, pixels, stride = _GREY, rgb[0::3], width
    data = _packed(pixels, stride, _NO_FILTER)
    if len(data) > small:
        data = min(data, _packed(_less_the_row_above(pixels, stride), stride, _UP), key=len)
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _packed(pixels: bytes, stride: int, filter_type: bytes) -> bytes:
    rows = (filter_type + pixels[start : start + stride] for start in range(0, len(pixels), stride))
    return zlib.compress(b"".join(rows), 6)


def _less_the_row_above(pixels: bytes, stride: int) -> bytes:
    """Each byte less the one a row before it, modulo 256: all at once, as two long numbers whose bytes never borrow."""
    size = len(pixels)
    top = int.from_bytes(b"\x80" * size)
    this, above = int.from_bytes(pixels), int.from_bytes(bytes(stride) + pixels[:-stride])
    without_borrow = (this | top) - (above & ~top)
    return (without_borrow ^ ((this ^ above ^ top) & top)).to_bytes(size)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
