"""A Messages request to the body of Ollama's own ``/api/chat`` (PROTOCOL 4.2, column b; 4.8).

Ollama's messages are those of Chat Completions with other names: so the request is translated to these first, and
its parts are then put where Ollama looks for them. Only what is named here is sent.
"""

from collections.abc import Iterator
from typing import Any

from attrs import evolve

from claudeproxy.model.anthropic import MessagesRequest
from claudeproxy.model.documents import Papers
from claudeproxy.model.problems import Refusal, invalid_request
from claudeproxy.translate.chat_request import to_chat
from claudeproxy.translate.dialects import Dialect
from claudeproxy.translate.translation import STRICT, Policy, Translation, bare, once
from claudeproxy.translate.turns import ChatMessage
from claudeproxy.wire.json import decode

#: Where Chat Completions has them, and where Ollama has them among its ``options``.
_OPTIONS = {
    "max_tokens": "num_predict",
    "max_completion_tokens": "num_predict",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
}
_BASE64 = ";base64,"


def to_ollama(
    request: MessagesRequest,
    model: str,
    dialect: Dialect,
    num_ctx: int,
    keep_alive: str = "",
    policy: Policy = STRICT,
    papers: Papers | None = None,
) -> Translation:
    """The body for ``model``. Raises `Refusal` for what Ollama cannot do.

    ``num_ctx`` is the window in tokens. It is a part of every request, because Ollama's own depends on the machine's
    memory, and must be the same in all, because with another the model is loaded anew. A prompt that does not fit is
    an error, never shortened in silence. ``keep_alive`` is how long the model stays loaded, "" for Ollama's own.
    """
    chat = to_chat(request, model, dialect, policy, papers)
    said = chat.body
    messages = list(_messages(said["messages"]))
    body: dict[str, Any] = {"model": model, "messages": messages, "stream": True}
    options = {there: said[here] for here, there in _OPTIONS.items() if here in said}
    body["options"] = {"num_ctx": num_ctx, **options}
    body |= {"truncate": False, "shift": False}
    if "think" in said:
        body["think"] = said["think"]
    if "response_format" in said:
        body["format"] = _format(said["response_format"])
    if keep_alive:
        # A number is in seconds; only texts have units.
        body["keep_alive"] = int(keep_alive) if keep_alive.lstrip("-").isdecimal() else keep_alive
    if "tools" in said:
        body["tools"] = said["tools"]
    return evolve(chat, body=body)


def without_level(translation: Translation) -> Translation:
    """The same for a model that thinks, but cannot be told how much."""
    if not isinstance(translation.body.get("think"), str):
        return translation
    body = {**translation.body, "think": True}
    return evolve(translation, body=body, dropped=once(translation.dropped, ["output_config.effort"]))


def without_thinking(translation: Translation) -> Translation:
    """The same for a model that refuses to be asked to think, or to be told how much; not to think refuses none."""
    if not translation.body.get("think"):
        return translation
    return bare(translation, ("think",))


def _messages(messages: list[ChatMessage]) -> Iterator[ChatMessage]:
    called: dict[str, str] = {}
    for message in messages:
        role, content = message["role"], message["content"]
        match role:
            case "assistant":
                turn: ChatMessage = {"role": role, "content": content or ""}
                if "thinking" in message:
                    turn["thinking"] = message["thinking"]
                calls = message.get("tool_calls", ())
                called = {call["id"]: call["function"]["name"] for call in calls}
                if calls:
                    turn["tool_calls"] = [_call(call) for call in calls]
                yield turn
            case "tool":
                id = message["tool_call_id"]
                name = {"tool_name": called[id]} if id in called else {}
                yield {"role": role, "content": content, **name, "tool_call_id": id}
            case _:
                yield {"role": role, **_content(content)}


def _call(call: dict[str, Any]) -> dict[str, Any]:
    """Arguments are an object here."""
    function = call["function"]
    arguments = decode(function["arguments"].encode())
    return {"id": call["id"], "type": "function", "function": {"name": function["name"], "arguments": arguments}}


def _content(content: str | list[dict[str, Any]]) -> ChatMessage:
    """The text, and beside it the images, which have no place in it."""
    if isinstance(content, str):
        return {"content": content}
    texts = [part["text"] for part in content if part["type"] == "text"]
    images = [_image(part["image_url"]["url"]) for part in content if part["type"] == "image_url"]
    return {"content": "\n\n".join(texts), "images": images}


def _image(url: str) -> str:
    head, base64, data = url.partition(_BASE64)
    if not (base64 and head.startswith("data:")):
        raise Refusal(invalid_request("image.source.url: this backend fetches no images; send the data as base64"))
    return data


def _format(response_format: dict[str, Any]) -> Any:
    return response_format["json_schema"]["schema"] if "json_schema" in response_format else "json"
