"""One Chat Completions stream to the events of an answer (PROTOCOL 4.3 and 5).

The rows that the comments name are those of PROTOCOL 5. The machine is fed with bytes in any split; it never
raises for what a backend says: nonsense becomes a failed answer, because from the first event on there is no
other way to tell the client.
"""

from collections.abc import Mapping
from typing import Any

from attrs import define, evolve, field, frozen

from claudeproxy.model.events import Event, Usage
from claudeproxy.model.problems import LONGEST_DETAIL, Problem, bad_gateway, overloaded
from claudeproxy.translate.failures import problem_from_answer, problem_from_error
from claudeproxy.translate.reply import Reply
from claudeproxy.translate.stops import StopWatch
from claudeproxy.translate.usage import from_chat, from_progress, from_timings
from claudeproxy.wire.json import NotJSON, decode
from claudeproxy.wire.lines import LineTooLong
from claudeproxy.wire.sse import EventReader, ServerSentEvent

#: The fields in which servers send reasoning; of several in one delta the first wins (row 32).
_REASONING = ("reasoning_content", "reasoning", "thinking")

#: Finish reasons to stop reasons (PROTOCOL 4.3). What is not here is an end like any other (row 49).
_REASONS = {"length": "max_tokens", "content_filter": "refusal"}


@frozen
class Expected:
    """What the request lets us know about its answer before it comes."""

    backend: str
    #: The best count of the prompt, in tokens.
    prompt_tokens: int
    stop_sequences: tuple[str, ...] = ()
    #: The caller asked for no answer at all (``max_tokens`` 0): what must be generated nevertheless is not shown.
    silent: bool = False


@define
class ChatStream:
    """Feed it with `receive` and, at the body's end, `close`; each gives the events that follow from it."""

    reply: Reply
    _expected: Expected
    #: The backend answered a request for a stream with one JSON text (row 72).
    whole_json: bool = False
    _reader: EventReader = field(factory=EventReader, init=False)
    _body: list[bytes] = field(factory=list, init=False)
    _stops: StopWatch = field(init=False)
    _usage: Usage | None = field(default=None, init=False)
    #: From llama.cpp's progress and timings, for answers that bring no usage.
    _measured: Usage | None = field(default=None, init=False)
    _finish: str = field(default="", init=False)
    _done: bool = field(default=False, init=False)
    _refused: bool = field(default=False, init=False)
    _pieces: int = field(default=0, init=False)
    _blank: str = field(default="", init=False)

    def __attrs_post_init__(self) -> None:
        self._stops = StopWatch(self._expected.stop_sequences)

    @property
    def spoken(self) -> bool:
        """Whether the model has said anything yet."""
        return self._pieces > 0

    @property
    def over(self) -> bool:
        """Whether the last event is out."""
        return self.reply.over

    @property
    def heard_out(self) -> bool:
        """Whether the backend said its last word, so that its connection may serve again."""
        return self._done

    @property
    def settled(self) -> bool:
        """Whether the backend named the end, so that a missing ``[DONE]`` need not be waited for (row 55)."""
        return bool(self._finish) or self.reply.over

    def begin(self) -> list[Event]:
        """Opens the message before the backend said anything."""
        self.reply.start(self._known())
        return self.reply.take()

    def receive(self, data: bytes) -> list[Event]:
        """The events that follow from the next bytes of the body."""
        if self.reply.over:
            return []  # row 56: data after the end
        if self.whole_json:
            self._body.append(data)
            return []
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
            if self._done or self._finish:
                self._end()
            else:
                self._fail(_truncated(self._expected.backend, self.spoken))
        return self.reply.take()

    def fail(self, problem: Problem) -> list[Event]:
        """The backend failed otherwise: its connection broke, it fell silent."""
        self._fail(problem)
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
        if chunk.get("error"):  # rows 42, 53, 77, 78
            self._fail(problem_from_error(self._expected.backend, chunk, 200))
            return
        self._count(chunk)
        self.reply.start(self._known())
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
            if finish in ("error", "network_error"):
                self._fail(problem_from_error(self._expected.backend, "it failed while answering", 502))
            self._finish = finish

    def _delta(self, delta: Mapping[str, Any]) -> None:
        content = delta.get("content")
        if not content or len(delta) > 1:
            for name in _REASONING:
                thought = _text(delta.get(name))
                if thought:
                    self._think(thought)
                    break
            refusal = _text(delta.get("refusal"))
            if refusal:
                self._refused = True
                self._say(refusal)
        if content:
            if isinstance(content, str):
                self._say(content)
            else:
                self._parts(content)

    def _parts(self, content: Any) -> None:
        """Content as a list of parts (row 61)."""
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict) and part.get("type") == "thinking":
                self._think(_text(part.get("thinking")))
            else:
                self._say(_text(part))

    def _think(self, thought: str) -> None:
        self._pieces += 1
        if thought and not self._expected.silent and not self.reply.over:
            self.reply.thinking(thought)

    def _say(self, text: str) -> None:
        self._pieces += 1
        if self._expected.silent or self.reply.over:
            return
        text = self._stops.receive(text)
        if text:
            self._show(text)
        if self._stops.hit is not None:
            self._end()

    def _show(self, text: str) -> None:
        if self.reply.kinds and self.reply.kinds[-1] == "text":
            self.reply.text(text)
            return
        # Blank text is held until more comes: between other blocks it is an artefact of templates (row 40).
        text = self._blank + text
        if text.isspace():
            self._blank = text
            return
        self._blank = ""
        self.reply.text(text.lstrip("\n") if self.reply.kinds else text)

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

    def _known(self) -> Usage:
        """The best counts so far; a prompt is never told to be 0 tokens long (row 45, PROTOCOL 7.7.4)."""
        usage = self._usage or self._measured or Usage()
        if not usage.prompt:
            usage = evolve(usage, input=self._expected.prompt_tokens)
        return usage if usage.output else evolve(usage, output=self._pieces)

    def _end(self) -> None:
        if self._stops.hit is None and not self._expected.silent:
            rest = self._stops.close()
            if rest:
                self._show(rest)
        self.reply.start(self._known())
        if self._stops.hit is not None:
            self.reply.end("stop_sequence", self._known(), self._stops.hit)
        elif self._expected.silent:
            self.reply.end("max_tokens", evolve(self._known(), output=0))
        elif self._refused or self._finish == "content_filter":
            self.reply.end("refusal", self._known(), refusal=True)
        elif not self.reply.kinds and self._finish != "length":  # row 39: never a success without an answer
            self._fail(bad_gateway(f"Backend {self._expected.backend} gave an empty answer."))
        else:
            self.reply.end(_REASONS.get(self._finish, "end_turn"), self._known())

    def _fail(self, problem: Problem) -> None:
        self.reply.fail(problem)


def _truncated(backend: str, spoken: bool) -> Problem:
    if spoken:
        return bad_gateway(f"Backend {backend} ended its answer in the middle.")
    return overloaded(f"Backend {backend} closed the connection before it answered.")


def _text(part: Any) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, list):
        return "".join(map(_text, part))
    if isinstance(part, dict):
        return _text(part.get("text") or part.get("content"))
    return ""
