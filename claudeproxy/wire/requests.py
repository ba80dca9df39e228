"""The JSON of a Messages request to its values, strictly: nothing is coerced, what is unknown is reported.

Errors name the field the way Anthropic's own do: ``messages.0.role: Field required``.
"""

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from attrs import fields_dict
from cattrs import Converter, transform_error
from cattrs.errors import ClassValidationError, IterableValidationError
from cattrs.gen import make_dict_structure_fn

from claudeproxy.model.anthropic import (
    Base64Source,
    Block,
    Content,
    ContentSource,
    DocumentBlock,
    FileSource,
    ImageBlock,
    Message,
    MessagesRequest,
    OtherBlock,
    OutputConfig,
    OutputFormat,
    RedactedThinkingBlock,
    SearchResultBlock,
    Source,
    TextBlock,
    TextSource,
    Thinking,
    ThinkingBlock,
    Tool,
    ToolChoice,
    ToolReferenceBlock,
    ToolResultBlock,
    ToolUseBlock,
    URLSource,
)
from claudeproxy.model.kinds import frozen
from claudeproxy.model.problems import Problem, Refusal, invalid_request
from claudeproxy.wire.depth import DEEPEST, is_deeper, place_below
from claudeproxy.wire.json import NotJSON, TooDeep, decode

_BLOCKS: dict[str, type] = {
    "text": TextBlock,
    "image": ImageBlock,
    "document": DocumentBlock,
    "search_result": SearchResultBlock,
    "thinking": ThinkingBlock,
    "redacted_thinking": RedactedThinkingBlock,
    "tool_use": ToolUseBlock,
    "tool_result": ToolResultBlock,
    "tool_reference": ToolReferenceBlock,
}
_SOURCES: dict[str, type] = {
    "base64": Base64Source,
    "url": URLSource,
    "text": TextSource,
    "content": ContentSource,
    "file": FileSource,
}

#: Fields without a meaning for any translated backend, dropped in silence (PROTOCOL 4.2, the I cells).
_MEANINGLESS: dict[type, frozenset[str]] = {
    MessagesRequest: frozenset(
        "betas billing_policy cache_control diagnostics fallback_credit_token fallbacks"
        " inference_geo safeguards speed user_profile_id".split()
    ),
    Message: frozenset({"clear_at", "id", "type", "model", "stop_reason", "stop_sequence", "usage"}),
    OutputConfig: frozenset({"task_budget"}),
    ToolUseBlock: frozenset({"caller", "toolset_name"}),
    ToolResultBlock: frozenset({"toolset_name"}),
    ImageBlock: frozenset({"transformations"}),
    Tool: frozenset({"allowed_callers", "eager_input_streaming"}),
    Thinking: frozenset({"block_binding"}),
}
_EVERYWHERE = frozenset({"type", "cache_control"})

#: Fields that only the real service can serve (PROTOCOL 4.2, the R row): they become `MessagesRequest.unservable`.
_UNSERVABLE = ("container", "mcp_servers", "thread", "compaction")

_NAMES = {MessagesRequest: "", Message: "messages.", Tool: "tools."}


@frozen
class Parsed:
    """A request, and the names of the fields that nothing was made of."""

    request: MessagesRequest
    unknown: tuple[str, ...]


def parse_messages(body: bytes) -> Parsed:
    """The body of ``POST /v1/messages``. Raises `Refusal` (400)."""
    return read_messages(read_object(body))


def parse_count(body: bytes) -> Parsed:
    """The body of ``POST /v1/messages/count_tokens``: the same without ``max_tokens``. Raises `Refusal` (400)."""
    return read_count(read_object(body))


def read_object(body: bytes, deepest: int = DEEPEST) -> dict[str, Any]:
    """Any request's body as what it is, its fields not looked at. Raises `Refusal` (400), also if it is nested more
    than ``deepest`` levels."""
    try:
        data = decode(body)
    except TooDeep:
        raise Refusal(_too_deep(body, deepest)) from None
    except NotJSON as fault:
        raise Refusal(invalid_request(f"The request body is not valid JSON: {fault}")) from None
    if not isinstance(data, dict):
        raise Refusal(invalid_request("The request body should be a JSON object"))
    if body.count(b"{") + body.count(b"[") > deepest and is_deeper(data, deepest):
        raise Refusal(_too_deep(body, deepest))
    return data


def _too_deep(body: bytes, deepest: int) -> Problem:
    where = place_below(body, deepest) or "The request body"
    return invalid_request(f"{where}: nested more than {deepest} levels deep (nesting_limit)")


def model_of(data: Mapping[str, Any]) -> str:
    """The model that is asked for: all that decides who reads the rest. Raises `Refusal` (400)."""
    model = data.get("model")
    if not isinstance(model, str):
        words = "Field required" if model is None else "Input should be a valid string"
        raise Refusal(invalid_request(f"model: {words}"))
    return model


def read_messages(data: dict[str, Any]) -> Parsed:
    """`parse_messages` for a body that is decoded."""
    parsed = read_count(data)
    if parsed.request.max_tokens is None:
        raise Refusal(invalid_request("max_tokens: Field required"))
    if parsed.request.max_tokens < 0:
        raise Refusal(invalid_request("max_tokens: Input should be greater than or equal to 0"))
    return parsed


def read_count(data: dict[str, Any]) -> Parsed:
    """`parse_count` for a body that is decoded."""
    try:
        parsed = _reader(detailed=False).read(data)
    except RecursionError:
        raise Refusal(invalid_request("messages: nested too deeply")) from None
    except Exception:  # whatever it was, the slower reader finds it again and can tell where
        raise Refusal(invalid_request(_explain(data))) from None
    if not parsed.request.messages:
        raise Refusal(invalid_request("messages: at least one message is required"))
    return parsed


def _explain(data: dict[str, Any]) -> str:
    try:
        _reader(detailed=True).read(data)
    except (ClassValidationError, IterableValidationError) as faults:
        return "; ".join(_readable(fault) for fault in transform_error(faults, format_exception=_words)[:5])
    raise AssertionError("the strict readers disagree")


def _words(fault: BaseException, _: type | None) -> str:
    if isinstance(fault, KeyError):
        return "Field required"
    return str(fault) or type(fault).__name__


def _readable(fault: str) -> str:
    """``Field required @ $.messages[0].role`` as ``messages.0.role: Field required``; a check of a whole object may
    begin its words with the field that it means."""
    words, _, path = fault.rpartition(" @ ")
    field = re.sub(r"\[(.*?)\]", r".\1", path.removeprefix("$").removeprefix("."))
    inner = re.match(r"(\w+): (?=Input|Field)", words)
    if inner is not None:
        field, words = f"{field}.{inner[1]}", words[inner.end() :]
    return f"{field}: {words}"


@cache
def _reader(detailed: bool) -> "_StrictReader":
    return _StrictReader(detailed)


class _StrictReader:
    """A cattrs converter that coerces nothing. ``detailed`` is slower, and its errors tell the place.

    Reading is synchronous, so that one report of unknown fields at a time is enough.
    """

    def __init__(self, detailed: bool) -> None:
        self._unknown: dict[str, None] = {}
        self._converter = Converter(detailed_validation=detailed)
        self._register_primitives()
        self._register_unions()
        for kind in (*_BLOCKS.values(), *_SOURCES.values(), Message, OutputConfig, OutputFormat, ToolChoice, Thinking):
            self._converter.register_structure_hook(kind, self._reporting(kind))
        self._converter.register_structure_hook(Tool, _tool(self._reporting(Tool)))
        self._converter.register_structure_hook(MessagesRequest, _request(self._reporting(MessagesRequest)))

    def read(self, data: dict[str, Any]) -> Parsed:
        """Raises what cattrs raises."""
        self._unknown = {}
        request = self._converter.structure(data, MessagesRequest)
        return Parsed(request, tuple(self._unknown))

    def _register_primitives(self) -> None:
        for kind, name, also in ((str, "string", str), (int, "integer", int), (float, "number", int)):
            self._converter.register_structure_hook(kind, _exactly(name, kind, also))
        self._converter.register_structure_hook(bool, _exactly("boolean", bool, bool))
        self._converter.register_structure_hook_func(
            lambda kind: kind == dict[str, Any], _exactly("object", dict, dict)
        )
        self._converter.register_structure_hook_func(lambda kind: kind == list[Any], _exactly("array", list, list))
        self._converter.register_structure_hook_factory(
            lambda kind: getattr(kind, "__origin__", None) is tuple and kind != Content, self._tuple
        )

    def _register_unions(self) -> None:
        for union, read in ((Block, self._block), (Source, self._source), (Content, self._content)):
            self._converter.register_structure_hook_func(
                lambda kind, union=union: kind == union,  # type: ignore[misc]
                lambda value, _, read=read: read(value),  # type: ignore[misc]
            )

    def _tuple(self, kind: Any) -> Callable[[Any, Any], Any]:
        items = list[kind.__args__[0]]
        inner = self._converter.get_structure_hook(items)
        return lambda value, _: tuple(inner(_array(value), items))

    def _reporting(self, kind: Any) -> Callable[[Any, Any], Any]:
        """Structures ``kind`` and reports the keys that it has no field for."""
        inner = make_dict_structure_fn(kind, self._converter)
        known = frozenset(fields_dict(kind)) | _EVERYWHERE | _MEANINGLESS.get(kind, frozenset())
        name = _NAMES.get(kind, f"{_tag_of(kind)}.")

        def structure(value: Any, _: Any) -> Any:
            if not isinstance(value, dict):
                raise ValueError("Input should be a valid object")
            if not known.issuperset(value):
                self._unknown.update((name + key, None) for key in value if key not in known)
            return inner(value, kind)

        return structure

    def _block(self, value: Any) -> Any:
        if not isinstance(value, dict):
            raise ValueError("Input should be a valid object")
        tag = value.get("type")
        if not isinstance(tag, str):
            raise ValueError("type: Field required" if tag is None else "type: Input should be a valid string")
        kind = _BLOCKS.get(tag)
        return OtherBlock(tag, value) if kind is None else self._converter.structure(value, kind)

    def _source(self, value: Any) -> Any:
        if not isinstance(value, dict):
            raise ValueError("Input should be a valid object")
        tag = value.get("type")
        kind = _SOURCES.get(tag) if isinstance(tag, str) else None
        if kind is None:
            raise ValueError(f"type: Input should be one of {', '.join(_SOURCES)}")
        return self._converter.structure(value, kind)

    def _content(self, value: Any) -> Content:
        if isinstance(value, str):
            return (TextBlock(value),)
        if value is None:
            return ()
        if isinstance(value, list):
            return tuple(self._converter.structure(value, list[Block]))
        raise ValueError("Input should be a valid string or array")


def _exactly(name: str, *kinds: type) -> Callable[[Any, Any], Any]:
    def check(value: Any, _: Any) -> Any:
        if type(value) in kinds:  # isinstance would take true for a number
            return value
        raise ValueError(f"Input should be a valid {name}")

    return check


def _array(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    raise ValueError("Input should be a valid array")


def _tag_of(kind: type) -> str:
    for table in (_BLOCKS, _SOURCES):
        for tag, known in table.items():
            if known is kind:
                return tag
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


def _tool(inner: Callable[[Any, Any], Tool]) -> Callable[[Any, Any], Tool]:
    """A typed tool keeps all of its own fields as ``settings``; toolsets have no name but their type."""
    known = (frozenset(fields_dict(Tool)) | _EVERYWHERE) - {"settings"}

    def structure(value: Any, _: Any) -> Tool:
        if not isinstance(value, dict) or (value.get("type") in (None, "custom") and "settings" not in value):
            return inner(value, Tool)
        named = {"name": value.get("type"), **value}
        settings = {key: each for key, each in named.items() if key not in known}
        return inner({**{key: each for key, each in named.items() if key in known}, "settings": settings}, Tool)

    return structure


def _request(inner: Callable[[Any, Any], MessagesRequest]) -> Callable[[Any, Any], MessagesRequest]:
    """A field that is null is a field that was not given; what nobody here can serve is kept by name only."""

    def structure(value: Any, _: Any) -> MessagesRequest:
        unservable = [name for name in _UNSERVABLE if value.get(name) not in (None, [], {})]
        given = {key: each for key, each in value.items() if each is not None and key not in _UNSERVABLE}
        return inner({**given, "unservable": unservable}, MessagesRequest)

    return structure
