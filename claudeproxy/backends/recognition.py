"""What kind of server a backend is, asked of the server itself (PROTOCOL 6.2, appendix C)."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any
from urllib.parse import quote

from attrs import field

from claudeproxy.backends.client import BackendClient, Target
from claudeproxy.backends.listings import entries, is_embedding, listed, lmstudio, tokens
from claudeproxy.backends.ollama_facts import ask_of_compat_model
from claudeproxy.backends.profile import NOTHING, Facts
from claudeproxy.model.kinds import frozen
from claudeproxy.model.problems import Refusal, overloaded
from claudeproxy.translate.dialects import DIALECTS, Dialect

#: Who owns the models, by the word in ``GET /v1/models``, and the dialect of that server.
_OWNERS = {
    "llamacpp": "llama.cpp",
    "vllm": "vllm",
    "organization_owner": "lmstudio",
    "library": "ollama-compat",
}
#: Owners of models on servers that have Ollama's paths beside their own.
_LIKE_OLLAMA = ("koboldcpp", "llama-swap")
#: A server, or what stands before it, that will be there in a moment: llama.cpp while it loads its model.
_NOT_NOW = (502, 503, 504)
#: What llama.cpp says that a template can do, and the words for the log where it cannot.
_CAPABILITIES = {
    "supports_tools": "tools",
    "supports_parallel_tool_calls": "several calls at once",
}

Headers = Mapping[str, str]


@frozen
class Recognised:
    """What a server said of itself. Two that are equal need not be told apart."""

    dialect: Dialect
    #: Its models by their names, with what its list tells of each.
    models: Mapping[str, Facts] = field(factory=dict)
    #: What holds for all of them, and for names that it does not list.
    common: Facts = NOTHING
    #: How many answers it makes at once; 0 if it does not tell.
    slots: int = 0
    #: Asks about one model, by its name, where the list tells too little; its result is None for "not known now".
    ask: Callable[[str], Awaitable[Facts | None]] | None = field(default=None, eq=False)

    def facts(self, model: str) -> Facts:
        """What is known of ``model`` without asking."""
        return self.models.get(model, NOTHING).over(self.common)


async def recognise(client: BackendClient, target: Target, headers: Headers, sure: Dialect | None = None) -> Recognised:
    """Asks for the list of models, and what the family in question has beyond it. Raises `Refusal` if the server
    cannot be reached or is not ready.

    ``sure`` is the family that needs no recognising. What a server does not have beyond its list stays unknown.
    """
    status, listing = await client.get(f"{target.base}/models", headers)
    ready(client, status)
    models = listed(listing) if status == 200 else {}
    dialect = sure or _by_owner(listing)
    match dialect.name if dialect is not None else "":
        case "llama.cpp" | "":
            found = await _llama(client, target, headers, models, dialect is not None)
            if found is not None:
                return found
            if dialect is None and status == 200:
                dialect = await _by_paths(client, target, headers, listing)
    match dialect.name if dialect is not None else "":
        case "lmstudio":
            models = await _of_lmstudio(client, target, headers, models)
        case "ollama-compat":
            ask = partial(ask_of_compat_model, client, target.root, headers)
            return Recognised(dialect or DIALECTS["ollama-compat"], models, ask=ask)
    return Recognised(dialect or DIALECTS["generic"], models, _alike(models))


def ready(client: BackendClient, status: int) -> None:
    """Raises `Refusal` for a status of a server that is not ready."""
    if status in _NOT_NOW:
        raise Refusal(overloaded(f"Backend {client.name} is not ready: it answers with status {status}."))


def _by_owner(listing: Any) -> Dialect | None:
    for entry in entries(listing):
        name = _OWNERS.get(str(entry.get("owned_by")))
        if name is not None:
            return DIALECTS[name]
    return None


async def _by_paths(client: BackendClient, target: Target, headers: Headers, listing: Any) -> Dialect | None:
    """What has no model that would tell, or those of other owners: Ollama's namespaces are owners."""
    if any(entry.get("owned_by") in _LIKE_OLLAMA for entry in entries(listing)):
        return None
    try:
        status, told = await client.get(f"{target.root}/api/version", headers)
        # Others that have this path tell more on it.
        if status == 200 and isinstance(told, dict) and list(told) == ["version"] and isinstance(told["version"], str):
            return DIALECTS["ollama-compat"]
        if entries(listing):
            return None
        status, told = await client.get(f"{target.root}/api/v0/models", headers)
    except Refusal:
        return None
    is_list = status == 200 and isinstance(told, dict) and isinstance(told.get("data"), list)
    return DIALECTS["lmstudio"] if is_list else None


def _alike(models: Mapping[str, Facts]) -> Facts:
    """What may be said of a name that is not listed: the window, if all have the same."""
    windows = {facts.window for facts in models.values()}
    return Facts(window=windows.pop()) if len(windows) == 1 else NOTHING


async def _llama(
    client: BackendClient, target: Target, headers: Headers, models: Mapping[str, Facts], known: bool
) -> Recognised | None:
    """``known`` is whether it is llama.cpp in any case; else None for another server."""
    status, properties = await client.get(f"{target.root}/props", headers)
    ready(client, status)
    if status != 200 or not isinstance(properties, dict) or "default_generation_settings" not in properties:
        properties = {}
        if not known:
            return None
    dialect = DIALECTS["llama.cpp"]
    if properties.get("role") == "router":  # many models, each in a process of its own
        return Recognised(dialect, models, ask=partial(_of_routed, client, target, headers))
    facts, slots = _of_llama(properties), tokens(properties.get("total_slots"))
    if not facts.window or not slots:
        window, number = await _slots(client, target, headers)
        facts, slots = facts.over(Facts(window=window)), slots or number
    return Recognised(dialect, models, facts, slots)


def _of_llama(properties: Mapping[str, Any]) -> Facts:
    """A process of llama.cpp has one model."""
    cells: dict[str, Any] = {}
    window, tools, lacks = 0, None, []
    match properties:
        case {"default_generation_settings": {"n_ctx": length}}:
            window = tokens(length)
    match properties:
        case {"modalities": {"vision": bool(vision)}}:
            cells["images"] = "yes" if vision else "no"
    match properties:
        case {"chat_template_caps": dict(able)}:
            lacks = [words for name, words in _CAPABILITIES.items() if able.get(name) is False]
            if isinstance(able.get("supports_tools"), bool):
                tools = able["supports_tools"]
                cells["tools"] = "yes" if tools else "no"
    thinks, efforts = None, None
    template = properties.get("chat_template")
    if isinstance(template, str) and template:  # which of the variables of `translate.thinking` it reads
        efforts = ("low", "medium", "high") if "reasoning_effort" in template else ()
        thinks = bool(efforts) or "enable_thinking" in template or "<think>" in template
    return Facts(cells, window, tools, thinks, efforts, tuple(lacks))


async def _slots(client: BackendClient, target: Target, headers: Headers) -> tuple[int, int]:
    """The window of a slot, and how many there are; zeros if they are not shown."""
    try:
        status, slots = await client.get(f"{target.root}/slots", headers)
    except Refusal:
        return 0, 0
    if status != 200 or not isinstance(slots, list):
        return 0, 0
    windows = [tokens(slot.get("n_ctx")) for slot in slots if isinstance(slot, dict)]
    return min(windows, default=0), len(windows)


async def _of_routed(client: BackendClient, target: Target, headers: Headers, model: str) -> Facts | None:
    """None for a model that is not loaded: to ask must not load it."""
    url = f"{target.root}/props?model={quote(model, safe='')}&autoload=false"
    try:
        status, properties = await client.get(url, headers)
    except Refusal:
        return None
    return _of_llama(properties) if status == 200 and isinstance(properties, dict) else None


async def _of_lmstudio(
    client: BackendClient, target: Target, headers: Headers, models: dict[str, Facts]
) -> dict[str, Facts]:
    """It answers with 200 on paths that it does not have, so that only the shape tells."""
    for path, key in (("/api/v1/models", "models"), ("/api/v0/models", "data")):
        try:
            _, listing = await client.get(target.root + path, headers)
        except Refusal:
            continue
        told = lmstudio(listing)
        if told is not None:
            deaf = {each.get("key") or each.get("id") for each in entries(listing, key) if is_embedding(each)}
            return {name: told.get(name, facts) for name, facts in {**models, **told}.items() if name not in deaf}
    return models
