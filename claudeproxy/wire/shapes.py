"""Reading JSON whose shape is not certain: whatever is of another type counts as nothing."""

from collections.abc import Mapping
from typing import Any


def word(value: Any) -> str:
    """A text, or "" for anything else."""
    return value if isinstance(value, str) else ""


def mapping(value: Any) -> Mapping[str, Any]:
    """A JSON object, or an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def objects(value: Any) -> list[dict[str, Any]]:
    """The JSON objects in a list; none of anything else."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
