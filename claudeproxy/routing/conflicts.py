"""Whether settings, each of them good by itself, fit together. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from claudeproxy.routing.declarations import declarations
from claudeproxy.routing.settings import BackendSettings, Settings
from claudeproxy.routing.table import target_of

#: What is below the address that is asked for, and what that is, by the provider.
_PATHS = {
    "ollama": (
        re.compile(r"/(?:v1|api)(?:/.*)?$"),
        "Ollama's root, such as http://127.0.0.1:11434, without /v1 and without /api",
    ),
    "anthropic": (
        re.compile(r"/(?:messages(?:/count_tokens|/batches)?|models|complete)$"),
        "the server's root, such as https://api.anthropic.com, with or without /v1 but with nothing behind it",
    ),
}

Conflict = tuple[tuple[str, ...], str]
"""The settings that do not fit together, the one at fault first, and why."""


def conflicts(settings: Settings) -> Iterator[Conflict]:
    """All that keeps these settings from being used; nothing if they are good. No secret is named."""
    if not (is_loopback(settings.host) or settings.keys):
        ways_out = "set CLAUDEPROXY_KEYS, or leave HOST on 127.0.0.1"
        yield (("host", "keys"), f"{settings.host!r} can be reached from other machines, which needs keys: {ways_out}")
    if settings.keys_file:
        yield (("keys_file",), "is read by the daemon alone; a program gives the keys themselves")
    seen: set[str] = set()
    for backend in settings.backends:
        if backend.name.casefold() in seen:
            yield ((f"backends.{backend.name}",), "another backend has the same name")
        seen.add(backend.name.casefold())
        yield from _conflicts_of(backend)
    targets = {f"models.{name}": target for name, target in settings.models.items()}
    for name, target in {"default_model": settings.default_model, **targets}.items():
        if target and not target_of(target, settings.backends).model:
            yield ((name, "backends"), f"expected a model after the backend's name, found {target!r}")


def _conflicts_of(backend: BackendSettings) -> Iterator[Conflict]:
    provider = f"backends.{backend.name}.provider"
    if backend.api_key_file:
        yield ((f"backends.{backend.name}.api_key_file",), "is read by the daemon alone; a program gives api_key")
    for declared in declarations(BackendSettings):
        name = f"backends.{backend.name}.{declared.name}"
        if backend.provider not in declared.only_for and getattr(backend, declared.name) != declared.default:
            fitting = " or ".join(declared.only_for)
            yield ((name, provider), f"is for the provider {fitting}, not for {backend.provider}")
        elif declared.name == "base_url" and backend.provider in declared.only_for and not backend.base_url:
            yield ((name, provider), f"expected {declared.expects.words}, found nothing")
        elif declared.name == "base_url" and backend.provider in _PATHS:
            path, root = _PATHS[backend.provider]
            if path.search(backend.base_url):
                yield ((name, provider), f"expected {root}, found {backend.base_url!r}")


def is_loopback(host: str) -> bool:
    """True if only this machine can reach it: 127.0.0.0/8, ::1 and localhost."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.casefold() == "localhost"
    return address == ipaddress.IPv6Address("::1") or address in ipaddress.IPv4Network("127.0.0.0/8")
