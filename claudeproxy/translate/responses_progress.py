"""The items of a Responses stream as far as they have come, however its server names them (PROTOCOL 4.9)."""

from collections.abc import Iterator, Mapping
from typing import Any

from attrs import field

from claudeproxy.model.kinds import define
from claudeproxy.translate.tool_calls import index_of
from claudeproxy.wire.shapes import word


@define(eq=False)
class Item:
    """An item of the answer as far as it has come."""

    kind: str = ""
    call_id: str = ""
    name: str = ""
    arguments: list[str] = field(factory=list)
    #: Which of its texts has come in pieces: of reasoning, the first kind wins (row 32).
    heard: str = ""
    #: The part of its summary, or of its text, that came last.
    part: Any = None
    ended: bool = False

    def learn(self, content: Mapping[str, Any]) -> None:
        """What an event tells of the item; what was told first stays."""
        self.kind = self.kind or word(content.get("type"))
        self.call_id = self.call_id or word(content.get("call_id"))
        self.name = self.name or word(content.get("name"))


@define
class Items:
    """All items, in the order in which they came.

    llama.cpp sends no ``output_index``, others change an item's id between two events.
    """

    _known: dict[Any, Item] = field(factory=dict, init=False)

    def of(self, event: Mapping[str, Any], content: Mapping[str, Any] | None = None) -> Item:
        """The item that an event is about. Its place is surer than its id, where both are told."""
        key: Any = index_of(event.get("output_index"))
        if key is None:
            key = word(event.get("item_id")) or word((content or {}).get("id"))
        return self._known.setdefault(key, Item())

    def at_the_end(self, place: int, content: Mapping[str, Any]) -> Item | None:
        """The item that the finished response tells once more at that place; a new one if it never came; None if items
        of its kind came: the same ones, under other names."""
        known = [item for key, item in self._known.items() if key in (place, content.get("id"))]
        if known:
            return known[0]
        came = any(item.ended and item.kind == content.get("type") for item in self._known.values())
        return None if came else Item()

    def unended_calls(self) -> Iterator[Item]:
        """The calls that began, and that nobody ended; now they are."""
        for item in list(self._known.values()):
            if item.kind == "function_call" and not item.ended:
                item.ended = True
                yield item

    @property
    def has_anonymous_text(self) -> bool:
        """Whether text came for items that were never announced: it is that of the items under their right names."""
        return any(item.heard == "text" and not item.kind for item in self._known.values())
