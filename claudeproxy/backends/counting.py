"""How many tokens a chat request has, from the server that would answer it (PROTOCOL 6.2)."""

from collections.abc import Mapping
from typing import Any

from claudeproxy.backends.client import BackendClient, Target
from claudeproxy.wire.json import encode


async def count_on_llama(
    client: BackendClient, target: Target, headers: Mapping[str, str], body: Mapping[str, Any]
) -> int | None:
    """The exact count of the very body that would be sent: template and tools rendered, then tokenized.

    It takes none of the slots that generate. None if this server is too old for it. Raises `Refusal`.
    """
    asked = {name: value for name, value in body.items() if name not in ("stream", "stream_options", "return_progress")}
    status, said = await client.ask(f"{target.base}/chat/completions/input_tokens", encode(asked), headers)
    if status == 200 and isinstance(said, dict) and isinstance(said.get("input_tokens"), int):
        return int(said["input_tokens"])
    return await _rendered_and_tokenized(client, target, headers, asked)


#: Of a chat request's fields those that decide how vLLM renders it.
_RENDERED = (
    "model",
    "messages",
    "tools",
    "add_generation_prompt",
    "continue_final_message",
    "chat_template_kwargs",
)


async def count_on_vllm(
    client: BackendClient, target: Target, headers: Mapping[str, str], body: Mapping[str, Any]
) -> int | None:
    """vLLM's exact count of the rendered prompt, tools included; None from a gateway that hides it. Raises
    `Refusal`."""
    asked = {"add_generation_prompt": True} | {name: body[name] for name in _RENDERED if name in body}
    status, said = await client.ask(f"{target.root}/tokenize", encode(asked), headers)
    if status == 200 and isinstance(said, dict) and isinstance(said.get("count"), int):
        return int(said["count"])
    return None


async def _rendered_and_tokenized(
    client: BackendClient, target: Target, headers: Mapping[str, str], asked: Mapping[str, Any]
) -> int | None:
    status, said = await client.ask(f"{target.root}/apply-template", encode(asked), headers)
    if status != 200 or not isinstance(said, dict) or not isinstance(said.get("prompt"), str):
        return None
    text = {"content": said["prompt"], "add_special": True, "parse_special": True}
    status, said = await client.ask(f"{target.root}/tokenize", encode(text), headers)
    if status != 200 or not isinstance(said, dict) or not isinstance(said.get("tokens"), list):
        return None
    return len(said["tokens"])
