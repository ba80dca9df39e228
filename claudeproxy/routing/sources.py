"""Settings file, environment and command line -> `Settings`, or everything that is wrong with them at once. Pure.

A setting on the command line beats one in the environment, which beats one in the file. What environment or command
line give is pinned: a later reload of the file cannot change it, and is told so. `settle` does all of it, `changes`
compares two of its results.

No text made here holds a secret: such a value is never repeated, and what TOML and JSON complain of are places.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

import msgspec
from attrs import NOTHING, AttrsInstance, define, field, frozen

from claudeproxy.routing.conflicts import conflicts
from claudeproxy.routing.declarations import PROVIDERS, Declaration, declarations
from claudeproxy.routing.expectations import Unfit, text
from claudeproxy.routing.settings import BACKEND_NAME, MODEL_NAME, BackendSettings, Settings

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


# ---- what comes in, what goes out


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


@frozen
class Settled:
    """The settings, and who decided on them. Settings are named as in the file: `port`, `backends.main.base_url`."""

    settings: Settings
    pinned: Mapping[str, str]
    """What environment or command line decided, and which: `port` -> "environment variable PORT"."""
    overruled: Mapping[str, str]
    """Those of them for which the file says something else, in vain."""


@frozen
class Changes:
    """What one `Settled` has that another had not."""

    changed: tuple[str, ...]
    """All settings with a new value. A backend that came or went, or a new order, is `backends`."""
    restart: tuple[str, ...]
    """Those of them that only a restart brings into force."""
    ineffective: Mapping[str, str]
    """What the file says in vain, and what pins it."""


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


def declared() -> tuple[Declaration, ...]:
    """Every setting there is, in the order in which it is explained."""
    return (*declarations(Settings), MODEL_MAP_JSON, MODEL_MAP_FILE, *declarations(BackendSettings))


def options() -> tuple[tuple[str, str], ...]:
    """Name, without the dashes, and meaning of every option of the command line. Each takes a value; none a secret."""
    return tuple((each.option, each.doc.replace("`", "")) for each in declared() if each.option)


def model_map_path(environ: Mapping[str, str], options: Mapping[str, str]) -> str | None:
    """Which file has to be read for `Sources.model_map_text`, as the user wrote it; None if none."""
    given = list(_given(MODEL_MAP_FILE, Sources(environ=environ, options=options)))
    return given[-1].text if given else None


def settle(sources: Sources) -> Settled:
    """Read all sources into one set of settings that can be used. Raises `SettingsError` with all faults."""
    reading = _Reading(sources)
    document = reading.toml(sources.config_text or "", "", sources.config_name)
    settings = Settings(
        **reading.values(Settings, document, ""),
        models=reading.models(document.get("models", {})),
        backends=reading.backends(document.get("backends", {})),
    )
    reading.check(settings)
    if reading.faults:
        raise SettingsError(reading.faults)
    return Settled(settings, reading.pinned, reading.overruled)


def verify(settings: Settings) -> None:
    """Raise `SettingsError` if these settings, made by a program, cannot be used together."""
    if faults := [Fault(names[0], names[0], problem) for names, problem in conflicts(settings)]:
        raise SettingsError(faults)


def changes(old: Settled, new: Settled) -> Changes:
    """What a reload from `old` to `new` changes, and what it cannot."""
    before, after = _flat(old.settings), _flat(new.settings)
    changed = tuple(name for name, value in after.items() if name in before and before[name] != value)
    restart = tuple(each.name for each in declarations(Settings) if each.restart and each.name in changed)
    return Changes(changed, restart, new.overruled)


def _flat(settings: Settings) -> dict[str, object]:
    flat: dict[str, object] = {each.name: getattr(settings, each.name) for each in declarations(Settings)}
    flat |= {"models": [*settings.models.items()], "backends": [backend.name for backend in settings.backends]}
    for backend in settings.backends:
        for each in declarations(BackendSettings):
            flat[f"backends.{backend.name}.{each.name}"] = getattr(backend, each.name)
    return flat


# ---- reading


@frozen
class _Given:
    """A setting's text from outside the file."""

    where: str
    source: str
    text: str


def _given(declared: Declaration, sources: Sources) -> Iterator[_Given]:
    """What environment and command line say about a setting, the weaker first."""
    if in_environment := sources.environ.get(declared.env):
        yield _Given(declared.env, f"environment variable {declared.env}", in_environment)
    if (option := declared.option) and option in sources.options:
        yield _Given(f"--{option}", f"option --{option}", sources.options[option])


@define
class _Reading:
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

    def values(
        self, holder: type[AttrsInstance], table: dict[str, Any], prefix: str, pin: bool = True
    ) -> dict[str, Any]:
        """The good values for a class: those in a table of the file and, if `pin`, those from outside of it."""
        known = {each.name: each for each in declarations(holder)}
        written: dict[str, Any] = {}
        for key, value in table.items():
            if key in known:
                self.where[prefix + key] = self.in_file(prefix + key)
                self._read(known[key], prefix + key, value, _in_toml(known[key], value), written)
            elif prefix or key not in ("models", "backends"):
                self.refuse(prefix + key, self.in_file(prefix + key), _unknown(key, in_backend=bool(prefix)))
        values = dict(written)
        for key, each in known.items():
            name = prefix + key
            for given in _given(each, self.sources) if pin else ():
                self.where[name], self.pinned[name] = given.where, given.source
                self._read(each, name, each.expects.from_text(given.text), _plainly(given.text), values)
            if key in written and written[key] != values[key]:
                self.overruled[name] = self.pinned[name]
            if each.default is NOTHING and name not in self.where:
                self.refuse(name, self.in_file(name), f"expected {each.expects.words}, found nothing")
        return values

    def _read(self, declared: Declaration, name: str, value: object, shown: str, values: dict[str, Any]) -> None:
        try:
            values[declared.name] = declared.expects.read(value)
        except Unfit as unfit:
            found = "" if unfit.hidden or declared.expects.secret else f", found {shown}"
            self.refuse(name, self.where[name], f"{unfit}{found}")

    def backends(self, tables: object) -> tuple[BackendSettings, ...]:
        """The backends of the file, the first one as the environment wants it; or the one which that describes."""
        if not isinstance(tables, dict):
            self.refuse("backends", self.in_file("backends"), "expected tables such as [backends.main]")
        elif tables:
            return tuple(self._backend(name, table, first=not at) for at, (name, table) in enumerate(tables.items()))
        provider = declarations(BackendSettings)[0]
        name = ["local", *(given.text for given in _given(provider, self.sources) if given.text in PROVIDERS)][-1]
        self.where |= {f"backends.{name}.{each.name}": each.env for each in declarations(BackendSettings)}
        return (BackendSettings(name, **{"provider": name} | self.values(BackendSettings, {}, f"backends.{name}.")),)

    def _backend(self, name: str, table: object, *, first: bool) -> BackendSettings:
        prefix = f"backends.{name}"
        try:
            BACKEND_NAME.read(name)
        except Unfit as unfit:
            self.refuse(prefix, self.in_file("backends"), f"{unfit}, found {name!r}")
        if not isinstance(table, dict):
            self.refuse(prefix, self.in_file(prefix), f"expected a table [{prefix}]")
            return BackendSettings(name, "local")
        values = self.values(BackendSettings, table, f"{prefix}.", pin=first)
        return BackendSettings(name, **{"provider": "local"} | values)

    def models(self, table: object) -> dict[str, str]:
        """All model maps in one, the strongest first, so that its patterns are tried first too."""
        merged: dict[str, str] = {}
        spelled: dict[str, str] = {}
        for layer, source in self._model_maps(table):
            for name, target in layer.items():
                winner = spelled.setdefault(name.casefold(), name)
                if winner not in merged:
                    merged[name] = target
                    self.pinned |= {f"models.{name}": source} if source else {}
                elif source is None and merged[winner] != target:
                    self.overruled[f"models.{name}"] = self.pinned[f"models.{winner}"]
        return merged

    def _model_maps(self, table: object) -> Iterator[tuple[dict[str, str], str | None]]:
        for given in reversed(list(_given(MODEL_MAP_JSON, self.sources))):
            yield self._model_map(self.json(given.text, "models", given.where), given.where), given.source
        for given in list(_given(MODEL_MAP_FILE, self.sources))[-1:]:
            where = f"{given.where} ({given.text})"
            read = self.toml if given.text.lower().endswith(".toml") else self.json
            if self.sources.model_map_text is None:
                self.refuse("models", given.where, f"expected a file that can be read, found {given.text!r}")
            else:
                yield self._model_map(read(self.sources.model_map_text, "models", where), where), given.source
        yield self._model_map(table, self.in_file("models")), None

    def _model_map(self, table: object, where: str) -> dict[str, str]:
        good: dict[str, str] = {}
        spelled: dict[str, str] = {}
        if not isinstance(table, dict):
            self.refuse("models", where, f"expected {MODEL_MAP_JSON.expects.words}")
            return good
        for name, target in table.items():
            self.where.setdefault(f"models.{name}", where)
            try:
                good[MODEL_NAME.read(name)] = MODEL_NAME.read(target)
            except Unfit as unfit:
                hint = " (a name with a dot needs quotes)" if isinstance(target, dict) else ""
                self.refuse(f"models.{name}", where, f"{unfit}, found {name!r} = {_plainly(target)}{hint}")
            if (other := spelled.setdefault(name.casefold(), name)) != name:
                self.refuse(f"models.{name}", where, f"the names {other!r} and {name!r} differ only by case")
        return good

    def toml(self, content: str, name: str, where: str) -> dict[str, Any]:
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

    def check(self, settings: Settings) -> None:
        """Add what does not fit together, but not what only follows from a fault that is known already."""
        for (name, *others), problem in conflicts(settings):
            if not any(map(self._faulty, (name, *others))):
                self.refuse(name, self.where.get(name, self.in_file(name)), problem)
        for option in self.sources.options.keys() - {each.option for each in declared()}:
            self.refuse(option, f"--{option}", "unknown option")

    def _faulty(self, name: str) -> bool:
        return any(not fault.setting or f"{name}.".startswith(f"{fault.setting}.") for fault in self.faults)


def _plainly(value: object) -> str:
    """A value as a user reads it, bounded."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a table"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    shown = repr(value) if isinstance(value, str) else str(value)
    return shown if len(shown) <= 80 else f"{shown[:80]}…"


def _in_toml(declared: Declaration, value: object) -> str:
    """A value of the file; if only its quotes make it wrong, that is said."""
    quoted = isinstance(value, str) and declared.expects.from_text(value) != value
    return f"the text {_plainly(value)}" if quoted else _plainly(value)


def _unknown(key: str, in_backend: bool) -> str:
    """Why this key is refused, and what the user may have meant."""
    top = [*(each.name for each in declarations(Settings)), "models", "backends"]
    backend = [each.name for each in declarations(BackendSettings)]
    here, there = (backend, top) if in_backend else (top, backend)
    if key in there:
        place = "the top of the file, above the first [table]" if in_backend else "a table such as [backends.main]"
        return f"unknown here; it belongs to {place}"
    close = get_close_matches(key, here, 1)
    return f"unknown setting; did you mean {close[0]!r}?" if close else "unknown setting"
