"""What kind of server a backend is, asked of the server itself (PROTOCOL appendix C)."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from attrs import field, frozen

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
class ModelFacts:
    """What a server said of one of its models."""

    #: Cells of the dialect that hold for this model.
    cells: Mapping[str, Any] = field(factory=dict)
    #: Its context window in tokens; 0 if the server does not tell.
    window: int = 0


@frozen
class Recognised:
    """What a server said of itself."""

    dialect: Dialect
    models: tuple[str, ...] = ()
    #: The context window in tokens; 0 if the server does not tell.
    window: int = 0
    #: Cells of the dialect that the server itself has told.
    cells: Mapping[str, str] = field(factory=dict)
    #: Asks about one model, by its name, where a server's models differ; its result is None for "not known now".
    ask: Callable[[str], Awaitable[ModelFacts | None]] | None = None


async def recognise(client: BackendClient, target: Target, headers: Mapping[str, str]) -> Recognised | None:
    """Asks the model list, and llama.cpp's properties; None if the server cannot be reached."""
    try:
        status, listing = await client.get(f"{target.base}/models", headers)
        entries = _entries(listing) if status == 200 else []
        dialect = _by_owner(entries)
        properties = None
        if dialect is None or dialect.name == "llama.cpp":
            properties = _of_llama(await client.get(f"{target.root}/props", headers))
    except Refusal:
        return None
    if properties is not None:
        dialect = DIALECTS["llama.cpp"]
    models = tuple(entry["id"] for entry in entries)
    window = _window(properties or {}, entries)
    return Recognised(dialect or DIALECTS["generic"], models, window, _told(properties or {}))


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


def _of_llama(answer: tuple[int, Any]) -> dict[str, Any] | None:
    status, properties = answer
    if status == 200 and isinstance(properties, dict) and "default_generation_settings" in properties:
        return properties
    return None


def _window(properties: Mapping[str, Any], entries: list[dict[str, Any]]) -> int:
    """llama.cpp tells it among its properties, vLLM with each model; models of one server may differ."""
    match properties:
        case {"default_generation_settings": {"n_ctx": int(window)}}:
            return window
    windows = {entry["max_model_len"] for entry in entries if isinstance(entry.get("max_model_len"), int)}
    return windows.pop() if len(windows) == 1 else 0


def _told(properties: Mapping[str, Any]) -> dict[str, str]:
    """What llama.cpp says of its model: whether it has eyes, and whether its template has a place for tools."""
    told = {}
    match properties:
        case {"modalities": {"vision": bool(vision)}}:
            told["images"] = "yes" if vision else "no"
    match properties:
        case {"chat_template_caps": {"supports_tools": bool(tools)}}:
            told["tools"] = "yes" if tools else "no"
    return told
