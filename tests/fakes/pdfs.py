"""PDFs made by hand, byte for byte the same each time: the least that readers accept, and what they must not."""

from collections.abc import Sequence

#: Written into a page's text, this byte is drawn as the ligature of f and i.
LIGATURE = "\xae"

_FONTS = b"/Resources<</Font<</F 3 0 R>>/XObject<</I 4 0 R>>>>"
_OUT_OF_REACH = b"/Filter/Standard/V 1/R 2/P -4/O<" + b"11" * 32 + b">/U<" + b"22" * 32 + b">"


def pdf(
    *texts: str,
    size: tuple[float, float] = (612, 792),
    note: str = "",
    field_value: str = "",
    photo: Sequence[bytes] = (),
    encrypted: bool = False,
) -> bytes:
    """A PDF with one page for each text, of ``size`` points.

    Texts are in Latin 1; "\\n" begins a new line. Every page also has a comment that reads ``note``, a form field
    filled in with ``field_value``, and ``photo`` drawn over the whole page: rows of RGB pixels. One that is
    ``encrypted`` has a password that nobody knows.
    """
    rows = list(photo)
    width, height = size
    fields = b"<</Fields[6 0 R]/DR<</Font<</F 3 0 R>>>>/DA(/F 12 Tf)/NeedAppearances true>>"
    kids = b" ".join(b"%d 0 R" % (8 + 2 * index) for index in range(len(texts)))
    annotations = [b"5 0 R"] * bool(note) + [b"6 0 R"] * bool(field_value)
    widget = b"<</Type/Annot/Subtype/Widget/FT/Tx/T(field)/V%s/DA(/F 12 Tf)/Rect[72 200 400 220]/F 4>>"
    comment = b"BT /F 12 Tf 2 5 Td %s Tj ET" % _string(note)
    objects = [
        b"<</Type/Catalog/Pages 2 0 R%s>>" % (b"/AcroForm" + fields if field_value else b""),
        b"<</Type/Pages/Kids[%s]/Count %d>>" % (kids, len(texts)),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica"
        b"/Encoding<</Type/Encoding/BaseEncoding/WinAnsiEncoding/Differences[174/fi]>>>>",
        _stream(
            b"/Type/XObject/Subtype/Image/Width %d/Height %d/ColorSpace/DeviceRGB/BitsPerComponent 8"
            % (len(rows[0]) // 3 if rows else 0, len(rows)),
            b"".join(rows),
        ),
        b"<</Type/Annot/Subtype/FreeText/Rect[72 300 400 320]/F 4/AP<</N 7 0 R>>>>",
        widget % _string(field_value),
        _stream(b"/Type/XObject/Subtype/Form/BBox[0 0 328 20]" + _FONTS, comment),
    ]
    for text in texts:
        lines = b" ".join(b"%s Tj T*" % _string(line) for line in text.split("\n"))
        picture = b"q %g 0 0 %g 0 0 cm /I Do Q " % size if rows else b""
        content = b"%sBT /F 12 Tf 14 TL 72 %g Td %s ET" % (picture, height - 72, lines)
        objects.append(
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 %g %g]/Contents %d 0 R/Annots[%s]%s>>"
            % (width, height, len(objects) + 2, b" ".join(annotations), _FONTS)
        )
        objects.append(_stream(b"", content))
    return _file(objects, b"/Encrypt<<%s>>/ID[<00><00>]" % _OUT_OF_REACH if encrypted else b"")


def _file(objects: Sequence[bytes], trailer: bytes) -> bytes:
    data, places = b"%PDF-1.7\n", []
    for number, value in enumerate(objects, 1):
        places.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, value)
    size = len(objects) + 1
    table = b"xref\n0 %d\n0000000000 65535 f \n" % size + b"".join(b"%010d 00000 n \n" % place for place in places)
    return data + table + b"trailer\n<</Root 1 0 R/Size %d%s>>\nstartxref\n%d\n%%%%EOF\n" % (size, trailer, len(data))


def _stream(entries: bytes, content: bytes) -> bytes:
    return b"<<%s/Length %d>>\nstream\n%s\nendstream" % (entries, len(content), content)


def _string(text: str) -> bytes:
    raw = text.encode("latin-1")
    return b"(" + raw.replace(b"\\", rb"\\").replace(b"(", rb"\(").replace(b")", rb"\)") + b")"
