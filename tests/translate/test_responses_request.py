"""Requests in the terms of the Responses API (PROTOCOL 4.1, 4.2 column c)."""

import json
from typing import Any

from attrs import evolve
from hypothesis import HealthCheck, given, settings
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.model.problems import Refusal
from claudeproxy.translate.dialects import DIALECTS
from claudeproxy.translate.responses_request import to_responses, without_thinking
from claudeproxy.translate.signatures import Reasoning, sign
from claudeproxy.translate.translation import Policy, Translation
from claudeproxy.wire.json import decode, encode
from claudeproxy.wire.requests import parse_messages
from tests.translate.sdk_types import requests, unknown_to_responses

ITEM = {"id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}], "encrypted_content": "gAAA"}
SIGNED = sign(Reasoning("responses", ITEM))
USE = {"type": "tool_use", "id": "call_1", "name": "Bash", "input": {"command": "ls"}}
RESULT = {"type": "tool_result", "tool_use_id": "call_1", "content": "a.txt"}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
TOOL = {"name": "Bash", "description": "Runs", "input_schema": {"type": "object", "properties": {}}}


def translated(dialect: str = "openai", model: str = "gpt-5.2", **fields: Any) -> Translation:
    asked = {"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}], **fields}
    found = to_responses(parse_messages(json.dumps(asked).encode()).request, model, DIALECTS[dialect], session="s")
    if dialect == "openai":
        extras = unknown_to_responses(decode(encode(found.body)))
        assert not extras, extras
    return evolve(found, body=decode(encode(found.body)))


def talk(*turns: Any, dialect: str = "openai", **fields: Any) -> list[dict[str, Any]]:
    """The items of a conversation; a turn is its role and its content."""
    messages = [{"role": role, "content": content} for role, content in turns]
    items: list[dict[str, Any]] = translated(dialect, messages=messages, **fields).body["input"]
    return items


class BodyTests(SynchronousTestCase):
    """The request's frame."""

    def test_small(self) -> None:
        """A small request, whole: nothing is kept by the server, nothing is truncated, all is streamed."""
        body = translated(system="Be kind.", metadata={"user_id": "me"}, service_tier="standard_only").body
        key, user = body.pop("prompt_cache_key"), body.pop("safety_identifier")
        self.assertTrue(key and user and "me" not in (key, user))
        self.assertEqual(
            body,
            {
                "model": "gpt-5.2",
                "input": [
                    {"type": "message", "role": "developer", "content": "Be kind."},
                    {"type": "message", "role": "user", "content": "Hi"},
                ],
                "stream": True,
                "store": False,
                "truncation": "disabled",
                "reasoning": {"effort": "none"},
                "include": ["reasoning.encrypted_content"],
                "max_output_tokens": 100,
                "service_tier": "default",
            },
        )

    def test_limit(self) -> None:
        """OpenAI refuses to be asked for less than 16 tokens; llama.cpp does not."""
        self.assertEqual(translated(max_tokens=3).body["max_output_tokens"], 16)
        found = translated("llama.cpp", max_tokens=3)
        self.assertEqual((found.body["max_output_tokens"], found.limit), (3, 3))
        self.assertEqual(translated("llama.cpp", max_tokens=0).body["max_output_tokens"], 1)

    def test_tools(self) -> None:
        """Tools are flat, and strict only where it is asked for and possible; the choice is flat, too."""
        strict = {**TOOL, "name": "x" * 80, "strict": True}
        strict["input_schema"] = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
        choice = {"type": "tool", "name": "Bash", "disable_parallel_tool_use": True}
        found = translated(tools=[TOOL, strict], tool_choice=choice)
        first, second = found.body["tools"]
        parameters = {"type": "object", "properties": {}}
        flat = {"type": "function", "name": "Bash", "description": "Runs", "parameters": parameters, "strict": False}
        self.assertEqual(first, flat)
        self.assertEqual((second["strict"], len(second["name"])), (True, 64))
        self.assertEqual(found.body["tool_choice"], {"type": "function", "name": "Bash"})
        self.assertEqual((found.body["parallel_tool_calls"], found.one_call), (False, True))
        self.assertEqual(translated(tools=[TOOL], tool_choice={"type": "any"}).body["tool_choice"], "required")
        named = translated("llama.cpp", tools=[TOOL, strict], tool_choice={"type": "tool", "name": "Bash"}).body
        self.assertEqual((named["tool_choice"], len(named["tools"])), ("required", 1))

    def test_thinking(self) -> None:
        """Effort is asked for with a summary, unless nobody may see one; a model that does not reason is not asked."""
        adaptive = {"type": "adaptive"}
        body = translated(thinking=adaptive, output_config={"effort": "high"}).body
        self.assertEqual(body["reasoning"], {"effort": "high", "summary": "auto"})
        hidden = translated(thinking={**adaptive, "display": "omitted"}).body
        self.assertEqual(hidden["reasoning"], {"effort": "medium"})
        plain = translated(model="gpt-4.1", thinking=adaptive)
        self.assertNotIn("reasoning", plain.body)
        self.assertNotIn("include", plain.body)
        local = translated("llama.cpp", thinking={"type": "enabled", "budget_tokens": 2000}).body
        self.assertEqual(local["chat_template_kwargs"], {"enable_thinking": True})
        self.assertEqual(local["thinking_budget_tokens"], 2000)
        bare = without_thinking(translated("lmstudio", thinking=adaptive)).body
        self.assertFalse({"reasoning", "include"} & bare.keys())

    def test_schema(self) -> None:
        """Structured output is text.format, strict where the schema fits."""
        schema = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
        asked = {"format": {"type": "json_schema", "schema": schema}}
        form = translated(output_config=asked).body["text"]["format"]
        self.assertEqual(form, {"type": "json_schema", "name": "answer", "schema": schema, "strict": True})

    def test_dropped(self) -> None:
        """What the API has no word for is named: sampling of reasoning models, top_k; stop sequences are ours."""
        found = translated(temperature=0.5, top_k=4, stop_sequences=["x"])
        self.assertEqual(set(found.dropped), {"temperature", "top_k"})
        self.assertNotIn("stop", found.body)
        self.assertEqual(translated("llama.cpp", top_k=4).body["top_k"], 4)

    def test_refused(self) -> None:
        """A begun answer cannot be continued by OpenAI; llama.cpp does it."""
        messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Well"}]
        self.assertRaises(Refusal, translated, messages=messages)
        self.assertEqual(translated("llama.cpp", messages=messages).begun, "Well")

    @given(requests())
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    def test_any(self, asked: dict[str, Any]) -> None:
        """Any request that Anthropic's types allow is one that OpenAI's types know, or is refused."""
        policy = Policy(drop_server_tools=True)
        try:
            found = to_responses(
                parse_messages(json.dumps(asked).encode()).request, "gpt-5.2", DIALECTS["openai"], policy
            )
        except Refusal:
            return
        self.assertEqual(unknown_to_responses(decode(encode(found.body))), set())
        calls = [item["call_id"] for item in found.body["input"] if item["type"] == "function_call"]
        answers = [item["call_id"] for item in found.body["input"] if item["type"] == "function_call_output"]
        self.assertEqual(sorted(calls), sorted(answers))


class ConversationTests(SynchronousTestCase):
    """The items."""

    def test_reasoning(self) -> None:
        """A reasoning item goes back as it came, directly before the item that followed it."""
        thought = {"type": "thinking", "thinking": "Hm.", "signature": SIGNED}
        items = talk(("user", "Hi"), ("assistant", [thought, USE]), ("user", [RESULT]))
        self.assertEqual([item["type"] for item in items[1:]], ["reasoning", "function_call", "function_call_output"])
        self.assertEqual(items[1], {"type": "reasoning", **ITEM})
        call = {"type": "function_call", "call_id": "call_1", "name": "Bash", "arguments": '{"command":"ls"}'}
        self.assertEqual(items[2], call)
        self.assertEqual(items[3], {"type": "function_call_output", "call_id": "call_1", "output": "a.txt"})

    def test_foreign_reasoning(self) -> None:
        """Reasoning without a cipher of this server's is left out, and so is one that nothing follows."""
        for signature in ("", "EqQBCkYIBRgC", "cp1.eJw", sign(Reasoning("reasoning_content", "hm"))):
            thought = {"type": "thinking", "thinking": "Hm.", "signature": signature}
            items = talk(("user", "Hi"), ("assistant", [thought, USE]), ("user", [RESULT]))
            self.assertNotIn("reasoning", [item["type"] for item in items])
        last = {"type": "thinking", "thinking": "Hm.", "signature": SIGNED}
        items = talk(("user", "Hi"), ("assistant", [{"type": "text", "text": "a"}, last]), ("user", "Go on"))
        self.assertNotIn("reasoning", [item["type"] for item in items])

    def test_visible_reasoning(self) -> None:
        """A server that shows its reasoning gets its text back, whoever thought it."""
        for signature in ("", SIGNED, sign(Reasoning("reasoning_content"))):
            thought = {"type": "thinking", "thinking": "Aha.", "signature": signature}
            items = talk(("user", "Hi"), ("assistant", [thought, USE]), ("user", [RESULT]), dialect="llama.cpp")
            self.assertEqual(items[1]["content"], [{"type": "reasoning_text", "text": "Aha."}])
            self.assertEqual(items[1]["encrypted_content"], "")

    def test_results(self) -> None:
        """Results stand in the order of the calls, before all else; a missing one is told, an unknown one is text."""
        calls = [USE, {**USE, "id": "call_2"}, {**USE, "id": "call_3"}]
        results = [
            {"type": "text", "text": "and"},
            {**RESULT, "tool_use_id": "call_3", "is_error": True, "content": "no"},
            {**RESULT, "tool_use_id": "call_9", "content": "lost"},
            {**RESULT, "content": []},
        ]
        items = talk(("user", "Hi"), ("assistant", calls), ("user", results))
        outputs = [(item["call_id"], item["output"]) for item in items if "output" in item]
        wanted = [("call_1", "(no output)"), ("call_2", "[no result]"), ("call_3", "[tool error] no")]
        self.assertEqual(outputs, wanted)
        self.assertEqual(items[-1]["content"], "[result of an unknown tool call]\n\nlost\n\nand")
        ending = talk(("user", "Hi"), ("assistant", [USE]))
        self.assertEqual(ending[-1]["output"], "[no result]")

    def test_images(self) -> None:
        """Images stand in messages and, for OpenAI, in results; elsewhere they follow the results."""
        part = {"type": "input_image", "image_url": "data:image/png;base64,aGk=", "detail": "auto"}
        result = {**RESULT, "content": [{"type": "text", "text": "see"}, IMAGE]}
        turns = (("user", [IMAGE]), ("assistant", [USE]), ("user", [result]))
        items = talk(*turns)
        self.assertEqual(items[0]["content"], [part])
        self.assertEqual(items[2]["output"], [{"type": "input_text", "text": "see"}, part])
        items = talk(*turns, dialect="lmstudio")
        self.assertEqual(items[2]["output"], "see\n\n[image attached below]")
        self.assertEqual(items[3]["content"][1], part)

    def test_system_midway(self) -> None:
        """A system message stays where it was, but never between a call and its result; folded where it must be."""
        turns = (("user", "Hi"), ("assistant", [USE]), ("system", "New rule"), ("user", [RESULT]))
        items = talk(*turns, system="Be kind.")
        kinds = [item.get("role", item["type"]) for item in items]
        self.assertEqual(kinds, ["developer", "user", "function_call", "function_call_output", "developer"])
        folded = talk(*turns, dialect="llama.cpp")
        self.assertEqual(folded[-1]["output"], "a.txt\n\n<system-reminder>\nNew rule\n</system-reminder>")

    def test_prefix(self) -> None:
        """What was sent once is sent the same in every later request, so that the server's cache holds."""
        thought = {"type": "thinking", "thinking": "Hm.", "signature": SIGNED}
        turns: list[Any] = [
            ("user", "Hi"),
            ("system", "Rule"),
            ("assistant", [thought, {"type": "text", "text": "I look."}, USE]),
            ("user", [RESULT, {"type": "text", "text": "ok"}]),
            ("assistant", "Done."),
            ("user", "Thanks"),
        ]
        before: list[Any] = []
        for end in (2, 4, 6):
            items = talk(*turns[:end], system="Be kind.")
            self.assertEqual(items[: len(before)], before)
            before = items

    def test_long_id(self) -> None:
        """An id that is too long for the API is shortened, the same for call and result."""
        id = "call_" + "x" * 80
        items = talk(("user", "Hi"), ("assistant", [{**USE, "id": id}]), ("user", [{**RESULT, "tool_use_id": id}]))
        self.assertEqual(items[1]["call_id"], items[2]["call_id"])
        self.assertEqual(len(items[1]["call_id"]), 64)
        self.assertEqual(items[2]["output"], "a.txt")
