"""
A fake OpenAI-compatible backend: a real resource that plays scripts and remembers what it was asked.

In memory: `RequestTraversalAgent(FakeOpenAI(clock))`. On a port: `Site(FakeOpenAI(reactor))`, or by itself

    python -m tests.fakes.openai --port 8000 --script tests/corpus/01-standard-call.json

It says how far each request got: how many bytes were written, whether it was paused, whether the client left.
"""

import argparse
import json
import sys
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from attrs import Factory, define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers as HTTPHeaders
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site
from zope.interface import implementer

from tests.fakes.scripts import (
    Chunk,
    Cut,
    Done,
    Hang,
    Headers,
    Script,
    Send,
    Step,
    Wait,
    error,
    json_answer,
    json_body,
    llama_text,
    reasoning,
    silent,
    step_bytes,
    text,
    tool_call,
)

__all__ = [
    "Answer",
    "Chunk",
    "Cut",
    "Done",
    "FakeOpenAI",
    "Hang",
    "Headers",
    "Received",
    "Script",
    "Send",
    "Step",
    "Wait",
    "default_answer",
    "error",
    "json_answer",
    "json_body",
    "llama_text",
    "reasoning",
    "silent",
    "text",
    "tool_call",
]

Answer: TypeAlias = Callable[[Any], Script]


@define(eq=False)
class Received:
    """One request and what became of its answer. Times are seconds of the fake's clock."""

    method: str
    path: str
    query: str
    headers: HTTPHeaders
    body: bytes
    arrived: float
    written: int = 0
    pauses: int = 0
    resumes: int = 0
    is_paused: bool = False
    #: The client left before the script came to its end, and when.
    is_gone: bool = False
    gone_at: float | None = None
    #: The script came to its end: the body was ended, or the script cut it.
    is_finished: bool = False
    _waiting: list[Deferred[None]] = Factory(list)

    @property
    def json(self) -> Any:
        """The body, decoded. Raises ValueError if it is not JSON."""
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        """The last header of this name."""
        values = self.headers.getRawHeaders(name)
        return values[-1] if values else None

    def when_gone(self) -> Deferred[None]:
        """Fires when the client has left before the end, at once if it has already."""
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)
        if self.is_gone:
            self.left(self.gone_at)
        return waiting

    def left(self, now: float | None) -> None:
        """The client has left."""
        self.is_gone, self.gone_at = True, now
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(None)


def default_answer(body: Any) -> Script:
    """What is played if nothing else was asked for: a short text, streamed if the request says so."""
    if isinstance(body, dict) and body.get("stream"):
        return text("Hello", " world")
    return json_answer("Hello world")


@define(eq=False)
class FakeOpenAI(Resource):
    """
    POST …/chat/completions plays the next script that was queued, else what `answers` makes of the decoded body.
    GET …/models lists `models`. `others` maps (method, path) to what answers there. Anything else is a 404.
    """

    clock: IReactorTime
    answers: Answer = default_answer
    models: list[str] = Factory(lambda: ["fake-model"])
    others: dict[tuple[str, str], Answer] = Factory(dict)
    #: Every request so far, whatever its path.
    received: list[Received] = Factory(list)
    _queue: deque[Script] = Factory(deque)
    isLeaf = True

    def __attrs_pre_init__(self) -> None:
        super().__init__()

    def plays(self, *scripts: Script) -> "FakeOpenAI":
        """Queue answers for the next requests."""
        self._queue.extend(scripts)
        return self

    @property
    def chats(self) -> list[Received]:
        """The requests for a chat completion."""
        return [received for received in self.received if received.path.endswith("/chat/completions")]

    def render(self, request: IRequest) -> int:
        assert isinstance(request, Request) and request.content is not None
        path, _, query = request.uri.decode("latin-1").partition("?")
        received = Received(
            method=request.method.decode("ascii"),
            path=path,
            query=query,
            headers=request.requestHeaders.copy(),
            body=request.content.read(),
            arrived=self.clock.seconds(),
        )
        self.received.append(received)
        _Performance(self._script(received), request, received, self.clock).begin()
        return NOT_DONE_YET

    def _script(self, received: Received) -> Script:
        try:
            body = received.json
        except ValueError:
            body = None
        match received.method, received.path.removeprefix("/v1"):
            case here if (answer := self.others.get((received.method, received.path))) is not None:
                return answer(body)
            case "POST", "/chat/completions":
                return self._queue.popleft() if self._queue else self.answers(body)
            case "GET" | "HEAD", "/models":
                entries = [{"id": name, "object": "model", "created": 1, "owned_by": "fake"} for name in self.models]
                return json_body({"object": "list", "data": entries})
            case here:
                message = f"Invalid URL ({' '.join(here)})"
                return error(404, {"error": {"message": message, "type": "invalid_request_error", "code": None}})


@implementer(IPushProducer)
@define(eq=False)
class _Performance:
    """One script being played to one request, step by step, never while it is paused."""

    script: Script
    request: Request
    received: Received
    clock: IReactorTime
    _steps: Iterator[Step] = field(init=False)
    _timer: IDelayedCall | None = None
    _playing: bool = False
    _resting: bool = False

    def begin(self) -> None:
        """Set the status and the headers, and play until something makes us wait."""
        self._steps = iter(self.script.steps)
        self.request.setResponseCode(self.script.status)
        for name, value in self.script.headers.items():
            self.request.setHeader(name, value)
        if self.script.close_delimited:
            self.request.clientproto = b"HTTP/1.0"
            self.request.channel.persistent = False
        self.request.notifyFinish().addErrback(self._client_left)
        self.request.registerProducer(self, True)
        self._play()

    def pauseProducing(self) -> None:
        self.received.pauses += 1
        self.received.is_paused = True

    def resumeProducing(self) -> None:
        self.received.resumes += 1
        self.received.is_paused = False
        self._play()

    def stopProducing(self) -> None:
        """The transport is going; notifyFinish says so, too."""

    def _play(self) -> None:
        if self._playing:  # resumed from within a write
            return
        self._playing = True
        while not (self.received.is_paused or self._resting or self.received.is_gone or self.received.is_finished):
            self._perform(next(self._steps, None))
        self._playing = False

    def _perform(self, step: Step | None) -> None:
        match step:
            case None:
                self._over()
                self.request.finish()
            case Cut():
                self._over()
                self.request.loseConnection()
            case Hang():
                self._resting = True
            case Wait(seconds):
                self._resting = True
                self._timer = self.clock.callLater(seconds, self._rested)
            case _:
                data = step_bytes(step)
                self.received.written += len(data)
                self.request.write(data)

    def _rested(self) -> None:
        self._timer, self._resting = None, False
        self._play()

    def _over(self) -> None:
        self.received.is_finished = True
        self.request.unregisterProducer()

    def _client_left(self, reason: Failure) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self.received.is_finished:  # else the script itself has cut the connection
            self.received.left(self.clock.seconds())


def main() -> None:
    """Serve the fake on a loopback port until interrupted; every chat request gets the same script."""
    from twisted.internet import reactor  # the reactor is this program's own choice, not the module's
    from twisted.internet.endpoints import TCP4ServerEndpoint
    from twisted.python.log import startLogging

    options = argparse.ArgumentParser(prog="python -m tests.fakes.openai", description=main.__doc__)
    options.add_argument("--port", type=int, default=8000)
    options.add_argument("--script", type=Path, help="a data file as in tests/corpus; else a short text")
    chosen = options.parse_args()
    fake = FakeOpenAI(reactor)
    if chosen.script is not None:
        script = Script.from_json(json.loads(chosen.script.read_text("utf-8")))
        fake.answers = lambda body: script
    startLogging(sys.stdout)
    problems: list[str] = []

    def refused(reason: Failure) -> None:
        problems.append(reason.getErrorMessage())
        reactor.callWhenRunning(reactor.stop)

    TCP4ServerEndpoint(reactor, chosen.port, interface="127.0.0.1").listen(Site(fake)).addErrback(refused)
    reactor.run()
    if problems:
        sys.exit(problems[0])


if __name__ == "__main__":
    main()
