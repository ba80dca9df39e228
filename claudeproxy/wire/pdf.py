"""A PDF's bytes -> `Paper`, by pypdfium2 (extra ``documents``); pure: the same bytes give the same paper.

The answer stands in the prompt on every turn of a conversation, so it must not vary, or no prompt cache is ever hit.
One thing is out of reach: where a font is neither embedded, nor a standard one, nor has widths, which the PDF
standard forbids, PDFium draws its letters with the widths of what it drew before, so that a picture (never the text)
differs by shades. `backends.documents` remembers the first.
Nothing here knows the time: how long a document takes is bounded by its pages, mostly below a second for the text and
a second or two for the pictures. Whoever must not be held up calls this in a thread.
"""

import base64
import math
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from threading import Lock
from typing import Any

from claudeproxy.model.documents import Paper, Unreadable
from claudeproxy.wire.png import png

#: Pages whose text is taken: the real API's limit for a request to a model with less than a million tokens of window.
TEXT_PAGES = 100
#: Pages that are drawn. A picture costs a local model about 1,500 tokens, so these fill a window of 32K.
IMAGE_PAGES = 20
#: The longer edge of a picture, in pixels: the real API shrinks what is larger.
LONG_EDGE = 1568
#: Pixels for a point (1/72 inch): a small page is drawn at 288 dpi and not blown up further.
SCALE = 4.0
#: Bytes of one picture; a larger one, which is a photograph, is drawn at half the size and then always fits.
IMAGE_BYTES = 3 * 1024**2
#: Bytes of all pictures: as base64 they are still below the 32 MB that the real API takes as one request.
IMAGES_BYTES = 20 * 1024**2

NOT_A_PDF = Unreadable("it is not a PDF")
BAD_BASE64 = Unreadable("its base64 is broken")
ENCRYPTED = Unreadable("it is encrypted with a password")
UNKNOWN_ENCRYPTION = Unreadable("it is encrypted in a way that is not supported")
DAMAGED = Unreadable("it is damaged")
NO_PACKAGE = Unreadable("the proxy lacks a package for PDFs: pip install 'claudeproxy[documents]'")
#: Stands for the text of a page that cannot be read in a document that can.
DAMAGED_PAGE = "[This page is damaged.]"

# PDFium's state belongs to the process, not to any object of ours, and only one thread may be inside (pypdfium2's
# documentation, "Incompatibility with Threading"), not even two readers of one process, as there are in a reload.
_turn = Lock()

# PDFium ends lines with CR LF; a word broken at a line's end has U+0002 (or U+FFFE) for the hyphen and the line's end.
_SPELLING: dict[int, str | None] = {code: None for code in (*range(32), 0x7F, 0xFFFF) if chr(code) not in "\t\n"}
_SPELLING |= {0x02: "-\n", 0xFFFE: "-\n"}

_BLANK = png(100, 141, b"\xff" * (100 * 141 * 3), IMAGE_BYTES)


def read_base64(data: str, with_images: bool) -> Paper | Unreadable:
    """`read_pdf` of the bytes that ``data`` stands for."""
    try:
        return read_pdf(base64.b64decode(data), with_images)
    except ValueError:
        return BAD_BASE64


def read_pdf(data: bytes, with_images: bool) -> Paper | Unreadable:
    """The text of the first `TEXT_PAGES` pages and, if wanted, pictures of the first `IMAGE_PAGES`.

    Filled-in forms and notes are part of both. A page that cannot be read says so in its text and is blank in its
    picture. Raises nothing, whatever the bytes are.
    """
    if b"%PDF-" not in data[:1024]:  # as far as PDFium itself looks
        return NOT_A_PDF
    with _turn:
        try:
            import pypdfium2
        except (ImportError, OSError):  # OSError: the package is there, its library does not fit this system
            return NO_PACKAGE
        raw = pypdfium2.raw.FPDF_LoadMemDocument64(data, len(data), None)
        if not raw:
            return _refusal(pypdfium2.raw, pypdfium2.raw.FPDF_GetLastError())
        with closing(pypdfium2.PdfDocument(raw)) as document:
            with suppress(pypdfium2.PdfiumError):
                document.init_forms()  # without it the values of form fields are left out
            return _paper(document, with_images)


def _refusal(codes: Any, code: int) -> Unreadable:
    return {codes.FPDF_ERR_PASSWORD: ENCRYPTED, codes.FPDF_ERR_SECURITY: UNKNOWN_ENCRYPTION}.get(code, DAMAGED)


def _paper(document: Any, with_images: bool) -> Paper | Unreadable:
    count = len(document)
    texts: list[str] = []
    images: list[bytes] = []
    wanted, room, readable = IMAGE_PAGES if with_images else 0, IMAGES_BYTES, False
    for index in range(min(count, TEXT_PAGES)):
        with _page(document, index) as page:
            texts.append(DAMAGED_PAGE if page is None else _text(page))
            readable = readable or page is not None
            if index < wanted:
                image = _BLANK if page is None else _image(page)
                room -= len(image)
                if room < 0:
                    wanted = 0
                else:
                    images.append(image)
    return Paper(tuple(texts), tuple(images), count - len(texts)) if readable else DAMAGED


@contextmanager
def _page(document: Any, index: int) -> Iterator[Any]:
    """One page with its forms and notes made part of it; None if it is damaged."""
    import pypdfium2

    page = None
    try:
        with suppress(pypdfium2.PdfiumError):
            page = document[index]
            if pypdfium2.raw.FPDFPage_GetAnnotCount(page) > 0:
                pypdfium2.raw.FPDFPage_Flatten(page, pypdfium2.raw.FLAT_NORMALDISPLAY)
                page.close()  # it does not know of what was added
                page = None
                page = document[index]
        yield page
    finally:
        if page is not None:
            page.close()


def _text(page: Any) -> str:
    import pypdfium2

    try:
        with closing(page.get_textpage()) as text:
            found: str = text.get_text_bounded()
    except pypdfium2.PdfiumError:
        return DAMAGED_PAGE
    return found.replace("\r\n", "\n").replace("\r", "\n").translate(_SPELLING).rstrip()


def _image(page: Any) -> bytes:
    long_edge = max(page.get_size())
    if not (0 < long_edge < math.inf):
        return _BLANK
    # Half a pixel less, because the size is rounded up.
    scale = min(SCALE, (LONG_EDGE - 0.5) / long_edge)
    image = _drawn(page, scale)
    return image if len(image) <= IMAGE_BYTES else _drawn(page, scale / 2)


def _drawn(page: Any, scale: float) -> bytes:
    import pypdfium2

    try:
        with closing(page.render(scale=scale, rev_byteorder=True)) as bitmap:
            return png(bitmap.width, bitmap.height, bytes(bitmap.buffer), IMAGE_BYTES)
    except (pypdfium2.PdfiumError, ValueError):  # ValueError: a page without width or height
        return _BLANK
