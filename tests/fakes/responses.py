"""
A fake server of the Responses API: plays scripts at POST …/responses, tells counts at …/responses/input_tokens.

In memory: `RequestTraversalAgent(FakeResponses(clock))`. On a port:

    python -m tests.fakes.responses --port 8000

The events that the functions here make have the shapes of OpenAI's own types; `llama_text` those of llama.cpp, as seen
on the wire: no places, no numbers, and `completed` whatever ended the answer.
"""

import argparse
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from attrs import define
from twisted.web.server import Site

from tests.fakes.openai import FakeOpenAI, Received
from tests.fakes.scripts import Script, Send, Step, json_body, json_bytes

__all__ = [
    "FakeResponses",
    "call",
    "default_answer",
    "events",
    "failed",
    "frames",
    "llama_call",
    "llama_text",
    "message",
    "reasoning",
    "response",
    "stream",
    "whole",
]

Item = dict[str, Any]
USAGE: Mapping[str, Any] = {
    "input_tokens": 12,
    "input_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 0},
    "output_tokens": 7,
    "output_tokens_details": {"reasoning_tokens": 3},
    "total_tokens": 19,
}


def message(*pieces: str, id: str = "msg_up1", refusal: bool = False) -> Item:
    """An item of text; its pieces are how it streams."""
    kind, name = ("refusal", "refusal") if refusal else ("output_text", "text")
    part = {"type": kind, name: "".join(pieces)} | ({} if refusal else {"annotations": [], "logprobs": []})
    item = {"type": "message", "id": id, "status": "completed", "role": "assistant", "content": [part]}
    return item | {"pieces": pieces}


def reasoning(*parts: str, cipher: str | None = "gAAA", id: str = "rs_1", content: tuple[str, ...] = ()) -> Item:
    """A reasoning item with these parts of a summary, or with text of its own."""
    summary = [{"type": "summary_text", "text": part} for part in parts]
    item: Item = {"type": "reasoning", "id": id, "summary": summary, "encrypted_content": cipher}
    if content:
        item["content"] = [{"type": "reasoning_text", "text": text} for text in content]
    return item


def call(name: str, *pieces: str, call_id: str = "call_1", id: str = "fc_1", status: str = "completed") -> Item:
    """A call whose arguments stream in these pieces."""
    item = {"type": "function_call", "id": id, "call_id": call_id, "name": name, "status": status}
    return item | {"arguments": "".join(pieces), "pieces": pieces}


def response(items: Iterable[Item] = (), status: str = "completed", **more: Any) -> dict[str, Any]:
    """The response object of the last event, or of an answer that is not streamed."""
    frame = {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "model": "fake-model",
        "status": status,
        "output": [_bare(item) for item in items],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "temperature": 1.0,
        "top_p": 1.0,
        "usage": dict(USAGE) if status in ("completed", "incomplete") else None,
    }
    return frame | more


def events(*items: Item, status: str = "completed", **more: Any) -> list[dict[str, Any]]:
    """All events of a streamed answer of these items."""
    empty = response(status="in_progress")
    found = [{"type": "response.created", "response": empty}, {"type": "response.in_progress", "response": empty}]
    for place, item in enumerate(items):
        found += [each | {"output_index": place} for each in _of_item(item)]
    found.append({"type": f"response.{status}", "response": response(items, status, **more)})
    return [each | {"sequence_number": number} for number, each in enumerate(found)]


def failed(code: str, words: str) -> list[dict[str, Any]]:
    """The events of an answer that fails before anything is said."""
    broken = response(status="failed", error={"code": code, "message": words})
    found = [*events()[:2], {"type": "response.failed", "response": broken}]
    return [each | {"sequence_number": number} for number, each in enumerate(found)]


def frames(found: Iterable[Mapping[str, Any]]) -> list[Step]:
    """Each as a server-sent event with its name."""
    return [Send(f"event: {each['type']}\n".encode() + b"data: " + json_bytes(each) + b"\n\n") for each in found]


def stream(*items: Item, status: str = "completed", **more: Any) -> Script:
    """A streamed answer of these items."""
    return Script(steps=frames(events(*items, status=status, **more)))


def whole(*items: Item, status: str = "completed", **more: Any) -> Script:
    """The same as one JSON text."""
    return json_body(response(items, status, **more))


def llama_text(*pieces: str, prompt: int = 31, cached: int = 0, id: str = "msg_x", item: Item | None = None) -> Script:
    """Text, or a call, as llama.cpp streams it, asked for return_progress."""
    item = item or message(*pieces, id=id)
    begun = {"id": "resp_1", "object": "response", "status": "in_progress"}
    progress = {"total": prompt, "cache": cached, "processed": prompt, "time_ms": 5}
    usage = {
        "input_tokens": prompt,
        "output_tokens": len(item["pieces"]),
        "total_tokens": prompt + len(item["pieces"]),
        "input_tokens_details": {"cached_tokens": cached},
    }
    timings = {"cache_n": cached, "prompt_n": prompt - cached, "predicted_n": len(item["pieces"])}
    last = {**begun, "created_at": 1, "status": "completed", "model": "tiny", "output": [_bare(item)], "usage": usage}
    inner = [each for each in _of_item(item) if each["type"] != "response.function_call_arguments.done"]
    found = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
        {"type": "response.in_progress", "response": begun, "prompt_progress": progress},
        *({name: value for name, value in each.items() if not name.endswith("_index")} for each in inner),
        {"type": "response.completed", "response": last, "timings": timings},
    ]
    return Script(steps=frames(found))


def llama_call(name: str, *pieces: str, prompt: int = 31) -> Script:
    """A call as llama.cpp streams it."""
    return llama_text(prompt=prompt, item=call(name, *pieces, call_id="call_x", id="fc_x"))


def _bare(item: Item) -> Item:
    return {name: value for name, value in item.items() if name != "pieces"}


def _of_item(item: Item) -> list[dict[str, Any]]:
    """The events of one item, without its place."""
    bare = _bare(item)
    here = {"item_id": bare["id"]}
    inner: list[dict[str, Any]] = []
    match bare["type"]:
        case "message":
            begun = bare | {"content": [], "status": "in_progress"}
            [part] = bare["content"]
            place = here | {"content_index": 0}
            name = "refusal" if part["type"] == "refusal" else "text"
            kind = "response.refusal" if name == "refusal" else "response.output_text"
            extra = {} if name == "refusal" else {"logprobs": []}
            inner.append({"type": "response.content_part.added", "part": part | {name: ""}, **place})
            inner += [{"type": f"{kind}.delta", "delta": piece, **extra, **place} for piece in item["pieces"]]
            inner.append({"type": f"{kind}.done", name: part[name], **extra, **place})
            inner.append({"type": "response.content_part.done", "part": part, **place})
        case "reasoning":
            begun = bare | {"summary": [], "encrypted_content": "", "content": []}
            for number, part in enumerate(bare["summary"]):
                place = here | {"summary_index": number}
                text = part["text"]
                inner.append({"type": "response.reasoning_summary_part.added", "part": part | {"text": ""}, **place})
                inner += [
                    {"type": "response.reasoning_summary_text.delta", "delta": half, **place}
                    for half in (text[: len(text) // 2], text[len(text) // 2 :])
                ]
                inner.append({"type": "response.reasoning_summary_text.done", "text": text, **place})
                inner.append({"type": "response.reasoning_summary_part.done", "part": part, **place})
            for number, part in enumerate(bare.get("content", ())):
                place = here | {"content_index": number}
                inner.append({"type": "response.reasoning_text.delta", "delta": part["text"], **place})
                inner.append({"type": "response.reasoning_text.done", "text": part["text"], **place})
        case _:
            begun = bare | {"arguments": "", "status": "in_progress"}
            delta = "response.function_call_arguments.delta"
            inner += [{"type": delta, "delta": piece, **here} for piece in item["pieces"]]
            done = {"type": "response.function_call_arguments.done", "arguments": bare["arguments"], **here}
            inner.append(done | {"name": bare["name"]})
    added = {"type": "response.output_item.added", "item": begun}
    return [added, *inner, {"type": "response.output_item.done", "item": bare}]


def default_answer(body: Any) -> Script:
    """What is played if nothing else was asked for: a short text, streamed if the request says so."""
    item = message("Hello", " world")
    return stream(item) if isinstance(body, dict) and body.get("stream") else whole(item)


@define(eq=False)
class FakeResponses(FakeOpenAI):
    """`FakeOpenAI` for the other API. ``count`` is what every prompt counts; None if it cannot count."""

    count: int | None = 42

    def __attrs_post_init__(self) -> None:
        self.answers = default_answer

    @property
    def asked(self) -> list[Received]:
        """The requests for an answer."""
        return [received for received in self.received if received.path.endswith("/responses")]

    def _script(self, received: Received) -> Script:
        match received.method, received.path.removeprefix("/v1"):
            case "POST", "/responses":
                return self._queue.popleft() if self._queue else self.answers(received.json)
            case "POST", "/responses/input_tokens" if self.count is not None:
                return json_body({"object": "response.input_tokens", "input_tokens": self.count})
        return super()._script(received)


def main() -> None:
    """Serve the fake on a loopback port until interrupted."""
    from twisted.internet import reactor  # the reactor is this program's own choice, not the module's
    from twisted.internet.endpoints import TCP4ServerEndpoint
    from twisted.python.log import startLogging

    options = argparse.ArgumentParser(prog="python -m tests.fakes.responses", description=main.__doc__)
    options.add_argument("--port", type=int, default=8000)
    chosen = options.parse_args()
    startLogging(sys.stdout)
    site = Site(FakeResponses(reactor))
    TCP4ServerEndpoint(reactor, chosen.port, interface="127.0.0.1").listen(site).addErrback(
        lambda reason: reactor.callWhenRunning(sys.exit, reason.getErrorMessage())
    )
    reactor.run()


if __name__ == "__main__":
    main()
