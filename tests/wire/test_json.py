"""JSON bytes and values (PROTOCOL row 63; issue 2, how it is built)."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.wire.json import NotJSON, decode, decode_shallow, encode, encode_text
from tests import strategies


class DecodeTests(SynchronousTestCase):
    """`decode` and `decode_shallow`."""

    @given(strategies.json_values())
    def test_any_value(self, value: Any) -> None:
        """What another encoder writes is read as the same value."""
        for text in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
            self.assertEqual(decode(text.encode()), value)

    @given(st.binary(max_size=60))
    def test_any_bytes(self, data: bytes) -> None:
        """Bytes that are no JSON raise `NotJSON`, and nothing else."""
        try:
            decode(data)
        except NotJSON as fault:
            self.assertTrue(str(fault))

    def test_no_json(self) -> None:
        """Nothing is mended: NaN, two values, an end too early, bytes that are no UTF-8, text around it."""
        for data in (b"", b" ", b"NaN", b"{} {}", b'{"a":', b'"\xff"', b"\xff", b"x{}", b"{'a':1}", b"[1,]", b"1e999"):
            self.assertRaises(NotJSON, decode, data)

    def test_half_characters(self) -> None:
        """Half of a surrogate pair becomes U+FFFD; a whole pair stays a character, an escaped backslash a backslash."""
        self.assertEqual(decode(rb'"a\ud83db"'), "a\ufffdb")
        self.assertEqual(decode(rb'"\ude00\ud83d\ude00\ud83d"'), "\ufffd\U0001f600\ufffd")
        self.assertEqual(decode(rb'{"\\ud83d\ud83d":"\\\ud83d"}'), {"\\ud83d\ufffd": "\\\ufffd"})
        self.assertEqual(decode(rb'"\ud83d\n\ud83d\\u0041"'), "\ufffd\n\ufffd\\u0041")

    @given(strategies.nasty_texts(halves=True))
    def test_no_half_is_left(self, text: str) -> None:
        """Whatever text a client sends as escapes, what is read has UTF-8."""
        decoded = decode(json.dumps(text).encode())
        decoded.encode("utf-8")
        whole = json.loads(json.dumps(text))  # joins halves that stand side by side
        self.assertEqual(decoded, "".join("\ufffd" if "\ud800" <= each <= "\udfff" else each for each in whole))

    def test_depth(self) -> None:
        """Nesting deeper than can be borne is refused, not a crash."""
        for data in (b"[" * 200_000, b"[" * 200_000 + b"]" * 200_000, b'{"a":' * 200_000 + b"1" + b"}" * 200_000):
            self.assertRaises(NotJSON, decode, data)

    def test_spelling(self) -> None:
        """At the top level the values keep their own bytes: the order of keys, the spelling of numbers."""
        data = b'{"z": {"b":1.0, "a":1e2}, "n": 12345678901234567890123, "t": "\\u00e9"}'
        shallow = decode_shallow(data)
        self.assertEqual(list(shallow), ["z", "n", "t"])
        self.assertEqual(bytes(shallow["z"]), b'{"b":1.0, "a":1e2}')
        self.assertEqual(bytes(shallow["n"]), b"12345678901234567890123")
        self.assertEqual(encode(shallow), b'{"z":{"b":1.0, "a":1e2},"n":12345678901234567890123,"t":"\\u00e9"}')
        for data in (b"[]", b"1", b"null", b"{", b""):
            self.assertRaises(NotJSON, decode_shallow, data)


class EncodeTests(SynchronousTestCase):
    """`encode`."""

    @given(strategies.json_values())
    def test_any_value(self, value: Any) -> None:
        """What is written is UTF-8, compact, on one line, and read by another decoder as the same value."""
        data = encode(value)
        self.assertEqual(json.loads(data.decode("utf-8")), value)
        self.assertNotIn(b"\n", data)
        self.assertNotIn(b"\r", data)
        self.assertEqual(encode_text(value).encode(), data)
        self.assertEqual(encode(value), data)

    @given(strategies.nasty_texts(halves=True))
    def test_half_characters(self, text: str) -> None:
        """Half a character leaves as U+FFFD: what is written always has UTF-8 and no lone half."""
        data = encode({"k": [text]})
        decoded = json.loads(data.decode("utf-8"))["k"][0]
        decoded.encode("utf-8")
        self.assertNotIn(b"\n", data)

    def test_order(self) -> None:
        """Keys stay in their order: the same request gives the same bytes, or a backend's cache is lost."""
        self.assertEqual(encode({"b": 1, "a": {"d": 1, "c": 2.5}}), b'{"b":1,"a":{"d":1,"c":2.5}}')

    def test_large_numbers(self) -> None:
        """A whole number of any size is written in full."""
        self.assertEqual(encode([2**64, -(2**70)]), b"[18446744073709551616,-1180591620717411303424]")
