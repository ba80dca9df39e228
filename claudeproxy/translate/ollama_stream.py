"""One stream of Ollama's own ``/api/chat`` to the events of an answer (PROTOCOL 4.3, 4.8; rows of section 5).

The machine is fed with bytes in any split; it never raises for what a backend says: nonsense becomes a failed answer.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from attrs import define, evolve, field

from claudeproxy.model.events import Event, Usage
from claudeproxy.model.problems import LONGEST_DETAIL, bad_gateway
from claudeproxy.translate.failures import problem_from_error
from claudeproxy.translate.stream_machine import StreamMachine
from claudeproxy.translate.tool_calls import ToolCall, mended
from claudeproxy.translate.usage import from_ollama
from claudeproxy.wire.json import NotJSON, decode, encode_text
from claudeproxy.wire.lines import LineTooLong
from claudeproxy.wire.ndjson import ValueReader

#: The ends of requests that only load or unload the model, and the end that old servers do not name (row 84).
_NOTHING_SAID = ("load", "unload", "")


@define
class OllamaStream(StreamMachine):
    """Feed it with `receive` and, at the body's end, `close`; each gives the events that follow from it."""

    _reader: ValueReader = field(factory=ValueReader, init=False)

    def receive(self, data: bytes) -> list[Event]:
        """The events that follow from the next bytes of the body."""
        if self.reply.over:
            return []
        if not self.whole_json:
            self._read(self._reader.receive(data))
            return self.reply.take()
        return self._hold(data)

    def close(self) -> list[Event]:
        """The events that follow from the body's end: the answer's own end, or its failure (row 50)."""
        if self.reply.over:
            return []
        if self.whole_json:
            self._read(self._whole())
        else:
            self._read(self._reader.close())
        if not self.reply.over:
            if self._expected.ends_without_done:
                self._end("stop")
            else:
                self._fail_as_cut()
        return self.reply.take()

    def _read(self, values: Iterator[Any]) -> None:
        try:
            for value in values:
                self._value(value)
                if self.reply.over:
                    return
        except LineTooLong as fault:
            self._fail(bad_gateway(f"Backend {self._expected.backend} sent {fault}."))
        except NotJSON as fault:
            self._fail(bad_gateway(f"Backend {self._expected.backend} sent a line that is no JSON: {fault}"))

    def _whole(self) -> Iterator[Any]:
        body = b"".join(self._body).strip()
        try:
            yield decode(body)
            return
        except NotJSON:
            if b'"done"' not in body:
                shown = body[:LONGEST_DETAIL].decode("utf-8", "replace")
                self._fail(problem_from_error(self._expected.backend, shown, 200))
                return
        yield from self._reader.receive(body)  # lines after all, under the wrong name
        yield from self._reader.close()

    def _value(self, value: Any) -> None:
        if not isinstance(value, dict):
            return
        if value.get("error"):  # PROTOCOL 4.8: also in the middle of a stream
            self._fail(problem_from_error(self._expected.backend, value, 200))
            return
        message = value.get("message")
        if isinstance(message, dict):
            self._message(message)
        if value.get("done") is True and not self.reply.over:
            self._done = True
            self._usage = from_ollama(value)
            reason = value.get("done_reason")
            self._end(reason if isinstance(reason, str) else "")

    def _message(self, message: Mapping[str, Any]) -> None:
        thought, text = message.get("thinking"), message.get("content")
        if isinstance(thought, str) and thought:
            self.reply.start(self._known())
            self._composer.think(thought, "thinking")
        if isinstance(text, str) and text:
            self.reply.start(self._known())
            self._composer.say(text)
            if self._composer.hit is not None:
                self._end("stop")
                return
        calls = message.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict) and not self.reply.over:
                self.reply.start(self._known())
                self._composer.call(_call(call))

    def _known(self) -> Usage:
        """The best counts so far; a prompt is never told to be 0 tokens long (row 45)."""
        usage = self._usage or Usage()
        if not usage.prompt:
            usage = evolve(usage, input=self._expected.prompt_tokens)
        return usage if usage.output else evolve(usage, output=self._composer.pieces)

    def _end(self, reason: str) -> None:
        self.reply.start(self._known())
        self._composer.close()
        usage = self._known()
        if self._composer.hit is not None:
            self.reply.end("stop_sequence", usage, self._composer.hit)
        elif self._expected.silent:
            self.reply.end("max_tokens", evolve(usage, output=0))
        elif reason == "length":
            full = 0 < self._expected.window <= usage.prompt + usage.output
            self.reply.end("model_context_window_exceeded" if full else "max_tokens", usage)
        elif "tool_use" in self.reply.kinds:  # row 46: it says "stop" though it called
            self.reply.end("tool_use", usage)
        elif self.reply.kinds:
            self.reply.end("end_turn", usage)
        elif reason in _NOTHING_SAID:
            self.reply.text("")
            self.reply.end("end_turn", usage)
        else:  # row 39: never a success without an answer
            self._fail(bad_gateway(f"Backend {self._expected.backend} gave an empty answer."))


def _call(call: Mapping[str, Any]) -> ToolCall:
    """A call as it comes, whole: its arguments are an object, its id is missing with older servers (row 27)."""
    function = call.get("function")
    function = function if isinstance(function, dict) else {}
    id, name, arguments = call.get("id"), function.get("name"), function.get("arguments")
    if not isinstance(arguments, str):
        arguments = encode_text(arguments if arguments is not None else {})
    return ToolCall(
        id if isinstance(id, str) else "", name if isinstance(name, str) else "", mended(arguments, closing=True)
    )
