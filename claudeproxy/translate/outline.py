"""A request's structure without its words: what a flight recorder may keep of it. Pure.

It reads Anthropic's, Chat Completions', Ollama's and the Responses API's bodies alike: all have a list of messages or
items, a system prompt or none, tools, and settings beside them. Its cost and its size do not grow with the
conversation, of which only the end is outlined.
"""

from collections.abc import Mapping
from typing import Any

from claudeproxy.model.kinds import frozen

#: So many messages are outlined, from the end.
MESSAGES = 20
#: So many parts of a message are told apart, and so many settings of a request.
_PARTS = 16
_SETTINGS = 40
#: Names and words that are shown are cut here.
_NAME = 64
#: How deep a part is looked into for texts, and how many values of a list.
_DEPTH = 4
_WIDTH = 64

_CONVERSATION = ("messages", "input")
_SYSTEM = ("system", "instructions")
#: Settings whose values are words of a protocol, and never those of a person.
_SPOKEN = frozenset(
    "model type effort reasoning_effort service_tier keep_alive display role tool_choice verbosity summary include "
    "truncation speed".split()
)
#: What of a message is no part of what it says.
_FRAME = frozenset(("role", "content", "tool_call_id", "id"))
#: What the parts that come most often say it in; of others, all texts count.
_SAYING = {"text": "text", "thinking": "thinking", "tool_use": "input", "tool_result": "content"}
_ROLES = ("user", "assistant", "tool", "system", "developer")
_APART = frozenset((*_CONVERSATION, *_SYSTEM, "tools"))

#: The type of a part of a message, and the characters of the texts in it.
Part = tuple[str, int]


@frozen
class Outline:
    """One body. Sizes are characters of text, and of data in base64."""

    #: How many messages or items there are, and of the last ones role and parts.
    count: int
    messages: tuple[tuple[str, tuple[Part, ...]], ...]
    system: int
    tools: int
    #: All other fields: values that are numbers or words of the protocol, of others their size.
    settings: Mapping[str, Any]

    @property
    def json(self) -> dict[str, Any]:
        """For people and programs to read."""
        return {
            "messages": self.count,
            "last_messages": [
                {"role": role, "parts": [{"type": kind, "size": size} for kind, size in parts]}
                for role, parts in self.messages
            ],
            "system_size": self.system,
            "tools": self.tools,
            "settings": dict(self.settings),
        }


def outline(body: Mapping[str, Any], most: int = MESSAGES) -> Outline:
    """The structure of ``body``, a request of any dialect, with its last messages; never fails, whatever a client made
    of it."""
    said: Any = next((body[name] for name in _CONVERSATION if name in body), ())
    messages = said if isinstance(said, list | tuple) else [said]
    tools = body.get("tools")
    return Outline(
        len(messages),
        tuple([_message(each) for each in messages[-most:]]),
        sum([_size(body[name], _DEPTH) for name in _SYSTEM if name in body]),
        len(tools) if isinstance(tools, list | tuple) else 0,
        _settings(body),
    )


def _message(message: Any) -> tuple[str, tuple[Part, ...]]:
    if not isinstance(message, dict):
        return "", (("text", _size(message, _DEPTH)),)
    role = message.get("role")
    if role is None:  # an item of the Responses API
        return "", ((_name(message.get("type")), _size(message, _DEPTH)),)
    content = message.get("content")
    if content.__class__ is str:
        parts = [("text", len(content))] if content else []
    elif content.__class__ is list:
        parts = [_part(each) for each in content[:_PARTS]]
        if len(content) > _PARTS:
            parts.append((f"{len(content) - _PARTS} more", 0))
    else:
        parts = [("text", _size(content, _DEPTH))] if content else []
    if len(message) > 2:
        for name, value in message.items():
            if name not in _FRAME and value and len(parts) <= _PARTS:
                parts.append((_name(name), len(value) if value.__class__ is str else _size(value, _DEPTH)))
    return (role if role in _ROLES else _name(role)), tuple(parts)


def _part(part: Any) -> Part:
    if part.__class__ is not dict:
        return "text", _size(part, _DEPTH)
    kind: Any = part.get("type")
    said = part.get(_SAYING.get(kind, "")) if kind.__class__ is str else None
    if said.__class__ is str:
        return kind, len(said)
    return _name(kind), _size(part if said is None else said, _DEPTH)


def _size(value: Any, depth: int) -> int:
    """The characters of all texts in a value, but for the words that only name its type."""
    if value.__class__ is str:
        return len(value)
    if not depth:
        return 0
    if value.__class__ is dict:
        total = 0
        for name, each in value.items():
            if each.__class__ is str:
                total += 0 if name == "type" else len(each)
            elif each.__class__ is dict or each.__class__ is list:
                total += _size(each, depth - 1)
        return total
    if value.__class__ is list:
        return sum([_size(each, depth - 1) for each in value[:_WIDTH]])
    return 0


def _settings(body: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in body.items():
        if name not in _APART:
            if len(found) == _SETTINGS:
                found["…"] = len(body) - len(_APART & body.keys()) - _SETTINGS
                break
            found[name if len(name) <= _NAME else name[:_NAME]] = _shown(name, value, 2)
    return found


def _shown(name: str, value: Any, depth: int) -> Any:
    if value is None or isinstance(value, (int, float)):
        return value
    if isinstance(value, str):
        return value[:_NAME] if name in _SPOKEN else f"{len(value)} characters"
    if isinstance(value, dict):
        if not depth or len(value) > _PARTS:
            return f"{len(value)} fields"
        return {str(key)[:_NAME]: _shown(str(key), each, depth - 1) for key, each in value.items()}
    return f"{len(value)} values" if isinstance(value, list | tuple) else type(value).__name__


def _name(value: Any) -> str:
    if value.__class__ is str:
        return str(value) if len(value) <= _NAME else value[:_NAME]
    return "?"
