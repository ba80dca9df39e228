"""How many tokens a prompt may have where nobody can count them (PROTOCOL 6.3, 6.4)."""

from collections.abc import Mapping
from typing import Any

#: Bytes of English text and code a token, on the high side by some 5 % (measured in PROTOCOL 6.3: 3.75).
BYTES_A_TOKEN = 3.6
#: The markers around each message in a ChatML-like template, and the reply's priming.
TOKENS_A_MESSAGE = 4
TOKENS_OF_REPLY = 3


def prompt_tokens(body: Mapping[str, Any], size: int) -> int:
    """An estimate for a chat request ``body`` whose JSON has ``size`` bytes; at least 1."""
    messages = body.get("messages") or body.get("input", ())
    return max(1, round(size / BYTES_A_TOKEN)) + TOKENS_A_MESSAGE * len(messages) + TOKENS_OF_REPLY
