"""Tools and tool_choice to Chat Completions (PROTOCOL 1.5, 4.2)."""

from collections.abc import Iterable, Iterator
from typing import Any

from attrs import field

from claudeproxy.model.anthropic import MessagesRequest, OtherBlock, Tool, ToolReferenceBlock, ToolResultBlock
from claudeproxy.model.kinds import frozen
from claudeproxy.model.problems import Refusal, invalid_request
from claudeproxy.translate.dialects import Dialect
from claudeproxy.translate.names import Names, shortened
from claudeproxy.translate.schemas import cleaning, fits_strict
from claudeproxy.translate.typed_tools import client_tool
from claudeproxy.wire.json import encode_text

#: Claude Code's stand-in for tools that it has not loaded yet; no model is meant to see it (PROTOCOL 4.1.12).
_PLACEHOLDER = "DeferredToolPlaceholder"
#: Tools that Anthropic's servers run.
_ON_SERVERS = ("web_search_", "web_fetch_", "code_execution_", "tool_search_tool_", "advisor_", "mcp_toolset")
_SEARCHES = "tool_search_tool_"
#: So many characters of a type are told to whom it is refused: a client can call it anything.
_LONGEST_KIND = 100


@frozen
class Offered:
    """What of a request's tools reaches the backend, as fields of the body."""

    fields: dict[str, Any] = field(factory=dict)
    names: Names = field(factory=Names)
    dropped: tuple[str, ...] = ()
    emulated: tuple[str, ...] = ()
    #: At most one call may be answered (``disable_parallel_tool_use``).
    one_call: bool = False


def offer(request: MessagesRequest, dialect: Dialect, drop_server_tools: bool) -> Offered:
    """Definitions and choice. Raises `Refusal` for a server's tool, unless they are to be dropped, and for a choice
    that names no tool."""
    dropped: list[str] = []
    emulated: list[str] = []
    tools = list(_shown(request, drop_server_tools, dropped, emulated))
    choice = request.tool_choice
    if tools and dialect.tools == "no":
        return Offered(dropped=(*dropped, "tools (the model's template has none)"), emulated=tuple(emulated))
    one_call = bool(choice is not None and choice.disable_parallel_tool_use)
    if not tools:
        if choice is not None and choice.type in ("any", "tool"):
            raise Refusal(invalid_request(f"tool_choice: {choice.type} needs a tool that this backend can be offered"))
        return Offered(dropped=tuple(dropped), emulated=tuple(emulated))
    names = Names.of(tool.name for tool in tools)
    fields: dict[str, Any] = {}
    if choice is not None:
        tools = _chosen(request, tools, dialect, fields)
        if choice.type == "tool" and dialect.tool_choice_named == "only":
            emulated.append("tool_choice")
    definitions = [_definition(tool, dialect, dropped) for tool in tools]
    fields = {"tools": definitions} | fields
    if dialect.strict_tools and any(tool.strict and not _can_be_strict(tool) for tool in tools):
        dropped.append("tools.strict")
    if any(tool.input_examples for tool in tools):
        emulated.append("tools.input_examples")
    if one_call and dialect.parallel_flag:
        fields["parallel_tool_calls"] = False
    elif one_call:  # whoever reads the answer keeps the first call
        emulated.append("tool_choice.disable_parallel_tool_use")
    return Offered(fields, names, tuple(dropped), tuple(emulated), one_call)


def _shown(
    request: MessagesRequest, drop_server_tools: bool, dropped: list[str], emulated: list[str]
) -> Iterator[Tool]:
    """The tools that a model may see: in their order, and those that were loaded on the way after all others, as they
    came. Claude Code sends such a one in alphabetical place, where it would break the prompt's prefix. Where a server
    is to search, all are shown from the beginning, and nothing that is found later moves one."""
    referenced = list(dict.fromkeys(_referenced(request)))
    loaded: list[Tool] = []
    searching = any((tool.type or "").startswith(_SEARCHES) for tool in request.tools)
    for tool in request.tools:
        kind = tool.type or "custom"
        if kind != "custom" and client_tool(tool) is None:
            if kind.startswith(_SEARCHES):
                emulated.append(f"tools.{kind}")  # what it would find is offered at once
                continue
            known = kind.startswith(_ON_SERVERS)
            if not drop_server_tools:
                what = f"{'server tool' if known else 'tool type'} {kind[:_LONGEST_KIND]}"
                raise Refusal(invalid_request(f"tools: {what} is not available on this backend"))
            dropped.append(f"tools.{kind}")
        elif tool.name == _PLACEHOLDER:
            continue
        elif searching or not tool.defer_loading:
            yield tool
        elif tool.name in referenced:
            loaded.append(tool)
    yield from sorted(loaded, key=lambda tool: referenced.index(tool.name))


def _referenced(request: MessagesRequest) -> Iterator[str]:
    for message in request.messages:
        for block in message.content:
            if isinstance(block, ToolResultBlock):
                yield from (each.tool_name for each in block.content if isinstance(each, ToolReferenceBlock))
            elif isinstance(block, OtherBlock):
                yield from _found_by_server(block)


def _found_by_server(block: OtherBlock) -> Iterator[str]:
    match block.fields:
        case {"type": "tool_addition", "tool": {"name": str(name)}}:
            yield name
        case {"type": "tool_search_tool_result", "content": {"tool_references": [*references]}}:
            yield from (str(each["tool_name"]) for each in references if isinstance(each, dict) and "tool_name" in each)


def _definition(tool: Tool, dialect: Dialect, dropped: list[str]) -> dict[str, Any]:
    """``tool`` as a function; what its schema loses is added to ``dropped``."""
    typed = client_tool(tool)
    description, schema = typed if typed is not None else (tool.description, tool.input_schema or {})
    if tool.description and typed is not None:
        description = tool.description
    if tool.input_examples:
        description = "\n\n".join([description or "", *_examples(tool.input_examples)]).strip()
    function: dict[str, Any] = {"name": shortened(tool.name)}
    if description:
        function["description"] = description
    clean = cleaning(schema, dialect.schemas)
    function["parameters"] = clean.json
    if typed is None:
        dropped += clean.losses("tools.input_schema")
    if tool.strict is not None and dialect.strict_tools:
        function["strict"] = tool.strict and _can_be_strict(tool)
    return {"type": "function", "function": function}


def _can_be_strict(tool: Tool) -> bool:
    typed = client_tool(tool)
    return fits_strict(typed[1] if typed is not None else tool.input_schema or {})


def _examples(examples: Iterable[Any]) -> Iterator[str]:
    for example in examples:
        yield f"Example input: {encode_text(example)}"


def _chosen(request: MessagesRequest, tools: list[Tool], dialect: Dialect, fields: dict[str, Any]) -> list[Tool]:
    """Writes the choice into ``fields``; gives the tools that are left to send."""
    choice = request.tool_choice
    assert choice is not None
    match choice.type:
        case "auto" | "none":
            fields["tool_choice"] = choice.type  # with "none" the tools stay: they are part of the prompt's prefix
        case "any":
            fields["tool_choice"] = "required"
        case "tool":
            named = [tool for tool in tools if tool.name == choice.name]
            if not named:
                raise Refusal(invalid_request(f"tool_choice.name: there is no tool {choice.name!r} to choose"))
            if dialect.tool_choice_named == "only":
                fields["tool_choice"] = "required"
                return named
            fields["tool_choice"] = {"type": "function", "function": {"name": shortened(named[0].name)}}
    return tools
