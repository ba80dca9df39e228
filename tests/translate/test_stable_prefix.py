"""What was sent once is sent the same in every later request, byte by byte (issue 5, part 3; PROTOCOL 7.5).

Conversations grow in two ways: an answer and what follows it are added, which must leave all earlier messages as they
were; or, without an answer, more is said at the end, which may make the last message longer, and nothing else.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.model.anthropic import MessagesRequest
from claudeproxy.model.documents import Paper
from claudeproxy.model.problems import Refusal
from claudeproxy.translate.chain import Chain
from claudeproxy.translate.chat_request import to_chat
from claudeproxy.translate.dialects import CHAT_DIALECTS, DIALECTS
from claudeproxy.translate.ollama_request import to_ollama
from claudeproxy.translate.prefix import GROWN, compare
from claudeproxy.translate.responses_request import to_responses
from claudeproxy.translate.signatures import Reasoning, sign
from claudeproxy.wire.json import encode
from claudeproxy.wire.requests import parse_messages
from tests.benchmarks import ten_turns
from tests.benchmarks.conversation import requests
from tests.strategies import clean_texts, json_objects, nasty_texts

RECORDINGS = sorted((Path(__file__).parent.parent / "recordings").glob("*.json"))
#: One red pixel.
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
PDF = "JVBERi0xLjQK"
PAPERS = {PDF: Paper(("one", "two"), (b"picture",), 1)}
Body = dict[str, Any]
Translate = Callable[[MessagesRequest], Body]


def _chat(name: str) -> Translate:
    return lambda request: to_chat(request, "m", CHAT_DIALECTS[name], papers=PAPERS, session="s").body


def _responses(name: str) -> Translate:
    return lambda request: to_responses(request, "m", DIALECTS[name], papers=PAPERS, session="s").body


#: Every way to a backend.
WAYS: Mapping[str, Translate] = {
    **{name: _chat(name) for name in CHAT_DIALECTS},
    **{f"responses to {name}": _responses(name) for name in ("openai", "llama.cpp", "vllm", "lmstudio", "generic")},
    "ollama": lambda request: to_ollama(request, "m", DIALECTS["ollama"], 8192, papers=PAPERS).body,
}


def translated(translate: Translate, request: MessagesRequest) -> Body | None:
    """None for a beginning that cannot be sent, such as an empty text."""
    try:
        return translate(request)
    except Refusal:
        return None


def said(body: Body) -> list[Any]:
    """The messages, as bytes; a text that stands for itself is a list of one text."""
    messages: list[Any] = body.get("messages") or body["input"]
    return messages


def head(body: Body) -> bytes:
    """All the rest."""
    return encode({name: value for name, value in body.items() if name not in ("messages", "input")})


def longer(before: Any, after: Any) -> bool:
    """Whether a message has become another only by what was added at its end."""
    if before.keys() - {"images"} != after.keys() - {"images"}:
        return False
    place = "output" if "output" in before else "content"
    rest = [{name: value for name, value in each.items() if name not in (place, "images")} for each in (before, after)]
    old, new = _parts(before[place]), _parts(after[place])
    if rest[0] != rest[1] or len(old) > len(new) or not old:
        return False
    images = before.get("images", []), after.get("images", [])
    if images[1][: len(images[0])] != images[0]:
        return False
    last, now = old.pop(), new[len(old)]
    same_kind = last.keys() == now.keys() and str(now.get("text", "")).startswith(last.get("text", ""))
    return old == new[: len(old)] and (last == now or ("text" in last and same_kind))


def _parts(content: Any) -> list[Any]:
    if not isinstance(content, str):
        return [{**part, "type": part["type"].removeprefix("input_")} for part in content]
    return [{"type": "text", "text": content}]


def cut(request: Mapping[str, Any]) -> Iterator[tuple[Body, bool]]:
    """A conversation's requests, as they came one after the other; whether what came next begins with an answer."""
    messages = request["messages"]
    for end, message in enumerate(messages, 1):
        if message["role"] != "assistant":
            answered = end < len(messages) and messages[end]["role"] == "assistant"
            yield {**request, "messages": messages[:end]}, answered


class Stable(SynchronousTestCase):
    """Shared by what follows."""

    def assert_stable(self, grown: list[tuple[Body, bool]]) -> None:
        """For all ways."""
        parsed = [(parse_messages(encode(body)).request, answered) for body, answered in grown]
        for name, translate in WAYS.items():
            bodies = [(translated(translate, request), answered) for request, answered in parsed]
            for (earlier, answered), (later, _) in pairwise(bodies):
                if earlier is None or later is None:
                    continue
                self.assert_prefix(name, earlier, later, answered)

    def assert_prefix(self, way: str, earlier: Body, later: Body, answered: bool) -> None:
        """For one way."""
        before, after = said(earlier), said(later)
        self.assertEqual(head(earlier), head(later), way)
        if answered:
            self.assertEqual(compare(Chain.of(earlier), Chain.of(later)).kind, GROWN, way)
        for place, message in enumerate(before):
            same = place < len(after) and encode(message) == encode(after[place])
            at_end = place == len(before) - 1 and not answered and place < len(after)
            if not same and not (at_end and longer(message, after[place])):
                found = after[place] if place < len(after) else None
                self.fail(f"{way}: message {place} was {message}, and became {found}")


class RealTests(Stable):
    """Conversations of the real client."""

    def test_recordings(self) -> None:
        """A recorded conversation, cut at its answers."""
        for path in RECORDINGS:
            recorded = json.loads(path.read_text("utf-8"))
            if "count_tokens" not in recorded["path"] and "web-search" not in path.name:
                self.assert_stable(list(cut(recorded["body"])))

    def test_thirty_turns(self) -> None:
        """A long one with many tools."""
        self.assert_stable([(body, True) for body in requests()])

    def test_ten_turns(self) -> None:
        """What Claude Code sent turn by turn, with a system message that came in the middle."""
        self.assert_stable([({**body, "tool_choice": {"type": "auto"}}, True) for body in ten_turns.requests()])


def _ours(draw: st.DrawFn) -> str:
    data = draw(st.sampled_from([None, "thought", [{"type": "reasoning.text", "text": "t"}]]))
    return sign(Reasoning(draw(st.sampled_from(["reasoning_content", "reasoning", "reasoning_details"])), data))


@st.composite
def answers(draw: st.DrawFn, ids: Iterator[int]) -> list[Any]:
    """What a model said: thoughts, texts, calls; perhaps nothing that a backend would be told again."""
    blocks: list[Any] = []
    for kind in draw(st.lists(st.sampled_from(["text", "thinking", "redacted", "call", "call", "odd"]), max_size=4)):
        match kind:
            case "text":
                blocks.append({"type": "text", "text": draw(clean_texts())})
            case "thinking":
                signature = _ours(draw) if draw(st.booleans()) else draw(st.sampled_from(["", "EqQBCg=="]))
                blocks.append({"type": "thinking", "thinking": draw(clean_texts()), "signature": signature})
            case "redacted":
                blocks.append({"type": "redacted_thinking", "data": "x"})
            case "odd":
                blocks.append({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "q"}})
            case "call":
                name = draw(st.sampled_from(["Bash", "Read", "mcp__" + "long_" * 20, "not a name!"]))
                blocks.append({"type": "tool_use", "id": f"call_{next(ids)}", "name": name, "input": draw(inputs)})
    return blocks or [{"type": "text", "text": "."}]


inputs = json_objects() | st.just({"__unparsedToolInput": {"raw": "{"}})
_IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
_DOCUMENT = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PDF}}


@st.composite
def results(draw: st.DrawFn, ids: list[str]) -> list[Any]:
    """Answers to most of the calls, in any order, of any kind."""
    blocks: list[Any] = []
    for id in draw(st.permutations(ids)):
        texts = [{"type": "text", "text": draw(nasty_texts())}]
        loaded = [{"type": "tool_reference", "tool_name": "Bash"}]
        content = draw(st.sampled_from(["", "plain", texts, [*texts, _IMAGE], [_IMAGE], [_DOCUMENT], loaded]))
        result = {"type": "tool_result", "tool_use_id": id, "content": content}
        blocks += [result | ({"is_error": True} if draw(st.booleans()) else {})] * (draw(st.integers(0, 9)) > 0)
    return blocks


@st.composite
def conversations(draw: st.DrawFn) -> Body:
    """A conversation of any shape that clients send."""
    numbers = iter(range(1000))
    messages: list[Any] = []
    waiting: list[str] = []
    texts = clean_texts(1).map(lambda text: {"type": "text", "text": text})
    blocks = texts | st.sampled_from([_IMAGE, _DOCUMENT, {"type": "text", "text": ""}])
    for _ in range(draw(st.integers(1, 4))):
        content = draw(results(waiting)) + draw(st.lists(blocks, max_size=2))
        if not any(block.get("text") or block["type"] != "text" for block in content):
            content.append({"type": "text", "text": "go on"})  # a user who says nothing is refused everywhere
        messages.append({"role": "user", "content": content})
        for role in draw(st.lists(st.sampled_from(["system", "system", "user"]), max_size=3)):
            messages.append({"role": role, "content": draw(clean_texts())})
        messages.append({"role": "assistant", "content": draw(answers(numbers))})
        waiting = [block["id"] for block in messages[-1]["content"] if block["type"] == "tool_use"]
    messages.append({"role": "user", "content": [*draw(results(waiting)), {"type": "text", "text": "and now?"}]})
    schema = {"type": "object", "properties": {"b": {"type": "string", "format": "uri"}, "a": {"$ref": "#/$defs/x"}}}
    tool = {"name": "Bash", "description": "Runs.", "input_schema": {**schema, "$defs": {"x": {"type": "number"}}}}
    system = draw(st.sampled_from(["", "Be brief.", [{"type": "text", "text": "x-anthropic-billing-header: cch=1;"}]]))
    return {"model": "m", "max_tokens": 10, "system": system, "tools": [tool], "messages": messages}


class GrownTests(Stable):
    """Conversations of any shape."""

    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
    @given(conversations())
    def test_grown(self, request: Body) -> None:
        """However a conversation grows, what is there already stays as it is."""
        self.assert_stable(list(cut(request)))
