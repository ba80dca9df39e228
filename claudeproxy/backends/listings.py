"""What lists of models tell of each (PROTOCOL 6.2, appendix C): pure reading of JSON.

=============================  ========================================================================================
server                         fields
=============================  ========================================================================================
vLLM, SGLang                   ``max_model_len``; an adapter has its ``parent``'s
OpenRouter                     ``context_length``, ``top_provider``, ``supported_parameters``, ``architecture``
Kimi                           ``context_length``, ``supports_reasoning``, ``supports_image_in``
Groq, Mistral and others       ``context_window``, ``max_context_length``
LM Studio ``/api/v1/models``   ``loaded_instances`` with their ``config``, ``capabilities``
LM Studio ``/api/v0/models``   ``loaded_context_length``, ``type``, ``capabilities``
=============================  ========================================================================================

The longest window that a model could be loaded with is not the one that it has: LM Studio's ``max_context_length``
says nothing as long as the model is not loaded.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from attrs import evolve

from claudeproxy.backends.profile import Facts

Entry = Mapping[str, Any]
_WINDOWS = ("max_model_len", "context_length", "context_window", "max_context_length")
_EFFORTS = ("low", "medium", "high", "xhigh", "max")


def entries(listing: Any, key: str = "data") -> list[dict[str, Any]]:
    """The objects in a list of models; none if it is no such list."""
    found = listing.get(key) if isinstance(listing, dict) else None
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def listed(listing: Any) -> dict[str, Facts]:
    """What ``GET /v1/models`` tells of each model, in its order."""
    found = {entry["id"]: entry for entry in entries(listing) if isinstance(entry.get("id"), str)}
    facts = {name: _listed(entry) for name, entry in found.items()}
    for name, entry in found.items():
        parent = facts.get(str(entry.get("parent")))
        if parent is not None and not facts[name].window:
            facts[name] = evolve(facts[name], window=parent.window)
    return facts


def _listed(entry: Entry) -> Facts:
    provider = entry.get("top_provider")
    provider = provider if isinstance(provider, dict) else {}
    windows = [tokens(entry.get(name)) for name in _WINDOWS] + [tokens(provider.get("context_length"))]
    cells: dict[str, Any] = {}
    longest = tokens(provider.get("max_completion_tokens"))
    if longest:
        cells["max_output"] = longest
    match entry.get("architecture"):
        case {"input_modalities": list(modalities)}:
            cells["images"] = "yes" if "image" in modalities else "no"
    match entry.get("supports_image_in"):
        case bool(sees):
            cells["images"] = "yes" if sees else "no"
    thinks = entry.get("supports_reasoning")
    facts = Facts(cells, min(filter(None, windows), default=0), thinking=thinks if isinstance(thinks, bool) else None)
    known = entry.get("supported_parameters")
    if isinstance(known, list) and known:
        facts = _with_parameters(facts, known)
    if facts.thinking is False:
        facts = evolve(facts, cells={**facts.cells, "thinking": "none"})
    return facts


def _with_parameters(facts: Facts, known: list[Any]) -> Facts:
    """OpenRouter: the parameters that at least one of a model's providers knows."""
    best = "json_object" if "response_format" in known else "prompt"
    cells = {
        "top_k": "top_k" in known,
        "parallel_flag": "parallel_tool_calls" in known,
        "schema_output": "json_schema" if "structured_outputs" in known else best,
    }
    return evolve(facts, cells={**facts.cells, **cells}, tools="tools" in known, thinking="reasoning" in known)


def lmstudio(listing: Any) -> dict[str, Facts] | None:
    """What either of LM Studio's own lists tells, by the names that a request may use; None if it is neither."""
    if not isinstance(listing, dict):
        return None
    if isinstance(listing.get("models"), list):
        return dict(pair for entry in entries(listing, "models") for pair in _lmstudio_v1(entry))
    if isinstance(listing.get("data"), list):
        return dict(pair for entry in entries(listing) for pair in _lmstudio_v0(entry))
    return None


def is_embedding(entry: Entry) -> bool:
    """LM Studio lists models that cannot answer, too."""
    return str(entry.get("type")).startswith("embedding")


def _lmstudio_v1(entry: Entry) -> Iterator[tuple[str, Facts]]:
    able = entry.get("capabilities")
    able = able if isinstance(able, dict) else {}
    cells = {"images": "yes" if able["vision"] else "no"} if isinstance(able.get("vision"), bool) else {}
    thinks, efforts = _reasoning(able.get("reasoning"))
    tools = able.get("trained_for_tool_use")
    facts = Facts(cells, 0, tools if isinstance(tools, bool) else None, thinks, efforts)
    windows = []
    for instance in entries(entry, "loaded_instances"):
        config = instance.get("config")
        window = tokens(config.get("context_length")) if isinstance(config, dict) else 0
        windows.append(window)
        if isinstance(instance.get("id"), str):
            yield instance["id"], evolve(facts, window=window)
    if isinstance(entry.get("key"), str):
        # Which of several instances answers to the model's own name nobody knows: all of them hold the least window.
        yield entry["key"], evolve(facts, window=min(windows, default=0))


def _reasoning(told: Any) -> tuple[bool | None, tuple[str, ...] | None]:
    match told:
        case bool():
            return told, None
        case {"allowed_options": list(options)}:
            return any(option != "off" for option in options), tuple(each for each in _EFFORTS if each in options)
    return None, None


def _lmstudio_v0(entry: Entry) -> Iterator[tuple[str, Facts]]:
    if isinstance(entry.get("id"), str):
        kind, able = entry.get("type"), entry.get("capabilities")
        cells = {"images": "yes" if kind == "vlm" else "no"} if kind in ("vlm", "llm") else {}
        tools = "tool_use" in able if isinstance(able, list) else None
        yield entry["id"], Facts(cells, tokens(entry.get("loaded_context_length")), tools)


def tokens(value: Any) -> int:
    """A number of tokens; 0 for anything else."""
    return value if type(value) is int and value > 0 else 0
