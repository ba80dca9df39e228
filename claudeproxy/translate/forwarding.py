"""Which headers travel with a request that is passed on to an Anthropic server, and which come back (PROTOCOL 1.2, 1.3,
4.4, 4.10).

Open lists: a header that nobody knows goes on, because headers and fields of the body travel in pairs, and new pairs
come with every release of the clients. Left out is what belongs to one connection, what tells of the client or of who
it is, and credentials: those of the client are for us, and the backend gets its own. Pure; headers are (name, value)
in bytes, their order is kept.
"""

from collections.abc import Iterable, Sequence

Header = tuple[bytes, bytes]

#: The id under which our own log knows the request, since ``request-id`` stays the server's.
OUR_ID = b"x-claudeproxy-request-id"
#: What Claude Code and all clients up to now say; for questions of our own.
VERSION: Header = (b"anthropic-version", b"2023-06-01")

#: RFC 9110 7.6.1, and what older texts and clients count with it.
_ONE_CONNECTION = frozenset(
    b"connection keep-alive proxy-connection te trailer transfer-encoding upgrade http2-settings".split()
)
#: What the HTTP client says itself; of a body that we have read whole, and unpacked.
_OF_THE_BODY = frozenset(b"host content-length content-encoding accept-encoding expect".split())
_CREDENTIALS = frozenset(
    b"authorization proxy-authorization x-api-key api-key cookie cookie2 x-goog-api-key x-amz-security-token".split()
)
#: Who the client is and where it comes from: it is the proxy that asks now.
_ORIGIN = frozenset(
    b"forwarded via origin referer x-real-ip x-client-ip true-client-ip cf-connecting-ip fastly-client-ip".split()
)
_ORIGIN_PREFIXES = (b"x-forwarded-", b"sec-")

#: What the server says of its connection to us, of its clock and to its own browsers; our server says the same itself.
_NOT_BACK = _ONE_CONNECTION | frozenset(
    b"content-length server date set-cookie set-cookie2 proxy-authenticate proxy-authentication-info"
    b" strict-transport-security alt-svc".split()
)


def headers_on(given: Iterable[Header], key: str) -> list[Header]:
    """The headers for the server, of those that the client ``given`` and the backend's own ``key``.

    With no key, no credentials are sent at all; the client's own never are. A missing content type is said to be JSON.
    """
    given = list(given)
    unwanted = _ONE_CONNECTION | _OF_THE_BODY | _CREDENTIALS | _ORIGIN | _named_in_connection(given)
    found = [
        (name, value)
        for name, value in given
        if (low := name.lower()) not in unwanted and not low.startswith(_ORIGIN_PREFIXES)
    ]
    if not any(name.lower() == b"content-type" for name, _ in found):
        found.append((b"content-type", b"application/json"))
    return found + credentials(key)


def headers_back(given: Iterable[Header], our_id: str = "", rewritten: bool = False) -> list[Header]:
    """The headers for the client, of those that the server ``given``.

    ``content-encoding`` stays: it must be true of the bytes that are passed on. ``our_id`` is added under `OUR_ID`, in
    the place of any that another claudeproxy behind us has set. Of an answer that is ``rewritten`` nothing comes back
    that tells of its body.
    """
    given = list(given)
    unwanted = _NOT_BACK | _named_in_connection(given) | ({OUR_ID} if our_id else set())
    found = [
        (name, value)
        for name, value in given
        if (low := name.lower()) not in unwanted
        and not (rewritten and (low.startswith(b"content-") or low in (b"etag", b"digest", b"last-modified")))
    ]
    return [*found, (OUR_ID, our_id.encode("ascii", "replace"))] if our_id else found


def credentials(key: str) -> list[Header]:
    """How a backend's key is shown to it.

    Anthropic's own keys go where Anthropic looks for each: a token of a login is a bearer's, an API key is not. Of
    other servers some read only the one header (vLLM), some only the other, and none minds both (PROTOCOL 1.2, 4.4).
    """
    if not key:
        return []
    secret = key.encode("utf-8")
    bearer, own = (b"authorization", b"Bearer " + secret), (b"x-api-key", secret)
    if key.startswith("sk-ant-oat"):
        return [bearer]
    return [own] if key.startswith("sk-ant-") else [own, bearer]


def _named_in_connection(given: Sequence[Header]) -> frozenset[bytes]:
    """What a peer declares to be of this connection only."""
    lists = (value for name, value in given if name.lower() == b"connection")
    return frozenset(option.strip().lower() for value in lists for option in value.split(b",")) - {b"", b"content-type"}
