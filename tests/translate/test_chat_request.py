"""A Messages request of text to Chat Completions (PROTOCOL 4.1, 4.2); the rest has its own tests."""

import json
from typing import Any

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.model.problems import Refusal
from claudeproxy.translate.chat_request import to_chat
from claudeproxy.translate.dialects import DIALECTS, Dialect, dialect_of_host
from claudeproxy.translate.translation import Translation
from claudeproxy.wire.json import encode
from claudeproxy.wire.requests import parse_messages
from tests import strategies

BILLING = "x-anthropic-billing-header: cc_version=2.1; cch=abcde"


def chat(dialect: str | Dialect = "generic", model: str = "m", **fields: Any) -> Translation:
    asked = {"model": "claude", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}], **fields}
    spoken = DIALECTS[dialect] if isinstance(dialect, str) else dialect
    return to_chat(parse_messages(json.dumps(asked).encode()).request, model, spoken)


def messages(dialect: str = "generic", /, *turns: tuple[str, Any], **fields: Any) -> list[tuple[str, Any]]:
    sent = chat(dialect, messages=[{"role": role, "content": content} for role, content in turns], **fields)
    return [(each["role"], each["content"]) for each in sent.body["messages"]]


def texts(*words: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": each} for each in words]


class TurnTests(SynchronousTestCase):
    """The conversation."""

    def test_strings(self) -> None:
        """A message of text alone is sent as a string: many templates choke on lists of parts."""
        self.assertEqual(
            messages("generic", ("user", texts("1", "2")), ("assistant", "3"), ("user", "4"), system=texts("S", "T")),
            [("system", "S\n\nT"), ("user", "1\n\n2"), ("assistant", "3"), ("user", "4")],
        )

    def test_alternate(self) -> None:
        """Consecutive turns of one role are one message: strict templates want them to alternate."""
        found = messages("generic", ("user", "1"), ("user", "2"), ("assistant", "3"), ("assistant", "4"), ("user", "5"))
        self.assertEqual([role for role, _ in found], ["user", "assistant", "user"])
        self.assertEqual(found[1][1], "3\n\n4")

    def test_empty(self) -> None:
        """Empty blocks and a user's empty turns are dropped, a model's empty turn is one; a conversation of nothing
        but them is refused."""
        found = messages("generic", ("user", texts("", "1")), ("assistant", ""), ("user", [*texts("2", "")]))
        self.assertEqual([content for _, content in found], ["1", "(no answer)", "2"])
        found = messages("generic", ("user", "1"), ("user", texts("", "")), ("user", "2"))
        self.assertEqual([content for _, content in found], ["1\n\n2"])
        refused = self.assertRaises(Refusal, chat, messages=[{"role": "user", "content": ""}])
        self.assertEqual(refused.problem.status, 400)

    def test_system_midway(self) -> None:
        """A system message in the middle stays in its place where the server bears it, and is a reminder elsewhere."""
        turns = (("user", "1"), ("system", "S"), ("assistant", "2"), ("user", "3"))
        self.assertEqual([role for role, _ in messages("openai", *turns)], ["user", "developer", "assistant", "user"])
        folded = messages("llama.cpp", *turns)
        self.assertEqual([role for role, _ in folded], ["user", "assistant", "user"])
        self.assertEqual(folded[0][1], "1\n\n<system-reminder>\nS\n</system-reminder>")

    def test_billing(self) -> None:
        """Claude Code's billing block, which changes from conversation to conversation, does not reach the backend."""
        found = messages("generic", ("user", "1"), system=texts(BILLING, "S"))
        self.assertEqual(found, [("system", "S"), ("user", "1")])

    @given(st.data())
    @settings(max_examples=50, deadline=None)
    def test_stable_prefix(self, data: st.DataObject) -> None:
        """What was sent once is sent the same in every later request, or the backend's prefix cache is lost."""
        asked = data.draw(strategies.text_requests())
        turns = [*asked["messages"], {"role": "user", "content": "the last word"}]
        roles = [turn["role"] for turn in turns]
        ends = [n for n, role in enumerate(roles) if role == "assistant" and roles[n - 1] != "assistant"]
        if not ends:
            return
        cut = data.draw(st.sampled_from(ends))
        for dialect in ("generic", "openai", "llama.cpp"):
            whole = chat(dialect, **{**asked, "messages": turns}).body["messages"]
            start = chat(dialect, **{**asked, "messages": turns[:cut]}).body["messages"]
            self.assertEqual(encode(whole[: len(start)]), encode(start))

    @given(strategies.text_requests(), st.sampled_from(sorted(DIALECTS)))
    @settings(max_examples=60, deadline=None)
    def test_every_dialect(self, asked: dict[str, Any], dialect: str) -> None:
        """Every valid request of text is sent to every server, with all of its text, or is refused for its prefill."""
        try:
            sent = chat(dialect, **asked)
        except Refusal as refused:
            self.assertEqual(asked["messages"][-1]["role"], "assistant")
            self.assertIn("messages", refused.problem.message)
            return
        said = "".join(each["content"] for each in sent.body["messages"])
        for turn in asked["messages"]:
            for block in texts(turn["content"]) if isinstance(turn["content"], str) else turn["content"]:
                self.assertIn(block["text"], said)
        self.assertIs(sent.body["stream"], True)
        self.assertLessEqual(set(sent.dropped), {"temperature", "top_p", "top_k"})

    def test_dropped(self) -> None:
        """A block that nothing can be made of is named, once."""
        hologram = {"type": "hologram", "data": 1}
        sent = chat(messages=[{"role": "user", "content": [*texts("Hi"), hologram, hologram]}])
        self.assertEqual(sent.dropped, ("hologram",))


class FieldTests(SynchronousTestCase):
    """The parameters."""

    def test_limit(self) -> None:
        """The limit goes into the field that the server knows; 0 becomes the least there is."""
        self.assertEqual(chat(max_tokens=7).body["max_tokens"], 7)
        self.assertEqual(chat("openai", "gpt-5", max_tokens=7).body["max_completion_tokens"], 7)
        self.assertNotIn("max_tokens", chat("openai", "gpt-5").body)
        self.assertEqual(chat(max_tokens=0).body["max_tokens"], 1)

    def test_sampling(self) -> None:
        """Temperature and friends are sent as they are, or named where the model would refuse them."""
        asked: Any = {"temperature": 0, "top_p": 0.25, "top_k": 5}
        sent = chat("llama.cpp", **asked)
        self.assertEqual({name: sent.body[name] for name in asked}, asked)
        self.assertEqual(sent.dropped, ())
        self.assertEqual(chat("openai", "gpt-4o", **asked).dropped, ("top_k",))
        for model in ("gpt-5-mini", "o3", "openai/o4-mini"):
            fixed = chat("openai", model, **asked)
            self.assertEqual(set(fixed.dropped), set(asked))
            self.assertEqual(set(asked) & set(fixed.body), set())

    def test_stops(self) -> None:
        """Stop sequences are watched for here: no server but vLLM tells which one hit."""
        sent = chat(stop_sequences=["STOP"])
        self.assertNotIn("stop", sent.body)
        self.assertEqual(sent.dropped, ())

    def test_usage(self) -> None:
        """Counts are always asked for; on every chunk where the proxy may cut the stream itself."""
        self.assertEqual(chat().body["stream_options"], {"include_usage": True})
        self.assertIs(chat("llama.cpp").body["return_progress"], True)
        self.assertIs(chat("llama.cpp", stop_sequences=["x"]).body["timings_per_token"], True)
        self.assertIs(chat("vllm", stop_sequences=["x"]).body["stream_options"]["continuous_usage_stats"], True)
        quiet = evolve(DIALECTS["generic"], include_usage=False)
        self.assertNotIn("stream_options", chat(quiet).body)

    def test_unservable(self) -> None:
        """What only the real service has is refused by name."""
        for field, value in (("container", "c"), ("mcp_servers", [{"url": "u"}])):
            refused = self.assertRaises(Refusal, chat, **{field: value})
            self.assertTrue(refused.problem.message.startswith(f"{field}: "))

    def test_same_bytes(self) -> None:
        """The same request gives the same bytes."""
        asked: Any = {"system": "S", "temperature": 0.1, "top_p": 0.9}
        self.assertEqual(encode(chat(**asked).body), encode(chat(**asked).body))


class DialectTests(SynchronousTestCase):
    """The table."""

    def test_names(self) -> None:
        """Every row is found under its own name."""
        self.assertEqual([dialect.name for dialect in DIALECTS.values()], list(DIALECTS))

    def test_hosts(self) -> None:
        """Well-known hosts say what they speak; a name that only looks like one does not."""
        for host, name in (
            ("api.openai.com", "openai"),
            ("openrouter.ai", "openrouter"),
            ("api.deepseek.com", "deepseek"),
            ("api.moonshot.ai", "kimi"),
            ("api.z.ai", "glm"),
        ):
            dialect = dialect_of_host(host)
            assert dialect is not None, host
            self.assertEqual(dialect.name, name)
        for host in ("localhost", "127.0.0.1", "notopenrouter.ai", "api.openai.com.evil.example", "fuzz.ai", ""):
            self.assertIsNone(dialect_of_host(host), host)
