"""A Messages request to the body of a request to the Responses API (PROTOCOL 4.2, column c)."""

from typing import Any

from claudeproxy.model.anthropic import MessagesRequest
from claudeproxy.model.documents import Papers
from claudeproxy.model.problems import Refusal, invalid_request
from claudeproxy.translate import thinking
from claudeproxy.translate.chat_request import clamped, context_edits, hashed, sampling
from claudeproxy.translate.content import ContentReader
from claudeproxy.translate.dialects import Dialect
from claudeproxy.translate.responses_items import input_items, message
from claudeproxy.translate.structured import Format, wanted_format
from claudeproxy.translate.thinking import Asked
from claudeproxy.translate.tools import offer
from claudeproxy.translate.translation import STRICT, Policy, Translation, bare, emulated_fields, once, used_ids

#: The fields of a body that ask for thinking.
_THINKING = ("reasoning", "include", *thinking.FIELDS)


def to_responses(
    request: MessagesRequest,
    model: str,
    dialect: Dialect,
    policy: Policy = STRICT,
    papers: Papers | None = None,
    session: str = "",
) -> Translation:
    """The body for ``model``. Raises `Refusal` for what no such server can do.

    Nothing is kept by the server (``store``), so that what the client sends is the whole conversation. The API knows no
    stop sequences: whoever reads the answer watches for them.
    """
    for name in request.unservable:
        raise Refusal(invalid_request(f"{name}: not available on this backend; remove the field"))
    reader = ContentReader(dialect.images != "no", policy.refuse_images, papers or {}, dialect.image_types)
    items = input_items(request, dialect, reader)
    if all(item.get("role") == dialect.system_role for item in items):
        raise Refusal(invalid_request("messages: no message has any content that this backend could read"))
    body: dict[str, Any] = {"model": model, "input": items, "stream": True, "store": False, "truncation": "disabled"}
    begun = _prefill(items, dialect)
    offered = offer(request, dialect, policy.drop_server_tools)
    wanted = thinking.asked(request)
    body |= _flat(offered.fields)
    format = wanted_format(request, dialect, begun)
    dropped = [*offered.dropped, *reader.lost]
    dropped += _think(body, wanted, model, dialect)
    _ask_for_schema(body, format)
    dropped += format.dropped
    dropped += context_edits(request)
    dropped += sampling(body, request, model, dialect)
    limit = _limit(request, dialect)
    dropped += clamped(request, dialect)
    if limit:
        body["max_output_tokens"] = limit
    _extras(body, request, dialect, session)
    return Translation(
        body,
        once(dropped),
        offered.names,
        used_ids(request),
        offered.one_call,
        wanted,
        begun,
        limit,
        once(emulated_fields(request), offered.emulated, format.emulated),
    )


def without_thinking(translation: Translation) -> Translation:
    """The same for a model that refuses to be asked to think."""
    return bare(translation, _THINKING)


def _prefill(items: list[dict[str, Any]], dialect: Dialect) -> str:
    """An answer that the client began: the last message is the model's own."""
    if items[-1].get("role") != "assistant":
        return ""
    if dialect.prefill != "native":
        raise Refusal(invalid_request("messages: this backend cannot continue an answer; end with a user message"))
    return str(items[-1]["content"])


def _flat(fields: dict[str, Any]) -> dict[str, Any]:
    """Tools and choice of Chat Completions, without the level that the Responses API does not have."""
    flat = dict(fields)
    if "tools" in fields:
        functions = (tool["function"] for tool in fields["tools"])
        flat["tools"] = [{"type": "function", "strict": False, **function} for function in functions]
    if isinstance(fields.get("tool_choice"), dict):
        flat["tool_choice"] = {"type": "function", "name": fields["tool_choice"]["function"]["name"]}
    return flat


def _think(body: dict[str, Any], wanted: Asked, model: str, dialect: Dialect) -> list[str]:
    """As each dialect is asked in a chat, with OpenAI's own field in its new place."""
    asked: dict[str, Any] = {}
    dropped = thinking.ask(asked, wanted, model, dialect)
    effort = asked.pop("reasoning_effort", None)
    if effort is not None:
        asked["reasoning"] = {"effort": effort}
        if wanted.on and not wanted.hidden:
            asked["reasoning"]["summary"] = "auto"  # all that a client can see of it
    if "reasoning" in asked:  # models that do not reason refuse to be asked for it
        asked["include"] = ["reasoning.encrypted_content"]
    body |= asked
    return dropped


def _ask_for_schema(body: dict[str, Any], wanted: Format) -> None:
    if wanted.fields:
        body["text"] = {"format": wanted.fields}
    if wanted.words:  # at the end, where it breaks no prefix; but before an answer that the client began
        items = body["input"]
        end = len(items) - (items[-1].get("role") == "assistant")
        body["input"] = [*items[:end], message("user", [wanted.words]), *items[end:]]


def _limit(request: MessagesRequest, dialect: Dialect) -> int:
    """The longest answer to ask for, in tokens; 0 for no limit."""
    if request.max_tokens is None:
        return 0
    most = min(request.max_tokens, dialect.max_output) if dialect.max_output else request.max_tokens
    return max(1, dialect.least_output, most)


def _extras(body: dict[str, Any], request: MessagesRequest, dialect: Dialect, session: str) -> None:
    if dialect.return_progress:
        body["return_progress"] = True
    if dialect.timings_per_token and request.stop_sequences:
        body["timings_per_token"] = True
    if dialect.service_tier and request.service_tier == "standard_only":
        body["service_tier"] = "default"
    if dialect.prompt_cache_key and session:
        body["prompt_cache_key"] = hashed(session)[:32]
    user = (request.metadata or {}).get("user_id")
    if dialect.safety_identifier and isinstance(user, str):
        body["safety_identifier"] = hashed(user)
