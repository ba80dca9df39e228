"""A request as its client wrote it: its body whole and unpacked, its path without what was put in front."""

import re
import zlib
from codecs import BOM_UTF8
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from twisted.web.http import Request

from claudeproxy.backends.interfaces import Letter
from claudeproxy.model.problems import Refusal, invalid_request, not_found, too_large
from claudeproxy.web.exchange import printable

#: Some editors write a mark before a text, which is no JSON, and may be ignored (RFC 8259 8.1).
_MARKED_JSON = re.compile(BOM_UTF8 + rb"[ \t\r\n]*+\{")
#: A gzip body is read in steps of so many bytes, and has at most so many members, so that hostile ones cost no time.
_STEP = 16 * 1024
_MOST_MEMBERS = 10_000
#: What is below ``/v1`` for every reader of paths; and what some of them would take for a step out of it: segments of
#: dots, and slashes of either kind within one, however often they are encoded.
_BELOW = re.compile(rb"/v1(?:/|$)")
_ASTRAY = re.compile(rb"/(?:\.|%(?:25)*2e){1,2}(?:/|;|%(?:25)*3b|$)|\\|%(?:25)*(?:2f|5c)", re.IGNORECASE)
NOTHING: Mapping[str, Any] = MappingProxyType({})


def letter_of(
    request: Request, longest: int, keys: Collection[bytes] = (), told: Mapping[str, Any] = NOTHING
) -> Letter:
    """The whole request, but for headers that show one of our own ``keys``: these are nobody else's business. Raises
    `Refusal` above ``longest`` bytes of body, packed or not, and for a path that might lead out of ``/v1``: a server
    that it is passed on to has other things beside, which our credentials open. ``told`` are the fields of the log's
    lines about it."""
    path, mark, query = request.uri.partition(b"?")
    path = b"/" + b"/".join(plain_path(path.split(b"/")[1:]))
    if not _BELOW.match(path) or _ASTRAY.search(path):
        raise Refusal(not_found(f"There is nothing at {printable(path)}"))
    headers = tuple(
        (name, each)
        for name, values in request.requestHeaders.getAllRawHeaders()
        for each in values
        if each.rpartition(b" ")[2] not in keys
    )
    return Letter(request.method, path + mark + query, headers, body_of(request, longest), told)


def plain_path(segments: list[bytes]) -> list[bytes]:
    """The path below any prefix: clients append ``/v1/messages`` to whatever their base URL is (PROTOCOL 1.1).

    Other paths are themselves, but for slashes at their end.
    """
    if b"v1" not in segments:
        end = len(segments)
        while end > 1 and not segments[end - 1]:
            end -= 1
        return segments[:end]
    start = segments.index(b"v1")
    while segments[start + 1 : start + 2] == [b"v1"]:
        start += 1
    return segments[start:]


def body_of(request: Request, longest: int) -> bytes:
    """The body as the client meant it, gzip undone, without a mark before its JSON. The request has it no more.

    Raises `Refusal` above ``longest`` bytes, packed or not.
    """
    if getattr(request, "oversized", False):
        raise _too_large(longest)
    body = _taken(request)
    encoding = (request.getHeader(b"content-encoding") or b"identity").decode("ascii", "replace").strip().lower()
    if encoding in ("gzip", "x-gzip"):
        body = _unpacked(body, longest)
    elif encoding != "identity":
        raise Refusal(invalid_request(f"content-encoding: {encoding} is not supported; send the body plain or as gzip"))
    if len(body) > longest:
        raise _too_large(longest)
    return body[len(BOM_UTF8) :] if _MARKED_JSON.match(body) else body


def _taken(request: Request) -> bytes:
    if request.content is None:
        return b""
    body: bytes = request.content.read()
    request.content.seek(0)
    request.content.truncate()  # the request lives as long as its answer
    return body


def _unpacked(body: bytes, longest: int) -> bytes:
    """All members of a gzip body in one (RFC 1952 2.2); of more than ``longest`` bytes one too many is given."""
    plain, place = bytearray(), 0
    for _ in range(_MOST_MEMBERS):
        unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
        while not unpacker.eof:
            if place >= len(body):
                raise Refusal(invalid_request("content-encoding: the gzip body ends too early"))
            packed = body[place : place + _STEP]  # what comes after a member is copied: never all of it
            place += len(packed)
            try:
                plain += unpacker.decompress(packed, longest + 1 - len(plain))
            except zlib.error as fault:
                raise Refusal(invalid_request(f"content-encoding: the body is not valid gzip: {fault}")) from None
            if len(plain) > longest:
                return bytes(plain)
        place -= len(unpacker.unused_data)
        if place == len(body):
            return bytes(plain)
    raise Refusal(invalid_request(f"content-encoding: the gzip body has more than {_MOST_MEMBERS} members"))


def _too_large(longest: int) -> Refusal:
    return Refusal(too_large(f"The request body is larger than {longest // (1024 * 1024)} MB (body_limit_mb)"))
