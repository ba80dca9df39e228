"""Clients that ask a proxy, or the server itself, and measure what it costs the process that they ask."""

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from attrs import Factory, define, frozen

from tests.benchmarks.measures import cpu

#: A token's text: when it was written.
_STAMP = re.compile(rb"(?<!\d)(\d{19}) ")
_LENGTH = re.compile(rb"content-length:\s*(\d+)", re.IGNORECASE)
#: Seconds for one answer.
PATIENCE = 180.0


@frozen
class Target:
    """Somebody who answers: an Anthropic server, or one of Chat Completions."""

    name: str
    port: int
    path: str
    #: The process whose costs are counted.
    pid: int
    #: How an event with a token begins, for either protocol.
    is_anthropic: bool = True

    @property
    def mark(self) -> bytes:
        return b"event: content_block_delta" if self.is_anthropic else b"data: {"

    @property
    def last(self) -> bytes:
        return b'{"type":"message_stop"}' if self.is_anthropic else b"data: [DONE]"


@define
class Outcome:
    """What many requests together came to."""

    #: Of the process that was asked: seconds of CPU; and by the clock.
    cpu: float = 0.0
    wall: float = 0.0
    requests: int = 0
    events: int = 0
    #: How late each token came, in seconds.
    late: list[float] = Factory(list)

    @property
    def per_event(self) -> float:
        """Microseconds of CPU."""
        return self.cpu / self.events * 1e6

    @property
    def per_request(self) -> float:
        """Milliseconds of CPU."""
        return self.cpu / self.requests * 1e3

    def lateness(self, part: float) -> float:
        """Milliseconds within which this part of all tokens came."""
        ordered = sorted(self.late)
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))] * 1e3


def body(model: str, **more: Any) -> dict[str, Any]:
    """A small request for a stream."""
    asked = {"model": model, "max_tokens": 4096, "stream": True, "messages": [{"role": "user", "content": "hello"}]}
    return {**asked, **more}


class Client(asyncio.Protocol):
    """One connection, for one request at a time."""

    def __init__(self, target: Target, outcome: Outcome) -> None:
        self._target, self._outcome = target, outcome
        self._done: asyncio.Future[None] | None = None
        self._answer = bytearray()
        self._seen = 0
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def send(self, value: dict[str, Any], path: str = "") -> asyncio.Future[None]:
        """The future of its answer's end."""
        data = json.dumps(value, separators=(",", ":")).encode()
        head = (
            f"POST {path or self._target.path} HTTP/1.1\r\nHost: 127.0.0.1:{self._target.port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\nAccept: application/json\r\n"
            "User-Agent: benchmark\r\nanthropic-version: 2023-06-01\r\nx-api-key: none\r\n\r\n"
        )
        self._answer.clear()
        self._seen = 0
        self._done = asyncio.get_running_loop().create_future()
        self.transport.write(head.encode() + data)
        return self._done

    @property
    def begun(self) -> bool:
        """A token has come."""
        return self._target.mark in self._answer

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        answer, target = self._answer, self._target
        answer += data
        whole = answer.rfind(b"\n\n") + 2
        if whole > 1 and whole > self._seen:
            part = bytes(answer[self._seen : whole])
            self._outcome.events += part.count(target.mark)
            self._outcome.late += [(now - int(each)) / 1e9 for each in _STAMP.findall(part)]
            self._seen = whole
        ended = target.last in answer[-200:] and answer.endswith(b"0\r\n\r\n")
        if ended or self._is_whole():
            self._finish()

    def connection_lost(self, fault: Exception | None) -> None:
        self.lost = True
        if self._done is not None and not self._done.done():
            self._done.set_exception(ConnectionError(f"{self._target.name} broke off: {bytes(self._answer[:300])!r}"))

    def _is_whole(self) -> bool:
        """Whether it is an answer of a known length, all of which is here."""
        end = self._answer.find(b"\r\n\r\n", 0, 4096)
        length = _LENGTH.search(self._answer, 0, end) if end > 0 else None
        return length is not None and len(self._answer) >= end + 4 + int(length[1])

    def _finish(self) -> None:
        assert self._done is not None
        if self._answer.startswith(b"HTTP/1.1 200"):
            self._done.set_result(None)
        else:
            self._done.set_exception(AssertionError(f"{self._target.name} answers {bytes(self._answer[:600])!r}"))


async def connect(target: Target, outcome: Outcome) -> Client:
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(lambda: Client(target, outcome), "127.0.0.1", target.port)
    return client


Work = Callable[[Target, Outcome], Awaitable[None]]


def streams(value: dict[str, Any], count: int, rounds: int = 1) -> Work:
    """``count`` clients at once, each asking ``rounds`` times, on a new connection each time."""

    async def one(target: Target, outcome: Outcome) -> None:
        for _ in range(rounds):
            client = await connect(target, outcome)
            await asyncio.wait_for(client.send(value), PATIENCE)
            outcome.requests += 1
            client.transport.close()

    async def work(target: Target, outcome: Outcome) -> None:
        await asyncio.gather(*(one(target, outcome) for _ in range(count)))

    return work


def questions(values: Iterable[dict[str, Any]], path: str = "") -> Work:
    """One request after the other, on one connection."""

    async def work(target: Target, outcome: Outcome) -> None:
        client = await connect(target, outcome)
        for value in values:
            if client.lost:
                client = await connect(target, outcome)
            await asyncio.wait_for(client.send(value, path), PATIENCE)
            outcome.requests += 1
        client.transport.close()

    return work


async def measured(target: Target, work: Work) -> Outcome:
    """What the work cost the one who was asked."""
    outcome = Outcome()
    spent, began = cpu(target.pid), time.monotonic()
    await work(target, outcome)
    await asyncio.sleep(0.05)  # what it does after its last byte belongs to it as well
    outcome.cpu, outcome.wall = cpu(target.pid) - spent, time.monotonic() - began - 0.05
    return outcome
