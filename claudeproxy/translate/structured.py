"""Structured output (``output_config.format``) in each dialect's best form (PROTOCOL 4.2)."""

from typing import Any

from attrs import field

from claudeproxy.model.anthropic import MessagesRequest
from claudeproxy.model.kinds import frozen
from claudeproxy.translate.dialects import Dialect
from claudeproxy.translate.schemas import cleaning, fits_strict
from claudeproxy.wire.json import encode_text

_FIELD = "output_config.format"
#: The APIs want a name; models see it, so it is always the same.
_NAME = "answer"


@frozen
class Format:
    """The form of an answer, as a dialect is asked for it."""

    #: What goes into the body: ``type`` and, for a schema, ``name``, ``schema`` and ``strict``.
    fields: dict[str, Any] = field(factory=dict)
    #: What the model is told; nothing enforces it, and what comes is still its own answer, never a made-up one.
    words: str = ""
    dropped: tuple[str, ...] = ()
    emulated: tuple[str, ...] = ()


def wanted_format(request: MessagesRequest, dialect: Dialect, begun: str) -> Format:
    """The best that ``dialect`` has for what the request says.

    For an answer that the client has ``begun`` there are only words: a server that enforces a form starts it anew.
    """
    wanted = request.output_config.format if request.output_config is not None else None
    if wanted is None:
        return Format()
    if wanted.type != "json_schema" or wanted.schema is None:
        return Format(dropped=(_FIELD,))
    if dialect.schema_output == "json_schema" and not begun:
        schema = cleaning(wanted.schema, dialect.schemas)
        strict = not dialect.strict_tools or fits_strict(wanted.schema)
        lost = schema.losses(f"{_FIELD}.schema")
        fields = {"type": "json_schema", "name": _NAME, "schema": schema.json, "strict": strict}
        return Format(fields, dropped=tuple(lost if strict else [*lost, f"{_FIELD} (as a wish, not enforced)"]))
    fields = {"type": "json_object"} if dialect.schema_output != "prompt" and not begun else {}
    return Format(fields, _wish(wanted.schema), emulated=(f"{_FIELD} (asked for in words)",))


def ask_for_schema(body: dict[str, Any], wanted: Format) -> None:
    """Puts the wish into the body of a Chat Completions request."""
    match wanted.fields:
        case {"type": "json_schema", **schema}:
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        case {"type": _}:
            body["response_format"] = wanted.fields
    if wanted.words:
        say_last(body["messages"], wanted.words)


def say_last(messages: list[dict[str, Any]], words: str) -> None:
    """At the end, where it breaks no prefix; but before an answer that the client began."""
    begun = [messages.pop()] if messages[-1]["role"] == "assistant" else []
    last = messages[-1] if messages else {"role": ""}
    if last["role"] in ("user", "tool") and isinstance(last["content"], str):
        messages[-1] = last | {"content": f"{last['content']}\n\n{words}".lstrip()}
    elif last["role"] == "user":
        messages[-1] = last | {"content": [*last["content"], {"type": "text", "text": words}]}
    else:
        messages.append({"role": "user", "content": words})
    messages += begun


def _wish(schema: dict[str, Any]) -> str:
    return f"Answer with one JSON object and nothing else. It must fit this JSON Schema:\n{encode_text(schema)}"
