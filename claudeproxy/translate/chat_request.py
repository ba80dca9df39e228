"""A Messages request to the body of a Chat Completions request (PROTOCOL 4.2)."""

from typing import Any

from attrs import frozen

from claudeproxy.model.anthropic import MessagesRequest
from claudeproxy.model.problems import Refusal, invalid_request
from claudeproxy.translate.dialects import Dialect
from claudeproxy.translate.turns import conversation


@frozen
class ChatRequest:
    """The JSON to send, and the names of what it does not carry though the caller asked for it."""

    body: dict[str, Any]
    dropped: tuple[str, ...]


def to_chat(request: MessagesRequest, model: str, dialect: Dialect) -> ChatRequest:
    """The body for ``model``. Raises `Refusal` for what no Chat Completions server can do.

    It always asks for a stream: only a stream can be cancelled (CLIENTS.md: a llama.cpp request without one runs to
    its end whatever happens). Stop sequences are not sent, because no server but vLLM would tell which one hit.
    """
    for name in request.unservable:
        raise Refusal(invalid_request(f"{name}: not available on this backend; remove the field"))
    talk = conversation(request, dialect)
    if not talk.messages:
        raise Refusal(invalid_request("messages: no message has any content that this backend could read"))
    body: dict[str, Any] = {"model": model, "messages": talk.messages, "stream": True}
    dropped = [name for name in ("tools", "tool_choice", "thinking") if getattr(request, name)]
    if request.output_config is not None and request.output_config.format is not None:
        dropped.append("output_config.format")
    if request.max_tokens is not None:
        body[dialect.max_tokens_field] = max(1, request.max_tokens)  # 0 only reads the prompt: the least is 1
    dropped += _sampling(body, request, model, dialect)
    _extras(body, request, dialect)
    return ChatRequest(body, tuple(dict.fromkeys(dropped + talk.lost)))


def _sampling(body: dict[str, Any], request: MessagesRequest, model: str, dialect: Dialect) -> list[str]:
    """Temperature and friends; gives the names of those that the model would refuse."""
    fixed = model.rpartition("/")[2].lower().startswith(dialect.fixed_sampling) if dialect.fixed_sampling else False
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


def _extras(body: dict[str, Any], request: MessagesRequest, dialect: Dialect) -> None:
    if dialect.include_usage:
        body["stream_options"] = {"include_usage": True}
        if dialect.continuous_usage and request.stop_sequences:
            body["stream_options"]["continuous_usage_stats"] = True
    if dialect.return_progress:
        body["return_progress"] = True
    if dialect.timings_per_token and request.stop_sequences:
        # A stream that we cut ourselves never gets to its usage: every chunk must tell.
        body["timings_per_token"] = True
