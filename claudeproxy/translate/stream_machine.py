"""What the stream machines of all dialects share: how a body is read and how an answer ends, not what is in between.

The rows that the comments name are those of PROTOCOL 5. A machine is fed with bytes in any split; it never raises for
what a backend says: nonsense becomes a failed answer, because from the first event on there is no other way to tell
the client.
"""

from collections.abc import Callable, Iterable
from typing import Any

from attrs import evolve, field

from claudeproxy.model.events import Event, Usage
from claudeproxy.model.kinds import define
from claudeproxy.model.problems import Problem, bad_gateway, overloaded
from claudeproxy.translate.composer import Composer
from claudeproxy.translate.expected import Expected
from claudeproxy.translate.failures import empty_answer, problem_from_answer, problem_from_error, problem_from_text
from claudeproxy.translate.reply import Reply
from claudeproxy.translate.stops import Ending, ending_of, shown_reason
from claudeproxy.wire.json import NotJSON, decode
from claudeproxy.wire.lines import LineTooLong
from claudeproxy.wire.ndjson import ValueReader
from claudeproxy.wire.sse import EventReader, ServerSentEvent, is_event_stream
from claudeproxy.wire.stencil import Stencil

#: Data that are no JSON, such as "keep-alive", are passed over up to this length, in bytes, and so many times.
LONGEST_NOISE = 200
MOST_NOISE = 10_000


@define
class StreamMachine:
    """`backends.generation.Machine`: feed it with `receive` and, at the body's end, `close`; each gives the events that
    follow from it.

    A dialect adds what it makes of one JSON value (`_value`) and of the body's end (`_close`).
    """

    reply: Reply
    _expected: Expected
    _unique: Callable[[], str]
    _composer: Composer = field(init=False)
    #: How what comes next looks if it is no more than another piece of text like the last one: then it may be copied,
    #: and need not be received. Nearly all of an answer is.
    stencil: Stencil | None = field(default=None, init=False)
    #: The body's beginning, as long as it does not tell how to read it.
    _head: bytes = field(default=b"", init=False)
    _reader: EventReader | ValueReader | None = field(default=None, init=False)
    _last: Any = field(default=None, init=False)
    #: The last that came, if it was no JSON, and how often such came.
    _noise: bytes = field(default=b"", init=False)
    _noises: int = field(default=0, init=False)
    _usage: Usage | None = field(default=None, init=False)
    #: Counts of other kinds, for answers that bring no usage.
    _measured: Usage | None = field(default=None, init=False)
    _done: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._composer = Composer(self.reply, self._expected, self._unique)

    @property
    def spoken(self) -> bool:
        """Whether the model has said anything yet."""
        return self._composer.pieces > 0

    @property
    def remarks(self) -> list[str]:
        """What was repaired or left out, for the log; never content."""
        return self._composer.remarks

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
        """Whether the backend named the end."""
        return self._done or self.reply.over

    @property
    def counted(self) -> int:
        """The prompt's tokens as the backend itself counted them; 0 if it did not."""
        return self._counted().prompt

    def begin(self) -> list[Event]:
        """Opens the message before the backend said anything."""
        self._start()
        return self.reply.take()

    def receive(self, data: bytes) -> list[Event]:
        """The events that follow from the next bytes of the body."""
        if not self.reply.over:  # row 56: data after the end
            self._read(data)
        return self.reply.take()

    def close(self) -> list[Event]:
        """The events that follow from the body's end: the answer's own end, or its failure (rows 50, 55)."""
        if not self.reply.over:
            self._read(b"", last=True)
        if not self.reply.over:
            self._close()
        self.stencil = None
        return self.reply.take()

    def keep_alive(self) -> list[Event]:
        """A sign of life while there is nothing to say; none once the backend named the end."""
        if not self.settled:
            self._start()
            self.reply.keep_alive(self._expected.thinks)
        return self.reply.take()

    def fail(self, problem: Problem) -> list[Event]:
        """The backend failed otherwise: its connection broke, it fell silent."""
        self._fail(problem)
        self.stencil = None
        return self.reply.take()

    # ---- reading

    def _read(self, data: bytes, last: bool = False) -> None:
        try:
            if self._reader is None:
                data, self._head = (self._head + data).lstrip(), b""  # row 74: blank lines while it was thinking
                events = is_event_stream(data)
                if events is None and not last:
                    self._head = data
                    return
                self._reader = EventReader() if events else ValueReader(self._decoded)
            self._take(self._reader.receive(data))
            if last and not self.reply.over:
                self._take(self._reader.close())
                self._conclude_reading()
        except LineTooLong as fault:
            self._fail(bad_gateway(f"Backend {self._expected.backend} sent {fault}."))
        except NotJSON:
            rejected = self._reader.rejected if isinstance(self._reader, ValueReader) else b""
            self._fail(problem_from_text(self._expected.backend, rejected))

    def _take(self, found: Iterable[Any]) -> None:
        reply = self.reply
        for each in found:
            if type(each) is not ServerSentEvent:
                self._heard(each, "")
            elif each.data == _DONE and not each.name:  # no JSON: spared the attempt
                self._last_word_said()
            else:
                try:
                    value = decode(each.data)
                except NotJSON:
                    self._event(each)
                else:
                    self._heard(value, each.name)
            if reply.over:
                return
            self._last = each

    def _conclude_reading(self) -> None:
        if self.reply.over or not isinstance(self._reader, ValueReader) or self._reader.count != 1:
            return
        self._done = True  # row 72: it was the whole answer
        if not isinstance(self._last, dict):  # row 76: an error may be a bare text
            self._fail(problem_from_error(self._expected.backend, self._last, 200))

    def _event(self, event: ServerSentEvent) -> None:
        try:
            self._heard(self._decoded(event.data), event.name)
        except NotJSON:
            if event.name == "error":  # row 67
                self._fail(problem_from_answer(self._expected.backend, 200, event.data))
                return
            for line in event.data.split(b"\n"):  # row 66: a server that forgets the blank line between events
                if not self.reply.over:
                    self._data(line.strip(), event.name)

    def _data(self, line: bytes, name: str) -> None:
        """One line of data where several are no JSON text together."""
        if line == _DONE:
            self._last_word_said()
        elif line:
            try:
                self._heard(self._decoded(line), name)
            except NotJSON:
                self._pass_over(line)

    def _heard(self, value: Any, name: str) -> None:
        if isinstance(value, dict):
            self._noise = b""
            self._value(value, name)

    def _pass_over(self, line: bytes) -> None:
        """Some servers and gateways send their signs of life as data. What may be a piece of JSON was content."""
        self._noise = line
        self._noises += 1
        if self._noises == 1:
            self.remarks.append("data that are no JSON were passed over")
        if b"{" in line or len(line) > LONGEST_NOISE or self._noises > MOST_NOISE:
            self._fail(problem_from_text(self._expected.backend, line))

    def _decoded(self, data: bytes) -> Any:
        """One value. A broken byte costs one character, not the answer (row 63). Raises `NotJSON`."""
        try:
            return decode(data)
        except NotJSON:
            return self._mended(data)

    def _mended(self, data: bytes) -> Any:
        healed = data.decode("utf-8", "replace").encode()
        if healed == data:
            raise NotJSON("not even with its broken bytes replaced")
        value = decode(healed)
        if _BROKEN not in self.remarks:
            self.remarks.append(_BROKEN)
        return value

    # ---- what a dialect adds

    def _value(self, value: dict[str, Any], name: str) -> None:
        """What follows from one object; ``name`` is its event's, or ""."""
        raise NotImplementedError

    def _close(self) -> None:
        """What follows from the body's end; by then the answer is not over."""
        self._fail_as_cut()

    def _last_word_said(self) -> None:
        """What follows from ``[DONE]``: nothing where the dialect has another end."""

    # ---- counts and ends

    def _start(self) -> None:
        """Opens the message, unless it is open."""
        if not self.reply.started:
            self.reply.start(self._known())

    def _known(self) -> Usage:
        """The best counts so far; a prompt is never told to be 0 tokens long (row 45, PROTOCOL 7.7.4)."""
        usage = self._counted()
        if usage.prompt and usage.output:
            return usage
        input = usage.input if usage.prompt else self._expected.prompt_tokens
        return evolve(usage, input=input, output=usage.output or self._pieces)

    @property
    def _pieces(self) -> int:
        """How many pieces came, whichever way."""
        return self._composer.pieces + (0 if self.stencil is None else self.stencil.used)

    def _counted(self) -> Usage:
        """What the backend itself has counted."""
        return self._usage or self._measured or Usage()

    def _heed(self, reason: str, error: Any = None) -> Ending | None:
        """What the backend's finish reason means; some mean that the answer fails. ``error`` says more of it."""
        ending, backend = ending_of(reason), self._expected.backend
        if ending is Ending.BUSY:
            self._fail(overloaded(f"Backend {backend} ran out of resources."))
        elif ending is Ending.BROKEN and error:
            self._fail(problem_from_error(backend, error, 200))
        elif ending is Ending.BROKEN:
            self._fail(bad_gateway(f"Backend {backend} failed in the middle of its answer ({shown_reason(reason)})."))
        return ending

    def _conclude(self, ending: Ending | None, cut_calls: Iterable[str] = (), doubt: Problem | None = None) -> None:
        """Ends the answer. ``cut_calls`` are the names of calls that were dropped, because the limit cut them;
        ``doubt`` is what was wrong if nothing was said that a client can use (row 54)."""
        cut_calls = tuple(cut_calls)
        if cut_calls and ending is Ending.REFUSED:
            self.remarks.append("a tool call was cut off by a filter and dropped")
            cut_calls = ()
        if self.spoken or cut_calls:
            self._start()
        self._composer.close(cut_calls)
        usage, kinds = self._known(), self.reply.kinds
        if self._expected.demanded and "tool_use" not in kinds:
            self.remarks.append("a call was demanded, and the model made none")
        if self._composer.hit is not None:
            self._end("stop_sequence", usage, self._composer.hit)
        elif self._expected.silent:
            self._end("max_tokens", evolve(usage, output=0, thinking=None))
        elif ending is Ending.REFUSED:
            self._end("refusal", usage, refusal=True)
        elif ending in (Ending.LENGTH, Ending.WINDOW):
            full = ending is Ending.WINDOW or 0 < self._expected.window <= usage.prompt + usage.output
            self._end("model_context_window_exceeded" if full else "max_tokens", usage)
        elif doubt is not None and not {"text", "tool_use"}.intersection(kinds):
            self._fail(doubt)
        elif "tool_use" in kinds:  # rows 46 and 47: what was emitted decides
            self._end("tool_use", usage)
        elif any(kinds):
            self._end("end_turn", usage)
        else:  # row 39: never a success without an answer
            self._fail(self._nothing_said())

    def _end(self, reason: str, usage: Usage, stop_sequence: str | None = None, refusal: bool = False) -> None:
        self.reply.start(usage)
        self.reply.end(reason, usage, stop_sequence, refusal)

    def _nothing_said(self) -> Problem:
        expected = self._expected
        if self._noise:
            return problem_from_text(expected.backend, self._noise)
        return empty_answer(expected.backend, self._counted().prompt, expected.prompt_tokens, expected.window)

    def _fail_as_cut(self) -> None:
        """The body ended without the dialect's own end (row 50)."""
        if self._noise:
            self._fail(problem_from_text(self._expected.backend, self._noise))
            return
        where = "in the middle of its answer" if self.spoken else "before it answered"
        self._fail(bad_gateway(f"Backend {self._expected.backend} closed the connection {where}."))

    def _fail(self, problem: Problem) -> None:
        self.reply.fail(problem)


_DONE = b"[DONE]"
_BROKEN = "bytes that are no UTF-8 were replaced"
