"""The conversation that Claude Code had with a scripted model: what it asked for at every turn (`ten_turns.json`)."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).with_name("ten_turns.json")
TURNS = 10
#: The model of the tests answers with calls only if it must; the prompt does not show it.
ANSWER = {"max_tokens": 12, "temperature": 0, "tool_choice": {"type": "any"}}


def requests(full: bool = False) -> Iterator[dict[str, Any]]:
    """Ten requests, each with the answer to the one before; ``full`` with prose as long as it really was."""
    recorded = json.loads(RECORDED.read_text("utf-8"))
    body = recorded["body"]
    if full:
        _lengthen(body, recorded["full"])
    messages = body["messages"]
    ends = (end for end, message in enumerate(messages) if message["role"] == "assistant")
    for end in islice(ends, TURNS):
        yield {**body, **ANSWER, "messages": messages[:end]}


def _lengthen(body: dict[str, Any], lengths: dict[str, Any]) -> None:
    body["system"][-1]["text"] = _filled(body["system"][-1]["text"], lengths["system"])
    body["messages"][1]["content"] = _filled(body["messages"][1]["content"], lengths["midway"])
    for tool in body["tools"]:
        tool["description"] = _filled(tool["description"], lengths["tools"][tool["name"]])
    for name, length in lengths["tools"].items():
        if all(tool["name"] != name for tool in body["tools"]):
            schema = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}
            body["tools"].append({"name": name, "description": _filled(name, length), "input_schema": schema})


def _filled(text: str, length: int) -> str:
    words = text.split()
    while len(text) < length:
        text += " " + " ".join(words[: 1 + len(text) % len(words)])
    return text[:length]
