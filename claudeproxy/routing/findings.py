"""What was given, and what was found out about it: where each setting stands, and what is wrong. Pure.

No text made here holds a secret: such a value is never repeated, and what TOML and JSON complain of are places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec
from attrs import field

from claudeproxy.model.kinds import define, frozen
from claudeproxy.routing.declarations import Declaration
from claudeproxy.routing.expectations import Unfit


def _nothing_there(path: str) -> str:
    raise Unfit(f"a file that can be read, found {path!r}")


@frozen
class Sources:
    """All that is known before anything is read out of it."""

    config_text: str | None = field(default=None, repr=False)
    """The settings file; None if there is none."""
    config_name: str = "the settings file"
    """What a refusal calls it."""
    environ: Mapping[str, str] = field(factory=dict, repr=False)
    """The whole environment. An empty value is like none."""
    options: Mapping[str, str] = field(factory=dict)
    """Those given on the command line, by the names of `options`."""
    model_map_text: str | None = field(default=None, repr=False)
    """What is in the file that `model_map_path` names; None if it cannot be read."""
    read_secrets: Callable[[str], str] = field(default=_nothing_there, repr=False)
    """Gives what is in a file of secrets that the settings name, or raises `Unfit`."""
    config_is_open: bool = False
    """Other users of the machine can read the settings file."""


@frozen
class Fault:
    """One thing that is wrong."""

    setting: str
    """Its name as in the file; empty if a whole text could not be read."""
    where: str
    """Where the user wrote it: "PORT", "--port", "claudeproxy.toml: port"."""
    problem: str

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}"


class SettingsError(Exception):
    """The settings cannot be used. Holds every fault; its text has a line for each."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(map(str, self.faults)))


@frozen
class Given:
    """A setting's text from outside the file."""

    where: str
    source: str
    text: str


def given(declared: Declaration, sources: Sources) -> Iterator[Given]:
    """What environment and command line say about a setting, the weaker first."""
    if in_environment := sources.environ.get(declared.env):
        yield Given(declared.env, f"environment variable {declared.env}", in_environment)
    if (option := declared.option) and option in sources.options:
        yield Given(f"--{option}", f"option --{option}", sources.options[option])


@define
class Findings:
    """What was learnt so far. A fault never ends the reading: what cannot be read is left out."""

    sources: Sources
    faults: list[Fault] = field(factory=list)
    where: dict[str, str] = field(factory=dict)
    """Setting -> where the user wrote it."""
    pinned: dict[str, str] = field(factory=dict)
    overruled: dict[str, str] = field(factory=dict)

    def refuse(self, name: str, where: str, problem: str) -> None:
        self.faults.append(Fault(name, where, problem))

    def in_file(self, name: str) -> str:
        return f"{self.sources.config_name}: {name}"

    def is_faulty(self, name: str) -> bool:
        """Whether there is a fault of this setting, or of one around it."""
        return any(not fault.setting or f"{name}.".startswith(f"{fault.setting}.") for fault in self.faults)

    def toml(self, content: str, name: str, where: str) -> dict[str, Any]:
        import tomllib  # 0.1 MB that only those need who have a file

        try:
            return tomllib.loads(content)
        except (ValueError, RecursionError) as error:  # beside its own: a number of 5,000 digits, 5,000 brackets
            self.refuse(name, where, f"expected TOML: {error}")
            return {}

    def json(self, content: str, name: str, where: str) -> object:
        try:
            return msgspec.json.decode(content)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            self.refuse(name, where, f"expected JSON: {error}")
            return {}


def plainly(value: object) -> str:
    """A value as a user reads it, bounded."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a table"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    shown = repr(value) if isinstance(value, str) else str(value)
    return shown if len(shown) <= 80 else f"{shown[:80]}…"
