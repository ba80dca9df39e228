"""The README's tables of settings and of dialects, made from what declares them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from attrs import NOTHING, asdict

from claudeproxy.routing.declarations import Declaration, declarations
from claudeproxy.routing.settings import BackendSettings
from claudeproxy.routing.sources import declared
from claudeproxy.translate.dialects import DIALECTS
from claudeproxy.wire.json import encode_text

_HEADINGS = ("In the file", "Environment", "Command line", "Type", "Default", "Meaning")


def reference() -> str:
    """A Markdown table with a row for each setting, ending in a line end."""
    of_backends = declarations(BackendSettings)
    rows = (_cells(each, "backends.NAME." if each in of_backends else "") for each in declared())
    return "".join(f"{line}\n" for line in _lines(rows))


def dialects() -> str:
    """A Markdown table with a row for each dialect: the cells in which it differs from `generic`, which has all."""
    headings = ("Dialect", "Cells")
    generic = asdict(DIALECTS["generic"])
    rows = [("generic", generic)]
    for name, dialect in DIALECTS.items():
        if name != "generic":
            cells = asdict(dialect)
            rows.append((name, {cell: value for cell, value in cells.items() if value != generic[cell]}))
    shown = (
        (_code(name), ", ".join(_cell(*pair) for pair in cells.items() if pair[0] != "name")) for name, cells in rows
    )
    return "".join(f"{line}\n" for line in _lines(shown, headings))


def _cell(name: str, value: object) -> str:
    """As it is written in the settings file."""
    return _code(f"{name} = {encode_text(value)}")


def _lines(rows: Iterable[tuple[str, ...]], headings: tuple[str, ...] = _HEADINGS) -> Iterator[str]:
    for row in (headings, ("---",) * len(headings), *rows):
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"


def _cells(setting: Declaration, prefix: str) -> tuple[str, ...]:
    return (
        _code(prefix + setting.name if setting.name else ""),
        _code(setting.env),
        _code(f"--{setting.option}" if setting.option else ""),
        setting.expects.words,
        _default(setting),
        setting.doc,
    )


def _default(setting: Declaration) -> str:
    if setting.default is NOTHING:
        return "must be given"
    if isinstance(setting.default, bool):
        return _code(str(setting.default).lower())
    # Numbers first: 0 says something, an empty text and an empty list do not.
    if isinstance(setting.default, int):
        return _code(str(setting.default))
    return _code(str(setting.default)) if setting.default else "none"


def _code(text: str) -> str:
    return f"`{text}`" if text else ""
