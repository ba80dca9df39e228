"""The blocks of an Anthropic-compatible server, as far as they have come, and those that must be whole to be shown
(PROTOCOL 2.1, 2.2)."""

from collections.abc import Iterator, Mapping
from typing import Any

from attrs import field

from claudeproxy.model.kinds import define
from claudeproxy.wire.json import NotJSON, decode, encode_text
from claudeproxy.wire.shapes import word

_CALLS = ("tool_use", "server_tool_use")


@define(eq=False)
class Block:
    """One of the server's blocks: ``start`` is how it was opened, ``pieces`` are those of its arguments."""

    kind: str
    start: Mapping[str, Any]
    signature: str = ""
    pieces: list[str] = field(factory=list)
    ended: bool = False
    #: It has left.
    gone: bool = False

    @property
    def name(self) -> str:
        """The name of a call; "" for none."""
        return word(self.start.get("name"))

    @property
    def arguments(self) -> str:
        """Those of its deltas, else those of its start (PROTOCOL 2.2: Claude Code does not look for them there)."""
        given = "".join(self.pieces)
        if given.strip() or not self.start.get("input"):
            return given
        told = self.start["input"]
        return told if isinstance(told, str) else encode_text(told)  # row 12

    @property
    def is_whole(self) -> bool:
        """Whether its arguments are an object."""
        text = self.arguments.strip()
        if not (text.startswith("{") and text.endswith("}")):
            return False
        try:
            return isinstance(decode(text.encode("utf-8", "surrogatepass")), dict)
        except NotJSON:
            return False

    def whole(self, arguments: str) -> dict[str, Any]:
        """How it is shown at once, if its arguments are these."""
        if not self.pieces:
            return dict(self.start)
        try:
            return {**self.start, "input": decode(arguments.encode("utf-8", "surrogatepass"))}
        except NotJSON:
            return {**self.start, "input": arguments}


@define
class Waiting:
    """What is shown only once it is whole, in its order."""

    _blocks: list[Block] = field(factory=list, init=False)

    def add(self, block: Block) -> None:
        self._blocks.append(block)

    def ready(self, moved_on: bool) -> Iterator[Block]:
        """Takes out what is whole. What has ended and is not, may have been cut, until the model has ``moved_on``."""
        while self._blocks:
            block = self._blocks[0]
            certain = block.is_whole if block.kind in _CALLS else True
            if not ((block.ended and (certain or moved_on)) or (moved_on and certain)):
                return
            yield self._blocks.pop(0)

    def rest(self, cut: bool) -> tuple[list[Block], list[str]]:
        """Takes out all: what is to be shown, and the names of the calls that the limit ``cut``, which are not (row
        15)."""
        shown, dropped = [], []
        blocks, self._blocks = self._blocks, []
        for block in blocks:
            if cut and block.kind in _CALLS and not block.is_whole:
                dropped.append(block.name)
            elif block.kind != "tool_use" or block.start.get("name") or block.arguments.strip():
                shown.append(block)
        return shown, dropped
