"""What a backend says, in words that belong to no API: the scripts of the contract are made of these."""

from collections.abc import Iterable
from typing import Protocol, TypeAlias

from attrs import frozen

from tests.fakes.scripts import Cut, Hang, Headers, Step, Wait


@frozen
class Opened:
    """The answer begins, but the model has said nothing yet."""


@frozen
class Thought:
    """A piece of a thought."""

    piece: str


@frozen
class Text:
    """A piece of text."""

    piece: str


@frozen
class Call:
    """A call, its arguments in these pieces; without ``whole`` more of them would follow."""

    name: str
    pieces: tuple[str, ...]
    id: str = "call_1"
    whole: bool = True


@frozen
class Broke:
    """The backend tells, within its answer, that it has failed."""

    words: str


@frozen
class End:
    """
    The answer's proper end: "stop", "length" or "tool", with its counts in tokens. ``sequence`` is the stop sequence
    that was hit, for the kinds of backends that are told to look for it.
    """

    reason: str = "stop"
    prompt: int = 120
    cached: int = 100
    output: int = 7
    sequence: str | None = None


Said: TypeAlias = Opened | Thought | Text | Call | Broke | End
Part: TypeAlias = Said | Wait | Headers | Hang | Cut


class Writer(Protocol):
    """Spells one answer in a backend's own API. One writer an answer, because some have to look back."""

    def opened(self) -> list[Step]: ...
    def thought(self, piece: str) -> list[Step]: ...
    def text(self, piece: str) -> list[Step]: ...
    def call(self, call: Call) -> list[Step]: ...
    def broke(self, words: str) -> list[Step]: ...
    def end(self, end: End) -> list[Step]: ...


def spelt(writer: Writer, parts: Iterable[Part]) -> list[Step]:
    """The steps of an answer; it opens by itself before the first thing that is said."""
    steps: list[Step] = []
    is_open = False
    for part in parts:
        if isinstance(part, Wait | Headers | Hang | Cut):
            steps.append(part)
            continue
        if not is_open:
            steps += writer.opened()
            is_open = True
        match part:
            case Thought(piece):
                steps += writer.thought(piece)
            case Text(piece):
                steps += writer.text(piece)
            case Call():
                steps += writer.call(part)
            case Broke(words):
                steps += writer.broke(words)
            case End():
                steps += writer.end(part)
    return steps
