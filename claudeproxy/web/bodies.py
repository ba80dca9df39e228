"""A request's body, whole and decoded."""

import zlib

from twisted.web.http import Request

from claudeproxy.model.problems import Refusal, invalid_request, too_large


def body_of(request: Request, longest: int) -> bytes:
    """The body as the client meant it, gzip undone. Raises `Refusal` above ``longest`` bytes, packed or not."""
    if getattr(request, "oversized", False):
        raise _too_large(longest)
    body = b"" if request.content is None else request.content.read()
    encoding = (request.getHeader(b"content-encoding") or b"identity").decode("ascii", "replace").strip().lower()
    if encoding in ("gzip", "x-gzip"):
        body = _unpacked(body, longest)
    elif encoding != "identity":
        raise Refusal(invalid_request(f"content-encoding: {encoding} is not supported; send the body plain or as gzip"))
    if len(body) > longest:
        raise _too_large(longest)
    return body


def _unpacked(body: bytes, longest: int) -> bytes:
    unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        plain = unpacker.decompress(body, longest + 1)
    except zlib.error as fault:
        raise Refusal(invalid_request(f"content-encoding: the body is not valid gzip: {fault}")) from None
    if not unpacker.eof and len(plain) <= longest:
        raise Refusal(invalid_request("content-encoding: the gzip body ends too early"))
    return plain


def _too_large(longest: int) -> Refusal:
    return Refusal(too_large(f"The request body is larger than {longest // (1024 * 1024)} MB (body_limit_mb)"))
