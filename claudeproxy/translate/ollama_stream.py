"""One stream of Ollama's own ``/api/chat`` to the events of an answer (PROTOCOL 4.3, 4.8; rows of section 5)."""

from collections.abc import Mapping
from typing import Any

from claudeproxy.model.kinds import define
from claudeproxy.translate.arguments import mended
from claudeproxy.translate.failures import problem_from_error
from claudeproxy.translate.stops import shown_reason
from claudeproxy.translate.stream_machine import StreamMachine
from claudeproxy.translate.tool_calls import ToolCall
from claudeproxy.translate.usage import from_ollama
from claudeproxy.wire.json import encode_text

#: The ends of requests that only load or unload the model, and the end that old servers do not name (row 84).
_NOTHING_SAID = ("load", "unload", "")


@define
class OllamaStream(StreamMachine):
    """`backends.generation.Machine` for Ollama's own API."""

    def _close(self) -> None:
        if self._expected.ends_without_done:
            self._finished("stop")
        else:
            self._fail_as_cut()

    def _value(self, value: dict[str, Any], name: str) -> None:
        if name == "error" or value.get("error"):  # PROTOCOL 4.8: also in the middle of a stream
            self._fail(problem_from_error(self._expected.backend, value, 200))
            return
        message = value.get("message")
        if isinstance(message, dict):
            self._message(message)
        if value.get("done") is True and not self.reply.over:
            self._done = True
            self._usage = from_ollama(value)
            reason = value.get("done_reason")
            self._finished(reason if isinstance(reason, str) else "")

    def _message(self, message: Mapping[str, Any]) -> None:
        thought, text = message.get("thinking"), message.get("content")
        if isinstance(thought, str) and thought:
            self._start()
            self._composer.think(thought, "thinking")
        if isinstance(text, str) and text:
            self._start()
            self._composer.say(text)
            if self._composer.hit is not None:
                self._finished("stop")
                return
        calls = message.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict) and not self.reply.over:
                self._start()
                self._composer.call(_call(call))

    def _finished(self, reason: str) -> None:
        ending = self._heed(reason)
        if self.reply.over:
            return
        if ending is None:
            self.remarks.append(f"the answer ended for a reason that is not known: {shown_reason(reason)}")
        if reason in _NOTHING_SAID and not (self.spoken or self._expected.silent):
            self._start()
            self.reply.text("")
        self._conclude(ending)


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
