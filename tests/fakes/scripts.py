"""
What a fake backend answers, as values: steps, scripts, and the usual scripts ready made.

The shapes of the chunks are those of real servers: OpenAI's, and llama.cpp's as seen on the wire (progress chunks
first, usage and timings together on the last chunk). A script can be written down as JSON, see `Script.from_json`.
"""

import json
from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, TypeAlias

from attrs import evolve, field, frozen

EVENT_STREAM = {"content-type": "text/event-stream"}
JSON_TYPE = {"content-type": "application/json"}


@frozen
class Send:
    """Write these bytes as they are, in one write."""

    data: bytes


@frozen
class Chunk:
    """Write one object as a server-sent event."""

    value: Mapping[str, Any]


@frozen
class Done:
    """Write `data: [DONE]`."""


@frozen
class Headers:
    """Send the status and the headers now; without it they leave with the first bytes."""


@frozen
class Wait:
    """Do nothing for this many seconds of the fake's clock."""

    seconds: float


@frozen
class Cut:
    """Lose the connection here: what is written arrives, the end of the body does not."""


@frozen
class Hang:
    """Never go on, never end."""


Step: TypeAlias = Send | Chunk | Done | Headers | Wait | Cut | Hang

_WORDS: dict[str, Step] = {"done": Done(), "headers": Headers(), "cut": Cut(), "hang": Hang()}


def json_bytes(value: Any) -> bytes:
    """Compact JSON in UTF-8; in ASCII escapes where a string holds half a character."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode("ascii")


def step_bytes(step: Step) -> bytes:
    """What a step writes; nothing for those that write nothing."""
    match step:
        case Send(data):
            return data
        case Chunk(value):
            return b"data: " + json_bytes(value) + b"\n\n"
        case Done():
            return b"data: [DONE]\n\n"
    return b""


def _step(value: Any) -> Step:
    match value:
        case str() if value in _WORDS:
            return _WORDS[value]
        case {"chunk": dict(chunk), **rest} if not rest:
            return Chunk(chunk)
        case {"send": str(text), **rest} if not rest:
            return Send(text.encode("utf-8"))
        case {"send_base64": str(text), **rest} if not rest:
            return Send(b64decode(text, validate=True))
        case {"wait": int() | float() as seconds, **rest} if not rest:
            return Wait(seconds)
    raise ValueError(f"not a step: {value!r}")


def _all_steps(steps: Iterable[Step]) -> tuple[Step, ...]:
    return tuple(steps)


@frozen
class Script:
    """
    One answer: status, headers, and what happens then; after the last step the body ends properly.

    `close_delimited` answers as HTTP/1.0 does: without length and chunks, the end of the connection is the end of the
    body, so that a `Cut` and a proper end look alike.
    """

    status: int = 200
    headers: Mapping[str, str] = field(factory=EVENT_STREAM.copy)
    steps: tuple[Step, ...] = field(default=(), converter=_all_steps)
    close_delimited: bool = False

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Script":
        """
        The script in a decoded data file: status, headers, close_delimited, and steps, each of them
        {"chunk": {...}}, {"send": "text"}, {"send_base64": "..."}, {"wait": 1.5}, "headers", "done", "cut" or "hang".
        Other names are left to whoever wrote them. Raises ValueError for what is no step.
        """
        return cls(
            status=value.get("status", 200),
            headers=value.get("headers", EVENT_STREAM),
            steps=map(_step, value["steps"]),
            close_delimited=value.get("close_delimited", False),
        )

    def body_bytes(self) -> bytes:
        """All bytes that the body brings, whole: waits left out, nothing after a `Cut` or a `Hang`."""
        return b"".join(self.writes())

    def writes(self) -> list[bytes]:
        """The same bytes, as they are written one after the other."""
        return [data for step in self.played() if (data := step_bytes(step))]

    def played(self) -> Iterator[Step]:
        """The steps up to the one that ends the script, that one left out."""
        for step in self.steps:
            if isinstance(step, Cut | Hang):
                return
            yield step

    @property
    def ending(self) -> Literal["clean", "cut", "hang"]:
        """How the body ends."""
        for step in self.steps:
            match step:
                case Cut():
                    return "cut"
                case Hang():
                    return "hang"
        return "clean"

    def then(self, *steps: Step) -> "Script":
        """The same script with more steps at its end."""
        return evolve(self, steps=(*self.steps, *steps))

    def paced(self, seconds: float) -> "Script":
        """The same script with a wait after every step that writes."""
        slow = ((step, Wait(seconds)) if step_bytes(step) else (step,) for step in self.steps)
        return evolve(self, steps=[step for pair in slow for step in pair])


def chunk(delta: Mapping[str, Any] | None = None, finish: str | None = None, **more: Any) -> Chunk:
    """A chunk with one choice; `more` goes to its top level, a `choices` in there replaces the choice."""
    choice = {"index": 0, "delta": dict(delta or {}), "finish_reason": finish}
    frame = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "fake-model"}
    return Chunk(frame | {"choices": [choice]} | more)


def usage_of(prompt: int, completion: int, cached: int = 0) -> dict[str, Any]:
    """OpenAI's usage object."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def usage_chunk(prompt: int = 12, completion: int = 3, cached: int = 0, **more: Any) -> Chunk:
    """The chunk without choices that ends a stream with include_usage."""
    return chunk(choices=[], usage=usage_of(prompt, completion, cached), **more)


def stream(*deltas: Mapping[str, Any], finish: str | None = "stop", usage: bool = True) -> Script:
    """A whole stream of these deltas as OpenAI sends it: role first, finish, usage, [DONE]."""
    steps: list[Step] = [chunk({"role": "assistant", "content": ""}), *map(chunk, deltas), chunk(finish=finish)]
    return Script(steps=[*steps, *[usage_chunk()] * usage, Done()])


def text(*pieces: str, finish: str = "stop") -> Script:
    """An answer of text in these pieces."""
    return stream(*({"content": piece} for piece in pieces), finish=finish)


def reasoning(thoughts: Iterable[str], pieces: Iterable[str], name: str = "reasoning_content") -> Script:
    """Thoughts in the field `name`, then text."""
    return stream(*({name: thought} for thought in thoughts), *({"content": piece} for piece in pieces))


def call_deltas(name: str, *pieces: str, id: str | None = "call_1", index: int = 0) -> list[dict[str, Any]]:
    """The deltas of one call: id and name first, then its arguments piece by piece."""
    named = {"name": name, "arguments": ""}
    first = {"index": index, "type": "function", "function": named} | ({} if id is None else {"id": id})
    rest = [{"index": index, "function": {"arguments": piece}} for piece in pieces]
    return [{"tool_calls": [entry]} for entry in [first, *rest]]


def tool_call(name: str, *pieces: str, id: str | None = "call_1", before: Iterable[str] = ()) -> Script:
    """One call with its arguments in these pieces, after the text `before`."""
    words = ({"content": piece} for piece in before)
    return stream(*words, *call_deltas(name, *pieces, id=id), finish="tool_calls")


def llama_text(*pieces: str, prompt: int = 31, cached: int = 0, finish: str = "stop") -> Script:
    """An answer of text as llama.cpp streams it, asked for return_progress and include_usage."""
    nothing = {"role": "assistant", "content": None}
    fresh = prompt - cached
    progress = [
        chunk(nothing, prompt_progress={"total": prompt, "cache": cached, "processed": done, "time_ms": 4 * fresh})
        for done in (cached, prompt)
    ]
    timings = {"cache_n": cached, "prompt_n": fresh, "prompt_ms": 4.0 * fresh, "predicted_n": len(pieces)}
    last = usage_chunk(prompt, len(pieces), cached, timings=timings)
    words = [chunk({"content": piece}) for piece in pieces]
    return Script(steps=[*progress, chunk(nothing), *words, chunk(finish=finish), last, Done()])


def silent(*, headers: bool = True) -> Script:
    """A backend that says nothing more after its headers, or nothing at all."""
    return Script(steps=[Headers()] * headers + [Hang()])


def error(status: int, body: Any, headers: Mapping[str, str] | None = None) -> Script:
    """An error; `body` is bytes, text (sent as HTML), or anything else (sent as JSON)."""
    kind = JSON_TYPE if not isinstance(body, str | bytes) else {"content-type": "text/html"}
    data = body if isinstance(body, bytes) else body.encode("utf-8") if isinstance(body, str) else json_bytes(body)
    return Script(status=status, headers=kind | dict(headers or {}), steps=[Send(data)])


def json_body(value: Any, status: int = 200) -> Script:
    """Any JSON."""
    return error(status, json_bytes(value), JSON_TYPE)


def json_answer(content: str | None = "Hello world", *, finish: str = "stop", **message: Any) -> Script:
    """A whole chat completion, as answered to a request without `stream`; `message` adds to the message's fields."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content} | message, "finish_reason": finish}
    frame = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "fake-model"}
    return json_body(frame | {"choices": [choice], "usage": usage_of(12, 3)})
