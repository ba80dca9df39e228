"""``python -m claudeproxy env``: the variables that start Claude Code against the proxy, as it is just now."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TextIO

from attrs import evolve
from twisted.python.usage import UsageError

from claudeproxy.backends.kindred import is_hosted
from claudeproxy.backends.unusable import UnusableModel
from claudeproxy.routing.settings import BackendSettings, Settings
from claudeproxy.routing.sources import SettingsError
from claudeproxy.routing.table import ModelTable
from claudeproxy.service.asking import KEY_VARIABLE, Daemon, NetworkCommand, NoAnswer, address_of, here, write_json
from claudeproxy.service.claude_env import Entries, Facts, as_shell, main_model, notes, variables
from claudeproxy.service.commands import DONE, FAILED, MISUSED
from claudeproxy.service.reading import Unreadable
from claudeproxy.service.surveying import survey

_UNAUTHENTICATED = 401


class Command(NetworkCommand):
    """Asks the running daemon what its models can do or, if none runs, the backends."""

    synopsis = "[options]"
    longdesc = (
        'Made for eval "$(python -m claudeproxy env)"; the comments say why each is there. The daemon is the one that '
        "the settings describe (--config and the environment), or the one at --url."
    )
    optParameters: ClassVar[list[list[Any]]] = [
        ["url", "u", None, "The address of a daemon, instead of the one that the settings tell."],
        ["model", "m", None, "The model to ask for, instead of the default one."],
        ["key", "k", None, f"A key of the proxy, if it wants one; better in {KEY_VARIABLE}."],
    ]
    #: Else ``eval "$(…)" && claude`` would go on without the variables, and ask Anthropic.
    surrender: ClassVar[str] = "false\n"
    optFlags: ClassVar[list[list[Any]]] = [["export", "e", "Print lines for a shell, as without any option."]]

    def postOptions(self) -> None:
        if self["json"] and self["export"]:
            raise UsageError("env: --json or --export, not both")

    async def act(self, reactor: Any, out: TextIO, err: TextIO) -> int:
        environ, folder = here()
        try:
            facts = await self._facts(reactor, environ, folder)
        except (SettingsError, Unreadable, UnusableModel) as fault:
            return self.fails(fault, MISUSED, out, err)
        except NoAnswer as fault:
            return self.fails(fault, FAILED, out, err)
        wanted = self["model"] or ""
        found, more = list(variables(facts, wanted, list(environ))), list(notes(facts, wanted))
        if self["json"]:
            told = {
                "variables": {each.name: each.value for each in found},
                "why": {each.name: each.why for each in found},
            }
            write_json(out, {**told, "notes": more})
        else:
            out.write("\n".join(as_shell(found, more)) + "\n")
        return DONE

    async def _facts(self, reactor: Any, environ: Mapping[str, str], folder: Path) -> Facts:
        key = self["key"] or environ.get(KEY_VARIABLE, "")
        if self["url"] is not None:
            return Facts(self["url"].rstrip("/"), await _listed(self["url"], key, reactor), key, bool(key))
        settings = self.read(environ, folder).settings
        url = address_of(settings)
        facts = Facts(url, {}, key, bool(settings.keys), settings)
        try:
            facts = evolve(facts, entries=await _listed(url, key, reactor))
        except NoAnswer as fault:
            if fault.status and fault.status != _UNAUTHENTICATED:
                raise
            # None runs, or it does not let us in: the backends tell the same.
            facts = evolve(facts, needs_key=facts.needs_key or fault.status == _UNAUTHENTICATED)
            surveyed = await survey(settings, reactor)
            facts = evolve(facts, entries=surveyed.catalogue())
            problems = [each.problem for each in surveyed.findings]
            if all(problems) and not main_model(facts, self["model"] or ""):
                raise NoAnswer(f"{fault}; and no backend does: {problems[0]}") from None
        backend = _backend_of(main_model(facts, self["model"] or ""), settings)
        hosted = backend.provider != "local" and is_hosted(backend.base_url)
        return evolve(facts, own_server=not hosted, anthropic=hosted and backend.provider == "anthropic")


def _backend_of(model: str, settings: Settings) -> BackendSettings:
    """Where the main model's requests go, as far as the settings tell."""
    name = ModelTable.of(settings).route(model or "claude-sonnet-4-5").backend
    return next((each for each in settings.backends if each.name == name), settings.backends[0])


async def _listed(url: str, key: str, reactor: Any) -> Entries:
    daemon = Daemon.at(url, key, reactor)
    try:
        said = await daemon.get("/v1/models?limit=1000")
    finally:
        await daemon.close()
    data = said.get("data") if isinstance(said, dict) else None
    if not isinstance(data, list):
        raise NoAnswer(f"what answers at {url} is no claudeproxy; name another address with --url", 200)
    return {each["id"]: each for each in data if isinstance(each, dict) and isinstance(each.get("id"), str)}
