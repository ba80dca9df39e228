"""What ``GET /v1/models`` says (PROTOCOL 1.7), in a shape that serves Anthropic's and OpenAI's clients alike."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from claudeproxy.model.problems import Refusal, invalid_request

#: The SDKs insist on a date; when a local model was made nobody knows.
CREATED = "2025-01-01T00:00:00Z"
_DEFAULT_LIMIT = 20
_HIGHEST_LIMIT = 1000


def model_json(name: str) -> dict[str, Any]:
    """One model."""
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": CREATED,
        "object": "model",
        "created": 1735689600,
        "owned_by": "claudeproxy",
    }


def page(names: Sequence[str], query: Mapping[str, str]) -> dict[str, Any]:
    """The page of ``names`` that ``limit``, ``after_id`` and ``before_id`` ask for. Raises `Refusal`."""
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
        "data": [model_json(name) for name in shown],
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
