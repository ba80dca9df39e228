"""
What a Messages answer may hold, value by value (PROTOCOL 1.7, 2.1, 3.1).

`tests.stream_checker` judges the order of a stream with these rules; nothing here or there imports the product,
so that a fault cannot sit in both. Only what this proxy may emit is legal: the beta block types of the real API,
which could only come through a pass-through, are not known here.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from attrs import frozen

STOP_REASONS = frozenset(
    "end_turn max_tokens stop_sequence tool_use pause_turn refusal model_context_window_exceeded".split()
)
REFUSAL_CATEGORIES = frozenset({None, "cyber", "bio", "frontier_llm", "reasoning_extraction", "general_harms"})
SERVER_TOOLS = frozenset(
    "web_search web_fetch code_execution bash_code_execution text_editor_code_execution"
    " tool_search_tool_regex tool_search_tool_bm25".split()
)
SERVER_RESULTS = frozenset(
    "web_search_tool_result web_fetch_tool_result code_execution_tool_result bash_code_execution_tool_result"
    " text_editor_code_execution_tool_result tool_search_tool_result".split()
)
CITATIONS = frozenset(
    "char_location page_location content_block_location web_search_result_location search_result_location".split()
)
TOKEN_COUNTS = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")

#: The error types that fit a status (PROTOCOL 3.1); a status that is not listed is judged by its class.
FITTING_TYPES: Mapping[int, frozenset[str]] = {
    400: frozenset({"invalid_request_error"}),
    401: frozenset({"authentication_error"}),
    402: frozenset({"billing_error"}),
    403: frozenset({"permission_error"}),
    404: frozenset({"not_found_error"}),
    408: frozenset({"timeout_error"}),
    409: frozenset({"conflict_error"}),
    413: frozenset({"request_too_large"}),
    422: frozenset({"invalid_request_error"}),
    429: frozenset({"rate_limit_error"}),
    500: frozenset({"api_error"}),
    502: frozenset({"api_error"}),
    503: frozenset({"api_error", "overloaded_error"}),
    504: frozenset({"api_error", "timeout_error"}),
    529: frozenset({"overloaded_error"}),
}
OTHER_4XX = frozenset({"invalid_request_error", "request_too_large", "not_found_error"})
OTHER_5XX = frozenset({"api_error"})
ERROR_TYPES = frozenset().union(*FITTING_TYPES.values())

_MESSAGE_ID = re.compile(r"msg_[A-Za-z0-9_-]+")
_REQUEST_ID = re.compile(r"req_[A-Za-z0-9_-]+")
_MARKUP = re.compile(r"<\s*(!doctype|html|head|body|title|center|h1)\b", re.IGNORECASE)


class Unfit(ValueError):
    """A value breaks a rule; the text says which one, in a sentence."""


@frozen
class ErrorSeen:
    """The two words of an error envelope."""

    type: str
    message: str


def demand(truth: object, sentence: str) -> None:
    """Go on if `truth` holds, else raise `Unfit` with `sentence`."""
    if not truth:
        raise Unfit(sentence)


def strict_json(text: str, repeats_allowed: bool = False) -> Any:
    """
    JSON as RFC 8259 has it: no NaN, no Infinity, and no name twice in an object unless `repeats_allowed`.
    Raises `Unfit`.
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        demand(repeats_allowed or len(found) == len(items), "a name stands twice in a JSON object")
        return found

    def constant(name: str) -> None:
        raise Unfit(f"{name} is not JSON")

    try:
        return json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
    except Unfit:
        raise
    except (ValueError, RecursionError) as problem:
        raise Unfit(f"this is not JSON ({problem})") from None


def no_lone_surrogates(value: Any) -> None:
    """No string anywhere in `value` holds half a character (PROTOCOL 5, row 63)."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise Unfit("a string holds a lone surrogate") from None


def fields(value: Any, what: str, required: str, optional: str = "") -> dict[str, Any]:
    """`value` as an object with all the `required` names and none beyond the `optional` ones."""
    demand(isinstance(value, dict), f"{what} is not an object")
    names = set(required.split())
    missing, surplus = names - set(value), set(value) - names - set(optional.split())
    demand(not missing, f"{what} lacks {', '.join(sorted(missing))}")
    demand(not surplus, f"{what} has unknown fields: {', '.join(sorted(map(str, surplus)))}")
    return dict(value)


def is_text(value: Any, what: str) -> str:
    """`value` as text for people: a string without NUL (PROTOCOL 5, row 63)."""
    demand(isinstance(value, str), f"{what} is not a string")
    demand("\0" not in value, f"{what} holds a NUL")
    return str(value)


def is_named(value: Any, what: str) -> str:
    """`value` as a string that is not empty."""
    demand(isinstance(value, str) and value, f"{what} is not a non-empty string")
    return str(value)


def is_count(value: Any, what: str) -> int:
    """`value` as a number of things: an int from 0 up, no bool, no float."""
    demand(type(value) is int and value >= 0, f"{what} is not a whole number from 0 up")
    return int(value)


def check_usage(usage: Any, complete: bool) -> dict[str, Any]:
    """
    The tokens of an answer. `complete` asks for all four counts (message_start, and a whole message); without it
    only output_tokens must be there (message_delta).
    """
    counts = " ".join(TOKEN_COUNTS)
    extras = "cache_creation output_tokens_details server_tool_use service_tier speed inference_geo"
    found = fields(usage, "usage", counts if complete else "output_tokens", f"{counts} {extras}")
    for name in TOKEN_COUNTS:
        if name in found:
            is_count(found[name], f"usage.{name}")
    details = {
        "cache_creation": "ephemeral_5m_input_tokens ephemeral_1h_input_tokens",
        "output_tokens_details": "thinking_tokens",
        "server_tool_use": "web_search_requests web_fetch_requests",
    }
    for name, inner in details.items():
        if found.get(name) is not None:
            for key, count in fields(found[name], f"usage.{name}", "", inner).items():
                is_count(count, f"usage.{name}.{key}")
    thought = (found.get("output_tokens_details") or {}).get("thinking_tokens", 0)
    demand(thought <= found["output_tokens"], "more thinking tokens than output tokens, which include them")
    demand(found.get("service_tier") in {None, "standard", "priority", "batch"}, "usage.service_tier is unknown")
    demand(found.get("speed") in {None, "standard", "fast"}, "usage.speed is unknown")
    demand(isinstance(found.get("inference_geo"), str | None), "usage.inference_geo is not a string")
    return found


def check_stop(stop: Mapping[str, Any], content: list[dict[str, Any]]) -> None:
    """The reason an answer ended, with what must go with it, fits the blocks it holds (PROTOCOL 1.7, 4.3)."""
    reason, sequence, details = stop["stop_reason"], stop["stop_sequence"], stop.get("stop_details")
    demand(isinstance(reason, str) and reason in STOP_REASONS, f"stop_reason {reason!r} is unknown")
    if reason == "stop_sequence":
        is_named(sequence, "stop_sequence, with stop_reason stop_sequence,")
    else:
        demand(sequence is None, f"a stop_sequence with stop_reason {reason}")
    if details is not None:
        demand(reason == "refusal", f"stop_details with stop_reason {reason}")
        inner = fields(details, "stop_details", "type", "category explanation")
        demand(inner["type"] == "refusal", "stop_details.type is not refusal")
        category = inner.get("category")
        demand(category is None or category in REFUSAL_CATEGORIES, "stop_details.category is unknown")
        demand(isinstance(inner.get("explanation"), str | None), "stop_details.explanation is not a string")
    called = any(block["type"] == "tool_use" for block in content)
    demand(called or reason != "tool_use", "stop_reason tool_use without a tool_use block")
    demand(not called or reason != "end_turn", "stop_reason end_turn after a tool_use block")


def check_citation(citation: Any) -> dict[str, Any]:
    """One entry of a text block's citations."""
    demand(isinstance(citation, dict) and citation.get("type") in CITATIONS, "a citation of an unknown type")
    return dict(citation)


def _text(block: Any) -> None:
    found = fields(block, "a text block", "type text", "citations")
    is_text(found["text"], "text")
    demand(isinstance(found.get("citations"), list | None), "citations is not a list")
    for citation in found.get("citations") or ():
        check_citation(citation)


def _thinking(block: Any) -> None:
    found = fields(block, "a thinking block", "type thinking signature")
    is_text(found["thinking"], "thinking")
    demand(isinstance(found["signature"], str), "signature is not a string")


def _redacted_thinking(block: Any) -> None:
    is_named(fields(block, "a redacted_thinking block", "type data")["data"], "data")


def _tool_use(block: Any) -> None:
    found = fields(block, "a tool_use block", "type id name input", "caller")
    is_named(found["id"], "the id of a tool_use block")
    demand(isinstance(found["name"], str), "the name of a tool_use block is not a string")  # empty: PROTOCOL 5, row 10


def _server_tool_use(block: Any) -> None:
    found = fields(block, "a server_tool_use block", "type id name input", "caller")
    demand(str(found["id"]).startswith("srvtoolu_"), "the id of a server_tool_use block does not begin with srvtoolu_")
    demand(isinstance(found["name"], str) and found["name"] in SERVER_TOOLS, "an unknown server tool")


def _server_result(block: Any) -> None:
    found = fields(block, f"a {block['type']} block", "type tool_use_id content", "caller")
    is_named(found["tool_use_id"], "tool_use_id")
    demand(isinstance(found["content"], list | dict), "the content of a server tool's result is no list and no object")
    if isinstance(found["content"], dict):
        is_named(found["content"].get("type"), "the type of a server tool's result")


def _container_upload(block: Any) -> None:
    is_named(fields(block, "a container_upload block", "type file_id")["file_id"], "file_id")


BLOCK_RULES: Mapping[str, Callable[[Any], None]] = {
    "text": _text,
    "thinking": _thinking,
    "redacted_thinking": _redacted_thinking,
    "tool_use": _tool_use,
    "server_tool_use": _server_tool_use,
    "container_upload": _container_upload,
    **dict.fromkeys(SERVER_RESULTS, _server_result),
}


def check_block(block: Any) -> dict[str, Any]:
    """One content block, in its start event or in a whole message (where `input` is judged by the caller)."""
    demand(isinstance(block, dict), "a content block is not an object")
    kind = block.get("type")
    demand(isinstance(kind, str) and kind in BLOCK_RULES, f"a content block of the unknown type {kind!r}")
    BLOCK_RULES[kind](block)
    return dict(block)


def check_neighbours(content: list[dict[str, Any]]) -> None:
    """Ids of calls are unique in an answer (PROTOCOL 5, row 7); results of server tools follow their calls."""
    seen: set[str] = set()
    for block in content:
        if block["type"] in {"tool_use", "server_tool_use"}:
            demand(block["id"] not in seen, f"the call id {block['id']!r} is used twice")
            seen.add(block["id"])
        elif block["type"] in SERVER_RESULTS:
            demand(block["tool_use_id"] in seen, f"a {block['type']} block without its call before it")


def check_message_frame(message: Any) -> dict[str, Any]:
    """The fields every message has, in message_start as in a whole answer; not the content, not the stop."""
    found = fields(
        message,
        "the message",
        "id type role model content stop_reason stop_sequence usage",
        "stop_details container diagnostics",
    )
    demand(isinstance(found["id"], str) and _MESSAGE_ID.fullmatch(found["id"]), "the message's id is not msg_ + text")
    demand(found["type"] == "message", "the message's type is not message")
    demand(found["role"] == "assistant", "the message's role is not assistant")
    is_named(found["model"], "the message's model")
    demand(isinstance(found["content"], list), "the message's content is not a list")
    check_usage(found["usage"], complete=True)
    return found


def check_error_envelope(value: Any, request_id_required: bool) -> ErrorSeen:
    """Anthropic's error object (PROTOCOL 3.1); its message is plain text without markup (3.4)."""
    found = fields(value, "the error", "type error" + " request_id" * request_id_required, "request_id")
    demand(found["type"] == "error", "the envelope's type is not error")
    inner = fields(found["error"], "error.error", "type message", "details")
    kind = inner["type"]
    demand(isinstance(kind, str) and kind in ERROR_TYPES, f"the error type {kind!r} is unknown")
    message = is_named(inner["message"], "the error's message").strip()
    demand(message, "the error's message is blank")
    demand(not _MARKUP.search(message), "the error's message holds HTML")
    if inner.get("details") is not None:
        demand(isinstance(inner["details"], dict), "error.details is not an object")
    if "request_id" in found:
        named = found["request_id"]
        demand(isinstance(named, str) and _REQUEST_ID.fullmatch(named), "request_id is not req_ + text")
    return ErrorSeen(kind, inner["message"])


def check_fit(status: int, kind: str) -> None:
    """An error of this type may travel under this HTTP status (PROTOCOL 3.1)."""
    demand(400 <= status <= 599, f"status {status} is not an error's")
    fitting = FITTING_TYPES.get(status, OTHER_4XX if status < 500 else OTHER_5XX)
    demand(kind in fitting, f"{kind} does not fit status {status}; {', '.join(sorted(fitting))} would")
