"""
The kinds of backends. To add one: a writer that spells `tests.contract.parts` in its API, a `Stand` here, and a class
of two lines in `test_every_backend.py`.
"""

import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any

from attrs import Factory, define
from twisted.web.resource import Resource

from tests.contract.parts import Broke, Call, End, Part, Text, spelt
from tests.contract.stand import Stand
from tests.fakes import anthropic, ollama, responses
from tests.fakes.network import Network
from tests.fakes.openai import FakeOpenAI, Received
from tests.fakes.scripts import (
    Cut,
    Done,
    Headers,
    Script,
    Send,
    Step,
    call_deltas,
    chunk,
    error,
    json_body,
    json_bytes,
    step_bytes,
    usage_chunk,
)


@define
class ChatWriter:
    """Chat Completions."""

    calls: int = 0

    def opened(self) -> list[Step]:
        return [chunk({"role": "assistant", "content": ""})]

    def thought(self, piece: str) -> list[Step]:
        return [chunk({"reasoning_content": piece})]

    def text(self, piece: str) -> list[Step]:
        return [chunk({"content": piece})]

    def call(self, call: Call) -> list[Step]:
        index, self.calls = self.calls, self.calls + 1
        return [chunk(delta) for delta in call_deltas(call.name, *call.pieces, id=call.id, index=index)]

    def broke(self, words: str) -> list[Step]:
        return [Send(b"data: " + json_bytes({"error": {"message": words, "code": 500}}) + b"\n\n")]

    def end(self, end: End) -> list[Step]:
        finish = {"tool": "tool_calls"}.get(end.reason, end.reason)
        return [chunk(finish=finish), usage_chunk(end.prompt, end.output, end.cached), Done()]


class GenericStand(Stand):
    """An OpenAI-compatible server of which nothing is known."""

    provider = "openai"
    told = {"dialect": "generic"}  # noqa: RUF012
    path = "/v1/chat/completions"
    writer = ChatWriter

    def make_fake(self, network: Network) -> Resource:
        return FakeOpenAI(network)

    def overflow(self, prompt: int, window: int) -> Script:
        words = (
            f"This model's maximum context length is {window} tokens. However, your messages resulted in {prompt} "
            "tokens. Please reduce the length of the messages."
        )
        return error(400, {"error": {"message": words, "type": "invalid_request_error", "code": OVERFLOW}})


OVERFLOW = "context_length_exceeded"


@define
class LlamaWriter(ChatWriter):
    """Chat Completions as llama.cpp streams them: progress first, counts and timings together."""

    def opened(self) -> list[Step]:
        nothing = {"role": "assistant", "content": None}
        progress = {"total": 120, "cache": 100, "processed": 100, "time_ms": 5}
        return [chunk(nothing, prompt_progress=progress), chunk(nothing)]

    def broke(self, words: str) -> list[Step]:
        told = {"error": {"code": 500, "message": words, "type": "server_error"}}
        return [Send(b"data: " + json_bytes(told) + b"\n\n")]

    def end(self, end: End) -> list[Step]:
        finish = {"tool": "tool_calls"}.get(end.reason, end.reason)
        timings = {"cache_n": end.cached, "prompt_n": end.prompt - end.cached, "predicted_n": end.output}
        return [
            chunk(finish=finish),
            usage_chunk(end.prompt, end.output, end.cached, timings=timings),
            Done(),
        ]


class LlamaStand(GenericStand):
    """llama.cpp through Chat Completions."""

    told = {"dialect": "llama.cpp"}  # noqa: RUF012
    writer = LlamaWriter
    tells_progress = True

    def overflow(self, prompt: int, window: int) -> Script:
        words = f"request ({prompt} tokens) exceeds the available context size ({window} tokens), try increasing it"
        told = {"code": 400, "message": words, "type": "exceed_context_size_error"}
        return error(400, {"error": {**told, "n_prompt_tokens": prompt, "n_ctx": window}})


@define
class OllamaWriter:
    """Ollama's lines. Its calls come whole."""

    calls: int = 0

    def opened(self) -> list[Step]:
        return [ollama.line()]

    def thought(self, piece: str) -> list[Step]:
        return [ollama.line({"thinking": piece})]

    def text(self, piece: str) -> list[Step]:
        return [ollama.line({"content": piece})]

    def call(self, call: Call) -> list[Step]:
        index, self.calls = self.calls, self.calls + 1
        arguments = json.loads("".join(call.pieces)) if call.whole else {}
        return [ollama.line({"tool_calls": [ollama.call(call.name, arguments, call.id, index)]})]

    def broke(self, words: str) -> list[Step]:
        return [Send(json_bytes({"error": words}) + b"\n")]

    def end(self, end: End) -> list[Step]:
        reason = {"tool": "stop"}.get(end.reason, end.reason)
        return [ollama.last(reason, prompt=end.prompt, output=end.output)]


class OllamaStand(Stand):
    """Ollama's own API."""

    provider = "ollama"
    base_path = ""
    path = "/api/chat"
    headers = ollama.NDJSON
    writer = OllamaWriter
    model = "qwen3:4b"
    tells_cached = False

    def make_fake(self, network: Network) -> Resource:
        return ollama.FakeOllama(network)

    def refusal(self, status: int, words: str, headers: Any = None) -> Script:
        return error(status, {"error": words}, headers)

    def overflow(self, prompt: int, window: int) -> Script:
        words = f"request ({prompt} tokens) exceeds the available context size ({window} tokens), try increasing it"
        return error(400, {"error": json.dumps({"error": {"code": 400, "message": words}})})


@define
class ResponsesWriter:
    """The Responses API: items with their places, told again whole at their end and at the answer's."""

    items: list[dict[str, Any]] = Factory(list)
    said: list[str] = Factory(list)
    number: int = 0
    open: bool = False

    def opened(self) -> list[Step]:
        empty = responses.response(status="in_progress")
        return [self._event("created", response=empty), self._event("in_progress", response=empty)]

    def thought(self, piece: str) -> list[Step]:
        item = {"type": "reasoning", "id": self._id("rs"), "summary": [], "encrypted_content": "", "content": []}
        steps = self._turn(item)
        if steps:
            part = {"type": "summary_text", "text": ""}
            steps.append(self._here("reasoning_summary_part.added", summary_index=0, part=part))
        self.said.append(piece)
        return [*steps, self._here("reasoning_summary_text.delta", summary_index=0, delta=piece)]

    def text(self, piece: str) -> list[Step]:
        item = {"type": "message", "id": self._id("msg"), "status": "in_progress", "role": "assistant", "content": []}
        steps = self._turn(item)
        if steps:
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            steps.append(self._here("content_part.added", content_index=0, part=part))
        self.said.append(piece)
        return [*steps, self._here("output_text.delta", content_index=0, delta=piece, logprobs=[])]

    def call(self, call: Call) -> list[Step]:
        told = {"type": "function_call", "id": self._id("fc"), "call_id": call.id, "name": call.name}
        steps = [*self._close(), *self._turn({**told, "arguments": "", "status": "in_progress"})]
        self.said += call.pieces
        steps += [self._here("function_call_arguments.delta", delta=piece) for piece in call.pieces]
        return [*steps, *self._close()] if call.whole else steps

    def broke(self, words: str) -> list[Step]:
        failed = responses.response(status="failed", error={"code": "server_error", "message": words})
        return [self._event("failed", response=failed)]

    def end(self, end: End) -> list[Step]:
        steps = self._close()
        more: dict[str, Any] = {}
        status = "incomplete" if end.reason == "length" else "completed"
        if end.reason == "length":
            more["incomplete_details"] = {"reason": "max_output_tokens"}
        usage = {
            "input_tokens": end.prompt,
            "input_tokens_details": {"cached_tokens": end.cached},
            "output_tokens": end.output,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": end.prompt + end.output,
        }
        whole = responses.response(self.items, status, usage=usage, **more)
        return [*steps, self._event(status, response=whole)]

    def _event(self, kind: str, **fields: Any) -> Step:
        event = {"type": f"response.{kind}", "sequence_number": self.number, **fields}
        self.number += 1
        [frame] = responses.frames([event])
        return frame

    def _here(self, kind: str, **fields: Any) -> Step:
        """An event of the item that is open."""
        return self._event(kind, item_id=self.items[-1]["id"], output_index=len(self.items) - 1, **fields)

    def _id(self, prefix: str) -> str:
        return f"{prefix}_{len(self.items)}"

    def _turn(self, item: dict[str, Any]) -> list[Step]:
        """What it takes to be within an item of this type; nothing if we are."""
        if self.open and self.items[-1]["type"] == item["type"] != "function_call":
            return []
        steps = self._close()
        self.items.append(item)
        self.open = True
        return [*steps, self._event("output_item.added", output_index=len(self.items) - 1, item=dict(item))]

    def _close(self) -> list[Step]:
        if not self.open:
            return []
        self.open = False
        item, text = self.items[-1], "".join(self.said)
        self.said.clear()
        match item["type"]:
            case "reasoning":
                item |= {"summary": [{"type": "summary_text", "text": text}], "encrypted_content": "gAAA"}
                done = self._here("reasoning_summary_text.done", summary_index=0, text=text)
            case "message":
                part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
                item |= {"content": [part], "status": "completed"}
                done = self._here("output_text.done", content_index=0, text=text, logprobs=[])
            case _:
                item |= {"arguments": text, "status": "completed"}
                done = self._here("function_call_arguments.done", arguments=text)
        return [done, self._event("output_item.done", output_index=len(self.items) - 1, item=dict(item))]


class ResponsesStand(Stand):
    """A server of the Responses API."""

    provider = "responses"
    path = "/v1/responses"
    writer = ResponsesWriter

    def make_fake(self, network: Network) -> Resource:
        return responses.FakeResponses(network)

    def tool_names(self, received: Received) -> list[str]:
        return [each["name"] for each in received.json["tools"]]

    def overflow(self, prompt: int, window: int) -> Script:
        words = (
            f"This model's maximum context length is {window} tokens. However, your messages resulted in {prompt} "
            "tokens. Please reduce the length of the messages."
        )
        return error(400, {"error": {"message": words, "type": "invalid_request_error", "code": OVERFLOW}})


#: The error types of Anthropic's own refusals (PROTOCOL 3.1).
KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_numbers = itertools.count(1)


def _usage(end: End) -> dict[str, Any]:
    """Anthropic's counts; what came from the cache is no part of the input."""
    return {
        "input_tokens": end.prompt - end.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": end.cached,
        "output_tokens": end.output,
    }


@define
class AnthropicWriter:
    """Anthropic's events: one block after the other, each with its start and its stop."""

    index: int = -1
    #: The type of the block that is open.
    kind: str = ""

    def opened(self) -> list[Step]:
        begun = anthropic.message(
            id=f"msg_{next(_numbers)}",
            model="fake-model",
            stop_reason=None,
            usage=_usage(End(output=1)),
        )
        return self._events({"type": "message_start", "message": begun}, {"type": "ping"})

    def thought(self, piece: str) -> list[Step]:
        return [*self._turn("thinking", thinking="", signature=""), *self._delta("thinking_delta", thinking=piece)]

    def text(self, piece: str) -> list[Step]:
        return [*self._turn("text", text=""), *self._delta("text_delta", text=piece)]

    def call(self, call: Call) -> list[Step]:
        steps = [*self._close(), *self._turn("tool_use", id=call.id, name=call.name, input={})]
        for piece in call.pieces:
            for start in range(0, len(piece), 4096):
                steps += self._delta("input_json_delta", partial_json=piece[start : start + 4096])
        return [*steps, *self._close()] if call.whole else steps

    def broke(self, words: str) -> list[Step]:
        return self._events({"type": "error", "error": {"type": "api_error", "message": words}})

    def end(self, end: End) -> list[Step]:
        return [*self._close(), *self._events(self._last(end), {"type": "message_stop"})]

    def _last(self, end: End) -> dict[str, Any]:
        reason = {"stop": "end_turn", "length": "max_tokens", "tool": "tool_use"}[end.reason]
        delta = {"stop_reason": "stop_sequence" if end.sequence else reason, "stop_sequence": end.sequence}
        return {"type": "message_delta", "delta": delta, "usage": _usage(end)}

    def _turn(self, kind: str, **fields: Any) -> list[Step]:
        """What it takes to be within a block of this type; nothing if we are."""
        if self.kind == kind != "tool_use":
            return []
        steps = self._close()
        self.kind, self.index = kind, self.index + 1
        block = {"type": kind, **fields}
        return [*steps, *self._events({"type": "content_block_start", "index": self.index, "content_block": block})]

    def _delta(self, kind: str, **fields: Any) -> list[Step]:
        return self._events({"type": "content_block_delta", "index": self.index, "delta": {"type": kind, **fields}})

    def _close(self) -> list[Step]:
        kind, self.kind = self.kind, ""
        if not kind:
            return []
        steps = self._delta("signature_delta", signature="EqQBCgYI") if kind == "thinking" else []
        return [*steps, *self._events({"type": "content_block_stop", "index": self.index})]

    def _events(self, *events: dict[str, Any]) -> list[Step]:
        return anthropic.frames(events)


class RepairStand(Stand):
    """Anthropic's API, its answers read and repaired."""

    provider = "anthropic"
    base_path = ""
    told: Mapping[str, Any] = {"repair": True}  # noqa: RUF012
    path = "/v1/messages"
    headers = anthropic.HEADERS
    writer = AnthropicWriter

    def make_fake(self, network: Network) -> Resource:
        return anthropic.FakeAnthropic(network)

    def tool_names(self, received: Received) -> list[str]:
        return [each["name"] for each in received.json["tools"]]

    def refusal(self, status: int, words: str, headers: Mapping[str, str] | None = None) -> Script:
        kind = KINDS.get(status, "api_error" if status >= 500 else "invalid_request_error")
        envelope = {"type": "error", "error": {"type": kind, "message": words}, "request_id": "req_theirs"}
        return error(status, envelope, {"request-id": "req_theirs", **(headers or {})})

    def overflow(self, prompt: int, window: int) -> Script:
        return self.refusal(400, f"prompt is too long: {prompt} tokens > {window} maximum")


@define
class LlamaMessagesWriter(AnthropicWriter):
    """llama.cpp's own /v1/messages: each kind has its block, which stays open to the end (PROTOCOL 4.10)."""

    opened_blocks: list[str] = Factory(list)

    def end(self, end: End) -> list[Step]:
        last = self._last(end)
        if end.sequence:
            last["delta"]["stop_reason"] = "end_turn"
        stops = [{"type": "content_block_stop", "index": index} for index in range(len(self.opened_blocks))]
        return self._events(*stops, last, {"type": "message_stop"})

    def _turn(self, kind: str, **fields: Any) -> list[Step]:
        if kind != "tool_use" and kind in self.opened_blocks:
            self.index = self.opened_blocks.index(kind)
            return []
        self.opened_blocks.append(kind)
        self.index = len(self.opened_blocks) - 1
        fields.pop("input", None)
        block = {"type": kind, **fields}
        return self._events({"type": "content_block_start", "index": self.index, "content_block": block})

    def _close(self) -> list[Step]:
        return []


class LlamaMessagesStand(RepairStand):
    """llama.cpp's own /v1/messages, repaired: it finds stop sequences, and its errors are in OpenAI's shape."""

    headers = {"content-type": "text/event-stream"}  # noqa: RUF012
    writer = LlamaMessagesWriter
    stops_in_proxy = False

    def refusal(self, status: int, words: str, headers: Mapping[str, str] | None = None) -> Script:
        return error(status, {"error": {"code": status, "message": words, "type": "server_error"}}, headers)

    def overflow(self, prompt: int, window: int) -> Script:
        words = f"request ({prompt} tokens) exceeds the available context size ({window} tokens), try increasing it"
        told = {"code": 400, "message": words, "type": "exceed_context_size_error"}
        return error(400, {"error": {**told, "n_prompt_tokens": prompt, "n_ctx": window}})


class RawStand(RepairStand):
    """Anthropic's API, byte for byte. Whoever wants no stream is answered without one."""

    told: Mapping[str, Any] = {}  # noqa: RUF012
    tells_progress = True
    stops_in_proxy = False
    passes_on = True

    def whole(self, *parts: Part) -> Script:
        """One JSON text. What never came to its end is cut in the middle of it."""
        for part in parts:
            if isinstance(part, Broke):
                return self.refusal(500, part.words)
        writer = AnthropicWriter()
        found = [event for step in spelt(writer, parts) for event in _decoded(step)]
        content: list[dict[str, Any]] = []
        message: dict[str, Any] = anthropic.message(id=f"msg_{next(_numbers)}", model="fake-model")
        for event in found:
            match event:
                case {"type": "content_block_start", "content_block": block}:
                    content.append({**block, "pieces": []})
                case {"type": "content_block_delta", "delta": {"type": "signature_delta", "signature": signature}}:
                    content[-1]["signature"] = signature
                case {"type": "content_block_delta", "delta": delta}:
                    content[-1]["pieces"].append(delta[anthropic.DELTA[content[-1]["type"]][1]])
                case {"type": "message_delta", "delta": delta, "usage": usage}:
                    message |= {**delta, "usage": usage}
        message["content"] = [_assembled(block) for block in content]
        script = json_body(message)
        if any(isinstance(part, End) for part in parts):
            return script
        half = json_bytes(message)[:-20]
        ending = [part for part in parts if isinstance(part, Cut)]
        begun: Step = Send(half) if any(isinstance(part, Text) for part in parts) else Headers()
        return Script(headers=script.headers, steps=[begun, *ending])


def _decoded(step: Step) -> Iterator[dict[str, Any]]:
    for line in step_bytes(step).splitlines():
        if line.startswith(b"data: "):
            yield json.loads(line[6:])


def _assembled(block: dict[str, Any]) -> dict[str, Any]:
    pieces = "".join(block.pop("pieces"))
    match block["type"]:
        case "tool_use":
            return {**block, "input": json.loads(pieces)}
        case kind:
            return {**block, kind: pieces}
