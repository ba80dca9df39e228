"""
Hypothesis strategies shared by all floors: ways to cut bytes, text that hurts, JSON, requests, and chat deltas.

What a strategy calls valid is valid by PROTOCOL; the deltas are valid JSON of the right outer shape and otherwise
as senseless as servers have been seen to send them (PROTOCOL 5.1 and 5.2).
"""

import json
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

Json = Any

#: Pieces that break careless code: half of an emoji's parts, marks that combine, controls, line ends that are none.
NASTY_PIECES = (
    "\0",
    "\x7f",
    "\t",
    "\r\n",
    "\n\n",
    "\r",
    "\x85",
    "\u2028",
    "\u2029",
    "\ufeff",
    "\ufffd",
    "\uffff",
    "e\u0301",
    "\u0301",
    "ß",
    "İ",
    "漢字",
    "😀",
    "👩\u200d👩\u200d👧",
    "\U0010ffff",
    "\u202e",
    '"',
    "\\",
    "\\u0041",
    "\\ud800",
    "data: [DONE]\n\n",
    "event: error\n",
    "<think>",
    "</think>",
    "<tool_call>",
    "{",
    "}",
    "</script>",
    " ",
    "a",
)
HALF_CHARACTERS = ("\ud800", "\udbff", "\udc00", "\ude00", "\udfff", "\ude00\ud83d")


def nasty_texts(halves: bool = False, min_size: int = 0) -> SearchStrategy[str]:
    """
    Text that hurts: astral, combining, NUL, separators, things that look like the protocol's own words. With `halves`
    lone surrogates, too, which can only travel as JSON escapes.
    """
    pieces = st.sampled_from(NASTY_PIECES + HALF_CHARACTERS * halves)
    anything = st.characters(codec="utf-8") if not halves else st.characters()
    texts = st.lists(pieces | anything, min_size=min_size, max_size=12).map("".join)
    # Two halves that meet in the right order are one character to whoever reads the JSON.
    return texts.map(lambda text: text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass"))


def clean_texts(min_size: int = 0) -> SearchStrategy[str]:
    """Text of any script without NUL and lone surrogates: what has to arrive unchanged."""
    return st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=min_size, max_size=40)


@st.composite
def splits(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """
    `data` in pieces, none of them empty: whole, one byte each, cut at a few places, or in equal pieces. Joined they
    are `data` again.
    """
    if not data:
        return []
    match draw(st.sampled_from(["whole", "bytes", "places", "equal"])):
        case "whole":
            return [data]
        case "bytes":
            return [data[place : place + 1] for place in range(len(data))]
        case "equal":
            size = draw(st.integers(1, len(data)))
            return [data[place : place + size] for place in range(0, len(data), size)]
        case _:
            places = sorted(draw(st.sets(st.integers(1, len(data) - 1), max_size=12))) if len(data) > 1 else []
            edges = [0, *places, len(data)]
            return [data[left:right] for left, right in pairwise(edges)]


def json_scalars() -> SearchStrategy[Json]:
    """null, booleans, numbers JSON can spell, nasty strings."""
    numbers = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
    return st.none() | st.booleans() | numbers | nasty_texts()


def json_values(max_leaves: int = 12) -> SearchStrategy[Json]:
    """Any JSON value."""

    def wider(inner: SearchStrategy[Json]) -> SearchStrategy[Json]:
        return st.lists(inner, max_size=4) | st.dictionaries(nasty_texts(), inner, max_size=4)

    return st.recursive(json_scalars(), wider, max_leaves=max_leaves)


def json_objects() -> SearchStrategy[dict[str, Json]]:
    """Any JSON object: what the arguments of a call should be."""
    return st.dictionaries(nasty_texts(), json_values(6), max_size=4)


def _with(required: Mapping[str, SearchStrategy[Any]], **optional: SearchStrategy[Any]) -> SearchStrategy[Any]:
    return st.fixed_dictionaries(dict(required), optional=optional)


def cache_marks() -> SearchStrategy[dict[str, str]]:
    """cache_control."""
    return _with({"type": st.just("ephemeral")}, ttl=st.sampled_from(["5m", "1h"]))


def text_blocks() -> SearchStrategy[dict[str, Any]]:
    """A text block of a request."""
    return _with({"type": st.just("text"), "text": clean_texts(1)}, cache_control=cache_marks())


def contents() -> SearchStrategy[Any]:
    """The content of a message: a string or text blocks."""
    return clean_texts(1) | st.lists(text_blocks(), min_size=1, max_size=3)


@st.composite
def text_requests(draw: st.DrawFn) -> dict[str, Any]:
    """
    A valid Messages request of text alone (PROTOCOL 1.4): user first, any roles after it, a system message only after
    a user message, unknown fields now and then.
    """
    roles = ["user"]
    for role in draw(st.lists(st.sampled_from(["user", "assistant", "system"]), max_size=6)):
        if role != "system" or roles[-1] == "user":
            roles.append(role)
    request = draw(
        _with(
            {
                "model": st.sampled_from(["claude-sonnet-4-5", "claude-haiku-4-5-20251001", "claude-opus-4-6[1m]"]),
                "max_tokens": st.integers(1, 128_000),
                "messages": st.just([{"role": role, "content": draw(contents())} for role in roles]),
            },
            system=contents(),
            stream=st.booleans(),
            stop_sequences=st.lists(clean_texts(1), max_size=6),
            temperature=st.floats(0, 1),
            top_p=st.floats(0, 1),
            top_k=st.integers(0, 500),
            metadata=_with({}, user_id=clean_texts()),
            cache_control=cache_marks(),
            service_tier=st.sampled_from(["auto", "standard_only"]),
            safeguards=json_values(3),
            x_unknown=json_values(3).filter(lambda value: value is not None),
        )
    )
    return dict(request)


IDS = (None, "", "call_1", "call_2", "functions.Bash:0 weird/id", "toolu_1", "x" * 300)
NAMES = (None, "", "Bash", "Read", "get_", "weather", "mcp__a__b", "not a name!")
FINISHES = (None, "", "stop", "length", "tool_calls", "function_call", "content_filter", "error", "who knows")
ARGUMENTS = (
    None,
    "",
    "{}",
    "null",
    '{"a":',
    "1}",
    '"{\\"a\\":1}"',
    "[1]",
    "```json\n{}\n```",
    "{'a': 1,}",
    {"a": 1},
    [1],
)


def argument_pieces() -> SearchStrategy[Json]:
    """A piece of a call's arguments, or what a server takes for one."""
    return st.sampled_from(ARGUMENTS) | nasty_texts() | json_objects().map(json.dumps)


def call_entries() -> SearchStrategy[dict[str, Any]]:
    """One entry of delta.tool_calls: any field may be missing or odd."""
    function = _with({}, name=st.sampled_from(NAMES), arguments=argument_pieces())
    return _with(
        {},
        index=st.sampled_from([0, 0, 0, 1, 1, 2, 7, -1, None]),
        id=st.sampled_from(IDS),
        type=st.sampled_from(["function", None, ""]),
        function=function | st.none(),
    )


def deltas() -> SearchStrategy[Json]:
    """One choices[0].delta."""
    words = nasty_texts(halves=True)
    parts = st.lists(_with({"type": st.sampled_from(["text", "thinking", "image_url"])}, text=words), max_size=2)
    return _with(
        {},
        role=st.sampled_from(["assistant", "user", None, ""]),
        content=words | st.none() | parts,
        reasoning_content=words | st.none(),
        reasoning=words | st.none(),
        refusal=words | st.none(),
        tool_calls=st.lists(call_entries(), max_size=3) | st.none(),
        function_call=_with({}, name=st.sampled_from(NAMES), arguments=argument_pieces()),
        tool_call_generating=st.booleans(),
    )


def usages() -> SearchStrategy[Json]:
    """A usage object, or what stands in its place."""
    count = st.integers(0, 10**6) | st.none()
    cached = _with({}, cached_tokens=count, cache_write_tokens=count) | st.none()
    thought = _with({}, reasoning_tokens=count) | st.none()
    found = _with(
        {},
        prompt_tokens=count,
        completion_tokens=count,
        total_tokens=count,
        prompt_tokens_details=cached,
        completion_tokens_details=thought,
        prompt_cache_hit_tokens=count,
        prompt_cache_miss_tokens=count,
    )
    return found | st.none()


def chat_errors() -> SearchStrategy[Json]:
    """What may stand in a chunk's `error`."""
    codes = st.sampled_from([400, 429, 502, 503, 529, "429", None, "rate_limit_exceeded"])
    return _with({}, message=clean_texts(), code=codes, metadata=json_values(3)) | clean_texts(1)


def choices() -> SearchStrategy[Json]:
    """One entry of choices."""
    return _with(
        {},
        index=st.sampled_from([0, 0, 0, 0, 1]),
        delta=deltas() | st.none(),
        message=deltas(),
        finish_reason=st.sampled_from(FINISHES),
        stop_reason=st.sampled_from([None, "END", 7]),
        native_finish_reason=st.sampled_from([None, "stop", "network_error"]),
    )


def chat_chunks(errors: bool = True) -> SearchStrategy[dict[str, Any]]:
    """One chunk of a Chat Completions stream, sensible or not."""
    count = st.integers(0, 10**6)
    timings = _with({}, cache_n=count, prompt_n=count, predicted_n=count)
    progress = _with({}, total=count, cache=count, processed=count)
    extras = {"usage": usages(), "timings": timings, "prompt_progress": progress, "x_groq": _with({}, usage=usages())}
    if errors:
        extras["error"] = chat_errors()
    frame: dict[str, SearchStrategy[Any]] = {"choices": st.lists(choices(), max_size=2)}
    return _with({}, **frame, id=st.just("chatcmpl-1"), object=st.just("chat.completion.chunk")) | _with(
        {"choices": st.lists(choices(), min_size=1, max_size=1)}, **extras
    )


def chat_streams(errors: bool = True) -> SearchStrategy[list[dict[str, Any]]]:
    """
    The chunks of a whole answer: text, reasoning, calls, finish reasons, usage and errors in any order, with odd
    indexes, ids, names and arguments. Nothing is promised about them but that each is a JSON object.
    """
    return st.lists(chat_chunks(errors), max_size=10)


@st.composite
def sensible_streams(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[dict[str, Any]], str]:
    """
    A well-behaved answer with what must come of it: (chunks, blocks, stop_reason). The blocks are those of an
    Anthropic message, thinking without its signature; calls carry distinct ids and JSON objects as arguments, cut in
    pieces anywhere, the calls' pieces in turns.
    """
    thoughts = draw(st.lists(clean_texts(1), max_size=3))
    words = draw(st.lists(clean_texts(1).filter(str.strip), max_size=4))
    inputs = draw(st.lists(json_objects(), max_size=3))
    if not words and not inputs:
        words = ["a"]
    if words:  # blanks at the start of an answer are the translation's to drop or to keep
        words = ["w", *words]
    if thoughts:
        thoughts = ["t", *thoughts]
    queues: list[list[dict[str, Any]]] = []
    for index, value in enumerate(inputs):
        pieces = draw(splits(json.dumps(value).encode("ascii")))
        named: dict[str, Any] = {"index": index, "id": f"call_{index}", "function": {"name": "Bash", "arguments": ""}}
        rest = [{"index": index, "function": {"arguments": piece.decode("ascii")}} for piece in pieces]
        queues.append([named, *rest])
    sent: list[dict[str, Any]] = [{"reasoning_content": piece} for piece in thoughts] + [
        {"content": piece} for piece in words
    ]
    begun = 0  # a call begins after those of lower indexes have begun
    while waiting := [queue for queue in queues[: begun + 1] if queue]:
        queue = draw(st.sampled_from(waiting))
        begun += queue is queues[min(begun, len(queues) - 1)]
        sent.append({"tool_calls": [queue.pop(0)]})
    reason = "tool_calls" if inputs else draw(st.sampled_from(["stop", "length"]))
    frames: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in sent
    ]
    frames.append({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    blocks: list[dict[str, Any]] = []
    if thoughts:
        blocks.append({"type": "thinking", "thinking": "".join(thoughts)})
    if words:
        blocks.append({"type": "text", "text": "".join(words)})
    calls = enumerate(inputs)
    blocks += [{"type": "tool_use", "id": f"call_{n}", "name": "Bash", "input": value} for n, value in calls]
    return frames, blocks, {"tool_calls": "tool_use", "stop": "end_turn", "length": "max_tokens"}[reason]
