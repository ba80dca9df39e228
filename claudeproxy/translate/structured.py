"""Structured output (``output_config.format``) in each dialect's best form (PROTOCOL 4.2)."""

from typing import Any

from claudeproxy.model.anthropic import MessagesRequest
from claudeproxy.translate.dialects import Dialect
from claudeproxy.translate.schemas import cleaned, fits_strict
from claudeproxy.wire.json import encode_text

#: Chat Completions wants a name; models see it, so it is always the same.
_NAME = "answer"


def ask_for_schema(body: dict[str, Any], request: MessagesRequest, dialect: Dialect) -> list[str]:
    """Puts the wish into ``body``; gives the name of the field where the schema can only be asked for in words.

    Nothing enforces it then; what comes is still the model's own answer, never a made-up one.
    """
    wanted = request.output_config.format if request.output_config is not None else None
    if wanted is None or wanted.schema is None:
        return []
    if wanted.type != "json_schema":
        return ["output_config.format"]
    if dialect.schema_output == "json_schema":
        schema: dict[str, Any] = {"name": _NAME, "schema": cleaned(wanted.schema, dialect.schemas)}
        schema["strict"] = not dialect.strict_tools or fits_strict(wanted.schema)
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return []
    if dialect.schema_output == "json_object":
        body["response_format"] = {"type": "json_object"}
    _say(body["messages"], wanted.schema)
    return ["output_config.format (asked for in words)"]


def wish(schema: dict[str, Any]) -> str:
    """Asks for the schema in words."""
    return f"Answer with one JSON object and nothing else. It must fit this JSON Schema:\n{encode_text(schema)}"


def _say(messages: list[dict[str, Any]], schema: dict[str, Any]) -> None:
    """At the end, where it breaks no prefix."""
    words = wish(schema)
    last = messages[-1]
    if last["role"] in ("user", "tool") and isinstance(last["content"], str):
        messages[-1] = last | {"content": f"{last['content']}\n\n{words}"}
    elif last["role"] == "user":
        messages[-1] = last | {"content": [*last["content"], {"type": "text", "text": words}]}
    else:
        messages.append({"role": "user", "content": words})
