"""The events of an answer, in Anthropic's terms (PROTOCOL 2.1); small, frozen, flat.

Every answer, streamed or whole, is a sequence of these, and ``translate.grammar`` alone says which sequences
are legal. Indices count content blocks from 0 without gaps.
"""

from typing import Any

from attrs import field

from claudeproxy.model.kinds import frozen
from claudeproxy.model.problems import Problem


@frozen
class Usage:
    """Tokens of one answer. The whole prompt is ``input + cache_creation + cache_read`` (PROTOCOL 1.7)."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_creation: int = 0
    #: The part of ``output`` that was thinking, where the backend tells it.
    thinking: int | None = None

    @property
    def prompt(self) -> int:
        """All tokens that went in, cached or not."""
        return self.input + self.cache_creation + self.cache_read


@frozen
class MessageStart:
    """The first event. ``usage`` holds the best count known before the answer."""

    id: str
    model: str
    usage: Usage


@frozen
class BlockStart:
    """Opens a block; ``block`` is its JSON with empty content."""

    index: int
    block: dict[str, Any]


@frozen
class TextDelta:
    index: int
    text: str


@frozen
class ThinkingDelta:
    index: int
    thinking: str


@frozen
class SignatureDelta:
    """Comes exactly once, right before a thinking block's stop."""

    index: int
    signature: str


@frozen
class InputDelta:
    """A piece of a tool call's arguments, as JSON text."""

    index: int
    partial_json: str


@frozen
class BlockStop:
    index: int


@frozen
class MessageDelta:
    """How the answer ended. ``stop_details`` only with a refusal."""

    stop_reason: str
    usage: Usage
    stop_sequence: str | None = None
    stop_details: dict[str, Any] | None = field(default=None)


@frozen
class MessageStop:
    """The last event of an answer that is whole."""


@frozen
class Ping:
    """A sign of life; legal anywhere before the end."""


@frozen
class Failed:
    """The last event of an answer that will not become whole."""

    problem: Problem


#: What an answer nearly wholly consists of.
Piece = TextDelta | ThinkingDelta
Delta = TextDelta | ThinkingDelta | SignatureDelta | InputDelta
Event = MessageStart | BlockStart | Delta | BlockStop | MessageDelta | MessageStop | Ping | Failed


def tells(event: Event) -> bool:
    """Whether the event is news of the answer, rather than its frame or a sign of life."""
    if type(event) is TextDelta:
        return bool(event.text)
    if type(event) is ThinkingDelta:
        return bool(event.thinking)
    match event:
        case BlockStart(block={"type": "text" | "thinking"}) | MessageStart() | Ping():
            return False
    return True
