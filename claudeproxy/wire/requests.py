"""The JSON of a Messages request to its values, strictly: nothing is coerced, what is unknown is reported.

Errors name the field the way Anthropic's own do: ``messages.0.role: Field required``.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from attrs import fields_dict, frozen
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
from claudeproxy.model.problems import Refusal, invalid_request
from claudeproxy.wire.json import NotJSON, decode

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
        "betas billing_policy cache_control context_management diagnostics fallback_credit_token fallbacks"
        " inference_geo safeguards service_tier speed user_profile_id".split()
    ),
    Message: frozenset({"clear_at", "id", "type", "model", "stop_reason", "stop_sequence", "usage"}),
    OutputConfig: frozenset({"task_budget"}),
    ToolUseBlock: frozenset({"caller", "toolset_name"}),
    ToolResultBlock: frozenset({"toolset_name"}),
    DocumentBlock: frozenset({"citations"}),
    SearchResultBlock: frozenset({"citations"}),
    ImageBlock: frozenset({"transformations"}),
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
    parsed = parse_count(body)
    if parsed.request.max_tokens is None:
        raise Refusal(invalid_request("max_tokens: Field required"))
    if parsed.request.max_tokens < 0:
        raise Refusal(invalid_request("max_tokens: Input should be greater than or equal to 0"))
    return parsed


def parse_count(body: bytes) -> Parsed:
    """The body of ``POST /v1/messages/count_tokens``: the same without ``max_tokens``. Raises `Refusal` (400)."""
    try:
        data = decode(body)
    except NotJSON as fault:
        raise Refusal(invalid_request(f"The request body is not valid JSON: {fault}")) from None
    if not isinstance(data, dict):
        raise Refusal(invalid_request("The request body should be a JSON object"))
    unknown: dict[str, None] = {}
    try:
        request = _converter(unknown, False).structure(data, MessagesRequest)
    except RecursionError:
        raise Refusal(invalid_request(f"messages: {_TOO_DEEP}")) from None
    except Exception:  # whatever it was, the slower converter finds it again and can tell where
        raise Refusal(invalid_request(_explain(data))) from None
    if not request.messages:
        raise Refusal(invalid_request("messages: at least one message is required"))
    return Parsed(request, tuple(unknown))


_TOO_DEEP = "Input is nested too deeply"
#: The path of a field in a refusal, in characters.
_LONGEST_PATH = 200


def _explain(data: dict[str, Any]) -> str:
    try:
        _converter({}, True).structure(data, MessagesRequest)
    except (ClassValidationError, IterableValidationError) as faults:
        return "; ".join(_readable(fault) for fault in transform_error(faults, format_exception=_words)[:5])
    except RecursionError:
        return f"messages: {_TOO_DEEP}"
    raise AssertionError("the strict converters disagree")


def _words(fault: BaseException, _: type | None) -> str:
    match fault:
        case KeyError():
            return "Field required"
        case RecursionError():  # the slower converter needs more of the stack than the other
            return _TOO_DEEP
    return str(fault) or type(fault).__name__


def _readable(fault: str) -> str:
    """``Field required @ $.messages[0].role`` as ``messages.0.role: Field required``.

    Where the words of a validator begin with the field's own name, that is the path's last part.
    """
    words, _, path = fault.rpartition(" @ ")
    field = re.sub(r"\[(.*?)\]", r".\1", path.removeprefix("$").removeprefix("."))
    named = re.match(r"([a-z_]+): ", words)
    if named:
        field, words = f"{field}.{named[1]}", words[named.end() :]
    if len(field) > _LONGEST_PATH:
        field = f"{field[:_LONGEST_PATH]}..."
    return f"{field}: {words}"


_converters: dict[bool, Converter] = {}
_report: list[dict[str, None]] = [{}]


def _converter(unknown: dict[str, None], detailed: bool) -> Converter:
    """The converter, reporting into ``unknown``. Parsing is synchronous, so one report at a time is enough."""
    _report[0] = unknown
    if detailed not in _converters:
        _converters[detailed] = _make_converter(detailed)
    return _converters[detailed]


def _make_converter(detailed: bool) -> Converter:
    converter = Converter(detailed_validation=detailed)
    _register_primitives(converter)
    converter.register_structure_hook_func(lambda kind: kind == Block, lambda value, _: _tagged(converter, value))
    converter.register_structure_hook_func(lambda kind: kind == Source, lambda value, _: _source(converter, value))
    converter.register_structure_hook_func(lambda kind: kind == Content, lambda value, _: _content(converter, value))
    for kind in (*_BLOCKS.values(), *_SOURCES.values(), Message, OutputConfig, OutputFormat, ToolChoice, Thinking):
        converter.register_structure_hook(kind, _reporting(converter, kind))
    converter.register_structure_hook(Tool, _tool(_reporting(converter, Tool, quiet=True)))
    converter.register_structure_hook(MessagesRequest, _request(_reporting(converter, MessagesRequest)))
    return converter


def _register_primitives(converter: Converter) -> None:
    def exactly(kind: type, name: str, *also: type) -> None:
        def check(value: Any, _: type) -> Any:
            if type(value) is kind or type(value) in also:
                return value
            raise ValueError(f"Input should be a valid {name}")

        converter.register_structure_hook(kind, check)

    exactly(str, "string")
    exactly(int, "integer")
    exactly(float, "number", int)
    exactly(bool, "boolean")

    def mapping(value: Any, _: Any) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        raise ValueError("Input should be a valid object")

    converter.register_structure_hook_func(lambda kind: kind == dict[str, Any], mapping)

    def sequence(kind: Any) -> Callable[[Any, Any], Any]:
        inner = converter.get_structure_hook(list[kind.__args__[0]])

        def structure(value: Any, _: Any) -> Any:
            if not isinstance(value, list):
                raise ValueError("Input should be a valid array")
            return tuple(inner(value, list[kind.__args__[0]]))

        return structure

    converter.register_structure_hook_factory(
        lambda kind: getattr(kind, "__origin__", None) is tuple and kind != Content, sequence
    )
    converter.register_structure_hook_func(lambda kind: kind == list[Any], _array)


def _array(value: Any, _: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    raise ValueError("Input should be a valid array")


def _reporting(converter: Converter, kind: Any, quiet: bool = False) -> Callable[[Any, Any], Any]:
    """Structures ``kind`` and reports the keys that it has no field for."""
    inner = make_dict_structure_fn(kind, converter)
    quietly = _EVERYWHERE | _MEANINGLESS.get(kind, frozenset())
    known = frozenset(fields_dict(kind)) | quietly
    name = _NAMES.get(kind, f"{_tag_of(kind)}.")

    def structure(value: Any, _: Any) -> Any:
        if not isinstance(value, dict):
            raise ValueError("Input should be a valid object")
        if not quiet and not known.issuperset(value):
            _report[0].update((name + key, None) for key in value if key not in known)
        return inner(value, kind)

    return structure


def _tag_of(kind: type) -> str:
    for table in (_BLOCKS, _SOURCES):
        for tag, known in table.items():
            if known is kind:
                return tag
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


def _tagged(converter: Converter, value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError("Input should be a valid object")
    tag = value.get("type")
    if not isinstance(tag, str):
        raise ValueError("type: Field required" if tag is None else "type: Input should be a valid string")
    kind = _BLOCKS.get(tag)
    if kind is None:
        return OtherBlock(tag, value)
    return converter.structure(value, kind)


def _source(converter: Converter, value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError("Input should be a valid object")
    tag = value.get("type")
    kind = _SOURCES.get(tag) if isinstance(tag, str) else None
    if kind is None:
        raise ValueError(f"type: Input should be one of {', '.join(_SOURCES)}")
    return converter.structure(value, kind)


def _content(converter: Converter, value: Any) -> Content:
    if isinstance(value, str):
        return (TextBlock(value),)
    if value is None:
        return ()
    if isinstance(value, list):
        return tuple(converter.structure(value, list[Block]))
    raise ValueError("Input should be a valid string or array")


def _tool(inner: Callable[[Any, Any], Tool]) -> Callable[[Any, Any], Tool]:
    known = frozenset(fields_dict(Tool)) | _EVERYWHERE

    def structure(value: Any, _: Any) -> Tool:
        if not isinstance(value, dict):
            raise ValueError("Input should be a valid object")
        if value.get("type") in (None, "custom"):
            return inner({key: v for key, v in value.items() if key != "settings"}, Tool)
        settings = {key: v for key, v in value.items() if key not in known}
        named: Mapping[str, Any] = {"name": value["type"]} | value if isinstance(value["type"], str) else value
        return inner({**named, "settings": settings}, Tool)

    return structure


def _request(inner: Callable[[Any, Any], MessagesRequest]) -> Callable[[Any, Any], MessagesRequest]:
    def structure(value: Any, _: Any) -> MessagesRequest:
        unservable = [name for name in _UNSERVABLE if value.get(name) not in (None, [], {})]
        given = {key: v for key, v in value.items() if v is not None and key not in (*_UNSERVABLE, "unservable")}
        return inner({**given, "unservable": unservable}, MessagesRequest)

    return structure
