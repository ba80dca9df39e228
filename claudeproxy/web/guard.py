"""Who may ask at all: pure decisions about a request's Host, Origin and key."""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

from claudeproxy.model.problems import Problem, forbidden, invalid_request, unauthenticated
from claudeproxy.routing.addresses import is_loopback
from claudeproxy.routing.keys import Key, digest_of, recognised

#: What a Host header may be (RFC 9110 7.2). Its labels have 1 to 63 characters, else the router cannot take it.
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(
    rf"(?:{_LABEL}(?:\.{_LABEL})*\.?|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._~%-]{{1,40}})?\])?(?::[0-9]{{0,5}})?"
)


def check_one_host(hosts: int, version: bytes) -> Problem | None:
    """Whether a request names its host as often as it must: once, or in HTTP/1.0 not at all (RFC 9112 3.2).

    Of two Host headers another server, or a proxy in front, might take the other one.
    """
    if hosts == 1 or (not hosts and version == b"HTTP/1.0"):
        return None
    return invalid_request(f"Host: expected exactly one such header, found {hosts or 'none'}")


def check_host(host: str, listening_on: Iterable[str], allowed: Iterable[str]) -> Problem | None:
    """Whether a request for ``host`` (the Host header) may come in.

    A web page can make a browser ask a name of its own that it has pointed at this machine (DNS rebinding): the Host
    header then tells that name. An address can never be such a name, and localhost is always this machine.
    ``listening_on`` are the names of the interfaces that it listens on.
    """
    name = host
    if is_host(host):
        name = _name_of(host)
        if not name or name == "localhost" or name.endswith(".localhost") or _is_address(name):
            return None
        if name in {each.lower() for each in (*listening_on, *allowed)}:
            return None
    return forbidden(f"Host {name!r} is not served here; if it should be, add it to the setting allowed_hosts.")


def is_this_machine(host: str) -> bool:
    """Whether a Host header names the very machine that it is read on, and no other."""
    name = _name_of(host)
    return name.endswith(".localhost") or is_loopback(name)


def check_origin(origin: str | None, fetch_site: str | None, allowed: Iterable[str]) -> Problem | None:
    """Whether a request may come from a web page: only if its origin is allowed by name.

    A page's picture or script is asked for without an Origin; ``fetch_site`` (Sec-Fetch-Site) tells such a one.
    """
    if origin is None and fetch_site in ("cross-site", "same-site"):
        origin = "null"
    if origin is None or origin.lower() in {each.lower().rstrip("/") for each in allowed}:
        return None
    return forbidden("Requests from web pages are not served; the setting allowed_origins makes exceptions.")


def check_key(keys: Sequence[Key], api_key: str | None, authorization: str | None) -> Key | Problem | None:
    """Which of ``keys`` one of the two headers carries; with no keys set, anybody may ask, and it is None."""
    if not keys:
        return None
    given = _given(api_key, authorization)
    if not given:
        return unauthenticated("A key is needed: send it as x-api-key or as Authorization: Bearer.")
    found = [recognised(keys, digest_of(each)) for each in given]
    return next(filter(None, found), None) or unauthenticated("This key is not known here.")


def own_keys(keys: Sequence[Key], api_key: str | None, authorization: str | None) -> list[bytes]:
    """What of the two headers is a key to this house, and nobody else's business."""
    given = _given(api_key, authorization) if keys else []
    return [each for each in given if recognised(keys, digest_of(each))]


def _given(api_key: str | None, authorization: str | None) -> list[bytes]:
    return [header.encode() for header in (api_key, _bearer(authorization)) if header]


@lru_cache(256)
def is_host(host: str) -> bool:
    """Whether a Host header can be one at all."""
    return _HOST.fullmatch(host) is not None


@lru_cache(256)
def _name_of(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".").lower()
    except ValueError:
        return host


@lru_cache(256)
def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _bearer(authorization: str | None) -> str | None:
    scheme, _, token = (authorization or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None
