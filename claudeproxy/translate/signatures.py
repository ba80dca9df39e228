"""What a backend needs of its own reasoning on the next turn, packed into a thinking block's signature.

Clients give a signature back byte for byte, whatever it holds (PROTOCOL 4.6); so the round trip survives hidden
thinking, restarts of the proxy, and several proxies side by side. The text is
``cp1.`` and base64url of deflated JSON: ``{"f": field, "d": data}``.
"""

import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

from claudeproxy.model.kinds import frozen
from claudeproxy.wire.json import NotJSON, decode, encode

PREFIX = "cp1."
#: A signature comes from a client: it must not unpack into all of the memory.
_LARGEST = 16 * 1024 * 1024


@frozen
class Reasoning:
    """Reasoning as a backend gave it: ``data`` of ``field``; data None says that the visible text is all of it."""

    field: str
    data: Any = None


def sign(reasoning: Reasoning) -> str:
    """The signature; the same for the same reasoning."""
    packed = zlib.compress(encode({"f": reasoning.field, "d": reasoning.data}))
    return PREFIX + urlsafe_b64encode(packed).decode().rstrip("=")


#: Of a thinking block that held nothing but signs of life (issue 5): nobody wants it back.
ALIVE = sign(Reasoning(""))


def is_ours(signature: str) -> bool:
    """Whether some claudeproxy made it. Such a one must never reach a real Anthropic backend."""
    return signature.startswith(PREFIX)


def read(signature: str) -> Reasoning | None:
    """What `sign` packed; None for a signature of somebody else, or a damaged one."""
    if not is_ours(signature):
        return None
    text = signature.removeprefix(PREFIX)
    try:
        unpacker = zlib.decompressobj()
        packed = unpacker.decompress(urlsafe_b64decode(text + "=" * (-len(text) % 4)), _LARGEST)
        value = decode(packed) if unpacker.eof else None
    except (ValueError, zlib.error, NotJSON):
        return None
    match value:
        case {"f": str(field), "d": data}:
            return Reasoning(field, data)
    return None
