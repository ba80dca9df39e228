"""A request to the Messages API, as values (PROTOCOL 1.4-1.6).

A content that came as a string is the same value as one text block. Fields that change nothing for any backend we
translate to (cache marks, metadata of other services) are not kept; what is unknown is kept as `OtherBlock` or
reported by ``wire.requests``, never an error: new fields arrive with every release of the clients.
"""

from typing import Any

from attrs import Attribute, field

from claudeproxy.model.kinds import frozen


def _one_of(*words: str) -> Any:
    """A validator; its message is written for the caller of the API."""

    def check(_: object, attribute: "Attribute[str]", value: str) -> None:
        if value not in words:
            raise ValueError(f"{attribute.name}: Input should be one of {', '.join(words)}")

    return check


@frozen
class TextBlock:
    text: str
    citations: Any = None


@frozen
class Base64Source:
    media_type: str
    data: str


@frozen
class URLSource:
    url: str


@frozen
class TextSource:
    """A document that is plain text."""

    data: str
    media_type: str = "text/plain"


@frozen
class ContentSource:
    """A document that is made of blocks itself."""

    content: "Content"


@frozen
class FileSource:
    """A file kept by the real service; no translated backend has it (PROTOCOL 4.2: refused)."""

    file_id: str


Source = Base64Source | URLSource | TextSource | ContentSource | FileSource


@frozen
class ImageBlock:
    source: Source


@frozen
class DocumentBlock:
    source: Source
    title: str | None = None
    context: str | None = None
    citations: Any = None


@frozen
class SearchResultBlock:
    source: str
    title: str
    content: "Content"
    citations: Any = None


@frozen
class ThinkingBlock:
    """What the model thought before. ``signature`` is opaque to clients and comes back byte for byte."""

    thinking: str
    signature: str = ""


@frozen
class RedactedThinkingBlock:
    data: str


@frozen
class ToolUseBlock:
    """A call the model made. ``input`` is an object, or whatever the client made of a malformed call (PROTOCOL 1.6)."""

    id: str
    name: str
    input: Any


@frozen
class ToolResultBlock:
    tool_use_id: str
    content: "Content" = ()
    is_error: bool | None = None


@frozen
class ToolReferenceBlock:
    """Inside a result of Claude Code's ToolSearch: the named tool is available from here on."""

    tool_name: str


@frozen
class OtherBlock:
    """A block of a type this version does not know, whole."""

    type: str
    fields: dict[str, Any]


Block = (
    TextBlock
    | ImageBlock
    | DocumentBlock
    | SearchResultBlock
    | ThinkingBlock
    | RedactedThinkingBlock
    | ToolUseBlock
    | ToolResultBlock
    | ToolReferenceBlock
    | OtherBlock
)
Content = tuple[Block, ...]


@frozen
class OutputFormat:
    type: str
    schema: dict[str, Any] | None = None


@frozen
class OutputConfig:
    effort: str | None = None
    format: OutputFormat | None = None


@frozen
class Message:
    """One turn. ``role`` is user, assistant or system (in mid-conversation)."""

    role: str = field(validator=_one_of("user", "assistant", "system"))
    content: Content = ()
    output_config: OutputConfig | None = None


@frozen
class Tool:
    """A tool's definition. ``type`` is None or "custom" for a client's own, else one of PROTOCOL 1.5."""

    name: str
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None
    defer_loading: bool | None = None
    input_examples: list[Any] | None = None
    #: What else the definition says: the fields of typed tools.
    settings: dict[str, Any] = field(factory=dict)


@frozen
class ToolChoice:
    """``name`` belongs to the type ``tool``."""

    type: str = field(validator=_one_of("auto", "any", "tool", "none"))
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


@frozen
class Thinking:
    """``type`` is enabled (with ``budget_tokens``), adaptive, disabled or between_tools."""

    type: str
    budget_tokens: int | None = None
    display: str | None = None


@frozen
class MessagesRequest:
    """The body of ``POST /v1/messages``; with ``max_tokens`` None, that of ``/v1/messages/count_tokens``.

    ``max_tokens`` is in tokens and may be 0: then the prompt is only read, nothing is generated.
    """

    model: str
    messages: tuple[Message, ...]
    max_tokens: int | None = None
    system: Content = ()
    stream: bool = False
    stop_sequences: tuple[str, ...] = ()
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    metadata: dict[str, Any] | None = None
    context_management: dict[str, Any] | None = None
    service_tier: str | None = None
    #: Fields that no backend we translate to can serve, if they were given (PROTOCOL 4.2, the R rows).
    unservable: tuple[str, ...] = ()
