"""JSON bytes and values: one decoder, one encoder, and the one error both may have."""

import json
import re
from typing import Any

import msgspec

#: Keeps a value's own bytes, so that key order and the spelling of numbers survive a journey.
Raw = msgspec.Raw

_any = msgspec.json.Decoder()
_shallow = msgspec.json.Decoder(dict[str, Raw])

#: Every escape of a JSON string; the second alternative is half of a surrogate pair that stands alone.
_ESCAPES = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)"
)


class NotJSON(ValueError):
    """The bytes are no JSON text; the message says where."""


class TooDeep(NotJSON):
    """They are nested deeper than the interpreter bears."""


def decode(data: bytes | Raw) -> Any:
    """Any JSON value. Raises `NotJSON`, also for nesting deeper than the interpreter bears.

    Halves of surrogate pairs become U+FFFD (PROTOCOL row 63): JavaScript clients that cut a text by length send
    them, and they have no UTF-8.
    """
    try:
        return _any.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _decode(_any.decode, data)


def decode_shallow(data: bytes) -> dict[str, Raw]:
    """The top level of a JSON object, its values kept as their own bytes. Raises `NotJSON`."""
    shallow: dict[str, Raw] = _decode(_shallow.decode, data)
    return shallow


def encode(value: object) -> bytes:
    """Compact UTF-8 JSON; the same value gives the same bytes, always."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        # Half a surrogate pair has no UTF-8; the slower encoder can spell it as an escape.
        return _ESCAPES.sub(_heal, json.dumps(value, separators=(",", ":")).encode())


def encode_text(value: object) -> str:
    """`encode` as text, for JSON inside JSON."""
    return encode(value).decode()


def _decode(read: Any, data: bytes | Raw) -> Any:
    try:
        return read(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as fault:
        text = bytes(data)
        healed = _ESCAPES.sub(_heal, text) if b"\\u" in text else text
        if healed == text:
            raise NotJSON(str(fault)) from None
    except RecursionError:
        raise TooDeep("nested too deeply") from None
    try:
        return read(healed)
    except (msgspec.MsgspecError, UnicodeDecodeError) as fault:
        raise NotJSON(str(fault)) from None
    except RecursionError:
        raise TooDeep("nested too deeply") from None


def _heal(escape: re.Match[bytes]) -> bytes:
    return b"\\ufffd" if escape[1] else escape[0]
