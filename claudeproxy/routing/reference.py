"""The table of all settings, made from their declarations, for the README. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import NOTHING

from claudeproxy.routing.settings import BackendSettings, Declaration, declarations
from claudeproxy.routing.sources import declared

_HEADINGS = ("In the file", "Environment", "Command line", "Type", "Default", "Meaning")


def reference() -> str:
    """A Markdown table with a row for each setting, ending in a line end."""
    of_backends = declarations(BackendSettings)
    rows = (_cells(each, "backends.NAME." if each in of_backends else "") for each in declared())
    return "".join(f"{line}\n" for line in _lines(rows))


def _lines(rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    for row in (_HEADINGS, ("---",) * len(_HEADINGS), *rows):
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
    # Numbers first: 0 says something, an empty text and an empty list do not.
    if isinstance(setting.default, int):
        return _code(str(setting.default))
    return _code(str(setting.default)) if setting.default else "none"


def _code(text: str) -> str:
    return f"`{text}`" if text else ""
