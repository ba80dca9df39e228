"""What kind of server a backend is, asked of the server itself (PROTOCOL appendix C)."""

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from claudeproxy.backends.client import BackendClient, Target
from claudeproxy.model.problems import Refusal
from claudeproxy.translate.dialects import DIALECTS, Dialect

#: Who owns the models, by the word in ``GET /v1/models``, and the dialect of that server.
_OWNERS = {
    "llamacpp": "llama.cpp",
    "vllm": "vllm",
    "organization_owner": "lmstudio",
    "library": "ollama-compat",
}


@frozen
class Recognised:
    """What a server said of itself."""

    dialect: Dialect
    models: tuple[str, ...] = ()


async def recognise(client: BackendClient, target: Target, headers: Mapping[str, str]) -> Recognised | None:
    """Asks the model list, and llama.cpp's properties; None if the server cannot be reached."""
    try:
        status, listing = await client.get(f"{target.base}/models", headers)
        entries = _entries(listing) if status == 200 else []
        dialect = _by_owner(entries)
        if dialect is None and _is_llama(await client.get(f"{target.root}/props", headers)):
            dialect = DIALECTS["llama.cpp"]
    except Refusal:
        return None
    return Recognised(dialect or DIALECTS["generic"], tuple(entry["id"] for entry in entries))


def _entries(listing: Any) -> list[dict[str, Any]]:
    entries = listing.get("data") if isinstance(listing, dict) else None
    if not isinstance(entries, list):
        return []
    return [entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str)]


def _by_owner(entries: list[dict[str, Any]]) -> Dialect | None:
    for entry in entries:
        name = _OWNERS.get(str(entry.get("owned_by")))
        if name is not None:
            return DIALECTS[name]
    return None


def _is_llama(answer: tuple[int, Any]) -> bool:
    status, properties = answer
    return status == 200 and isinstance(properties, dict) and "default_generation_settings" in properties
