"""What ``GET /v1/models`` says (PROTOCOL 1.7, 7.4), in a shape that serves Anthropic's and OpenAI's clients alike."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from claudeproxy.backends.interfaces import Abilities, Offer
from claudeproxy.model.problems import Refusal, invalid_request
from claudeproxy.routing.table import PICKED, Route, is_shown

#: The SDKs insist on a date; when a local model was made nobody knows.
CREATED = "2025-01-01T00:00:00Z"
_DEFAULT_LIMIT = 20
_HIGHEST_LIMIT = 1000
_EFFORTS = ("low", "medium", "high", "xhigh", "max")


Resolve = Callable[[str], Route]


def catalogue(
    written: Iterable[str], resolve: Resolve, offers: Mapping[str, Sequence[Offer]]
) -> dict[str, dict[str, Any]]:
    """All names that a request may use, each with its entry: the ``written`` ones of the settings, those of each
    backend's own models (``offers`` by the backend's name), and aliases that Claude Code's picker shows. Every name
    listed leads to the model that its entry tells of.
    """
    known = {(backend, offer.model): offer for backend, found in offers.items() for offer in found}
    entries: dict[str, dict[str, Any]] = {}
    for name in (*written, *_own_names(resolve, known)):
        place = _place(resolve, name)
        entries.setdefault(name, model_json(known.get(place, Offer(place[1])), name))
    for name in list(entries):
        if not is_shown(name) and _place(resolve, name) == _place(resolve, PICKED + name):
            entries[PICKED + name] = {**entries[name], "id": PICKED + name}
    return entries


def _own_names(resolve: Resolve, known: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Of a backend's own models the plain name, or if that leads elsewhere the one with the backend in front."""
    for backend, model in known:
        for name in (model, f"{backend}/{model}"):
            if _place(resolve, name) == (backend, model):
                yield name
                break


def _place(resolve: Resolve, name: str) -> tuple[str, str]:
    route = resolve(name)
    return route.backend, route.model


def model_json(offer: Offer, name: str) -> dict[str, Any]:
    """One model, under a name of its own. What an Anthropic server told of it comes back as it was told."""
    ours = {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": CREATED,
        "lifecycle": "active",
        "deprecated_at": None,
        "retires_at": None,
        "line": None,
        "max_input_tokens": offer.window or None,
        "max_tokens": offer.max_output or None,
        "capabilities": None if offer.abilities is None else _capabilities(offer.abilities),
        "object": "model",
        "created": 1735689600,
        "owned_by": "claudeproxy",
    }
    return {**ours, **offer.as_told, "id": name}


def _capabilities(able: Abilities) -> dict[str, Any]:
    """All that Anthropic's list tells of; what only its own service does is never there."""

    def leaf(supported: bool) -> dict[str, Any]:
        return {"supported": supported}

    efforts = {effort: leaf(effort in able.efforts) for effort in _EFFORTS}
    types = {kind: leaf(able.thinking) for kind in ("adaptive", "between_tools", "enabled")} | {"disabled": leaf(True)}
    return {
        "batch": leaf(False),
        "citations": leaf(False),
        "code_execution": leaf(False),
        "context_management": leaf(False),
        "effort": leaf(bool(able.efforts)) | efforts,
        "image_input": leaf(able.images),
        "pdf_input": leaf(True),  # the proxy reads them
        "server_tools": leaf(False) | {"code_execution": leaf(False), "web_search": leaf(False)},
        "structured_outputs": leaf(able.structured),
        "thinking": leaf(able.thinking) | {"types": types},
        "tool_use": leaf(able.tools),
    }


def page(entries: Mapping[str, dict[str, Any]], query: Mapping[str, str]) -> dict[str, Any]:
    """The page of ``entries`` that ``limit``, ``after_id`` and ``before_id`` ask for. Raises `Refusal`."""
    names = list(entries)
    limit = _limit(query.get("limit"))
    start, end = 0, len(names)
    if "after_id" in query:
        start = _position(names, "after_id", query["after_id"]) + 1
    if "before_id" in query:
        end = _position(names, "before_id", query["before_id"])
        start = max(start, end - limit)
    shown = names[start:end][:limit]
    more = bool(shown) and (names[start] != names[0] if "before_id" in query else start + len(shown) < end)
    return {
        "data": [entries[name] for name in shown],
        "has_more": more,
        "first_id": shown[0] if shown else None,
        "last_id": shown[-1] if shown else None,
        "object": "list",
    }


def _limit(text: str | None) -> int:
    if text is None:
        return _DEFAULT_LIMIT
    if not re.fullmatch("[0-9]{1,9}", text) or not 1 <= int(text) <= _HIGHEST_LIMIT:
        raise Refusal(invalid_request(f"limit: Input should be a whole number from 1 to {_HIGHEST_LIMIT}"))
    return int(text)


def _position(names: Sequence[str], field: str, name: str) -> int:
    try:
        return names.index(name)
    except ValueError:
        raise Refusal(invalid_request(f"{field}: there is no model {name!r}")) from None
