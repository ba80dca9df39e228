"""Asks all backends of some settings what they are, without serving anybody."""

import secrets
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from attrs import evolve
from twisted.internet.defer import Deferred, gatherResults

from claudeproxy.backends.gguf import alias_of, context_length, find_gguf
from claudeproxy.backends.interfaces import Backend, Offer
from claudeproxy.backends.kindred import is_hosted
from claudeproxy.model.kinds import frozen
from claudeproxy.model.problems import Refusal
from claudeproxy.routing.settings import BackendSettings, Settings
from claudeproxy.service.observers import Logs
from claudeproxy.service.workshop import Workshop
from claudeproxy.translate.dialects import dialect_of_host
from claudeproxy.web.live import Live
from claudeproxy.web.models import catalogue


@frozen
class Finding:
    """One backend, as it is just now."""

    settings: BackendSettings
    #: What it is and where, in a few words.
    place: str
    #: Why it cannot be asked; "" if it answers.
    problem: str = ""
    #: The kind of server, and who says so.
    dialect: str = ""
    told_by: str = ""
    #: How many answers it makes at once; 0 if it does not tell.
    slots: int = 0
    offers: tuple[Offer, ...] = ()
    #: What its templates have no place for.
    lacks: tuple[str, ...] = ()
    #: It has one model, and answers to every name.
    any_name: bool = False

    @property
    def hosted(self) -> bool:
        """Whether it is a well-known service, rather than somebody's own server."""
        return self.settings.provider != "local" and is_hosted(self.settings.base_url)


@frozen
class Survey:
    """All of them, in the order of the settings."""

    live: Live
    findings: tuple[Finding, ...]

    def catalogue(self) -> dict[str, dict[str, Any]]:
        """What a daemon with these settings says of its models."""
        offers = {each.settings.name: each.offers for each in self.findings}
        return catalogue(self.live.table.names(), self.live.resolve, offers)


async def survey(settings: Settings, reactor: Any) -> Survey:
    """Never raises for a backend that cannot be reached, but `UnusableModel` for an embedded one that cannot be."""
    nowhere: Any = lambda event: None  # noqa: E731 - a log observer
    workshop = Workshop(reactor, Logs(nowhere), lambda: secrets.token_hex(32), lambda: secrets.token_hex(12))
    live = workshop.live(settings)
    looking = [Deferred.fromCoroutine(_look(each, live.backends[each.name])) for each in settings.backends]
    findings = await gatherResults(looking, consumeErrors=True)
    for backend in live.backends.values():
        await backend.close()
    return Survey(live, tuple(findings))


async def _look(settings: BackendSettings, backend: Backend) -> Finding:
    finding = Finding(settings, backend.describe())
    if settings.provider == "local":
        return evolve(
            finding, dialect="llama.cpp", told_by="it is embedded", offers=(_embedded(settings),), any_name=True
        )
    try:
        found = await backend.probe()
    except Refusal as refusal:
        return evolve(finding, problem=refusal.problem.message)
    offers = tuple(await backend.offers())
    facts = [found.facts(name) for name in found.models] or [found.common]
    return evolve(
        finding,
        dialect=found.dialect.name,
        told_by=_told_by(settings, found.dialect.name),
        slots=found.slots,
        offers=offers,
        lacks=tuple(dict.fromkeys(lack for each in facts for lack in each.lacks)),
        any_name=found.dialect.name == "llama.cpp" and found.ask is None,
    )


def _told_by(settings: BackendSettings, dialect: str) -> str:
    if settings.provider in ("ollama", "responses", "anthropic"):
        return f"the provider is set to {settings.provider}"
    if settings.dialect != "auto":
        return "the dialect is set"
    if dialect_of_host(urlsplit(settings.base_url).hostname or "") is not None:
        return "its address says so"
    return "nothing told what it is" if dialect == "generic" else "it says so"


def _embedded(settings: BackendSettings) -> Offer:
    path: Path = find_gguf(settings.gguf)
    return Offer(alias_of(path), settings.window or context_length(path) or 0)
