"""Cells of a dialect as a setting: what a backend does otherwise than its family (``translate.dialects``). Pure."""

from collections.abc import Mapping
from typing import Any

import msgspec
from attrs import Attribute, fields_dict

from claudeproxy.routing.expectations import Expectation, Unfit
from claudeproxy.translate.dialects import Dialect

Cells = tuple[tuple[str, Any], ...]

_CELLS: Mapping[str, "Attribute[Any]"] = {name: cell for name, cell in fields_dict(Dialect).items() if name != "name"}
_WORDS = "a table of cells such as { system_midway = 'keep' }"
_KINDS = {str: "a text", bool: "true or false", int: "a whole number"}


def dialect_cells() -> Expectation:
    """A table whose keys are attributes of `Dialect`; kept as pairs, sorted, so that it can be compared and hashed."""

    def read(value: object) -> Cells:
        match value:
            case dict():
                pairs = [*value.items()]
            case tuple():
                pairs = [*value]
            case _:
                raise Unfit(_WORDS)
        return tuple(sorted((str(name), _cell(str(name), given)) for name, given in pairs))

    def from_text(text: str) -> object:
        try:
            return msgspec.json.decode(text) if text else {}
        except (msgspec.DecodeError, ValueError):
            return text

    return Expectation(_WORDS, read, from_text)


def _cell(name: str, given: Any) -> Any:
    cell = _CELLS.get(name)
    if cell is None:
        raise Unfit(f"a cell among {', '.join(_CELLS)}; there is no {name!r}")
    choices = getattr(cell.validator, "options", None)
    if choices is not None:
        if given not in choices:
            raise Unfit(f"one of {', '.join(map(repr, choices))} as {name}")
        return given
    if cell.type in _KINDS:
        if type(given) is not cell.type:
            raise Unfit(f"{_KINDS[cell.type]} as {name}")
        return given
    if not isinstance(given, list | tuple) or not all(isinstance(each, str) for each in given):
        raise Unfit(f"a list of texts as {name}")
    return tuple(given)
