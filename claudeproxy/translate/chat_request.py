"""A Messages request to the body of a Chat Completions request (PROTOCOL 4.2)."""

from hashlib import sha256
from typing import Any

from attrs import evolve

from claudeproxy.model.anthropic import MessagesRequest
from claudeproxy.model.documents import Papers
from claudeproxy.model.problems import Refusal, invalid_request
from claudeproxy.translate import thinking
from claudeproxy.translate.content import ContentReader
from claudeproxy.translate.dialects import Dialect
from claudeproxy.translate.names import Names
from claudeproxy.translate.structured import ask_for_schema, say_last, wanted_format
from claudeproxy.translate.tools import Offered, offer
from claudeproxy.translate.translation import STRICT, Policy, Translation, bare, emulated_fields, once, used_ids
from claudeproxy.translate.turns import chat_messages, reminder

#: Edits of the context that leave all as it is.
_NO_EDITS = ({"type": "clear_thinking_20251015", "keep": "all"},)


def to_chat(
    request: MessagesRequest,
    model: str,
    dialect: Dialect,
    policy: Policy = STRICT,
    papers: Papers | None = None,
    session: str = "",
) -> Translation:
    """The body for ``model``. Raises `Refusal` for what no Chat Completions server can do.

    It always asks for a stream: only a stream can be cancelled (CLIENTS.md: a llama.cpp request without one runs to
    its end whatever happens). Stop sequences are not sent, because no server but vLLM would tell which one hit.
    """
    for name in request.unservable:
        raise Refusal(invalid_request(f"{name}: not available on this backend; remove the field"))
    reader = ContentReader(dialect.images != "no", policy.refuse_images, papers or {}, dialect.image_types)
    messages = chat_messages(request, dialect, reader)
    if all(message["role"] == dialect.system_role for message in messages):
        raise Refusal(invalid_request("messages: no message has any content that this backend could read"))
    body: dict[str, Any] = {"model": model, "messages": messages, "stream": True}
    begun = _prefill(body, dialect)
    offered = offer(request, dialect, policy.drop_server_tools)
    wanted = thinking.asked(request)
    body |= offered.fields
    offered = _choose_in_words(body, offered, dialect)
    format = wanted_format(request, dialect, begun)
    dropped = [*offered.dropped, *reader.lost]
    if wanted.on and not dialect.demands_while_thinking and body.get("tool_choice", "auto") not in ("auto", "none"):
        wanted = evolve(wanted, on=False)  # the call was demanded, to think was a wish
        dropped.append("thinking (not together with a tool_choice that demands a call)")
    dropped += thinking.ask(body, wanted, model, dialect)
    ask_for_schema(body, format)
    dropped += format.dropped
    dropped += context_edits(request)
    dropped += sampling(body, request, model, dialect)
    dropped += _limit(body, request, model, dialect)
    _extras(body, request, dialect, session)
    return Translation(
        body,
        once(dropped),
        offered.names,
        used_ids(request),
        offered.one_call,
        wanted,
        begun,
        emulated=once(emulated_fields(request), offered.emulated, format.emulated),
    )


def _choose_in_words(body: dict[str, Any], offered: Offered, dialect: Dialect) -> Offered:
    """A choice for a server that knows none (PROTOCOL 4.8): the model is asked, at the end, where it breaks no prefix;
    and nothing but having no tools keeps it from calling."""
    if dialect.tool_choice != "words" or "tools" not in body:
        return offered
    emulated = [name for name in offered.emulated if name != "tool_choice"]
    match body.pop("tool_choice", "auto"):
        case "auto":
            return offered
        case "none":
            del body["tools"]
            return evolve(offered, names=Names(), emulated=(*emulated, "tool_choice"))
    tools = [tool["function"]["name"] for tool in body["tools"]]
    which = f"the tool {tools[0]}" if len(tools) == 1 else "one of the tools"
    say_last(body["messages"], reminder(f"Answer this time with a call of {which}, and with nothing else."))
    return evolve(offered, emulated=(*emulated, "tool_choice (asked for in words)"))


def without_thinking(chat: Translation) -> Translation:
    """The same for a model that refuses to be asked to think."""
    return bare(chat, thinking.FIELDS)


def _prefill(body: dict[str, Any], dialect: Dialect) -> str:
    """An answer that the client began: the last message is the model's own."""
    last = body["messages"][-1]
    if last["role"] != "assistant" or "tool_calls" in last:
        return ""
    if dialect.prefill == "refuse":
        raise Refusal(invalid_request("messages: this backend cannot continue an answer; end with a user message"))
    if dialect.prefill == "vllm":
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    return str(last["content"])


def _limit(body: dict[str, Any], request: MessagesRequest, model: str, dialect: Dialect) -> list[str]:
    if request.max_tokens is None:
        return []
    most = min(request.max_tokens, dialect.max_output) if dialect.max_output else request.max_tokens
    newer = dialect.name == "kimi" and "k3" in model.lower()
    body["max_completion_tokens" if newer else dialect.max_tokens_field] = max(1, most)  # 0 only reads the prompt
    told = clamped(request, dialect)
    if told:
        less = thinking.within(body, most, dialect)
        told += [] if less == body else [f"thinking.budget_tokens (within {most})"]
        body.update(less)
    return told


def clamped(request: MessagesRequest, dialect: Dialect) -> list[str]:
    """The limit's name where the backend bears a shorter answer only."""
    beyond = dialect.max_output and (request.max_tokens or 0) > dialect.max_output
    return [f"max_tokens (at most {dialect.max_output})"] if beyond else []


def sampling(body: dict[str, Any], request: MessagesRequest, model: str, dialect: Dialect) -> list[str]:
    """Temperature and friends; gives the names of those that the model would refuse."""
    fixed = bool(dialect.fixed_sampling) and model.rpartition("/")[2].lower().startswith(dialect.fixed_sampling)
    dropped = []
    for name in ("temperature", "top_p", "top_k"):
        value = getattr(request, name)
        if value is None:
            continue
        if fixed or (name == "top_k" and not dialect.top_k):
            dropped.append(name)
        else:
            body[name] = value
    return dropped


def context_edits(request: MessagesRequest) -> list[str]:
    """Edits of the context are done by no backend here; the one that Claude Code asks for changes nothing."""
    edits = (request.context_management or {}).get("edits")
    real = [edit for edit in edits if edit not in _NO_EDITS] if isinstance(edits, list) else []
    return ["context_management"] if real else []


def _extras(body: dict[str, Any], request: MessagesRequest, dialect: Dialect, session: str) -> None:
    if dialect.include_usage:
        body["stream_options"] = {"include_usage": True}
        if dialect.continuous_usage and request.stop_sequences:
            body["stream_options"]["continuous_usage_stats"] = True
    if dialect.return_progress:
        body["return_progress"] = True
    if dialect.timings_per_token and request.stop_sequences:
        # A stream that we cut ourselves never gets to its usage: every chunk must tell.
        body["timings_per_token"] = True
    if dialect.service_tier and request.service_tier == "standard_only":
        body["service_tier"] = "default"
    if dialect.prompt_cache_key and session:
        # Not the session's own name: it is nobody's business but the client's.
        body["prompt_cache_key"] = hashed(session)[:32]
    user = (request.metadata or {}).get("user_id")
    if dialect.safety_identifier and isinstance(user, str):
        body["safety_identifier"] = hashed(user)


def hashed(name: str) -> str:
    """A name that is the same for the same one, and says nothing of it."""
    return sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
