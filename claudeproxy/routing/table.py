"""Model names: which backend and which of its models a request goes to. Pure.

A name is looked for (issue 2, item 2)

1. exactly,
2. by glob, in written order; `*` and `?` are the only wildcards, since a name may end in `[1m]`,
3. among the backends: `backend/model`, with the very name of a backend, is that model there,
4. by family: the entry that is the family's word, else the first written one whose name contains it,
5. among the models that the backends have told of, if one has that very name (`web.live` looks there),
6. in the default model,
7. and if there is none: in the map's only target if there is just one, else it goes to the default backend as it came.

`anthropic/` in front of a name that nothing else here knows is taken off: Claude Code's picker shows only names with
that word or `claude` in them, so that `GET /v1/models` lists the others under such an alias as well.

Case never matters. A name is looked for as it came, and then without `[1m]` and a date such as `-20250929` at its end;
an exact name of the map is found without them as well.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from fnmatch import translate

from attrs import field

from claudeproxy.model.kinds import define, frozen
from claudeproxy.routing.settings import BackendSettings, Settings

PICKED = "anthropic/"
"""In front of a name it makes an alias of it."""
FAMILIES = ("opus", "sonnet", "haiku", "fable", "mythos")

EXACT, PATTERN, ADDRESSED, FAMILY = "exact", "pattern", "backend", "family"
TOLD, DEFAULT, ONLY, UNMAPPED = "told by a backend", "default model", "only target", "as it came"
"""The rules by which a name is found, in their order."""

# Names come from clients: neither their number nor their length may make the memory grow.
_REMEMBERED_NAMES = 1024
_REMEMBERED_LENGTH = 256

_SHOWN = re.compile("claude|anthropic", re.IGNORECASE)
_DATE = re.compile(r"-[0-9]{8}")


@frozen
class Route:
    """Where one request goes."""

    backend: str
    """The name of a backend in the settings."""
    model: str
    """What that backend is asked for."""
    requested: str
    """What the client asked for, untouched."""
    sure: bool = field(default=True, eq=False)
    """False if nothing but the default, or having one target only, leads there."""
    rule: str = field(default="", eq=False)
    """By which rule it was found."""


@frozen
class Target:
    """A backend's name and a model there."""

    backend: str
    model: str


Found = tuple[Target, str]
"""Where a name leads, and by which rule."""


def target_of(text: str, backends: Sequence[BackendSettings]) -> Target:
    """Read a target: `backend/model` if a backend has that very name, else all of it is a model of the default one.

    Model names may contain slashes. So a single backend that is only called what its provider is called, as the
    environment makes it, takes no name off: `openai/gpt-oss-20b` is then a model's whole name.
    """
    default = backends[0]
    return _addressed(text, backends) or Target(default.name, text)


def _addressed(text: str, backends: Sequence[BackendSettings]) -> Target | None:
    head, slash, rest = text.partition("/")
    unnamed = len(backends) == 1 and backends[0].name == backends[0].provider
    if slash and not unnamed and any(backend.name == head for backend in backends):
        return Target(head, rest)
    return None


def plain(name: str) -> str:
    """A casefolded name without `[1m]` and without a trailing date."""
    shorter = name.removesuffix("[1m]")
    if _DATE.fullmatch(shorter[-9:]):
        shorter = shorter[:-9]
    return shorter or name


def is_shown(name: str) -> bool:
    """True if Claude Code's picker shows the name as it is (PROTOCOL 7.4)."""
    return _SHOWN.search(name) is not None


def is_alias(name: str) -> bool:
    """True if the name may be one of ours for a model that the picker would not show; OpenRouter's own
    `anthropic/claude-opus-4.5` is none."""
    return name.startswith(PICKED) and len(name) > len(PICKED) and not is_shown(name.removeprefix(PICKED))


def is_glob(name: str) -> bool:
    """True if this name of the map is a pattern."""
    return "*" in name or "?" in name


@define(eq=False)
class ModelTable:
    """Names to routes for one state of the settings; remembers what it found."""

    _names: tuple[str, ...]
    _exact: dict[str, Target]
    _plain: dict[str, Target]
    _globs: tuple[tuple[re.Pattern[str], Target], ...]
    _families: tuple[tuple[str, Target], ...]
    _otherwise: Found | None
    _backends: tuple[BackendSettings, ...]
    _remembered: dict[str, Route] = field(factory=dict, init=False)

    @classmethod
    def of(cls, settings: Settings) -> ModelTable:
        """Make the table. The settings are taken to be free of conflicts."""
        targets = {name.casefold(): target_of(text, settings.backends) for name, text in settings.models.items()}
        written = (name for name in settings.models if not is_glob(name))
        exact = {name: target for name, target in targets.items() if not is_glob(name)}
        shortened: dict[str, Target] = {}
        for name, target in exact.items():
            shortened.setdefault(plain(name), target)
        otherwise: Found | None = None
        if settings.default_model:
            otherwise = target_of(settings.default_model, settings.backends), DEFAULT
        elif len(set(targets.values())) == 1:
            otherwise = next(iter(targets.values())), ONLY
        return cls(
            names=tuple(dict.fromkeys(filter(None, (*written, settings.default_model)))),
            exact=exact,
            plain=shortened,
            globs=tuple((_pattern(name), target) for name, target in targets.items() if is_glob(name)),
            families=tuple(_families(targets)),
            otherwise=otherwise,
            backends=settings.backends,
        )

    def names(self) -> tuple[str, ...]:
        """The map's names that are not patterns, and the default model's, as written: for GET /v1/models."""
        return self._names

    def route(self, name: str) -> Route:
        """Where a request for this model goes. Every name has a route."""
        known = self._remembered.get(name)
        if known is not None:
            return known
        plainly = name.removeprefix(PICKED) if self._known(name) is None and is_alias(name) else name
        found = self._known(plainly)
        target, rule = found or self._otherwise or (Target(self._backends[0].name, plainly), UNMAPPED)
        route = Route(target.backend, target.model, name, found is not None, rule)
        if len(name) <= _REMEMBERED_LENGTH:
            if len(self._remembered) >= _REMEMBERED_NAMES:
                self._remembered.clear()
            self._remembered[name] = route
        return route

    def _known(self, name: str) -> Found | None:
        folded = name.casefold()
        written = self._written(folded)
        if written is not None:
            return written
        addressed = _addressed(name, self._backends)
        return (addressed, ADDRESSED) if addressed and addressed.model else self._of_family(folded)

    def _written(self, name: str) -> Found | None:
        short = plain(name)
        exact = self._exact.get(name) or self._exact.get(short) or self._plain.get(short)
        if exact:
            return exact, EXACT
        matching = (target for form in (name, short) for glob, target in self._globs if glob.match(form))
        return next(((target, PATTERN) for target in matching), None)

    def _of_family(self, name: str) -> Found | None:
        return next(((target, FAMILY) for family, target in self._families if family in name), None)


def _pattern(glob: str) -> re.Pattern[str]:
    # What `translate` makes never backtracks, so that no name of a client can keep it busy.
    return re.compile(translate(glob.replace("[", "[[]")))


def _families(targets: dict[str, Target]) -> Iterable[tuple[str, Target]]:
    for family in FAMILIES:
        named: Collection[Target] = [target for name, target in targets.items() if family in name]
        if named:
            yield family, targets.get(family) or next(iter(named))
