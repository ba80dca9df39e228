"""What is kept of a request's structure: never a word of it, and never more than its end."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.translate.outline import MESSAGES, outline

CANARY = "canary-4b1d"


def conversation(turns: int) -> list[dict[str, Any]]:
    """Calls and results, with a canary in every text."""
    call = {"type": "tool_use", "id": f"toolu_{CANARY}", "name": CANARY, "input": {CANARY: [CANARY, {"a": CANARY}]}}
    result = {"type": "tool_result", "tool_use_id": CANARY, "content": [{"type": "text", "text": CANARY}]}
    asked = [{"type": "text", "text": CANARY}, call]
    return [{"role": "assistant", "content": asked}, {"role": "user", "content": [result]}] * turns


class OutlineTests(SynchronousTestCase):
    def test_anthropic(self) -> None:
        """Roles, types and sizes of the messages, the size of the system prompt, the number of tools, the settings."""
        body = {
            "model": "claude-x",
            "max_tokens": 100,
            "stream": True,
            "system": [{"type": "text", "text": "12345"}, {"type": "text", "text": "678"}],
            "tools": [{"name": "Bash"}, {"name": "Read"}],
            "thinking": {"type": "enabled", "budget_tokens": 50},
            "stop_sequences": [CANARY],
            "metadata": {"user_id": CANARY},
            "messages": [
                {"role": "user", "content": "Hello"},
                {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm", "signature": "sig"}]},
                {"role": "user", "content": [{"type": "image", "source": {"type": "base64", "data": "QUJD"}}]},
            ],
        }
        self.assertEqual(
            outline(body).json,
            {
                "messages": 3,
                "last_messages": [
                    {"role": "user", "parts": [{"type": "text", "size": 5}]},
                    {"role": "assistant", "parts": [{"type": "thinking", "size": 2}]},
                    {"role": "user", "parts": [{"type": "image", "size": 4}]},
                ],
                "system_size": 8,
                "tools": 2,
                "settings": {
                    "model": "claude-x",
                    "max_tokens": 100,
                    "stream": True,
                    "thinking": {"type": "enabled", "budget_tokens": 50},
                    "stop_sequences": "1 values",
                    "metadata": {"user_id": f"{len(CANARY)} characters"},
                },
            },
        )

    def test_other_dialects(self) -> None:
        """Chat Completions' calls and results, and the items of the Responses API."""
        call = {"id": "c", "type": "function", "function": {"name": "Bash", "arguments": "{}"}}
        chat = {
            "messages": [
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "c", "content": "done"},
            ],
            "options": {"num_ctx": 4096},
        }
        found = outline(chat)
        self.assertEqual([role for role, _ in found.messages], ["assistant", "tool"])
        self.assertEqual([[kind for kind, _ in parts] for _, parts in found.messages], [["tool_calls"], ["text"]])
        self.assertEqual(found.settings["options"], {"num_ctx": 4096})
        items = outline({"input": [{"type": "function_call_output", "call_id": "c", "output": "done"}]})
        self.assertEqual(items.messages[0][1][0][0], "function_call_output")

    def test_no_words(self) -> None:
        """No text, no tool's name, no argument is in it."""
        body = {"system": CANARY, "messages": conversation(3), "tools": [{"name": CANARY}], "stop": [CANARY]}
        self.assertNotIn(CANARY, json.dumps(outline(body).json))

    def test_bounded(self) -> None:
        """Of a thousand messages the last ones, with the total; of a thousand parts or fields the first ones."""
        small, large = (json.dumps(outline({"messages": conversation(turns)}).json) for turns in (10, 500))
        self.assertLess(len(large), len(small) + 10)
        self.assertIn('"messages": 1000', large)
        self.assertEqual(len(outline({"messages": conversation(500)}).messages), MESSAGES)
        parts = [{"type": "x" * 500, "text": ""}] * 1000
        wide = {"messages": [{"role": "user", "content": parts}], **{f"field{n}" + "y" * 500: n for n in range(1000)}}
        self.assertLess(len(json.dumps(outline(wide).json)), 10_000)

    @given(
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
        ),
        st.sampled_from(["messages", "input", "system", "tools", "thinking", "model"]),
    )
    def test_anything(self, value: object, name: str) -> None:
        """Whatever a client sends in whichever place, it is outlined, and the outline is JSON."""
        json.dumps(outline({name: value, "messages": [value]}).json)
        json.dumps(outline({name: [{"role": value, "content": value, "x": value}]}).json)
