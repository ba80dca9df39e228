"""What makes two requests the same one, so that the second finds the answer that the first has lost (issue 5)."""

from collections.abc import Hashable, Mapping
from hashlib import blake2b
from typing import Any

from twisted.web.http import Request

from claudeproxy.wire.json import decode, encode


def identity(request: Request, session: str, data: Mapping[str, Any]) -> Hashable:
    """Equal for requests that ask for the same answer, however they want it delivered (issue 5)."""
    asked = {name: value for name, value in data.items() if name not in ("stream", "max_tokens")}
    if isinstance(asked.get("thinking"), dict):  # the budget follows from max_tokens: Claude Code's is one less
        asked["thinking"] = {name: value for name, value in asked["thinking"].items() if name != "budget_tokens"}
    credentials = tuple(map(request.getHeader, (b"x-api-key", b"authorization")))
    return session, credentials, blake2b(encode(asked), digest_size=16).digest()


def identity_of(request: Request, session: str, body: bytes) -> Hashable:
    """The same of a body that was read before."""
    return identity(request, session, decode(body))
