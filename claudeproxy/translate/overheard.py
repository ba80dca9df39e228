"""What an answer that is passed on untouched says of itself: for the log line, and for counts that learn. Pure."""

from typing import Any

from attrs import field

from claudeproxy.model.events import Usage
from claudeproxy.model.kinds import define
from claudeproxy.model.problems import LONGEST_DETAIL
from claudeproxy.translate.usage import from_anthropic
from claudeproxy.wire.json import NotJSON, decode
from claudeproxy.wire.lines import LineTooLong
from claudeproxy.wire.sse import EventReader, ServerSentEvent

#: A JSON answer above this size, in bytes, is not looked into.
_LONGEST = 1024 * 1024
#: The events in which something is told; of the others only their names are read.
_TELLING = frozenset({"message_start", "message_delta", "error"})


@define
class Overheard:
    """Listens to an answer's bytes, in any split, and never fails."""

    #: Server-sent events rather than one JSON text.
    streams: bool = False
    #: What the server counted, as far as it has told.
    usage: Usage | None = field(default=None, init=False)
    #: How the answer ended: its stop reason, or the type of its error; "" until that is told.
    outcome: str = field(default="", init=False)
    #: The words of its error; None if there was none.
    complaint: str | None = field(default=None, init=False)
    #: A stream's message has begun; its last word is said.
    begun: bool = field(default=False, init=False)
    over: bool = field(default=False, init=False)
    _counts: dict[str, Any] = field(factory=dict, init=False)
    _events: EventReader | None = field(factory=EventReader, init=False)
    _text: list[bytes] = field(factory=list, init=False)
    _size: int = field(default=0, init=False)

    def receive(self, data: bytes) -> bool:
        """More of the answer. True if a block of content begins or goes on in it."""
        if not self.streams:
            self._size += len(data)
            if self._size <= _LONGEST:
                self._text.append(data)
            else:
                self._text.clear()
            return True
        if self._events is None:
            return False
        try:
            events = self._events.receive(data)
        except LineTooLong:
            self._events = None
            return False
        return any([self._take(event) for event in events])

    def close(self) -> None:
        """The answer is over."""
        if self.streams:
            for event in () if self._events is None else self._events.close():
                self._take(event)
        elif self._size <= _LONGEST:
            self._hear(_object(b"".join(self._text)))
        self._text.clear()

    def _take(self, event: ServerSentEvent) -> bool:
        """One event of a stream; whether it is of a block of content."""
        said = _object(event.data) if not event.name or event.name in _TELLING else {}
        name = event.name or said.get("type")  # some servers leave the names to the data
        if not isinstance(name, str):
            return False
        if name in _TELLING:
            self._hear(said)
        self.begun = self.begun or name == "message_start"
        self.over = self.over or name in ("message_stop", "error")
        return name.startswith("content_block")

    def _hear(self, said: dict[str, Any]) -> None:
        match said:
            case {"type": "error", "error": {"type": str(kind)}}:
                self.outcome = kind[:64]
                words = said["error"].get("message")
                self.complaint = words[:LONGEST_DETAIL] if isinstance(words, str) else ""
        for told in (said, said.get("message"), said.get("delta")):
            if isinstance(told, dict):
                if isinstance(told.get("usage"), dict):
                    self._counts.update((name, each) for name, each in told["usage"].items() if each is not None)
                    self.usage = from_anthropic(self._counts)
                if isinstance(told.get("stop_reason"), str):
                    self.outcome = told["stop_reason"][:64]


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = decode(data)
    except NotJSON:
        return {}
    return value if isinstance(value, dict) else {}
