"""One Chat Completions stream to the events of an answer (PROTOCOL 4.3 and 5).

The rows that the comments name are those of PROTOCOL 5. The machine is fed with bytes in any split; it never
raises for what a backend says: nonsense becomes a failed answer, because from the first event on there is no
other way to tell the client.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import define, evolve, field

from claudeproxy.model.events import Event, Usage
from claudeproxy.model.problems import LONGEST_DETAIL, bad_gateway, overloaded
from claudeproxy.translate.failures import problem_from_answer, problem_from_error
from claudeproxy.translate.stream_machine import StreamMachine
from claudeproxy.translate.tool_calls import ToolCall, ToolCalls
from claudeproxy.translate.usage import from_chat, from_progress, from_timings
from claudeproxy.wire.json import NotJSON, decode
from claudeproxy.wire.lines import LineTooLong
from claudeproxy.wire.sse import EventReader, ServerSentEvent

#: The fields in which servers send reasoning; of several in one delta the first wins (row 32).
_REASONING = ("reasoning_content", "reasoning", "thinking")


#: Where errors without an ``error`` keep their words.
_ERROR_WORDS = ("message", "detail", "errors")


@define
class ChatStream(StreamMachine):
    """Feed it with `receive` and, at the body's end, `close`; each gives the events that follow from it."""

    _calls: ToolCalls = field(factory=ToolCalls, init=False)
    _reader: EventReader = field(factory=EventReader, init=False)
    #: From llama.cpp's progress and timings, for answers that bring no usage.
    _measured: Usage | None = field(default=None, init=False)
    _finish: str = field(default="", init=False)
    _refused: bool = field(default=False, init=False)
    #: Row 54: the provider's own word for an end that the gateway calls a good one.
    _broke_off: bool = field(default=False, init=False)

    @property
    def settled(self) -> bool:
        """Whether the backend named the end, so that a missing ``[DONE]`` need not be waited for (row 55)."""
        return bool(self._finish) or self.reply.over

    def receive(self, data: bytes) -> list[Event]:
        """The events that follow from the next bytes of the body."""
        if self.reply.over:
            return []  # row 56: data after the end
        if self.whole_json:
            return self._hold(data)
        try:
            events = self._reader.receive(data)
        except LineTooLong as fault:
            return self.fail(bad_gateway(f"Backend {self._expected.backend} sent {fault}."))
        for event in events:
            self._event(event)
        return self.reply.take()

    def close(self) -> list[Event]:
        """The events that follow from the body's end: the answer's own end, or its failure (rows 50, 55)."""
        if self.reply.over:
            return []
        if self.whole_json:
            self._whole()
        else:
            for event in self._reader.close():
                self._event(event)
        if not self.reply.over:
            if self._done or self._finish or self._expected.ends_without_done:
                self._end()
            else:
                self._fail_as_cut()
        return self.reply.take()

    def _event(self, event: ServerSentEvent) -> None:
        data = event.data.strip()
        if self.reply.over or not data:
            return
        if data == b"[DONE]":
            self._done = True
            self._end()
            return
        if event.name == "error":  # row 67
            self._fail(problem_from_answer(self._expected.backend, 200, data))
            return
        for chunk in self._chunks(event.data):
            if not self.reply.over:
                self._chunk(chunk)
        if not self.reply.over and b"\n[DONE]" in data.replace(b"\r", b"\n"):  # row 66, in the last event too
            self._done = True
            self._end()

    def _chunks(self, data: bytes) -> list[Any]:
        try:
            return [decode(data)]
        except NotJSON:
            pass
        try:  # row 66: a server that forgets the blank line between events
            return [decode(line) for line in data.split(b"\n") if line.strip() not in (b"", b"[DONE]")]
        except NotJSON:
            shown = data[:200].decode("utf-8", "replace")
            self._fail(bad_gateway(f"Backend {self._expected.backend} sent what is no JSON: {shown}"))
            return []

    def _whole(self) -> None:
        body = b"".join(self._body).strip()  # row 74: blank lines while it was thinking
        try:
            answer = decode(body)
        except NotJSON:
            shown = body[:LONGEST_DETAIL].decode("utf-8", "replace")
            self._fail(problem_from_error(self._expected.backend, shown, 200))
            return
        self._done = True
        self._chunk(answer)

    def _chunk(self, chunk: Any) -> None:
        if not isinstance(chunk, dict):
            return
        if chunk.get("error") or _is_error(chunk):  # rows 42, 53, 76, 77, 78
            self._fail(problem_from_error(self._expected.backend, chunk, 200))
            return
        self._count(chunk)
        choices = chunk.get("choices")
        if not isinstance(choices, list):
            return
        for choice in choices:
            if isinstance(choice, dict) and not choice.get("index"):  # row 26: other choices are not ours
                self._choice(choice)

    def _choice(self, choice: Mapping[str, Any]) -> None:
        delta = choice.get("delta") or choice.get("message")  # row 62
        if isinstance(delta, dict):
            self._delta(delta)
        finish = choice.get("finish_reason")
        if finish and isinstance(finish, str):  # rows 48, 49: "" and null are no end
            if finish == "insufficient_system_resource":
                self._fail(overloaded(f"Backend {self._expected.backend} ran out of resources."))
            elif finish in ("error", "network_error") and choice.get("error"):
                self._fail(problem_from_error(self._expected.backend, choice["error"], 200))
            elif finish in ("error", "network_error"):
                self._fail(bad_gateway(f"Backend {self._expected.backend} failed in the middle of its answer."))
            self._finish = finish
        if choice.get("native_finish_reason") == "network_error":
            self._broke_off = True

    def _delta(self, delta: Mapping[str, Any]) -> None:
        content = delta.get("content")
        if not content or len(delta) > 1:
            self._reasoning(delta)
            refusal = _text(delta.get("refusal"))
            if refusal:
                self._refused = True
                self._say(refusal)
        if content:
            if isinstance(content, str):
                self._say(content)
            else:
                self._parts(content)
        if "tool_calls" in delta or "function_call" in delta:
            self._composer.pieces += 1
            self._calls.receive(delta.get("tool_calls"))
            self._calls.receive_legacy(delta.get("function_call"))

    def _reasoning(self, delta: Mapping[str, Any]) -> None:
        details = delta.get("reasoning_details")
        details = details if isinstance(details, list) else []
        for name in _REASONING:
            thought = _text(delta.get(name))
            if thought:
                self._think(thought, name, details)
                return
        if details:
            self._think("".join(_text(each) for each in details), "reasoning_details", details)

    def _parts(self, content: Any) -> None:
        """Content as a list of parts (row 61)."""
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict) and part.get("type") == "thinking":
                self._think(_text(part.get("thinking")), "content")
            else:
                self._say(_text(part))

    def _think(self, thought: str, name: str, details: Iterable[Any] = ()) -> None:
        self.reply.start(self._known())
        self._emit_calls(self._calls.complete())
        self._composer.think(thought, name, details)

    def _say(self, text: str) -> None:
        # Not at the first chunk, which may hold no more than a role: until here a failure can have a status.
        self.reply.start(self._known())
        if self._calls and not text.isspace():
            self._emit_calls(self._calls.complete())  # row 20
        self._composer.say(text)
        if self._composer.hit is not None and not self.reply.over:
            self._end()

    def _emit_calls(self, calls: Iterable[ToolCall]) -> None:
        for call in calls:
            self.reply.start(self._known())
            self._composer.call(call)

    def _count(self, chunk: Mapping[str, Any]) -> None:
        usage = chunk.get("usage")
        if usage is None and isinstance(chunk.get("x_groq"), dict):  # row 44
            usage = chunk["x_groq"].get("usage")
        if isinstance(usage, dict) and (usage.get("prompt_tokens") or usage.get("completion_tokens")):
            self._usage = from_chat(usage)  # row 43: the last one wins
        if isinstance(chunk.get("timings"), dict):
            self._measured = from_timings(chunk["timings"])
        elif isinstance(chunk.get("prompt_progress"), dict):
            self._measured = from_progress(chunk["prompt_progress"])
            self.reply.start(self._measured)  # the prompt was accepted and counted: no sooner can a message begin

    def _known(self) -> Usage:
        """The best counts so far; a prompt is never told to be 0 tokens long (row 45, PROTOCOL 7.7.4)."""
        usage = self._usage or self._measured or Usage()
        if not usage.prompt:
            usage = evolve(usage, input=self._expected.prompt_tokens)
        return usage if usage.output else evolve(usage, output=self._composer.pieces)

    def _end(self) -> None:
        cut = self._finish == "length"
        if self._composer.hit is None:
            self._emit_calls(self._calls.finish(cut))
        self.reply.start(self._known())
        self._composer.close(self._calls.dropped)
        usage = self._known()
        if self._composer.hit is not None:
            self.reply.end("stop_sequence", usage, self._composer.hit)
        elif self._expected.silent:
            self.reply.end("max_tokens", evolve(usage, output=0, thinking=None))
        elif self._refused or self._finish == "content_filter":
            self.reply.end("refusal", usage, refusal=True)
        elif cut:
            full = 0 < self._expected.window <= usage.prompt + usage.output
            self.reply.end("model_context_window_exceeded" if full else "max_tokens", usage)
        elif self._broke_off and not {"text", "tool_use"}.intersection(self.reply.kinds):
            self._fail(bad_gateway(f"Backend {self._expected.backend} lost its connection to the model."))
        elif "tool_use" in self.reply.kinds:  # rows 46 and 47: what was emitted decides
            self.reply.end("tool_use", usage)
        elif self.reply.kinds:
            self.reply.end("end_turn", usage)
        else:  # row 39: never a success without an answer
            self._fail(bad_gateway(f"Backend {self._expected.backend} gave an empty answer."))


def _is_error(chunk: Mapping[str, Any]) -> bool:
    """Whether an object without choices is an error of one of the shapes that have no ``error`` (row 76)."""
    if "choices" in chunk:
        return False
    return chunk.get("object") == "error" or any(isinstance(chunk.get(key), str | list) for key in _ERROR_WORDS)


def _text(part: Any, deepest: int = 8) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, list) and deepest:
        return "".join(_text(each, deepest - 1) for each in part)
    if isinstance(part, dict) and deepest:
        return _text(part.get("text") or part.get("content"), deepest - 1)
    return ""
