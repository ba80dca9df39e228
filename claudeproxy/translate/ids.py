"""Ids of tool calls. Every unique, non-empty id is kept as it is, both ways (issue 3).

Where one must be replaced (it is missing, or taken), the new one carries the old one, so that the backend gets its
own back on the next turn.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable

_MINTED = re.compile(r"toolu_cp_[0-9a-zA-Z]+_([0-9a-zA-Z_-]*)")


def minted(original: str, unique: str) -> str:
    """An id that nobody used: ``unique`` is letters and digits. ``original`` can be had back from it."""
    packed = urlsafe_b64encode(original.encode("utf-8", "surrogatepass")).decode().rstrip("=")
    return f"toolu_cp_{unique}_{packed}"


def original(id: str) -> str:
    """The id that the backend gave the call; for a call that it gave none, ours."""
    found = _MINTED.fullmatch(id)
    if found is None or not found[1]:
        return id
    try:
        packed = found[1] + "=" * (-len(found[1]) % 4)
        return urlsafe_b64decode(packed).decode("utf-8", "surrogatepass")
    except ValueError:
        return id


def kept_or_minted(id: str, used: set[str], unique: Callable[[], str]) -> str:
    """``id`` itself if it may stand, else a minted one; either way it is added to ``used``.

    An id that looks minted may not stand: on the next turn it would be taken for what it seems to carry.
    """
    chosen = id if id and id not in used and original(id) == id else minted(id, unique())
    used.add(chosen)
    return chosen
