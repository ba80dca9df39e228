"""The events of an answer to one whole message, for a client that does not stream."""

from typing import Any

from attrs import field

from claudeproxy.model.events import (
    BlockStart,
    BlockStop,
    Event,
    InputDelta,
    MessageDelta,
    MessageStart,
    SignatureDelta,
    TextDelta,
    ThinkingDelta,
)
from claudeproxy.model.kinds import define
from claudeproxy.translate.signatures import ALIVE
from claudeproxy.wire.events import ending_json, message_json, usage_json
from claudeproxy.wire.json import NotJSON, decode

#: What a client sees of a call whose arguments are no JSON object, as Claude Code itself keeps them (PROTOCOL 1.6).
UNPARSED = "__unparsedToolInput"


@define
class MessageAssembly:
    """Fed with the events of one answer; `message` is its JSON (PROTOCOL 1.7) once they are complete."""

    message: dict[str, Any] = field(factory=dict, init=False)
    _pieces: list[str] = field(factory=list, init=False)

    def add(self, event: Event) -> None:
        """Takes the next event. Pings and failures are nothing to a message."""
        match event:
            case TextDelta(_, piece) | ThinkingDelta(_, piece) | InputDelta(_, piece):
                self._pieces.append(piece)
            case SignatureDelta(_, signature):
                self.message["content"][-1]["signature"] = signature
            case BlockStart(_, block):
                self.message["content"].append(dict(block))
            case BlockStop():
                self._complete(self.message["content"][-1])
            case MessageStart():
                self.message = message_json(event)
            case MessageDelta():
                self.message["content"] = _without_signs_of_life(self.message["content"])
                self.message.update(ending_json(event), usage=usage_json(event.usage))

    def _complete(self, block: dict[str, Any]) -> None:
        whole = "".join(self._pieces)
        self._pieces.clear()
        match block["type"]:
            case "text":
                block["text"] += whole
            case "thinking":
                block["thinking"] += whole
            case "tool_use" | "server_tool_use":
                block["input"] = _input(whole)


def _without_signs_of_life(content: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A stream cannot take back the block in which it waited; a whole message need not show it."""
    said = [each for each in content if each.get("text") != "" and each.get("signature") != ALIVE]
    return said or content


def _input(arguments: str) -> Any:
    if not arguments:
        return {}
    try:
        value = decode(arguments.encode("utf-8", "replace"))
    except NotJSON:
        value = None
    return value if isinstance(value, dict) else {UNPARSED: {"raw": arguments, "len": len(arguments)}}
