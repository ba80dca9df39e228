"""The model maps: of the environment, of a file of their own, and of the settings file, in one. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from claudeproxy.routing.declarations import Declaration
from claudeproxy.routing.expectations import Unfit, text
from claudeproxy.routing.findings import Findings, Sources, given, plainly
from claudeproxy.routing.settings import MODEL_NAME

MODEL_MAP_JSON = Declaration(
    "models",
    "MODEL_MAP_JSON",
    text("an object of model names", ".*"),
    "The model map: name, pattern or family -> model, or `backend/model`. Beats the other two maps name by name.",
    "",
)
MODEL_MAP_FILE = Declaration(
    "",
    "MODEL_MAP_FILE",
    text("the path of a JSON file, or of a TOML file if it ends in .toml", ".*"),
    "The path of a file that holds a model map. Beats [models] name by name.",
    "",
)


def model_map_path(environ: Mapping[str, str], options: Mapping[str, str]) -> str | None:
    """Which file has to be read for `Sources.model_map_text`, as the user wrote it; None if none."""
    found = list(given(MODEL_MAP_FILE, Sources(environ=environ, options=options)))
    return found[-1].text if found else None


def model_map(findings: Findings, table: object) -> dict[str, str]:
    """All of them in one, the strongest first, so that its patterns are tried first too.

    `table` is the one of the settings file.
    """
    merged: dict[str, str] = {}
    spelled: dict[str, str] = {}
    for layer, source in _layers(findings, table):
        for name, target in layer.items():
            winner = spelled.setdefault(name.casefold(), name)
            if winner not in merged:
                merged[name] = target
                findings.pinned |= {f"models.{name}": source} if source else {}
            elif source is None and merged[winner] != target:
                findings.overruled[f"models.{name}"] = findings.pinned[f"models.{winner}"]
    return merged


def _layers(findings: Findings, table: object) -> Iterator[tuple[dict[str, str], str | None]]:
    for found in reversed(list(given(MODEL_MAP_JSON, findings.sources))):
        yield _layer(findings, findings.json(found.text, "models", found.where), found.where), found.source
    for found in list(given(MODEL_MAP_FILE, findings.sources))[-1:]:
        where = f"{found.where} ({found.text})"
        read = findings.toml if found.text.lower().endswith(".toml") else findings.json
        if findings.sources.model_map_text is None:
            findings.refuse("models", found.where, f"expected a file that can be read, found {found.text!r}")
        else:
            yield _layer(findings, read(findings.sources.model_map_text, "models", where), where), found.source
    yield _layer(findings, table, findings.in_file("models")), None


def _layer(findings: Findings, table: object, where: str) -> dict[str, str]:
    good: dict[str, str] = {}
    spelled: dict[str, str] = {}
    if not isinstance(table, dict):
        findings.refuse("models", where, f"expected {MODEL_MAP_JSON.expects.words}")
        return good
    for name, target in table.items():
        findings.where.setdefault(f"models.{name}", where)
        try:
            good[MODEL_NAME.read(name)] = MODEL_NAME.read(target)
        except Unfit as unfit:
            hint = " (a name with a dot needs quotes)" if isinstance(target, dict) else ""
            findings.refuse(f"models.{name}", where, f"{unfit}, found {name!r} = {plainly(target)}{hint}")
        if (other := spelled.setdefault(name.casefold(), name)) != name:
            findings.refuse(f"models.{name}", where, f"the names {other!r} and {name!r} differ only by case")
    return good
