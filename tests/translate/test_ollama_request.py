"""A Messages request to Ollama's ``/api/chat`` (PROTOCOL 4.2 column b, 4.6, 4.8)."""

import json
from typing import Any

from attrs import evolve
from hypothesis import given, settings
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.model.problems import Refusal
from claudeproxy.translate.chat_request import to_chat
from claudeproxy.translate.dialects import DIALECTS
from claudeproxy.translate.ollama_request import to_ollama, without_thinking
from claudeproxy.translate.signatures import Reasoning, sign
from claudeproxy.translate.translation import Translation
from claudeproxy.wire.json import encode
from claudeproxy.wire.requests import parse_messages
from tests import strategies

OLLAMA = DIALECTS["ollama"]
PIXEL = "iVBORw0KGgo="
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
TOOLS = [{"name": name, "description": name, "input_schema": {"type": "object"}} for name in ("Bash", "Read")]


def ollama(model: str = "qwen3:4b", cells: dict[str, Any] | None = None, **fields: Any) -> Translation:
    asked = {"model": "claude", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}], **fields}
    request = parse_messages(json.dumps(asked).encode()).request
    return to_ollama(request, model, evolve(OLLAMA, **(cells or {})), 8192)


def sent(**fields: Any) -> dict[str, Any]:
    """The body, as it would arrive."""
    return dict(json.loads(encode(ollama(**fields).body)))


def messages(*turns: tuple[str, Any], **fields: Any) -> list[dict[str, Any]]:
    return list(sent(messages=[{"role": role, "content": content} for role, content in turns], **fields)["messages"])


def use(id: str, name: str, arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": name, "input": arguments}


def result(id: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id, "content": content, **more}


class FrameTests(SynchronousTestCase):
    """The request's frame."""

    def test_whole(self) -> None:
        """The window is always there, and a prompt that is too long is an error, never cut in silence."""
        self.assertEqual(
            sent(system="S"),
            {
                "model": "qwen3:4b",
                "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "Hi"}],
                "stream": True,
                "options": {"num_ctx": 8192, "num_predict": 9},
                "truncate": False,
                "shift": False,
                "think": False,
            },
        )

    def test_options(self) -> None:
        """Limits and sampling are options; stop sequences are not sent, because the proxy watches for them itself."""
        body = sent(max_tokens=7, temperature=0.5, top_p=0.9, top_k=20, stop_sequences=["X"], stream=False)
        self.assertEqual(
            body["options"], {"num_ctx": 8192, "num_predict": 7, "temperature": 0.5, "top_p": 0.9, "top_k": 20}
        )
        self.assertIs(body["stream"], True)
        self.assertNotIn("stop", json.dumps(body))

    def test_no_answer_wanted(self) -> None:
        """``max_tokens`` 0 only reads the prompt: the least that can be asked for is one token."""
        self.assertEqual(sent(max_tokens=0)["options"]["num_predict"], 1)

    def test_keep_alive(self) -> None:
        """A number is sent as a number of seconds, because Ollama takes no text without a unit."""
        request = parse_messages(b'{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"a"}]}').request
        kept = [to_ollama(request, "m", OLLAMA, 1, each).body.get("keep_alive") for each in ("", "30m", "-1", "0")]
        self.assertEqual(kept, [None, "30m", -1, 0])

    def test_schema(self) -> None:
        """Structured output is ``format``, its references resolved."""
        schema = {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"type": "string"}}}
        body = sent(output_config={"format": {"type": "json_schema", "schema": schema}})
        self.assertEqual(body["format"], {"type": "object", "properties": {"a": {"type": "string"}}})
        loose = ollama(
            cells={"schema_output": "json_object"},
            output_config={"format": {"type": "json_schema", "schema": schema}},
        )
        self.assertEqual(loose.body["format"], "json")

    def test_refused(self) -> None:
        """What no stateless server can do is refused, naming the field."""
        with self.assertRaises(Refusal) as caught:
            ollama(container="c")
        self.assertIn("container", caught.exception.problem.message)


class ThinkingTests(SynchronousTestCase):
    """``think`` (PROTOCOL 4.6)."""

    def think(self, model: str = "qwen3:4b", effort: str = "", **thinking: Any) -> Any:
        config = {"output_config": {"effort": effort}} if effort else {}
        return sent(model=model, **({"thinking": thinking} if thinking else {}), **config)["think"]

    def test_switch(self) -> None:
        """Absent and disabled are false, all others true."""
        self.assertIs(self.think(), False)
        self.assertIs(self.think(type="disabled"), False)
        self.assertIs(self.think(type="adaptive"), True)
        self.assertIs(self.think(type="between_tools"), True)
        self.assertIs(self.think(type="enabled", budget_tokens=2000), True)

    def test_effort(self) -> None:
        """An effort is a level; Ollama has no xhigh."""
        levels = [self.think(effort=each, type="adaptive") for each in ("low", "medium", "high", "xhigh", "max")]
        self.assertEqual(levels, ["low", "medium", "high", "high", "max"])
        self.assertIs(self.think(effort="high"), False)

    def test_gpt_oss(self) -> None:
        """gpt-oss knows only levels, three of them, and cannot be kept from thinking."""
        model = "gpt-oss:20b"
        self.assertEqual(self.think(model), "low")
        self.assertEqual(self.think(model, type="adaptive"), "medium")
        self.assertEqual(self.think(model, type="enabled", budget_tokens=20_000), "high")
        self.assertEqual(self.think(model, effort="max", type="adaptive"), "high")

    def test_budget(self) -> None:
        """A budget has no word in Ollama's terms, and is named as dropped."""
        self.assertEqual(
            ollama(thinking={"type": "enabled", "budget_tokens": 2000}).dropped, ("thinking.budget_tokens",)
        )

    def test_without(self) -> None:
        """For a model that refuses it the wish is left out; not to think is refused by none and stays."""
        self.assertNotIn("think", without_thinking(ollama(thinking={"type": "adaptive"})).body)
        self.assertIs(without_thinking(ollama()).body["think"], False)

    def test_unable(self) -> None:
        """A model that is known not to think is not asked."""
        self.assertNotIn("think", sent(cells={"thinking": "none"}, thinking={"type": "adaptive"}))

    def test_echo(self) -> None:
        """What the model thought goes back in ``thinking``, from the signature where the client saw none of it."""
        shown = {"type": "thinking", "thinking": "Hm.", "signature": sign(Reasoning("thinking", None))}
        hidden = {"type": "thinking", "thinking": "", "signature": sign(Reasoning("thinking", "Secret."))}
        text = {"type": "text", "text": "Yes."}
        for block, thought in ((shown, "Hm."), (hidden, "Secret.")):
            found = messages(("user", "1"), ("assistant", [block, text]), ("user", "2"))
            self.assertEqual(found[1], {"role": "assistant", "content": "Yes.", "thinking": thought})


class TurnTests(SynchronousTestCase):
    """The conversation."""

    def test_calls(self) -> None:
        """Arguments are objects, results follow in the order of the calls, with the tool's name and the call's id."""
        found = messages(
            ("user", "Go"),
            ("assistant", [use("a", "Bash", {"command": "ls"}), use("b", "Read", {"n": 1})]),
            ("user", [result("b", "two"), result("a", "one", is_error=True), {"type": "text", "text": "And?"}]),
            tools=TOOLS,
        )
        self.assertEqual(
            found[1:],
            [
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [
                        {"id": "a", "type": "function", "function": {"name": "Bash", "arguments": {"command": "ls"}}},
                        {"id": "b", "type": "function", "function": {"name": "Read", "arguments": {"n": 1}}},
                    ],
                },
                {"role": "tool", "content": "[tool error] one", "tool_name": "Bash", "tool_call_id": "a"},
                {"role": "tool", "content": "two", "tool_name": "Read", "tool_call_id": "b"},
                {"role": "user", "content": "And?"},
            ],
        )

    def test_bad_arguments(self) -> None:
        """Arguments that are no object are wrapped: Ollama would refuse the whole request."""
        for arguments, raw in (
            ({"__unparsedToolInput": {"raw": "{bad", "len": 4}}, "{bad"),
            ({"__unparsedToolInput": "{bad"}, "{bad"),
            ("text", "text"),
        ):
            found = messages(("user", "Go"), ("assistant", [use("a", "Bash", arguments)]), ("user", [result("a", "x")]))
            self.assertEqual(found[1]["tool_calls"][0]["function"]["arguments"], {"_raw": raw})

    def test_images(self) -> None:
        """Images are raw base64 beside the text; a result's follow in a user message after all results."""
        self.assertEqual(
            messages(("user", [{"type": "text", "text": "See"}, IMAGE])),
            [{"role": "user", "content": "See", "images": [PIXEL]}],
        )
        self.assertEqual(messages(("user", [IMAGE])), [{"role": "user", "content": "", "images": [PIXEL]}])
        found = messages(
            ("user", "Go"),
            ("assistant", [use("a", "Read", {}), use("b", "Read", {})]),
            ("user", [result("a", [IMAGE]), result("b", "two")]),
        )
        self.assertEqual([each["role"] for each in found], ["user", "assistant", "tool", "tool", "user"])
        self.assertNotIn("images", found[2])
        self.assertEqual(found[4], {"role": "user", "content": "[image of tool result a]", "images": [PIXEL]})

    def test_image_address(self) -> None:
        """An image's address is refused: Ollama fetches none, and neither does the proxy."""
        image = {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}}
        with self.assertRaises(Refusal) as caught:
            messages(("user", [image]))
        self.assertIn("base64", caught.exception.problem.message)

    def test_blind(self) -> None:
        """A model without eyes gets a note, and the image is named as dropped."""
        found = ollama(cells={"images": "no"}, messages=[{"role": "user", "content": [IMAGE]}])
        self.assertIn("cannot see", found.body["messages"][0]["content"])
        self.assertEqual(found.dropped, ("image",))

    def test_system_midway(self) -> None:
        """A system message of mid-conversation is folded into the turn beside it."""
        found = messages(("user", "1"), ("system", "Mind."), ("assistant", "2"), ("user", "3"))
        self.assertEqual([each["role"] for each in found], ["user", "assistant", "user"])
        self.assertIn("Mind.", found[0]["content"])

    def test_prefill(self) -> None:
        """An answer that the client began goes last."""
        begun = ollama(messages=[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "He"}])
        self.assertEqual(begun.body["messages"][-1], {"role": "assistant", "content": "He"})
        self.assertEqual(begun.begun, "He")

    @given(strategies.text_requests())
    @settings(max_examples=40, deadline=None)
    def test_as_chat(self, asked: dict[str, Any]) -> None:
        """Any conversation of text is the same in Ollama's terms as in Chat Completions'."""
        request = parse_messages(json.dumps(asked).encode()).request
        try:
            chat = to_chat(request, "m", OLLAMA).body["messages"]
        except Refusal:
            return
        found = to_ollama(request, "m", OLLAMA, 8192).body["messages"]
        self.assertEqual([(each["role"], each["content"]) for each in found], [(e["role"], e["content"]) for e in chat])


class ToolTests(SynchronousTestCase):
    """Tools, and the choice among them, for which Ollama has no field (PROTOCOL 4.8)."""

    def chosen(self, **choice: Any) -> Translation:
        return ollama(tools=TOOLS, tool_choice=choice)

    def test_definition(self) -> None:
        """Tools have the shape of Chat Completions."""
        tool = sent(tools=TOOLS[:1])["tools"][0]
        parameters = {"type": "object", "properties": {}}
        self.assertEqual(
            tool, {"type": "function", "function": {"name": "Bash", "description": "Bash", "parameters": parameters}}
        )

    def test_auto(self) -> None:
        """What the model does by itself needs no word."""
        found = self.chosen(type="auto")
        self.assertEqual((len(found.body["tools"]), found.dropped), (2, ()))
        self.assertNotIn("tool_choice", found.body)

    def test_any(self) -> None:
        """A call is asked for in words, and the header tells so."""
        found = self.chosen(type="any")
        self.assertEqual(len(found.body["tools"]), 2)
        self.assertIn("one of the tools", found.body["messages"][-1]["content"])
        self.assertEqual((found.dropped, found.emulated), ((), ("tool_choice (asked for in words)",)))

    def test_tool(self) -> None:
        """Of a named tool only it is sent."""
        found = self.chosen(type="tool", name="Read")
        self.assertEqual([tool["function"]["name"] for tool in found.body["tools"]], ["Read"])
        self.assertIn("the tool Read", found.body["messages"][-1]["content"])

    def test_none(self) -> None:
        """No tool is sent, so that none can be called; what looks like a call is text then."""
        found = self.chosen(type="none")
        self.assertNotIn("tools", found.body)
        self.assertFalse(found.names)

    def test_one_call(self) -> None:
        """``disable_parallel_tool_use`` is the proxy's own business."""
        found = self.chosen(type="auto", disable_parallel_tool_use=True)
        self.assertTrue(found.one_call)
        self.assertNotIn("parallel_tool_calls", found.body)
