"""PROTOCOL 4.6, "Echoing reasoning back": what a backend thought comes back to it, through any client."""

import zlib
from base64 import urlsafe_b64encode
from itertools import count
from typing import Any

from anthropic.types import Message
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.translate.chat_request import to_chat
from claudeproxy.translate.chat_stream import ChatStream
from claudeproxy.translate.dialects import DIALECTS
from claudeproxy.translate.expected import Expected
from claudeproxy.translate.reply import Reply
from claudeproxy.translate.signatures import PREFIX, Reasoning, is_ours, read, sign
from claudeproxy.wire.events import stream_bytes
from claudeproxy.wire.json import decode, encode
from claudeproxy.wire.requests import parse_messages
from tests.strategies import clean_texts, json_values
from tests.stream_checker import Checked, check_stream

Delta = dict[str, Any]

TOOLS = [{"name": "Bash", "input_schema": {"type": "object"}}]
CALL = {"tool_calls": [{"index": 0, "id": "call_1", "function": {"name": "Bash", "arguments": "{}"}}]}
USER = {"role": "user", "content": "Hi"}
RESULT = {"type": "tool_result", "tool_use_id": "call_1", "content": "done"}
#: A signature as the real service makes them.
FOREIGN = "EqQBCkYIBRgCKkA7h3vXb2m0"


def asked(dialect: str, turns: list[Any], display: str | None = None) -> Any:
    body = {
        "model": "m",
        "max_tokens": 9000,
        "messages": turns,
        "tools": TOOLS,
        "thinking": {"type": "adaptive"} | ({"display": display} if display else {}),
    }
    return to_chat(parse_messages(encode(body)).request, "m", DIALECTS[dialect])


def answered(dialect: str, deltas: list[Delta], display: str | None) -> Checked:
    """What the client reads of an answer."""
    chat = asked(dialect, [USER], display)
    numbers = count(1)
    expected = Expected(
        "fake",
        1,
        names=chat.names,
        hides_thinking=chat.wanted.hidden,
        think_tags=DIALECTS[dialect].think_tags,
    )
    machine = ChatStream(Reply("msg_1", "m"), expected, lambda: f"u{next(numbers)}")
    chunks = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    body = b"".join(b"data: " + encode(chunk) + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"
    return check_stream(stream_bytes(machine.receive(body)))


def echoed(answer: Checked) -> list[dict[str, Any]]:
    """The blocks as the official SDK sends them back."""
    message = Message.model_validate(answer.message)
    return [block.model_dump(mode="json", exclude_unset=True) for block in message.content]


def sent_back(dialect: str, blocks: list[dict[str, Any]], result: bool = True) -> dict[str, Any]:
    """The model's own turn in the next request."""
    last = [RESULT] if result else "go on"
    turns = [USER, {"role": "assistant", "content": blocks}, {"role": "user", "content": last}]
    found: dict[str, Any] = decode(encode(asked(dialect, turns).body["messages"][1]))
    return found


class RoundTrips(SynchronousTestCase):
    """For each dialect, with thinking shown and with thinking hidden."""

    def round(self, dialect: str, *deltas: Delta, shown: str | None = "Let me.") -> dict[str, Any]:
        """What the next request says; the same for every display."""
        found = []
        for display in (None, "summarized", "updates", "omitted"):
            answer = answered(dialect, [*deltas, {"content": "ok"}, CALL], display)
            if display == "omitted" or shown is not None:
                self.assertEqual(answer.thinking, "" if display == "omitted" else shown)
            found.append(sent_back(dialect, echoed(answer)))
        self.assertEqual(found, found[:1] * 4)
        self.assertEqual((found[0]["content"].split()[-1], len(found[0]["tool_calls"])), ("ok", 1))
        return {key: value for key, value in found[0].items() if key not in ("role", "content", "tool_calls")}

    def test_reasoning_content(self) -> None:
        """DeepSeek, Kimi, GLM, llama.cpp, LM Studio: reasoning_content, as it came."""
        for dialect in ("deepseek", "kimi", "glm", "llama.cpp", "lmstudio"):
            found = self.round(dialect, {"reasoning_content": "Let"}, {"reasoning_content": " me."})
            self.assertEqual(found, {"reasoning_content": "Let me."}, dialect)

    def test_reasoning(self) -> None:
        """vLLM and Ollama: reasoning; also from an older vLLM that says reasoning_content."""
        for dialect in ("vllm", "ollama-compat"):
            for field in ("reasoning", "reasoning_content"):
                self.assertEqual(
                    self.round(dialect, {field: "Let "}, {field: "me."}), {"reasoning": "Let me."}, dialect
                )

    def test_tags(self) -> None:
        """A template that writes <think> tags gets what stood in them as its field."""
        found = self.round("llama.cpp", {"content": "<think>Let me.</th"}, {"content": "ink>\n\n"})
        self.assertEqual(found, {"reasoning_content": "Let me."})

    def test_nowhere(self) -> None:
        """OpenAI and servers of which nothing is known get nothing back."""
        for dialect in ("openai", "generic"):
            self.assertEqual(self.round(dialect, {"reasoning_content": "Let me."}), {})

    def test_in_pieces(self) -> None:
        """Thoughts before and after other things go back in one piece, unmodified and in order."""
        found = self.round(
            "glm", {"reasoning_content": "Let"}, {"content": "o"}, {"reasoning_content": " me."}, {"content": ""}
        )
        self.assertEqual(found, {"reasoning_content": "Let me."})

    def round_details(self, *lists: list[Delta], text: str = "") -> Any:
        deltas = [{"reasoning": text or None, "reasoning_details": entries} for entries in lists]
        return self.round("openrouter", *deltas, shown=None)["reasoning_details"]

    def test_details_of_text(self) -> None:
        """OpenRouter: the pieces of an entry are whole again, with the signature that came last."""
        base = {"type": "reasoning.text", "index": 0, "format": "anthropic-claude-v1"}
        found = self.round_details(
            [base | {"text": "a"}], [base | {"text": "a"}], [base | {"signature": "sig"}], text="a"
        )
        self.assertEqual(found, [base | {"text": "aa", "signature": "sig"}])

    def test_details_of_many_entries(self) -> None:
        """OpenRouter: entries of one list stay apart, also without an index, as do those of other ids and indexes."""
        text, cipher = {"type": "reasoning.text", "text": "a"}, {"type": "reasoning.encrypted", "data": "eA=="}
        for entries in (
            [text, text],
            [cipher, cipher],
            [text | {"index": 0}, text | {"index": 1}, cipher | {"index": 1, "id": "rs_1"}],
            [cipher | {"id": "rs_1", "index": 0}, cipher | {"id": "rs_2", "index": 0}],
        ):
            self.assertEqual(self.round_details(entries), entries)
        for entries in ([cipher, cipher], [cipher | {"id": "a"}, text], [text | {"index": 0}, text | {"index": 1}]):
            self.assertEqual(self.round_details(*[[each] for each in entries]), entries)
        signed = text | {"signature": "s"}
        self.assertEqual(self.round_details([signed], [signed]), [signed, signed])

    def test_details_of_a_summary(self) -> None:
        """OpenRouter: summaries and unknown kinds and fields survive."""
        summary = {"type": "reasoning.summary", "summary": "a", "index": 0, "id": "rs_1"}
        self.assertEqual(self.round_details([summary], [summary]), [summary | {"summary": "aa"}])
        strange = {"type": "reasoning.hologram", "cube": [1, {"ü": None}], "index": 0}
        self.assertEqual(self.round_details([strange]), [strange])

    def test_details_are_no_text(self) -> None:
        """OpenRouter's entries mean nothing to another backend: it gets the visible text, if any."""
        entry = {"type": "reasoning.text", "text": "Let me.", "index": 0}
        answer = answered("openrouter", [{"reasoning": "Let me.", "reasoning_details": [entry]}, CALL], None)
        self.assertEqual(sent_back("deepseek", echoed(answer))["reasoning_content"], "Let me.")
        self.assertNotIn("reasoning_details", sent_back("vllm", echoed(answer)))

    def test_required(self) -> None:
        """DeepSeek and Kimi refuse a turn with calls but without reasoning: "" stands in; others get no field."""
        blocks = echoed(answered("deepseek", [{"content": "ok"}, CALL], None))
        for name, dialect in DIALECTS.items():
            found = sent_back(name, blocks)
            self.assertEqual(found.get("reasoning_content"), "" if dialect.echo_required else None)
        self.assertEqual({name for name, each in DIALECTS.items() if each.echo_required}, {"deepseek", "kimi"})
        self.assertNotIn("reasoning_content", sent_back("deepseek", [{"type": "text", "text": "ok"}], result=False))

    def test_many_turns(self) -> None:
        """Every turn's own reasoning goes back with that turn, in all later requests."""
        blocks = echoed(answered("deepseek", [{"reasoning_content": "Let me."}, CALL], "omitted"))
        turns = [USER]
        for _ in range(3):
            turns += [{"role": "assistant", "content": blocks}, {"role": "user", "content": [RESULT]}]
        found = asked("deepseek", [*turns, USER]).body["messages"]
        self.assertEqual([each.get("reasoning_content") for each in found[1::2]][:3], ["Let me."] * 3)

    @settings(max_examples=60, deadline=None)
    @given(st.lists(clean_texts(1), min_size=1, max_size=5), st.booleans())
    def test_any_text(self, thoughts: list[str], hidden: bool) -> None:
        """Whatever a model thinks comes back to the byte."""
        deltas = [*({"reasoning_content": each} for each in thoughts), CALL]
        blocks = echoed(answered("deepseek", deltas, "omitted" if hidden else None))
        self.assertEqual(sent_back("deepseek", blocks)["reasoning_content"], "".join(thoughts))


def thought(signature: str, thinking: str = "T") -> dict[str, Any]:
    return {"type": "thinking", "thinking": thinking, "signature": signature}


class SignatureTests(SynchronousTestCase):
    """`claudeproxy.translate.signatures`, and signatures that are not what they seem."""

    call = {"type": "tool_use", "id": "call_1", "name": "Bash", "input": {}}  # noqa: RUF012

    def test_foreign(self) -> None:
        """Of thoughts of somebody else only the visible text is used, where reasoning is a text at all."""
        for signature in ("", FOREIGN, "x" * 200_000, "claude?!\n😀"):
            for name, wanted in (
                ("deepseek", {"reasoning_content": "T"}),
                ("vllm", {"reasoning": "T"}),
                ("openai", {}),
            ):
                found = sent_back(name, [thought(signature), self.call])
                rest = {key: value for key, value in found.items() if "reason" in key}
                self.assertEqual(rest, wanted)
            self.assertNotIn("reasoning_details", sent_back("openrouter", [thought(signature), self.call]))
        redacted = {"type": "redacted_thinking", "data": "EmwKAhgB"}
        self.assertEqual(sent_back("kimi", [redacted, self.call])["reasoning_content"], "")

    def test_several_foreign(self) -> None:
        """Thoughts of somebody else stay a blank line apart."""
        found = sent_back("glm", [thought(FOREIGN, "A"), thought(FOREIGN, "B"), self.call])
        self.assertEqual(found["reasoning_content"], "A\n\nB")

    def test_damaged(self) -> None:
        """A damaged signature of ours is as good as none: never an error."""
        whole = sign(Reasoning("reasoning_content", "hidden"))
        damaged = [whole[:end] for end in range(len(PREFIX), len(whole) - 1)]
        damaged += [whole[:at] + "!" + whole[at + 1 :] for at in range(len(PREFIX), len(whole))]
        for signature in damaged:
            self.assertIn(read(signature), (None, Reasoning("reasoning_content", "hidden")))
            self.assertIn(sent_back("deepseek", [thought(signature), self.call])["reasoning_content"], ("T", "hidden"))

    def test_nonsense_inside(self) -> None:
        """A signature that unpacks to something else is nobody's."""
        for value in (b"", b"no json", b"[]", b"{}", b'{"f":1,"d":2}', b'{"f":"x"}', b"\xff", b"[" * 100_000):
            self.assertIsNone(read(PREFIX + urlsafe_b64encode(zlib.compress(value)).decode()))

    def test_bomb(self) -> None:
        """A signature does not unpack into all of the memory."""
        packer = zlib.compressobj(9)
        packed = b"".join(packer.compress(b" " * 2**20) for _ in range(64)) + packer.compress(b'{"f":"x","d":1}')
        bomb = PREFIX + urlsafe_b64encode(packed + packer.flush()).decode()
        self.assertLess(len(bomb), 200_000)
        self.assertIsNone(read(bomb))
        self.assertEqual(sent_back("deepseek", [thought(bomb), self.call])["reasoning_content"], "T")

    def test_wrong_kind(self) -> None:
        """Entries that are no list are not sent as reasoning_details; unknown fields leave the visible text."""
        for reasoning in (
            Reasoning("reasoning_details", "text"),
            Reasoning("reasoning_details"),
            Reasoning("x", {"a": 1}),
        ):
            block = thought(sign(reasoning))
            self.assertNotIn("reasoning_details", sent_back("openrouter", [block, self.call]))
            self.assertIsInstance(sent_back("deepseek", [block, self.call])["reasoning_content"], str)

    @given(clean_texts(), json_values())
    def test_read_what_was_signed(self, field: str, data: Any) -> None:
        """What is signed can be read, the same gives the same, and it is told from others."""
        reasoning = Reasoning(field, decode(encode(data)))
        signature = sign(reasoning)
        self.assertEqual((read(signature), sign(reasoning)), (reasoning, signature))
        self.assertTrue(is_ours(signature) and not is_ours(FOREIGN))
        self.assertRegex(signature, r"\A[A-Za-z0-9._-]+\Z")

    def test_large(self) -> None:
        """200 kB of thoughts survive, hidden or not."""
        long = "thought 😀 " * 20_000
        for display in (None, "omitted"):
            blocks = echoed(answered("kimi", [{"reasoning_content": long}, CALL], display))
            self.assertEqual(sent_back("kimi", blocks)["reasoning_content"], long)

    def test_another_field(self) -> None:
        """A cell of the settings says where reasoning goes, whatever the field it came in."""
        body = {
            "model": "m",
            "max_tokens": 9,
            "messages": [USER, {"role": "assistant", "content": [thought(""), self.call]}],
        }
        older = evolve(DIALECTS["vllm"], reasoning_echo="reasoning_content")
        found = to_chat(parse_messages(encode(body)).request, "m", older).body["messages"]
        self.assertEqual(found[1]["reasoning_content"], "T")
