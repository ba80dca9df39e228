"""A server that answers Chat Completions as told by the model's name: `python -m tests.benchmarks.server PORT`.

``KIND-TOKENS-RATE``: ``text-100-50`` are 100 tokens of text, 50 a second, each in a write of its own; a rate of 0 is
all of them at once, written one by one. The kinds are ``text`` and ``thinking``; ``quiet-1-0`` says one token and then
nothing; ``large-BYTES-0`` is one token of that many bytes. A token of text is the monotonic clock in nanoseconds, in
nineteen digits, from which a reader on this machine learns how late it came.
"""

import asyncio
import json
import re
import sys
import time
from functools import cache

_MODEL = re.compile(rb'"model":\s*"(text|thinking|quiet|large)-(\d+)-(\d+)"')
_LENGTH = re.compile(rb"content-length:\s*(\d+)", re.IGNORECASE)
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_FIELDS = {"id": "chatcmpl-benchmark0123456789abcdef", "object": "chat.completion.chunk", "created": 1_790_000_000}


def chunk(delta: dict[str, str] | None, finish: str | None = None, usage: dict[str, int] | None = None) -> bytes:
    """One event, in a chunk of its own."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    value = {**_FIELDS, "model": "benchmark", "system_fingerprint": "b0-benchmark", "choices": choices}
    event = b"data: %b\n\n" % json.dumps(value | ({"usage": usage} if usage else {}), separators=(",", ":")).encode()
    return b"%x\r\n%b\r\n" % (len(event), event)


@cache
def _around(kind: str) -> tuple[bytes, bytes, int]:
    """What stands before and behind a token's text in its event, and how long both are."""
    field = "reasoning_content" if kind == "thinking" else "content"
    before, _, behind = chunk({field: "@"}).split(b"\r\n")[1].partition(b"@")
    return before, behind, len(before) + len(behind)


def stamp() -> bytes:
    """Of one length: the clock of a machine that was started a moment ago has few digits."""
    return b"%019d " % time.monotonic_ns()


def token(kind: str, text: bytes) -> bytes:
    before, behind, length = _around(kind)
    return b"%x\r\n%b%b%b\r\n" % (length + len(text), before, text, behind)


class Server(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._received = bytearray()
        self._answers: set[asyncio.Task[None]] = set()

    def connection_lost(self, fault: Exception | None) -> None:
        for answer in self._answers:
            answer.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(self._received, 0, end)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self._received) < whole:
                return
            request, self._received = bytes(self._received[:whole]), self._received[whole:]
            answer = asyncio.get_running_loop().create_task(self._answer(request))
            self._answers.add(answer)
            answer.add_done_callback(self._answers.discard)

    async def _answer(self, request: bytes) -> None:
        model = None if b"/input_tokens " in request[:100] else _MODEL.search(request)
        if model is None:
            if b"/input_tokens " in request[:100]:
                self._whole(b"200 OK", {"input_tokens": 20_000})
            elif request.startswith(b"GET /v1/models "):
                self._whole(b"200 OK", {"object": "list", "data": [{"id": "text-1-0", "object": "model"}]})
            else:
                self._whole(b"404 Not Found", {"error": {"message": "expected a model such as text-100-50"}})
            return
        kind, count, rate = model[1].decode(), int(model[2]), int(model[3])
        self._transport.write(_HEAD + chunk({"role": "assistant"}))
        if kind == "large":
            self._transport.write(token("text", b"0" * count))
        elif rate:
            await self._paced(kind, count, rate)
        else:
            now = stamp()
            for _ in range(count):
                self._transport.write(token(kind, now))
        if kind == "quiet":
            await asyncio.sleep(3600)
        told = {"prompt_tokens": 1000, "completion_tokens": count, "total_tokens": 1000 + count}
        self._transport.write(chunk({}, "stop") + chunk(None, usage=told) + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")

    async def _paced(self, kind: str, count: int, rate: int) -> None:
        began = time.monotonic()
        for number in range(1, count + 1):
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            self._transport.write(token(kind, stamp()))

    def _whole(self, status: bytes, value: object) -> None:
        body = json.dumps(value).encode()
        head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        self._transport.write(head % (status, len(body)) + body)


async def serve(port: int) -> None:
    """Until the end of time."""
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
