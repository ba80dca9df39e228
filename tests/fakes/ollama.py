"""
A fake Ollama: its own API as documented, played from scripts (PROTOCOL 4.8).

In memory or on a port as `tests.fakes.openai.FakeOpenAI`, whose player it is; by itself

    python -m tests.fakes.ollama --port 11434

``/api/chat`` plays what was queued, or answers by itself as the real one would: 404 for a model that it does not have,
400 for what the model cannot do or for a prompt that is longer than the window, else a short text. ``/api/tags``,
``/api/ps``, ``/api/show`` and ``/api/version`` tell of its models.
"""

import argparse
import json
import sys
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from attrs import Factory, define, field, frozen
from twisted.internet.interfaces import IReactorTime
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from tests.fakes.openai import Received, _Performance
from tests.fakes.scripts import Cut, Script, Send, Step, error, json_body, json_bytes

NDJSON = {"content-type": "application/x-ndjson"}
WHEN = "2026-08-01T10:00:00.123456789Z"


@frozen
class Model:
    """One installed model."""

    name: str = "qwen3:4b"
    capabilities: tuple[str, ...] = ("completion", "tools", "thinking")
    length: int = 40_960
    architecture: str = "qwen3"

    @property
    def details(self) -> dict[str, Any]:
        return {
            "parent_model": "",
            "format": "gguf",
            "family": self.architecture,
            "families": [self.architecture],
            "parameter_size": "4.0B",
            "quantization_level": "Q4_K_M",
        }

    @property
    def entry(self) -> dict[str, Any]:
        """As ``/api/tags`` lists it."""
        told = {"name": self.name, "model": self.name, "modified_at": WHEN, "size": 2_620_788_019}
        return (
            told
            | {"digest": "e55aed6fe643f9368b2f48f8aaa56ec787b75765da69f794c0a0c23bfe7c64b2"}
            | {"details": self.details}
        )

    @property
    def shown(self) -> dict[str, Any]:
        """As ``/api/show`` tells of it."""
        info = {"general.architecture": self.architecture, f"{self.architecture}.context_length": self.length}
        return {
            "license": "Apache",
            "modelfile": "# Modelfile",
            "parameters": "temperature 0.6",
            "template": "{{ .Prompt }}",
            "details": self.details,
            "model_info": {**info, "tokenizer.ggml.tokens": None},
            "capabilities": list(self.capabilities),
            "modified_at": WHEN,
        }


def line(message: Mapping[str, Any] | None = None, model: str = "qwen3:4b", **more: Any) -> Send:
    """A line of a stream; ``message`` are fields of its message."""
    frame = {"model": model, "created_at": WHEN, "message": {"role": "assistant", "content": "", **(message or {})}}
    return Send(json_bytes(frame | {"done": False} | more) + b"\n")


def last(
    reason: str | None = "stop",
    message: Mapping[str, Any] | None = None,
    prompt: int | None = 26,
    output: int | None = 9,
    **more: Any,
) -> Send:
    """The last line; a count of None, as one of 0 with the real one, is left out."""
    counts = {"prompt_eval_count": prompt, "eval_count": output}
    told = {name: count for name, count in counts.items() if count is not None}
    times = {"total_duration": 4_883_583_458, "load_duration": 1_334_875, "eval_duration": 4_535_599_000}
    named = {} if reason is None else {"done_reason": reason}
    return line(message, **{"done": True, **named, **times, **told, **more})


def call(name: str, arguments: Any, id: str | None = None, index: int | None = None) -> dict[str, Any]:
    """An entry of ``tool_calls``; only newer servers send ids and indices."""
    function = {"name": name, "arguments": arguments} | ({} if index is None else {"index": index})
    return ({} if id is None else {"id": id}) | {"function": function}


def stream(*messages: Mapping[str, Any], reason: str | None = "stop", **more: Any) -> Script:
    """A whole stream of lines with these messages."""
    return Script(headers=NDJSON, steps=[*map(line, messages), last(reason, **more)])


def said(*pieces: str, reason: str = "stop", **more: Any) -> Script:
    """An answer of text."""
    return stream(*({"content": piece} for piece in pieces), reason=reason, **more)


def lines(*steps: Step) -> Script:
    """Any steps, as NDJSON."""
    return Script(headers=NDJSON, steps=steps)


def broken(*pieces: str) -> Script:
    """Text, and then the connection is lost."""
    return lines(*(line({"content": piece}) for piece in pieces), Cut())


@define(eq=False)
class FakeOllama(Resource):
    """``models`` are installed; ``plays`` queues answers of ``/api/chat``; ``others`` is for answers on other paths."""

    clock: IReactorTime
    models: list[Model] = Factory(lambda: [Model()])
    others: dict[tuple[str, str], Script] = Factory(dict)
    received: list[Received] = Factory(list)
    #: How often a model had to be loaded, because it was not, or because another window was asked for.
    loads: list[tuple[str, int]] = Factory(list)
    _queue: deque[Script] = field(factory=deque)
    isLeaf = True

    def __attrs_pre_init__(self) -> None:
        super().__init__()

    def plays(self, *scripts: Script) -> "FakeOllama":
        """Queue answers for the next requests that are neither refused nor without messages."""
        self._queue.extend(scripts)
        return self

    @property
    def chats(self) -> list[Received]:
        """The requests for an answer."""
        return [received for received in self.received if received.path == "/api/chat"]

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
        here = (received.method, received.path)
        if here in self.others:
            return self.others[here]
        try:
            body = received.json if received.body else None
        except ValueError as fault:
            return error(400, {"error": str(fault)})
        match here:
            case "GET", "/api/tags":
                return json_body({"models": [model.entry for model in self.models]})
            case "GET", "/api/ps":
                loaded = dict(self.loads)
                entries = [model.entry for model in self.models if model.name in loaded]
                more = {"expires_at": "2026-08-01T10:05:00Z", "size_vram": 2_620_788_019}
                return json_body(
                    {"models": [entry | more | {"context_length": loaded[entry["name"]]} for entry in entries]}
                )
            case "GET", "/api/version":
                return json_body({"version": "0.34.0"})
            case "POST", "/api/show":
                model = self._model(body["model"])
                return self._unknown(body["model"]) if model is None else json_body(model.shown)
            case "POST", "/api/chat":
                return self._chat(body)
            case _:
                return error(404, "404 page not found", {"content-type": "text/plain"})

    def _chat(self, body: Any) -> Script:
        model = self._model(body["model"])
        if model is None:
            return self._unknown(body["model"])
        for asked, ability in ((body.get("tools"), "tools"), (body.get("think"), "thinking")):
            if asked and ability not in model.capabilities:
                return error(400, {"error": f'"{model.name}" does not support {ability}'})
        wrong = list(_faults(body))
        if wrong:
            return error(400, {"error": wrong[0]})
        window = body.get("options", {}).get("num_ctx", 4096)
        if (model.name, window) not in self.loads[-1:]:
            self.loads.append((model.name, window))
        if not body.get("messages"):
            unloads = body.get("keep_alive") == 0
            return lines(last("unload" if unloads else "load", prompt=None, output=None))
        if body.get("truncate") is False and len(json_bytes(body["messages"])) > 4 * window:
            return error(400, {"error": TOO_LONG})
        script = self._queue.popleft() if self._queue else said("Hello", " world")
        if body.get("stream", True):
            return script
        return json_body(_joined(script))

    def _model(self, name: str) -> Model | None:
        whole = name if ":" in name else f"{name}:latest"
        return next((model for model in self.models if model.name == whole), None)

    @staticmethod
    def _unknown(name: str) -> Script:
        return error(404, {"error": f"model '{name}' not found"})


TOO_LONG = (
    "the prompt is longer than the context length currently available to the model; shorten the prompt, adjust the "
    "context length in settings, or use a model with a longer context length"
)


def _faults(body: Mapping[str, Any]) -> Iterable[str]:
    """What a decoder of the documented types would not take."""
    think = body.get("think")
    if not (think is None or isinstance(think, bool) or think in ("low", "medium", "high", "max")):
        yield f"invalid think value: {think!r}"
    for message in body.get("messages", ()):
        if message.get("role") not in ("system", "user", "assistant", "tool"):
            yield f"invalid role {message.get('role')!r}"
        if not isinstance(message.get("content"), str):
            yield "json: cannot unmarshal into Go struct field ChatRequest.messages.content of type string"
        for each in message.get("tool_calls", ()):
            if not isinstance(each["function"]["arguments"], dict):
                yield "json: cannot unmarshal into Go struct field .tool_calls.function.arguments"
        if not all(isinstance(image, str) and not image.startswith("data:") for image in message.get("images", ())):
            yield "illegal base64 data at input byte 4"


def _joined(script: Script) -> dict[str, Any]:
    """The lines of a stream as the one answer to a request that wanted none."""
    values = [json.loads(each) for each in script.body_bytes().splitlines() if each.strip()]
    message: dict[str, Any] = {"role": "assistant", "content": ""}
    for value in values:
        for name, part in value.get("message", {}).items():
            if name != "role" and part:
                message[name] = message[name] + part if name in message else part
    return {**values[-1], "message": message}


def main() -> None:
    """Serve the fake on a loopback port until interrupted."""
    from twisted.internet import reactor  # the reactor is this program's own choice, not the module's
    from twisted.internet.endpoints import TCP4ServerEndpoint
    from twisted.python.failure import Failure
    from twisted.python.log import startLogging

    options = argparse.ArgumentParser(prog="python -m tests.fakes.ollama", description=main.__doc__)
    options.add_argument("--port", type=int, default=11434)
    chosen = options.parse_args()
    startLogging(sys.stdout)
    problems: list[str] = []

    def refused(reason: Failure) -> None:
        problems.append(reason.getErrorMessage())
        reactor.callWhenRunning(reactor.stop)

    TCP4ServerEndpoint(reactor, chosen.port, interface="127.0.0.1").listen(Site(FakeOllama(reactor))).addErrback(
        refused
    )
    reactor.run()
    if problems:
        sys.exit(problems[0])


if __name__ == "__main__":
    main()
