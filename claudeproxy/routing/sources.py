"""Settings file, environment and command line -> `Settings`, or everything that is wrong with them at once. Pure.

A setting on the command line beats one in the environment, which beats one in the file. What environment or command
line give is pinned: a later reload of the file cannot change it, and is told so. `settle` does all of it, `changes`
compares two of its results.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

from attrs import NOTHING, AttrsInstance

from claudeproxy.model.kinds import define, frozen
from claudeproxy.routing.conflicts import conflicts
from claudeproxy.routing.declarations import PROVIDERS, Declaration, declarations
from claudeproxy.routing.expectations import Unfit
from claudeproxy.routing.findings import Fault, SettingsError, Sources, given, plainly
from claudeproxy.routing.model_maps import MODEL_MAP_FILE, MODEL_MAP_JSON, model_map, model_map_path
from claudeproxy.routing.secret_files import SecretFindings
from claudeproxy.routing.settings import BACKEND_NAME, BackendSettings, Settings

__all__ = [
    "Changes",
    "SettingsError",
    "Settled",
    "Sources",
    "changes",
    "declared",
    "model_map_path",
    "options",
    "settle",
    "verify",
]

_PROVIDER = declarations(BackendSettings)[0]

# ---- what comes in, what goes out


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


def declared() -> tuple[Declaration, ...]:
    """Every setting there is, in the order in which it is explained."""
    return (*declarations(Settings), MODEL_MAP_JSON, MODEL_MAP_FILE, *declarations(BackendSettings))


def options() -> tuple[tuple[str, str], ...]:
    """Name, without the dashes, and meaning of every option of the command line. Each takes a value; none a secret."""
    return tuple((each.option, each.doc.replace("`", "")) for each in declared() if each.option)


def settle(sources: Sources) -> Settled:
    """Read all sources into one set of settings that can be used. Raises `SettingsError` with all faults."""
    reading = _Reading(sources)
    document = reading.toml(sources.config_text or "", "", sources.config_name)
    settings = Settings(
        **reading.values(Settings, document, ""),
        models=model_map(reading, document.get("models", {})),
        backends=reading.backends(document.get("backends", {})),
    )
    reading.check(settings)
    if reading.faults:
        raise SettingsError(reading.faults)
    return Settled(settings, reading.pinned, reading.overruled)


def verify(settings: Settings, found_open: Collection[str] = ()) -> None:
    """Raise `SettingsError` if these settings, made by a program, cannot be used together; ``found_open`` as in
    `conflicts`."""
    if faults := [Fault(names[0], names[0], problem) for names, problem in conflicts(settings, found_open)]:
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


@define
class _Reading(SecretFindings):
    """The reading of all but the model maps."""

    def values(
        self, holder: type[AttrsInstance], table: dict[str, Any], prefix: str, pin: bool = True
    ) -> dict[str, Any]:
        """The good values for a class: those in a table of the file and, if `pin`, those from outside of it."""
        known = {each.name: each for each in declarations(holder)}
        written: dict[str, Any] = {}
        for key, value in table.items():
            if key in known:
                self.where[prefix + key] = self.in_file(prefix + key)
                self.watch_over(known[key], prefix + key, value)
                self._read(known[key], prefix + key, value, _in_toml(known[key], value), written)
            elif prefix or key not in ("models", "backends"):
                self.refuse(prefix + key, self.in_file(prefix + key), _unknown(key, in_backend=bool(prefix)))
        values = dict(written)
        for key, each in known.items():
            name = prefix + key
            for found in given(each, self.sources) if pin else ():
                self.where[name], self.pinned[name] = found.where, found.source
                self._read(each, name, each.expects.from_text(found.text), plainly(found.text), values)
            if key in written and written[key] != values[key]:
                self.overruled[name] = self.pinned[name]
            if each.default is NOTHING and name not in self.where:
                self.refuse(name, self.in_file(name), f"expected {each.expects.words}, found nothing")
        self.fill_in(holder, values, prefix)
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
        name = ["local", *(found.text for found in given(_PROVIDER, self.sources) if found.text in PROVIDERS)][-1]
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

    def check(self, settings: Settings) -> None:
        """Add what does not fit together, but not what only follows from a fault that is known already."""
        for (name, *others), problem in conflicts(settings):
            if not any(map(self.is_faulty, (name, *others))):
                self.refuse(name, self.where.get(name, self.in_file(name)), problem + self._hint(name, *others))
        for option in self.sources.options.keys() - {each.option for each in declared()}:
            self.refuse(option, f"--{option}", "unknown option")

    def _hint(self, name: str, *others: str) -> str:
        """For a setting that no embedded model has, where nobody said that another is wanted."""
        provider, _, key = name.rpartition(".")
        provider += ".provider"
        if provider not in others or provider in self.pinned or self.where.get(provider) != _PROVIDER.env:
            return ""
        known = {each.name: each.only_for for each in declarations(BackendSettings)}
        first, *rest = known[key]
        return f"; set {_PROVIDER.env}={first}" + (f" (or {', '.join(rest)})" if rest else "")


def _in_toml(declared: Declaration, value: object) -> str:
    """A value of the file; if only its quotes make it wrong, that is said."""
    quoted = isinstance(value, str) and declared.expects.from_text(value) != value
    return f"the text {plainly(value)}" if quoted else plainly(value)


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
