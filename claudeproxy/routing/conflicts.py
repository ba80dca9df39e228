"""Whether settings, each of them good by itself, fit together. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from claudeproxy.routing.addresses import Address, is_loopback, simple
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


def conflicts(settings: Settings, found_open: Collection[str] = ()) -> Iterator[Conflict]:
    """All that keeps these settings from being used; nothing if they are good. No secret is named.

    ``found_open`` are those endpoint strings that other machines can reach, though only the start could tell.
    """
    yield from _reachable(settings, found_open)
    if settings.metrics == "admin" and not settings.admin_listen:
        yield (("metrics", "admin_listen"), "'admin' needs an admin listener: set ADMIN_LISTEN, or METRICS=public")
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


def addresses(settings: Settings) -> tuple[Address, ...]:
    """Where it listens: as `listen` says, else as `host` and `port` do."""
    return tuple(map(Address.read, settings.listen)) or (simple(settings.host, settings.port),)


def _reachable(settings: Settings, found_open: Collection[str]) -> Iterator[Conflict]:
    """What other machines could reach, and must not."""
    for each in declarations(Settings):
        if settings.listen and each.name in ("host", "port") and getattr(settings, each.name) != each.default:
            yield ((each.name, "listen"), "has no effect beside listen: say it there, or leave one of them away")
    if settings.open_to_all:
        return
    if not (settings.listen or settings.keys or is_loopback(settings.host)):
        ways_out = "set CLAUDEPROXY_KEYS, or leave HOST on 127.0.0.1"
        yield (("host", "keys"), f"{settings.host!r} can be reached from other machines, which needs keys: {ways_out}")
    for name, listens, remedy in (
        ("listen", () if settings.keys else settings.listen, "which needs keys: set CLAUDEPROXY_KEYS"),
        ("admin_listen", settings.admin_listen, "which it must not be"),
    ):
        for written in listens:
            if Address.read(written).is_open or written in found_open:
                ways_out = f"{remedy}, or listen on an interface such as 127.0.0.1, or set OPEN_TO_ALL=true"
                yield ((name, "keys"), f"{written!r} can be reached from other machines, {ways_out}")


def _conflicts_of(backend: BackendSettings) -> Iterator[Conflict]:
    provider = f"backends.{backend.name}.provider"
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
