"""One Chat Completions stream to the events of an answer (PROTOCOL 4.3 and 5).

The rows that the comments name are those of PROTOCOL 5.
"""

import re
from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any

from attrs import field

from claudeproxy.model.events import Event, Piece, TextDelta
from claudeproxy.model.kinds import define
from claudeproxy.model.problems import bad_gateway
from claudeproxy.translate.failures import is_bare_error, problem_from_error
from claudeproxy.translate.stops import CUTS, Ending, ending_of, shown_reason
from claudeproxy.translate.stream_machine import StreamMachine
from claudeproxy.translate.tool_calls import ToolCall, ToolCalls, index_of
from claudeproxy.translate.usage import completed, from_chat, from_progress, from_timings
from claudeproxy.wire.events import around_delta
from claudeproxy.wire.json import NotJSON
from claudeproxy.wire.sse import EventReader
from claudeproxy.wire.stencil import Stencil, cut

#: The fields in which servers send reasoning; of several in one delta the first wins (row 32).
_REASONING = ("reasoning_content", "reasoning", "thinking")

#: So many stencils of an answer may be of no use in a row: some servers put something new into each event.
_MOST_USELESS = 8

#: Where a chunk may tell counts (row 44), beside its choices.
_COUNTS = frozenset({"usage", "x_groq", "timings", "prompt_progress"})

#: A JSON string, to pass over what is in it, or what servers write for a number that is none.
_STRING_OR_NO_NUMBER = re.compile(
    rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|(-?(?:NaN|Infinity)\b|(?<![0-9])-?[0-9]++(?:\.[0-9]++)?[eE]\+?[0-9]++)', re.DOTALL
)


@define
class ChatStream(StreamMachine):
    """`backends.generation.Machine` for Chat Completions."""

    _calls: ToolCalls = field(factory=ToolCalls, init=False)
    #: There was a call, open or not.
    _calling: bool = field(default=False, init=False)
    _finish: str = field(default="", init=False)
    _refused: bool = field(default=False, init=False)
    #: Row 54: the provider's own word for an end that the gateway calls a good one.
    _broke_off: bool = field(default=False, init=False)

    #: Stencils in a row that were of no use.
    _useless: int = field(default=0, init=False)

    @property
    def settled(self) -> bool:
        """Whether the backend named the end, so that a missing ``[DONE]`` need not be waited for (row 55)."""
        return bool(self._finish) or self.reply.over

    def receive(self, data: bytes) -> list[Event]:
        events = super().receive(data)
        piece = events[0] if len(events) == 1 else None
        if isinstance(piece, Piece):
            self._learn(data, piece)
        else:
            self._keep(None)
        return events

    def _learn(self, data: bytes, piece: Piece) -> None:
        """``data`` were one piece of the answer: the next ones may look the same."""
        between = type(self._reader) is EventReader and self._reader.between
        if not between or self.settled or self._calling or not self._composer.is_open(type(piece)):
            self._keep(None)
            return
        head, tail = around_delta(piece)
        last = self.stencil
        if last is not None and last.used:
            self._useless = 0
        if last is not None and last.head != head:
            self._keep(None)
        if self._useless < _MOST_USELESS:
            text, place = (piece.text, _content) if isinstance(piece, TextDelta) else (piece.thinking, _thought)
            found = cut(data, text, place, head, tail)
            if found is not None:
                self._useless += 1
                self._keep(found)

    def _keep(self, stencil: Stencil | None) -> None:
        if self.stencil is not None:
            self._composer.pieces += self.stencil.used
        self.stencil = stencil

    def _close(self) -> None:
        if self._done or self._finish or self._expected.ends_without_done:
            self._finished()
        else:
            self._fail_as_cut()

    def _last_word_said(self) -> None:
        self._done = True
        self._finished()

    def _mended(self, data: bytes) -> Any:
        """A rate or a count that is no number costs itself, not the answer."""
        try:
            return super()._mended(data)
        except NotJSON:
            numbered = _STRING_OR_NO_NUMBER.sub(_without_no_number, data)
            if numbered == data:
                raise
        return self._decoded(numbered)

    def _value(self, value: dict[str, Any], name: str) -> None:
        choices = value.get("choices")
        # Rows 42, 53, 67, 76, 77, 78. What has choices is no bare error: spared the look.
        if name == "error" or value.get("error") or (not choices and is_bare_error(value)):
            self._fail(problem_from_error(self._expected.backend, value, 200))
            return
        choices = choices if isinstance(choices, list) else ()
        if not _COUNTS.isdisjoint(value):
            self._count(value, choices)
        for choice in choices:
            if isinstance(choice, dict) and not self.reply.over:
                if "usage" in choice:
                    self._count(value, choices)
                index = choice.get("index")  # row 26: other choices are not ours; one without an index is the only one
                if not index or not index_of(index):
                    self._choice(choice)

    def _choice(self, choice: Mapping[str, Any]) -> None:
        delta = choice.get("delta") or choice.get("message")  # row 62
        if isinstance(delta, dict):
            self._delta(delta)
        finish = choice.get("finish_reason")
        if finish and isinstance(finish, str):  # rows 48, 49: "" and null are no end
            self._finish = finish
            self._heed(finish, choice.get("error"))
        native = choice.get("native_finish_reason")
        if isinstance(native, str) and ending_of(native) in (Ending.BROKEN, Ending.BUSY):
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
            self._calling = True
            self._calls.receive(delta.get("tool_calls"))
            self._calls.receive_legacy(delta.get("function_call"))

    def _reasoning(self, delta: Mapping[str, Any]) -> None:
        details = delta.get("reasoning_details")
        details = details if isinstance(details, list) else []
        for name in _REASONING:
            thought = delta.get(name)
            if thought and type(thought) is not str:
                thought = _text(thought)
            if thought:
                self._think(thought, name, details)
                return
        if details:
            self._think("".join(_detail(each) for each in details), "reasoning_details", details)

    def _parts(self, content: Any) -> None:
        """Content as a list of parts (row 61)."""
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict) and part.get("type") == "thinking":
                self._think(_text(part.get("thinking")), "content")
            else:
                self._say(_text(part))

    def _think(self, thought: str, name: str, details: Iterable[Any] = ()) -> None:
        if not self.reply.started:
            self._start()
        if self._calling:
            self._emit_calls(self._calls.complete())
        self._composer.think(thought, name, details)

    def _say(self, text: str) -> None:
        if not self.reply.started:
            # Not at the first chunk, which may hold no more than a role: until here a failure can have a status.
            self._start()
        if self._calling and self._calls and not text.isspace():
            self._emit_calls(self._calls.complete())  # row 20
        self._composer.say(text)
        if self._composer.watches and self._composer.hit is not None and not self.reply.over:
            self._finished()

    def _emit_calls(self, calls: Iterable[ToolCall]) -> None:
        for call in calls:
            self._start()
            self._composer.call(call)

    def _count(self, chunk: Mapping[str, Any], choices: Iterable[Any]) -> None:
        for place in (chunk, chunk.get("x_groq"), *choices):  # row 44
            counts = place.get("usage") if isinstance(place, dict) else None
            if isinstance(counts, dict):
                usage = from_chat(counts)
                if usage.prompt or usage.output:
                    self._usage = completed(usage, self._usage)  # row 43: the last one wins
                    break
        if "timings" in chunk and isinstance(chunk["timings"], dict):
            self._measured = from_timings(chunk["timings"])
        elif "prompt_progress" in chunk and isinstance(chunk["prompt_progress"], dict):
            self._measured = from_progress(chunk["prompt_progress"])
            self.reply.start(self._measured)  # the prompt was accepted and counted: no sooner can a message begin

    def _finished(self) -> None:
        ending = ending_of(self._finish)
        if ending is None:
            self.remarks.append(f"the answer ended for a reason that is not known: {shown_reason(self._finish)}")
        if self._composer.hit is None:
            self._emit_calls(self._calls.finish(cut=ending in CUTS))
        doubt = None
        if self._broke_off:
            doubt = bad_gateway(f"Backend {self._expected.backend} lost its connection to the model.")
        self._conclude(Ending.REFUSED if self._refused else ending, self._calls.dropped, doubt)


def _content(value: Any) -> Any:
    """Where `ChatStream` finds the text of a chunk with one choice and nothing else in it."""
    match value:
        case {"choices": [{"delta": {"content": text}}]}:
            return text


def _thought(value: Any) -> Any:
    """Where it finds the thinking."""
    match value:
        case {"choices": [{"delta": dict(delta)}]} if not (delta.get("content") or "reasoning_details" in delta):
            return next((delta[name] for name in _REASONING if delta.get(name)), None)


def _without_no_number(found: re.Match[bytes]) -> bytes:
    word = found[1]
    return b"null" if word and not isfinite(float(word)) else found[0]


def _detail(entry: Any) -> str:
    """What can be read of an entry of ``reasoning_details``: its text, or a summary where there is no more."""
    return _text(entry) or (_text(entry.get("summary")) if isinstance(entry, dict) else "")


def _text(part: Any, deepest: int = 8) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, list) and deepest:
        return "".join(_text(each, deepest - 1) for each in part)
    if isinstance(part, dict) and deepest:
        return _text(part.get("text") or part.get("content"), deepest - 1)
    return ""
