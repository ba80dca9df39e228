"""Builds an answer out of what a backend says: opens and closes blocks so that the sequence is legal."""

from attrs import field

from claudeproxy.model.events import (
    BlockStart,
    BlockStop,
    Event,
    Failed,
    InputDelta,
    MessageDelta,
    MessageStart,
    MessageStop,
    SignatureDelta,
    TextDelta,
    ThinkingDelta,
    Usage,
)
from claudeproxy.model.kinds import define
from claudeproxy.model.problems import Problem
from claudeproxy.translate.grammar import EventMachine
from claudeproxy.translate.signatures import ALIVE

#: PROTOCOL row 71 and the decision above the rows: no delta of ours is larger, in bytes of JSON text.
LARGEST_PIECE = 16 * 1024

_TEXT = {"type": "text", "text": ""}
_THINKING = {"type": "thinking", "thinking": "", "signature": ""}


@define
class Reply:
    """One answer in the making. Each verb adds events; `take` hands over what came together since the last time.

    Text after text goes on in the same block; anything else closes the open block first. Once it has ended or
    failed, nothing is added any more.
    """

    id: str
    model: str
    _grammar: EventMachine = field(factory=EventMachine, init=False)
    _events: list[Event] = field(factory=list, init=False)
    _open: str = field(default="", init=False)
    #: Of the open block, or of the next one.
    index: int = field(default=0, init=False)
    #: Whether message_start is out.
    started: bool = field(default=False, init=False)
    #: Whether the last event is out.
    over: bool = field(default=False, init=False)
    #: The kinds of the blocks so far, in order; "" for one that holds nothing but signs of life.
    kinds: list[str] = field(factory=list, init=False)

    def take(self) -> list[Event]:
        """The events since the last call."""
        events, self._events = self._events, []
        return events

    def start(self, usage: Usage) -> None:
        """Opens the message, unless it is open."""
        if not self.started:
            self._add(MessageStart(self.id, self.model, usage))
            self.started = True

    def keep_alive(self, thinks: bool) -> None:
        """An empty piece of the open block, which every client takes for a sign of life (CLIENTS.md). Where none is
        open, one of thinking or of text begins, which what comes next goes on in, if it is of that kind."""
        if not self._open:
            self._begin(dict(_THINKING if thinks else _TEXT))
            self.kinds[-1] = ""  # it has no content yet
        if self._open == "text":
            self._add(TextDelta(self.index, ""))
        else:
            self._add(ThinkingDelta(self.index, ""))

    def text(self, text: str) -> None:
        """More of the answer's text."""
        if self._open != "text":
            self._begin(dict(_TEXT))
        self.kinds[-1] = "text"
        self._add(TextDelta(self.index, text))

    def more_text(self, text: str) -> bool:
        """The same, if the open block is one of text that has content already; else does nothing and says so."""
        if self._open != "text" or self.kinds[-1] != "text":
            return False
        event = TextDelta(self.index, text)
        self._grammar.admit(event)
        self._events.append(event)
        return True

    def thinking(self, thinking: str) -> None:
        """More of what the model thinks."""
        self.open_thinking()
        event = ThinkingDelta(self.index, thinking)
        self._grammar.admit(event)
        self._events.append(event)

    def open_thinking(self) -> None:
        """A thinking block, even if none of its text is shown."""
        if self._open != "thinking":
            self._begin(dict(_THINKING))
        self.kinds[-1] = "thinking"

    def sign(self, signature: str) -> None:
        """Ends the open thinking block with its signature; without one open, does nothing."""
        if self._open == "thinking":
            self._add(SignatureDelta(self.index, signature))
            self._stop()

    def tool_call(self, id: str, name: str, arguments: str) -> None:
        """A whole call; its arguments leave in pieces of at most `LARGEST_PIECE` bytes."""
        self._begin({"type": "tool_use", "id": id, "name": name, "input": {}})
        for piece in pieces(arguments):
            self._add(InputDelta(self.index, piece))
        self._stop()

    def whole_block(self, block: dict[str, object]) -> None:
        """A block that is complete as it opens: a server tool's result."""
        self._begin(block)
        self._stop()

    def server_call(self, id: str, name: str, arguments: str) -> None:
        """A call that a server has run already."""
        self._begin({"type": "server_tool_use", "id": id, "name": name, "input": {}})
        for piece in pieces(arguments):
            self._add(InputDelta(self.index, piece))
        self._stop()

    def close_block(self) -> None:
        """Closes what is open. A thinking block that nobody signed gets the empty signature; one that holds nothing
        but signs of life gets ours, by which it is known when it comes back."""
        if self._open == "thinking":
            self.sign("" if self.kinds[-1] else ALIVE)
        elif self._open:
            self._stop()

    def end(self, reason: str, usage: Usage, stop_sequence: str | None = None, refusal: bool = False) -> None:
        """The answer is whole."""
        self.close_block()
        details = {"type": "refusal", "category": None, "explanation": None} if refusal else None
        self._add(MessageDelta(reason, usage, stop_sequence, details))
        self._add(MessageStop())
        self.over = True

    def fail(self, problem: Problem) -> None:
        """The answer will not become whole; the open block stays open, so that nobody takes it for complete."""
        if not self.over:
            self._add(Failed(problem))
            self.started = self.over = True

    def _begin(self, block: dict[str, object]) -> None:
        self.close_block()
        self._add(BlockStart(self.index, block))
        self._open = str(block["type"])
        self.kinds.append(self._open)

    def _stop(self) -> None:
        self._add(BlockStop(self.index))
        self._open = ""
        self.index += 1

    def _add(self, event: Event) -> None:
        self._grammar.admit(event)
        self._events.append(event)


def pieces(text: str) -> list[str]:
    """``text`` in pieces of at most `LARGEST_PIECE` bytes of UTF-8, no character cut."""
    if len(text) * 4 <= LARGEST_PIECE or len(text.encode("utf-8", "surrogatepass")) <= LARGEST_PIECE:
        return [text]
    data = text.encode("utf-8", "replace")
    parts = []
    start = 0
    while start < len(data):
        end = min(start + LARGEST_PIECE, len(data))
        while end < len(data) and data[end] & 0xC0 == 0x80:  # a continuation byte: step back to the character
            end -= 1
        parts.append(data[start:end].decode())
        start = end
    return parts
