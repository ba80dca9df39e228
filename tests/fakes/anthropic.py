"""
A fake Anthropic server, or one that is compatible with it: plays scripts at POST …/v1/messages, counts at
…/v1/messages/count_tokens, lists models at …/v1/models, and remembers what it was asked, byte for byte.

In memory: `RequestTraversalAgent(FakeAnthropic(clock))`. On a port:

    python -m tests.fakes.anthropic --port 8000

`stream` makes the events of Anthropic itself (PROTOCOL 2.1); `llama_stream`, `vllm_stream` and `ollama_stream` those of
the servers that are compatible with it, with their faults (PROTOCOL 4.7, 4.10).
"""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from attrs import define, evolve
from twisted.web.server import Site

from tests.fakes.openai import FakeOpenAI, Received
from tests.fakes.scripts import Done, Script, Send, Step, error, json_body, json_bytes, step_bytes

__all__ = [
    "DELTA",
    "FakeAnthropic",
    "block_events",
    "broken_off",
    "call",
    "default_answer",
    "events",
    "failed",
    "frames",
    "llama_stream",
    "message",
    "ollama_stream",
    "refused",
    "server_call",
    "stream",
    "text",
    "thinking",
    "vllm_stream",
    "whole",
]

Block = dict[str, Any]
Event = dict[str, Any]
#: What Anthropic sends with every answer.
HEADERS: Mapping[str, str] = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "request-id": "req_theirs",
    "anthropic-organization-id": "org_1",
    "anthropic-ratelimit-requests-remaining": "49",
}
USAGE: Mapping[str, Any] = {
    "input_tokens": 12,
    "cache_creation_input_tokens": 3,
    "cache_read_input_tokens": 5,
    "cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 0},
    "output_tokens": 7,
    "service_tier": "standard",
}
#: The delta of each kind of block, and the field which it brings.
DELTA = {
    "text": ("text_delta", "text"),
    "thinking": ("thinking_delta", "thinking"),
    "tool_use": ("input_json_delta", "partial_json"),
    "server_tool_use": ("input_json_delta", "partial_json"),
}


def text(*pieces: str, **more: Any) -> Block:
    """A block of text; its pieces are how it streams."""
    return {"type": "text", "text": "".join(pieces), **more, "pieces": pieces}


def thinking(*pieces: str, signature: str = "EqQBCgYI") -> Block:
    """A block of thoughts."""
    return {"type": "thinking", "thinking": "".join(pieces), "signature": signature, "pieces": pieces}


def call(name: str, *pieces: str, id: str = "toolu_1", kind: str = "tool_use") -> Block:
    """A call whose arguments stream in these pieces; ``input`` holds them when they are not streamed."""
    arguments = "".join(pieces)
    return {"type": kind, "id": id, "name": name, "input": _parsed(arguments), "pieces": pieces}


def server_call(name: str, *pieces: str, id: str = "srvtoolu_1") -> Block:
    """A call that the server has run itself."""
    return call(name, *pieces, id=id, kind="server_tool_use")


def _parsed(arguments: str) -> Any:

    try:
        return json.loads(arguments or "{}")
    except ValueError:
        return arguments


def message(*blocks: Block, stop_reason: str | None = "end_turn", **more: Any) -> dict[str, Any]:
    """A whole message (PROTOCOL 1.7)."""
    frame = {
        "id": "msg_theirs",
        "type": "message",
        "role": "assistant",
        "model": "claude-fake",
        "content": [{name: value for name, value in block.items() if name != "pieces"} for block in blocks],
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": dict(USAGE),
    }
    return frame | more


def block_events(index: int, block: Block) -> list[Event]:
    """The events of one block: its start with nothing in it, its deltas, its stop."""
    kind = block["type"]
    here = {"index": index}
    whole = {name: value for name, value in block.items() if name != "pieces"}
    empty: Block = {"text": {"text": ""}, "thinking": {"thinking": "", "signature": ""}}.get(
        kind, {"input": {}} if kind in DELTA else {}
    )
    found = [{"type": "content_block_start", **here, "content_block": whole | empty}]
    if kind in DELTA:
        name, part = DELTA[kind]
        for piece in block["pieces"]:
            found.append({"type": "content_block_delta", **here, "delta": {"type": name, part: piece}})
    if kind == "thinking":
        signature = {"type": "signature_delta", "signature": block["signature"]}
        found.append({"type": "content_block_delta", **here, "delta": signature})
    return [*found, {"type": "content_block_stop", **here}]


def events(
    *blocks: Block, stop_reason: str | None = "end_turn", stop_sequence: str | None = None, **more: Any
) -> list[Event]:
    """All events of a streamed answer of these blocks, as Anthropic sends them; ``more`` goes into the last delta."""
    begun = message(stop_reason=None, usage={**USAGE, "output_tokens": 1})
    found: list[Event] = [{"type": "message_start", "message": begun}, {"type": "ping"}]
    for index, block in enumerate(blocks):
        found += block_events(index, block)
    delta = {"stop_reason": stop_reason, "stop_sequence": stop_sequence, **more}
    found.append({"type": "message_delta", "delta": delta, "usage": {"output_tokens": USAGE["output_tokens"]}})
    return [*found, {"type": "message_stop"}]


def frames(found: Iterable[Event]) -> list[Step]:
    """Each as a server-sent event with its name."""
    return [Send(f"event: {each['type']}\n".encode() + b"data: " + json_bytes(each) + b"\n\n") for each in found]


def stream(*blocks: Block, **more: Any) -> Script:
    """A streamed answer of Anthropic's own."""
    return Script(headers=HEADERS, steps=frames(events(*blocks, **more)))


def llama_stream(*blocks: Block, **more: Any) -> Script:
    """llama.cpp's, as seen on the wire: every block stays open until the end, a thought's signature is empty and comes
    there, too; a call begins without an input, and its stop sequence goes with end_turn."""
    found = events(*(block | {"signature": ""} if block["type"] == "thinking" else block for block in blocks), **more)
    late = [each for each in found if each["type"] == "content_block_stop" or "signature" in each.get("delta", ())]
    rest = [each for each in found if each not in late]
    for each in found:
        each.get("content_block", {}).pop("input", None)
    if rest[-2]["delta"]["stop_reason"] == "stop_sequence":
        rest[-2]["delta"]["stop_reason"] = "end_turn"
    start = rest[0] | {"message": rest[0]["message"] | {"id": "chatcmpl-1"}}
    return Script(steps=frames([start, *rest[2:-2], *late, *rest[-2:]]))


def vllm_stream(*blocks: Block, **more: Any) -> Script:
    """vLLM's: its counts are all at the end, its last word is ``[DONE]``."""
    found = events(*blocks, **more)
    found[0]["message"]["usage"] = {"input_tokens": 0, "output_tokens": 0}
    found[-2]["usage"] = {"input_tokens": 20, "output_tokens": 7}
    return Script(steps=[*frames([found[0], *found[2:]]), Done()])


def ollama_stream(*blocks: Block, **more: Any) -> Script:
    """Ollama's: no signatures at all, arguments in one piece, an estimate at first and the true count at the end."""
    joined = [block | {"pieces": ("".join(block["pieces"]),)} if "pieces" in block else block for block in blocks]
    found = events(*joined, **more)
    found[0]["message"]["usage"] = {"input_tokens": 400, "output_tokens": 0}
    found[-2]["usage"] = {"input_tokens": 20, "output_tokens": 7}
    for each in found:
        each.get("content_block", {}).pop("signature", None)
    kept = [each for each in found if "signature" not in each.get("delta", ()) and each["type"] != "ping"]
    return Script(steps=frames(kept))


def whole(*blocks: Block, **more: Any) -> Script:
    """An answer that is not streamed."""
    return json_body(message(*blocks, **more))


def refused(status: int, kind: str, words: str, **headers: str) -> Script:
    """An error, in Anthropic's envelope; of the ``headers`` an underscore is a hyphen."""
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    envelope = {"type": "error", "error": {"type": kind, "message": words}, "request_id": "req_theirs"}
    return error(status, envelope, {"request-id": "req_theirs", **told})


def failed(kind: str, words: str, *blocks: Block) -> Script:
    """A stream that ends with an error event after these blocks."""
    told = {"type": "error", "error": {"type": kind, "message": words}}
    return Script(headers=HEADERS, steps=frames([*events(*blocks)[:-2], told]))


def broken_off(script: Script, *steps: Step, events: int) -> Script:
    """The first ``events`` writes of a script, and then something else, such as a `Cut`."""
    written = [step for step in script.steps if step_bytes(step)]
    return evolve(script, steps=[*written[:events], *steps])


def default_answer(body: Any) -> Script:
    """What is played if nothing else was asked for: a short text, streamed if the request says so."""
    block = text("Hello", " world")
    return stream(block) if isinstance(body, dict) and body.get("stream") else whole(block)


@define(eq=False)
class FakeAnthropic(FakeOpenAI):
    """`FakeOpenAI` for this API. ``count`` is what every prompt counts; None if it has no such route, as Ollama."""

    count: int | None = 42

    def __attrs_post_init__(self) -> None:
        self.answers = default_answer

    @property
    def asked(self) -> list[Received]:
        """The requests for an answer."""
        return [received for received in self.received if received.path.endswith("/messages")]

    def _script(self, received: Received) -> Script:
        if (answer := self.others.get((received.method, received.path))) is not None:
            return answer(_body(received))
        entries = [
            {"type": "model", "id": name, "display_name": name.title(), "created_at": "2026-01-01T00:00:00Z"}
            for name in self.models
        ]
        match received.method, received.path.removeprefix("/v1").split("/")[1:]:
            case "POST", ["messages"]:
                return self._queue.popleft() if self._queue else self.answers(_body(received))
            case "POST", ["messages", "count_tokens"] if self.count is not None:
                return json_body({"input_tokens": self.count})
            case "GET", ["models"]:
                ends = {"first_id": self.models[0], "last_id": self.models[-1]} if self.models else {}
                return json_body({"data": entries, "has_more": False, "first_id": None, "last_id": None} | ends)
            case "GET", ["models", name] if name in self.models:
                return json_body(entries[self.models.index(name)])
        return refused(404, "not_found_error", f"Not found: {received.path}")


def _body(received: Received) -> Any:
    try:
        return received.json
    except ValueError:
        return None


def main() -> None:
    """Serve the fake on a loopback port until interrupted."""
    from twisted.internet import reactor  # the reactor is this program's own choice, not the module's
    from twisted.internet.endpoints import TCP4ServerEndpoint
    from twisted.python.log import startLogging

    options = argparse.ArgumentParser(prog="python -m tests.fakes.anthropic", description=main.__doc__)
    options.add_argument("--port", type=int, default=8000)
    chosen = options.parse_args()
    startLogging(sys.stdout)
    site = Site(FakeAnthropic(reactor))
    TCP4ServerEndpoint(reactor, chosen.port, interface="127.0.0.1").listen(site).addErrback(
        lambda reason: reactor.callWhenRunning(sys.exit, reason.getErrorMessage())
    )
    reactor.run()


if __name__ == "__main__":
    main()
