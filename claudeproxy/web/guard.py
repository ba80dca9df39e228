"""Who may ask at all: pure decisions about a request's Host, Origin and key."""

from collections.abc import Iterable
from functools import lru_cache
from hmac import compare_digest
from ipaddress import ip_address
from urllib.parse import urlsplit

from claudeproxy.model.problems import Problem, forbidden, unauthenticated


def check_host(host: str, listening_on: str, allowed: Iterable[str]) -> Problem | None:
    """Whether a request for ``host`` (the Host header) may come in.

    A web page can make a browser ask a name of its own that it has pointed at this machine (DNS rebinding): the Host
    header then tells that name. An address can never be such a name, and localhost is always this machine.
    """
    name = _name_of(host)
    if not name or name == "localhost" or name.endswith(".localhost") or _is_address(name):
        return None
    if name == listening_on.lower() or name in {each.lower() for each in allowed}:
        return None
    return forbidden(f"Host {name!r} is not served here; if it should be, add it to the setting allowed_hosts.")


def check_origin(origin: str | None, fetch_site: str | None, allowed: Iterable[str]) -> Problem | None:
    """Whether a request may come from a web page: only if its origin is allowed by name.

    A page's picture or script is asked for without an Origin; ``fetch_site`` (Sec-Fetch-Site) tells such a one.
    """
    if origin is None and fetch_site in ("cross-site", "same-site"):
        origin = "null"
    if origin is None or origin.lower() in {each.lower().rstrip("/") for each in allowed}:
        return None
    return forbidden("Requests from web pages are not served; the setting allowed_origins makes exceptions.")


def check_key(keys: Iterable[str], api_key: str | None, authorization: str | None) -> Problem | None:
    """Whether one of the two headers carries one of ``keys``; with no keys set, anybody may ask.

    Every key is compared, and each comparison takes as long as any other, so that time tells nothing.
    """
    known = [key.encode() for key in keys]
    if not known:
        return None
    given = [header.encode() for header in (api_key, _bearer(authorization)) if header]
    if not given:
        return unauthenticated("A key is needed: send it as x-api-key or as Authorization: Bearer.")
    matches = [compare_digest(one, other) for one in known for other in given]
    return None if any(matches) else unauthenticated("This key is not known here.")


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
