"""A request's JSON to its values: strict, telling, and tolerant of what is new (PROTOCOL 1.4-1.6; issue 2)."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.model.anthropic import MessagesRequest, OtherBlock, TextBlock, ToolResultBlock, ToolUseBlock
from claudeproxy.model.problems import Refusal
from claudeproxy.wire.requests import Parsed, parse_count, parse_messages
from tests import strategies

USER = {"role": "user", "content": "Hi"}


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 9, "messages": [USER], **fields}


def parsed(**fields: Any) -> Parsed:
    return parse_messages(json.dumps(body(**fields)).encode())


def request(**fields: Any) -> MessagesRequest:
    return parsed(**fields).request


def refusal(data: object) -> str:
    """The words of the refusal; it is always a 400 that is not worth repeating."""
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    try:
        parse_messages(raw)
    except Refusal as refused:
        problem = refused.problem
        assert (problem.status, problem.type, problem.should_retry) == (400, "invalid_request_error", False)
        return problem.message
    raise AssertionError(f"accepted: {raw!r}")


class TextTests(SynchronousTestCase):
    """What every client sends."""

    def test_string(self) -> None:
        """A content that is a string is the same value as one text block, in messages and in the system prompt."""
        one = request(system="S", messages=[{"role": "user", "content": "Hi"}])
        other = request(
            system=[{"type": "text", "text": "S"}],
            messages=[{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        )
        self.assertEqual(one, other)
        self.assertEqual(one.messages[0].content, (TextBlock("Hi"),))

    def test_fields(self) -> None:
        """Every number keeps its value and its kind; what is not given has its default."""
        asked = request(temperature=0, top_p=0.95, top_k=5, stop_sequences=["a", ""], stream=True)
        self.assertEqual((asked.temperature, asked.top_p, asked.top_k), (0, 0.95, 5))
        self.assertEqual((asked.stop_sequences, asked.stream, asked.max_tokens), (("a", ""), True, 9))
        bare = request()
        self.assertEqual((bare.temperature, bare.stream, bare.system, bare.tools), (None, False, (), ()))

    def test_null_is_absent(self) -> None:
        """A field that is null is a field that was not sent."""
        nothing = dict.fromkeys(("system", "stream", "stop_sequences", "temperature", "tools", "thinking", "metadata"))
        self.assertEqual(request(**nothing), request())

    def test_system_midway(self) -> None:
        """A system message in the middle of a conversation is a turn like the others."""
        asked = request(messages=[USER, {"role": "system", "content": "S"}, {"role": "assistant", "content": "A"}])
        self.assertEqual([turn.role for turn in asked.messages], ["user", "system", "assistant"])

    def test_zero_tokens(self) -> None:
        """max_tokens may be 0: the prompt is only read."""
        self.assertEqual(request(max_tokens=0).max_tokens, 0)

    @given(strategies.text_requests())
    @settings(max_examples=50, deadline=None)
    def test_valid_requests(self, value: dict[str, Any]) -> None:
        """Every valid request is accepted, whatever it says, and only the field that nobody knows is reported."""
        found = parse_messages(json.dumps(value).encode())
        self.assertEqual(found.unknown, ("x_unknown",) if "x_unknown" in value else ())
        self.assertEqual([turn.role for turn in found.request.messages], [each["role"] for each in value["messages"]])
        for name in ("model", "max_tokens", "temperature", "top_p", "top_k"):
            self.assertEqual(getattr(found.request, name), value.get(name))

    def test_half_characters(self) -> None:
        """A text that was cut in the middle of a character is accepted; the half is U+FFFD."""
        asked = parse_messages(rb'{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"a\ud83d"}]}')
        self.assertEqual(asked.request.messages[0].content, (TextBlock("a\ufffd"),))

    def test_count(self) -> None:
        """A request to count needs no max_tokens; a request for an answer does."""
        data = json.dumps({"model": "m", "messages": [USER]}).encode()
        self.assertIsNone(parse_count(data).request.max_tokens)
        self.assertEqual(refusal(data), "max_tokens: Field required")


class StrictTests(SynchronousTestCase):
    """Nothing is coerced."""

    def test_no_coercion(self) -> None:
        """A number in quotes, a true that should be 1, a 1 that should be true, a null in a list: refused by name."""
        for field, value, kind in (
            ("max_tokens", "5", "integer"),
            ("max_tokens", True, "integer"),
            ("max_tokens", 5.0, "integer"),
            ("top_k", "5", "integer"),
            ("top_k", False, "integer"),
            ("top_k", 1.5, "integer"),
            ("temperature", "0", "number"),
            ("temperature", True, "number"),
            ("top_p", [], "number"),
            ("stream", "false", "boolean"),
            ("stream", 0, "boolean"),
            ("stream", 1, "boolean"),
            ("model", 5, "string"),
            ("stop_sequences", "stop", "array"),
            ("tools", {}, "array"),
            ("metadata", "me", "object"),
            ("metadata", [], "object"),
        ):
            with self.subTest(f"{field}={value!r}"):
                self.assertEqual(refusal(body(**{field: value})), f"{field}: Input should be a valid {kind}")

    def test_paths(self) -> None:
        """The refusal names the field, however deep it lies."""
        for fields, words in (
            ({"messages": [USER, {"content": "x"}]}, "messages.1.role: Field required"),
            (
                {"messages": [{"role": "user", "content": 5}]},
                "messages.0.content: Input should be a valid string or array",
            ),
            ({"messages": "Hi"}, "messages: Input should be a valid array"),
            ({"messages": [5]}, "messages.0: Input should be a valid object"),
            (
                {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
                "messages.0.content.0.text: Field required",
            ),
            (
                {"messages": [{"role": "user", "content": [{"type": "text", "text": None}]}]},
                "messages.0.content.0.text: Input should be a valid string",
            ),
            ({"system": [{"type": "text", "text": 1}]}, "system.0.text: Input should be a valid string"),
            ({"system": {"type": "text", "text": "S"}}, "system: Input should be a valid string or array"),
            ({"stop_sequences": ["a", None]}, "stop_sequences.1: Input should be a valid string"),
            ({"tools": [{"name": "a"}, {}]}, "tools.1.name: Field required"),
            ({"thinking": {}}, "thinking.type: Field required"),
            ({"output_config": {"effort": 3}}, "output_config.effort: Input should be a valid string"),
        ):
            with self.subTest(words):
                self.assertEqual(refusal(body(**fields)), words)

    def test_words(self) -> None:
        """A word that is none of those allowed is refused with those that are."""
        wizard = refusal(body(messages=[{"role": "wizard", "content": "x"}]))
        self.assertTrue(wizard.startswith("messages.0.role: "), wizard)
        for word in ("user", "assistant", "system"):
            self.assertIn(word, wizard)
        maybe = refusal(body(tool_choice={"type": "maybe"}))
        self.assertTrue(maybe.startswith("tool_choice.type: "), maybe)
        gif = refusal(body(messages=[{"role": "user", "content": [{"type": "image", "source": {"type": "gif"}}]}]))
        self.assertTrue(gif.startswith("messages.0.content.0.source.type: "), gif)

    def test_tags(self) -> None:
        """A block or a source without its type, or with one that is no word, is refused by name."""
        tag: Any
        for tag in ({}, {"type": None}, {"type": 5}, {"type": []}, {"type": {}}):
            block = refusal(body(messages=[{"role": "user", "content": [tag]}]))
            self.assertTrue(block.startswith("messages.0.content.0.type: "), block)
            source = refusal(body(messages=[{"role": "user", "content": [{"type": "image", "source": tag}]}]))
            self.assertTrue(source.startswith("messages.0.content.0.source.type: "), source)

    def test_no_object(self) -> None:
        """A body that is no JSON, or no object, is refused in words that a user understands."""
        for data in (b"", b"{", b"\xff", b"nope", b'{"model":"m"} x'):
            self.assertIn("not valid JSON", refusal(data))
        for data in (b"[]", b"null", b'"x"', b"5"):
            self.assertIn("should be a JSON object", refusal(data))

    def test_nothing_to_answer(self) -> None:
        """A request without a message, or with less than no tokens, is refused."""
        self.assertTrue(refusal(body(messages=[])).startswith("messages: "))
        self.assertTrue(refusal(body(max_tokens=-1)).startswith("max_tokens: "))
        self.assertEqual(refusal({}).split(": ")[1][:5], "Field")

    def test_deep(self) -> None:
        """Nesting without end is refused in a short sentence, wherever it is, and crashes nothing."""
        result: Any = "x"
        for _ in range(400):
            result = [{"type": "tool_result", "tool_use_id": "a", "content": result}]
        for data in (b'{"a":' * 100_000, json.dumps(body(messages=[{"role": "user", "content": result}])).encode()):
            words = refusal(data)
            self.assertIn("nested more than 100 levels", words)
            self.assertLess(len(words), 300)

    @given(st.dictionaries(st.sampled_from([*body(), "system", "tools", "stream", "x"]), strategies.json_values(8)))
    def test_any_object(self, fields: dict[str, Any]) -> None:
        """Any JSON object is a request or is refused with a field's name; nothing else ever happens."""
        try:
            parse_messages(json.dumps(body(**fields)).encode())
        except Refusal as refused:
            self.assertRegex(refused.problem.message, r"\A[a-z_]+[a-z_.0-9]*: ")

    @given(strategies.json_values())
    def test_any_content(self, content: Any) -> None:
        """The same for any content of a message."""
        try:
            parsed(messages=[{"role": "user", "content": content}])
        except Refusal as refused:
            self.assertRegex(refused.problem.message, r"\Amessages\.0\.content")


class TolerantTests(SynchronousTestCase):
    """New fields arrive with every release of the clients."""

    def test_unknown_fields(self) -> None:
        """An unknown field breaks nothing and is reported by its name and place, once."""
        block = {"type": "text", "text": "Hi", "sparkle": 1}
        found = parsed(messages=[{"role": "user", "content": [block, block], "mood": "good"}], zork=[1])
        self.assertEqual(set(found.unknown), {"zork", "messages.mood", "text.sparkle"})
        self.assertEqual(found.request.messages[0].content, (TextBlock("Hi"), TextBlock("Hi")))

    def test_known_and_meaningless(self) -> None:
        """Hints that change nothing for a translated backend are dropped in silence (PROTOCOL 4.2, the I cells)."""
        mark = {"cache_control": {"type": "ephemeral"}}
        found = parsed(
            messages=[{"role": "user", "content": [{"type": "text", "text": "Hi", **mark}]}],
            service_tier="auto",
            betas=["x"],
            context_management={"edits": []},
            diagnostics={},
            safeguards=None,
            fallbacks=[],
            **mark,
        )
        self.assertEqual(found.unknown, ())
        self.assertEqual(found.request, request(service_tier="auto", context_management={"edits": []}))

    def test_unknown_blocks(self) -> None:
        """A block of a type that nobody knows is kept whole."""
        block = {"type": "hologram", "data": {"a": [1, None]}, "cache_control": None}
        content = request(messages=[{"role": "user", "content": [block]}]).messages[0].content
        self.assertEqual(content, (OtherBlock("hologram", block),))

    def test_calls(self) -> None:
        """A call keeps its input as it came, also one that is no object; a result its text, its blocks and its flag."""
        asked = request(
            messages=[
                USER,
                {
                    "role": "assistant",
                    "content": [
                        {
                            "type": "tool_use",
                            "id": "functions.Bash:0 weird/id",
                            "name": "Bash",
                            "input": {"b": 1, "a": 2.50},
                        },
                        {"type": "tool_use", "id": "2", "name": "Bash", "input": "raw"},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "2"},
                        {"type": "tool_result", "tool_use_id": "1", "content": "done", "is_error": True},
                    ],
                },
            ]
        )
        first, second = asked.messages[1].content
        assert isinstance(first, ToolUseBlock) and isinstance(second, ToolUseBlock)
        self.assertEqual((first.id, list(first.input)), ("functions.Bash:0 weird/id", ["b", "a"]))
        self.assertEqual(second.input, "raw")
        self.assertEqual(
            asked.messages[2].content, (ToolResultBlock("2", ()), ToolResultBlock("1", (TextBlock("done"),), True))
        )

    def test_typed_tools(self) -> None:
        """A typed tool needs no name of its own, and its settings are kept."""
        own = {"name": "Bash", "description": "d", "input_schema": {"type": "object"}, "cache_control": None}
        found = parsed(tools=[{"type": "web_search_20250305", "max_uses": 3}, own, {"type": "custom", **own}])
        search, bash, custom = found.request.tools
        self.assertEqual((search.name, search.settings), ("web_search_20250305", {"max_uses": 3}))
        self.assertEqual((bash.name, bash.description, custom.name), ("Bash", "d", "Bash"))

    def test_unservable(self) -> None:
        """What only the real service has is told apart from what is merely unknown; given empty, it asks nothing."""
        self.assertEqual(request(container="c", mcp_servers=[{"url": "u"}]).unservable, ("container", "mcp_servers"))
        self.assertEqual(request(container=None, mcp_servers=[]).unservable, ())
        self.assertEqual(request(unservable=["x"]).unservable, ())

    def test_independent(self) -> None:
        """One request's report does not reach the next, also after a refusal."""
        self.assertEqual(parsed(zork=1).unknown, ("zork",))
        self.assertEqual(parsed().unknown, ())
        refusal(body(zork=1, max_tokens="5"))
        self.assertEqual(parsed().unknown, ())
