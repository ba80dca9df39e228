"""How large a prompt is."""

import json
from base64 import b64encode
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.translate.chat_request import to_chat
from claudeproxy.translate.dialects import DIALECTS
from claudeproxy.translate.ollama_request import to_ollama
from claudeproxy.translate.prompt_size import PromptScale, Size, patched, texture_of, tiled
from claudeproxy.translate.responses_request import to_responses
from claudeproxy.wire.json import encode
from claudeproxy.wire.png import png
from claudeproxy.wire.requests import parse_messages

PICTURE = b64encode(png(600, 400, bytes(600 * 400 * 3), 10**9)).decode()
TOOL = {"name": "look", "description": "Looks.", "input_schema": {"type": "object", "properties": {}}}
REQUEST = {
    "model": "m",
    "max_tokens": 9,
    "system": "Be brief.",
    "tools": [TOOL],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is it?"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PICTURE}},
            ],
        },
        {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": 42}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "Ein Bär."}]},
    ],
}


def measure(body: Any, dialect: str = "") -> Size:
    return PromptScale().measure(body, dialect)


def says(*texts: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text} for text in texts]}


class TextureTests(SynchronousTestCase):
    """`texture_of`."""

    def test_kinds(self) -> None:
        """Letters, words, digits, stretches of punctuation and of line ends, the rest, and what is beyond ASCII."""
        self.assertEqual(texture_of("See the 42 birds!?\n\n(über)"), (14, 4, 2, 3, 1, 9, 2))
        self.assertEqual(texture_of("a_b a\tb"), (4, 4, 0, 1, 0, 3, 0))
        self.assertEqual(texture_of("=" * 50), (0, 0, 0, 1, 0, 50, 0))
        self.assertEqual(texture_of(""), (0,) * 7)

    @given(st.text())
    def test_nothing_is_lost(self, text: str) -> None:
        """Every byte is counted once, and there are no more stretches than bytes."""
        letters, words, digits, marks, ends, others, wide = texture_of(text)
        size = Size((letters, words, digits, marks, ends, others, wide))
        self.assertEqual(size.text_bytes, len(text.encode("utf-8", "surrogatepass")))
        self.assertTrue(
            words <= letters and marks + ends <= others and wide == sum(len(c.encode()) for c in text if c > "\x7f")
        )

    @given(st.text(), st.text())
    def test_more_text(self, text: str, more: str) -> None:
        """Text that is added makes no number smaller."""
        for before, after in zip(texture_of(text), texture_of(text + more), strict=True):
            self.assertLessEqual(before, after)


class PromptScaleTests(SynchronousTestCase):
    """`PromptScale`."""

    def test_every_dialect(self) -> None:
        """The same request has about the same size, whatever its backend speaks; an image is never its base64."""
        request = parse_messages(encode(REQUEST)).request
        able = DIALECTS["openai"]
        chat = measure(to_chat(request, "m", able).body)
        ollama = measure(to_ollama(request, "m", DIALECTS["ollama"], 4096).body)
        responses = measure(to_responses(request, "m", able).body)
        for size in (chat, ollama, responses):
            self.assertEqual((size.tools, size.messages, size.image_tokens), (1, 4, 22 * 15))
            texts = "Be brief.What is it?look" + '{"at":42}' + "Ein Bär."
            self.assertEqual(size.text_bytes, len(texts.encode()))
        self.assertEqual(chat.schema_bytes, len(encode(to_chat(request, "m", able).body["tools"])))

    def test_images(self) -> None:
        """An image's tokens follow from its pixels, OpenAI's by tiles; where these are unknown, it is a usual one."""
        self.assertEqual(
            [tiled(s) for s in ((512, 512), (1024, 1024), (4096, 2048), (1, 1), None)], [255, 765, 1105, 255, 765]
        )
        self.assertEqual([patched(s) for s in ((28, 28), (560, 280), (9000, 9000), None)], [64, 200, 2048, 1024])
        part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}}
        body = {
            "messages": [{"role": "user", "content": [part, {"type": "image_url", "image_url": {"url": "http://x/"}}]}]
        }
        self.assertEqual(measure(body, "openai").image_tokens, 85 + 2 * 170 + 765)
        self.assertEqual(measure(body).image_tokens, 330 + 1024)
        self.assertEqual(measure(body).text_bytes, 0)

    def test_reasoning(self) -> None:
        """Reasoning that goes back to the model is text; what only its maker can read counts by its length."""
        for name in ("reasoning_content", "reasoning", "thinking"):
            body = {"messages": [{"role": "assistant", "content": "yes", name: "Hm, hm."}]}
            self.assertEqual(measure(body).text_bytes, 10)
        details = [{"type": "reasoning.text", "text": "Hm."}, {"type": "reasoning.encrypted", "data": "abcd"}]
        self.assertEqual(measure({"messages": [{"role": "assistant", "reasoning_details": details}]}).text_bytes, 7)
        item = {
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": "Hm."}],
            "encrypted_content": "x" * 4000,
        }
        self.assertEqual(measure({"input": [item]}).text_bytes, 603)

    def test_little(self) -> None:
        """A body with hardly anything in it has a size too."""
        self.assertEqual(measure({}), Size())
        self.assertEqual(measure({"input": "Hello", "tools": None}).text_bytes, 5)
        self.assertEqual(measure({"messages": [{"role": "assistant", "content": None}]}).messages, 1)

    def test_trail(self) -> None:
        """Conversations have the same trail as far as they are the same: texts, roles, images, and tools."""
        scale = PromptScale()
        first, longer, other = (
            scale.measure(says(*texts)).trail for texts in (("a", "b"), ("a", "b", "c"), ("a", "c", "c"))
        )
        self.assertEqual(first, longer[:2])
        self.assertEqual((first[0], len({*longer, *other})), (other[0], 5))
        tools = scale.measure({**says("a", "b"), "tools": [TOOL]}).trail
        self.assertFalse({*first} & {*tools})

    def test_bounded(self) -> None:
        """Textures are remembered, but not without a bound."""
        scale = PromptScale(memory=2)
        sizes = [scale.measure(says(text)) for text in ("one", "two, too", "three")]
        self.assertEqual([scale.measure(says(text)) for text in ("one", "two, too", "three")], sizes)
        self.assertEqual(len(scale._known), 2)

    @given(st.lists(st.text(max_size=20), min_size=1), st.text(max_size=20))
    def test_more(self, texts: list[str], more: str) -> None:
        """Another message, or more in the last one, makes no number smaller."""
        size = measure(says(*texts))
        for larger in (says(*texts, more), says(*texts[:-1], texts[-1] + more)):
            for before, after in zip(size.vector, measure(larger).vector, strict=True):
                self.assertLessEqual(before, after)

    def test_recordings(self) -> None:
        """The definitions of tools count as they are sent, key order and all."""
        body = to_chat(parse_messages(encode(REQUEST)).request, "m", DIALECTS["llama.cpp"]).body
        decoded = json.loads(encode(body))
        self.assertEqual(measure(body), measure(decoded))
