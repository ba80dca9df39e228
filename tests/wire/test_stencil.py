"""What is copied through a stencil is what the whole event says; whatever is another event is not copied."""

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.wire.json import NotJSON, decode, encode
from claudeproxy.wire.stencil import Stencil, cut

AROUND = b'{"said":"', b'"}\n'
EVENT = {"id": "chat-1", "choices": [{"index": 0, "delta": {"content": "@"}, "finish_reason": None}]}


def event(text: str, **more: Any) -> bytes:
    value = json.dumps({**EVENT, **more}, ensure_ascii=False, separators=(",", ":"))
    return f"data: {value}\n\n".encode().replace(b'"@"', json.dumps(text, ensure_ascii=False).encode())


def ours(text: str) -> bytes:
    """What is to become of it."""
    return AROUND[0] + encode(text)[1:-1] + AROUND[1]


def place(value: Any) -> Any:
    return value["choices"][0]["delta"].get("content")


class StencilTests(SynchronousTestCase):
    """`cut`, and what it gives."""

    def cut(self, data: bytes, text: str) -> Stencil:
        found = cut(data, text, place, *AROUND)
        assert found is not None
        return found

    def test_copies(self) -> None:
        """Any text that is spelled as we would."""
        stencil = self.cut(event("one"), "one")
        for text in ("two", " ", "näher 🙂", "}]}", "data: ", "\n", 'a\t"b"\\', "\x7f\b\f\r\\n"):
            self.assertEqual(stencil.copied(event(text)), ours(text))

    def test_leaves(self) -> None:
        """Texts with anything in them that is spelled otherwise, other events, several, and pieces of one."""
        stencil = self.cut(event("one"), "one")
        whole = event("two")
        for data in (
            *(event(""), event("\x1b[0m"), event("two", id="chat-2"), event("two", more=1)),
            *(
                whole + whole,
                whole[:-1],
                whole[1:],
                b"",
                whole.replace(b"two", b"t\nwo"),
                whole.replace(b"two", b"\xff"),
                whole.replace(b"two", b"\\/"),
                whole.replace(b"two", b"\\u00e9"),
                whole.replace(b"two", b"\\"),
                whole.replace(b"two", b"\\\\\\"),
            ),
        ):
            self.assertEqual(stencil.copied(data), b"", data)

    def test_proof(self) -> None:
        """No stencil of a text that is elsewhere, comes twice, or is spelled otherwise; nor of several events."""
        for data, text in (
            (event("delta"), "delta"),
            (event("content"), "content"),
            (event("a\nb"), "a\nb"),
            (event("two", id="one"), "one"),
            (event("one") + event("two"), "one"),
            (event("one")[:-1], "one"),
            (event("one").replace(b"\n\n", b"\r\n\r\n"), "one"),
            (event("one").replace(b'"content":', b'"role":'), "one"),
            (b'data: {"choices":[{"delta":{"content":"one"}}]\n\n', "one"),
        ):
            self.assertIsNone(cut(data, text, place, *AROUND), data)

    @given(st.text(min_size=1), st.binary(), st.text())
    @example("one", b'","role":"x', "one")
    @example("one", b"\xed\xa0\x80", "")
    def test_same(self, text: str, inside: bytes, other: str) -> None:
        """Whatever bytes stand where the text stood, they are not copied or mean the same to who takes all apart."""
        stencil = cut(event(text), text, place, *AROUND)
        if stencil is None:
            return
        before, after = event("@").split(b"@")
        for data in (before + inside + after, event(other)):
            copied = stencil.copied(data)
            if copied:
                self.assertEqual(copied, ours(place(decode(data[5:]))))
            else:
                self.assertFalse(self.is_plain(data))

    def is_plain(self, data: bytes) -> bool:
        """Whether it should have been copied."""
        try:
            text = place(decode(data[5:]))
        except (NotJSON, LookupError, TypeError):
            return False
        return isinstance(text, str) and bool(text) and data == event(text) and b"\\u" not in data
