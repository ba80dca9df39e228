"""
The kinds of backends. To add one: a writer that spells `tests.contract.parts` in its API, a `Stand` here, and a class
of two lines in `test_every_backend.py`.
"""

import json
from typing import Any

from attrs import Factory, define
from twisted.web.resource import Resource

from tests.contract.parts import Call, End
from tests.contract.stand import Stand
from tests.fakes import ollama, responses
from tests.fakes.network import Network
from tests.fakes.openai import FakeOpenAI, Received
from tests.fakes.scripts import (
    Done,
    Script,
    Send,
    Step,
    call_deltas,
    chunk,
    error,
    json_bytes,
    silent,
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
    alive_path = "/health"

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
    alive_path = "/api/version"

    def make_fake(self, network: Network) -> Resource:
        return ollama.FakeOllama(network)

    def leaves_unanswered(self, path: str) -> None:
        self.fake.others["GET", path] = silent(headers=False)

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
