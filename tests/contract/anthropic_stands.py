"""The kinds of backends that speak Anthropic's API: read and repaired, or passed on byte for byte."""

import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any

from attrs import Factory, define
from twisted.web.resource import Resource

from tests.contract.parts import Broke, Call, End, Part, Text, spelt
from tests.contract.stand import Stand
from tests.fakes import anthropic
from tests.fakes.network import Network
from tests.fakes.openai import Received
from tests.fakes.scripts import Cut, Headers, Script, Send, Step, error, json_body, json_bytes, step_bytes

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
    told: Mapping[str, Any] = {"repair": True}
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

    told: Mapping[str, Any] = {}
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
