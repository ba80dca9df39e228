"""Lines of JSON in any split become the same values (PROTOCOL rows 68, 71, 83)."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.wire.json import NotJSON
from claudeproxy.wire.lines import LineTooLong
from claudeproxy.wire.ndjson import ValueReader
from tests import strategies


def read(pieces: list[bytes]) -> list[Any]:
    reader = ValueReader()
    return [value for piece in pieces for value in reader.receive(piece)] + list(reader.close())


class ValueReaderTests(SynchronousTestCase):
    """`ValueReader`."""

    @given(st.lists(strategies.json_objects(), max_size=5), st.sampled_from(["\n", "\r\n", "\n\n", " \n"]), st.data())
    def test_any_split(self, values: list[Any], end: str, data: st.DataObject) -> None:
        """However it is cut, and with or without the last line's end, the values are the same."""
        lines = [json.dumps(value, ensure_ascii=False) for value in values]
        text = end.join(lines) + data.draw(st.sampled_from(["", end]))
        body = text.encode("utf-8", "replace")
        self.assertEqual(read(data.draw(strategies.splits(body))), read([body]))
        self.assertEqual(read([bytes([byte]) for byte in body]), read([body]))
        self.assertEqual(len(read([body])), len(values))

    def test_tolerated(self) -> None:
        """CRLF, blank lines, a byte order mark, and a last line without its end."""
        self.assertEqual(read([b'\xef\xbb\xbf{"a":1}\r\n\r\n \n{"b":2}\n[]']), [{"a": 1}, {"b": 2}, []])
        self.assertEqual(read([b"", b"\n"]), [])

    def test_no_json(self) -> None:
        """The values before a line that is none are given."""
        reader = ValueReader()
        found = []
        with self.assertRaises(NotJSON):
            for value in reader.receive(b"1\n2\nnonsense\n3\n"):
                found.append(value)
        self.assertEqual(found, [1, 2])
        self.assertEqual(reader.rejected, b"nonsense")

    @given(strategies.json_objects().filter(bool), st.data())
    def test_one_text(self, value: Any, data: st.DataObject) -> None:
        """A text that is written over many lines is one value, at the end."""
        body = json.dumps(value, indent=1, ensure_ascii=False).encode("utf-8", "replace")
        self.assertEqual(read(data.draw(strategies.splits(body))), read([body]))
        self.assertEqual(len(read([body])), 1)

    def test_count(self) -> None:
        """It is known how many values came."""
        for body, count in ((b"", 0), (b"1\n2\n", 2), (b"1", 1), (b"{\n}", 1)):
            reader = ValueReader()
            found = [*reader.receive(body), *reader.close()]
            self.assertEqual((reader.count, len(found)), (count, count), body)

    def test_no_text(self) -> None:
        """A body that is no JSON at all is rejected whole, at its end."""
        reader = ValueReader()
        self.assertEqual(list(reader.receive(b"no\n such\n1\n")), [])
        self.assertRaises(NotJSON, list, reader.close())
        self.assertEqual(reader.rejected, b"no\nsuch\n1")

    def test_bounded(self) -> None:
        """A text without end is refused."""
        reader = ValueReader(longest=100)
        self.assertRaises(LineTooLong, list, reader.receive(b"{\n" + b'"a":\n' * 50))
