"""``python -m claudeproxy check``: whether the daemon could serve with these settings, and what it would serve."""

import stat
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, TextIO

from attrs import asdict

from claudeproxy.backends.interfaces import Abilities, Offer
from claudeproxy.backends.unusable import BadTokenizer, UnusableModel
from claudeproxy.routing.declarations import declarations
from claudeproxy.routing.keys import shows_keys
from claudeproxy.routing.secret_files import CLIENT_KEYS
from claudeproxy.routing.settings import BackendSettings, Settings
from claudeproxy.routing.sources import SettingsError, Settled, options
from claudeproxy.service.asking import NetworkCommand, here, write_json, write_lines
from claudeproxy.service.commands import DONE, FAILED, MISUSED
from claudeproxy.service.judging import Judgement, judge
from claudeproxy.service.listening import BadAddress
from claudeproxy.service.reading import Unreadable
from claudeproxy.service.rehearsal import rehearse
from claudeproxy.service.surveying import Finding, Survey, survey
from claudeproxy.service.workshop import check_files

#: So many models of a backend are shown; JSON has them all.
_SHOWN = 20


class Command(NetworkCommand):
    """Takes the options of the daemon, reads its environment, and asks every backend once. Nothing is started."""

    synopsis = "[options]"
    longdesc = (
        "Exits with 0 if all is well, with 1 if a backend does not answer or does not offer what the model map wants, "
        "and with 2 if the settings are wrong. Takes the daemon's options."
    )
    optParameters: ClassVar[list[list[Any]]] = [[name, None, None, meaning] for name, meaning in options()]

    async def act(self, reactor: Any, out: TextIO, err: TextIO) -> int:
        environ, folder = here()
        given = {name: self[name] for name, _ in options() if self[name] is not None}
        try:
            settled = self.read(environ, folder, given)
            check_files(settled.settings)
            rehearse(settled.settings, reactor)
        except (SettingsError, Unreadable, UnusableModel, BadTokenizer, BadAddress) as fault:
            return self.fails(fault, MISUSED, out, err, settings="bad")
        surveyed = await survey(settled.settings, reactor)
        config = None if self["config"] is None else folder / self["config"]
        judgement = judge(surveyed, _exposed(config, settled))
        if self["json"]:
            write_json(out, as_json(surveyed, judgement))
        else:
            write_lines(out, as_text(surveyed, judgement))
        return FAILED if judgement.faults else DONE


def _exposed(config: Path | None, settled: Settled) -> str:
    """The settings file, if it holds secrets and others can read it."""
    if config is None or not config.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return ""
    settings, written = settled.settings, tomllib.loads(config.read_text("utf-8-sig"))
    secrets = [each.name for each in declarations(Settings) if each.expects.secret and getattr(settings, each.name)]
    secrets = [name for name in secrets if name not in CLIENT_KEYS or shows_keys(written.get(name))]
    for backend in settings.backends:
        for each in declarations(BackendSettings):
            if each.expects.secret and getattr(backend, each.name):
                secrets.append(f"backends.{backend.name}.{each.name}")
    return str(config) if any(name not in settled.pinned for name in secrets) else ""


def as_json(surveyed: Survey, judgement: Judgement) -> dict[str, Any]:
    """All of it, for programs."""
    return {
        "settings": "good",
        "backends": [
            {
                "name": each.settings.name,
                "provider": each.settings.provider,
                "place": each.place,
                "answers": None if each.settings.provider == "local" else not each.problem,
                "problem": each.problem,
                "dialect": each.dialect,
                "told_by": each.told_by,
                "slots": each.slots,
                "models": [_model(offer) for offer in each.offers],
            }
            for each in surveyed.findings
        ],
        "targets": [asdict(each) for each in judgement.targets],
        "faults": list(judgement.faults),
        "warnings": list(judgement.warnings),
    }


def _model(offer: Offer) -> dict[str, Any]:
    able = None if offer.abilities is None else asdict(offer.abilities)
    return {"model": offer.model, "window": offer.window, "max_output": offer.max_output, "abilities": able}


def as_text(surveyed: Survey, judgement: Judgement) -> Iterator[str]:
    """The same for people."""
    yield "The settings are good."
    for finding in surveyed.findings:
        yield ""
        yield from _backend(finding)
    if judgement.targets:
        yield ""
        rows = [(each.name, "->", f"{each.backend}/{each.model}", _WORDS[each.offered]) for each in judgement.targets]
        yield from _table(rows)
    for kind, found in (("fault", judgement.faults), ("warning", judgement.warnings)):
        if found:
            yield ""
        yield from (f"{kind}: {words}" for words in found)
    yield ""
    yield "Not ready." if judgement.faults else "Ready."


_WORDS = {True: "offered", False: "NOT OFFERED", None: "taken as it is"}


def _backend(finding: Finding) -> Iterator[str]:
    settings: BackendSettings = finding.settings
    where = "" if finding.place.startswith("the embedded") else f" ({settings.provider})"
    yield f"{finding.place}{where}"
    if finding.problem:
        yield f"  does not answer: {finding.problem}"
        return
    answers = "its file is good, and was not started" if settings.provider == "local" else "answers"
    slots = f"; {finding.slots} at once" if finding.slots else ""
    yield f"  {answers}; speaks {finding.dialect} ({finding.told_by}){slots}"
    rows = [
        (each.model, str(each.window or "?"), str(each.max_output or "-"), _able(each.abilities))
        for each in finding.offers[:_SHOWN]
    ]
    if rows:
        yield from (f"    {line}" for line in _table([("MODEL", "WINDOW", "OUTPUT", "CAN"), *rows]))
    if len(finding.offers) > _SHOWN:
        yield f"    and {len(finding.offers) - _SHOWN} more"


def _able(able: Abilities | None) -> str:
    if able is None:
        return "not told"
    named = (("tools", able.tools), ("images", able.images), ("thinking", able.thinking), ("schemas", able.structured))
    words = [name for name, can in named if can]
    return ", ".join(words) + (f" ({' '.join(able.efforts)})" if able.efforts else "") if words else "nothing of it"


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
