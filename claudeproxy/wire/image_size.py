"""Width and height of an image, from the first bytes of its file (pure; no pixel is decoded).

Where they stand: PNG in its first chunk; GIF after the signature; WebP in the first chunk, in three ways; JPEG in the
frame's header, which comes after any number of other segments.
"""

import struct
from base64 import b64decode
from binascii import Error

#: Bytes that are looked at. A frame's header comes late in a JPEG with a colour profile and a small picture of itself.
FARTHEST = 255 * 1024
#: Enough for all but a JPEG. Both are multiples of 3: so many bytes stand in four characters of base64.
_FIRST = 96
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
#: JPEG: the markers that begin a frame: all of 0xC0 to 0xCF but those for tables and arithmetic coding.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
#: JPEG: markers that nothing belongs to.
_BARE = frozenset({0x01, *range(0xD0, 0xD9)})


def size_of_base64(text: str) -> tuple[int, int] | None:
    """Width and height in pixels; None for what is no such image, or too damaged to tell. Never raises."""
    found = size_of(_decoded(text, _FIRST))
    if found is None and text.startswith("/9j/"):  # a JPEG, in base64
        found = size_of(_decoded(text, FARTHEST))
    return found


def size_of(data: bytes) -> tuple[int, int] | None:
    """The same from the beginning of the file itself."""
    try:
        width, height = _read(data)
    except (struct.error, IndexError):
        return None  # cut short
    return (width, height) if width > 0 and height > 0 else None


def _decoded(text: str, size: int) -> bytes:
    beginning = text[: size // 3 * 4]
    try:
        return b64decode(beginning[: len(beginning) // 4 * 4])
    except (Error, ValueError):
        return b""


def _read(data: bytes) -> tuple[int, int]:
    if data.startswith(_PNG):
        width, height = struct.unpack_from(">II", data, 16)
        return (width, height) if data[12:16] == b"IHDR" else (0, 0)
    if data[:6] in (b"GIF87a", b"GIF89a"):
        width, height = struct.unpack_from("<HH", data, 6)
        return width, height
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    if data.startswith(_JPEG):
        return _jpeg(data)
    return 0, 0


def _webp(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":  # the canvas: twice 24 bits, one less than meant
        return 1 + _little(data, 24), 1 + _little(data, 27)
    if kind == b"VP8L" and data[20] == 0x2F:  # lossless: twice 14 bits, one less than meant
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":  # lossy: 14 bits each, 2 more say how to scale
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return 0, 0


def _little(data: bytes, at: int) -> int:
    low, high = struct.unpack_from("<HB", data, at)
    return int(low | high << 16)


def _jpeg(data: bytes) -> tuple[int, int]:
    at = 2
    while data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # filling
            at += 1
        elif marker in _BARE:
            at += 2
        elif marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        else:
            (length,) = struct.unpack_from(">H", data, at + 2)
            if length < 2 or marker in (0xD9, 0xDA):  # the end, or pixels: a frame would have come before
                return 0, 0
            at += 2 + length
    return 0, 0
