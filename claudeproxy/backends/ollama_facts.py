"""What Ollama tells of its models on its own paths: ``/api/show`` and ``/api/ps`` (PROTOCOL 4.8, 6.2)."""

import re
from collections.abc import Mapping
from typing import Any

from claudeproxy.backends.client import BackendClient
from claudeproxy.backends.listings import entries, tokens
from claudeproxy.backends.profile import Facts
from claudeproxy.model.problems import Refusal
from claudeproxy.wire.json import encode

#: The window of a model that does not tell its own, where the settings want just that.
UNKNOWN_WINDOW = 32_768
_LENGTH = ".context_length"
_NUM_CTX = re.compile(r"^num_ctx\s+(\d{1,9})\s*$", re.MULTILINE)

Headers = Mapping[str, str]


async def ask_of_model(client: BackendClient, root: str, headers: Headers, num_ctx: int, model: str) -> Facts | None:
    """For Ollama's own API, where ``num_ctx`` is asked for with every request (0 is the model's own)."""
    said = await _show(client, root, headers, model)
    if said is None:
        return None
    cells, tools, thinks = _abilities(said)
    if thinks is False:
        cells["thinking"] = "none"
    window = min(filter(None, (num_ctx, _length(said.get("model_info")))), default=UNKNOWN_WINDOW)
    return Facts({**cells, "num_ctx": window}, window, tools, thinks)


async def ask_of_compat_model(client: BackendClient, root: str, headers: Headers, model: str) -> Facts | None:
    """For its OpenAI paths, which have no ``num_ctx`` and cut what is longer without a word: the window is the one
    that the model is loaded with, or else the one in its Modelfile; Ollama's default it does not tell."""
    said = await _show(client, root, headers, model)
    if said is None:
        return None
    cells, tools, thinks = _abilities(said)
    written = _NUM_CTX.search(str(said.get("parameters") or ""))
    window = await _loaded(client, root, headers, model) or (int(written[1]) if written else 0)
    return Facts(cells, window, tools, thinks)


def names(listing: Any) -> list[str]:
    """The names in ``/api/tags``."""
    found = [each.get("model") or each.get("name") for each in entries(listing, "models")]
    return [name for name in found if isinstance(name, str)]


async def _show(client: BackendClient, root: str, headers: Headers, model: str) -> Mapping[str, Any] | None:
    try:
        status, said = await client.ask(f"{root}/api/show", encode({"model": model}), headers)
    except Refusal:
        return None
    return said if status == 200 and isinstance(said, dict) else None


async def _loaded(client: BackendClient, root: str, headers: Headers, model: str) -> int:
    try:
        _, listing = await client.get(f"{root}/api/ps", headers)
    except Refusal:
        return 0
    whole = model if ":" in model.rpartition("/")[2] else f"{model}:latest"
    for entry in entries(listing, "models"):
        if whole in (entry.get("model"), entry.get("name")):
            return tokens(entry.get("context_length"))
    return 0


def _abilities(said: Mapping[str, Any]) -> tuple[dict[str, Any], bool | None, bool | None]:
    """The cell of images; tools; thinking. Servers before 0.6.4 do not tell."""
    able = said.get("capabilities")
    if not isinstance(able, list) or not able:
        return {}, None, None
    return {"images": "yes" if "vision" in able else "no"}, "tools" in able, "thinking" in able


def _length(info: Any) -> int:
    """``qwen3.context_length`` or the like, under the architecture's name; 0 if it is not told."""
    found = [value for key, value in info.items() if key.endswith(_LENGTH)] if isinstance(info, dict) else []
    return max(map(tokens, found), default=0)
