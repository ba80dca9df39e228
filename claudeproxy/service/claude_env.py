"""The variables that start Claude Code against a proxy, each with its reason. Pure."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from attrs import field

from claudeproxy.model.kinds import frozen
from claudeproxy.routing.settings import Settings
from claudeproxy.routing.table import EXACT, FAMILIES, FAMILY, PATTERN, PICKED, ModelTable

#: Below this window not even the tools of Claude Code fit.
_BARE = 16_384
#: Claude Code compacts 13,000 tokens and one answer below the window that it is told. Of a window below this one that
#: leaves too little: it is told of so many more, and keeps an eighth of the window for an answer (README).
_SMALL, _MORE, _ANSWER = 100_000, 10_000, 8
#: For a server of somebody's own, which may read a prompt for long: an hour.
_PATIENCE_MS = 3_600_000
#: The families that have a variable of their own.
_DEFAULTS = ("haiku", "sonnet", "opus")
_CLAUDE = "claude-"

Entries = Mapping[str, Mapping[str, Any]]


@frozen
class Variable:
    """One variable; without a value it is to be unset."""

    name: str
    value: str | None
    why: str


@frozen
class Facts:
    """What is known of the proxy."""

    url: str
    #: The models that it lists, by name.
    entries: Entries
    #: The key to show, and whether one is needed.
    key: str = field(default="", repr=False)
    needs_key: bool = False
    #: The settings, where they can be read: those of the daemon, as far as anybody can know.
    settings: Settings | None = None
    #: Whether the main model's server is somebody's own, rather than a service; None if nobody knows.
    own_server: bool | None = None
    #: Whether it is Anthropic's own service, whose models Claude Code knows.
    anthropic: bool = False


def main_model(facts: Facts, wanted: str = "") -> str:
    """The name to ask for; "" if there is none that is better than what Claude Code asks for itself."""
    if wanted or facts.anthropic:
        return wanted
    if facts.settings is not None and facts.settings.default_model:
        return facts.settings.default_model
    own = [name for name in facts.entries if not name.startswith((PICKED, _CLAUDE)) and not _is_family(name)]
    others = [name for name in facts.entries if not name.startswith(PICKED)]
    return next(iter([*own, *others]), "")


def variables(facts: Facts, wanted: str = "", present: Sequence[str] = ()) -> Iterator[Variable]:
    """All that matter here. ``present`` are the names of the variables that are set already."""
    yield Variable("ANTHROPIC_BASE_URL", facts.url, "where the proxy is, without /v1")
    key = facts.key or ("YOUR_KEY" if facts.needs_key else "none")
    yield Variable("ANTHROPIC_API_KEY", key, _key_words(facts))
    if "ANTHROPIC_AUTH_TOKEN" in present:
        yield Variable("ANTHROPIC_AUTH_TOKEN", None, "else it would be sent to the proxy as well")
    yield Variable("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1", "nothing but the proxy is called")
    model = main_model(facts, wanted)
    if model:
        yield Variable("ANTHROPIC_MODEL", model, _model_words(facts, model))
        yield from _window(facts, model)
    yield from _families(facts, model)
    if facts.own_server:
        why = "a server of one's own may read a long prompt for many minutes; this is the wait for a whole answer"
        yield Variable("API_TIMEOUT_MS", str(_PATIENCE_MS), why)


def as_shell(found: Sequence[Variable], notes: Sequence[str] = ()) -> Iterator[str]:
    """Lines for ``eval``: what they say beside the variables are comments, whatever a server calls its models."""
    for each in found:
        yield _comment(f"{each.name}: {each.why}")
        yield f"unset {each.name}" if each.value is None else f"export {each.name}={shlex.quote(each.value)}"
    yield from map(_comment, notes)


def notes(facts: Facts, wanted: str = "") -> Iterator[str]:
    """What no variable can say."""
    model = main_model(facts, wanted)
    window = _limit(facts, model, "max_input_tokens")
    if model and facts.entries and model not in facts.entries:
        yield f"{model} is not among the models that the proxy lists"
    if model and not window:
        yield (
            f"the window of {model} is not told, and Claude Code takes it for 200,000 tokens: set context_window of "
            "its backend, or CLAUDE_CODE_MAX_CONTEXT_TOKENS"
        )
    if 0 < window < _BARE:
        yield 'the definitions of Claude Code\'s tools do not fit this window: claude --bare --tools ""'


def _comment(words: str) -> str:
    return "# " + "".join(each if each.isprintable() else "?" for each in words)


def _key_words(facts: Facts) -> str:
    if facts.anthropic and not facts.key and not facts.needs_key:
        return "any word, if the proxy has Anthropic's key; your own, if it passes on yours (credentials = client)"
    if facts.needs_key:
        return "a key of the proxy" if facts.key else "put a key of the proxy here"
    return "any word, because the proxy asks for none"


def _model_words(facts: Facts, model: str) -> str:
    others = [name for name in facts.entries if name != model and not name.startswith(PICKED)]
    more = f"; there are also {', '.join(others[:5])}" if others else ""
    return f"which model to ask for{more}"


def _window(facts: Facts, model: str) -> Iterator[Variable]:
    window, longest = (_limit(facts, model, name) for name in ("max_input_tokens", "max_tokens"))
    believed = facts.settings.client_window if facts.settings is not None else 0
    if model.lower().startswith(_CLAUDE):
        return  # Claude Code knows better
    if not window and facts.entries:
        yield Variable(
            "CLAUDE_CODE_DISABLE_1M_CONTEXT", "1", "else an unknown model is taken for one of a million tokens"
        )
    if window:
        counted = max(window, believed)
        small = counted < _SMALL
        why = "the window of this model" if counted == window else "client_window, as which the proxy counts"
        why += f", {counted}, and {_MORE} more, because Claude Code compacts too early in a small one" if small else ""
        yield Variable("CLAUDE_CODE_MAX_CONTEXT_TOKENS", str(counted + _MORE * small), why)
        if small:
            room = max(1, window // _ANSWER)
            why = "an eighth of the window; else Claude Code keeps more of it free for an answer"
            yield Variable("CLAUDE_CODE_MAX_OUTPUT_TOKENS", str(min(room, longest or room)), why)
        elif 0 < longest < 32_000:
            yield Variable("CLAUDE_CODE_MAX_OUTPUT_TOKENS", str(longest), "the longest answer of this model")


def _families(facts: Facts, main: str) -> Iterator[Variable]:
    """Of the names that Claude Code uses for its own purposes those that the map leads elsewhere than to the main
    model."""
    for family in _DEFAULTS:
        name = _of_family(facts, family)
        if name and name != main:
            what = "small work in the background, such as titles" if family == "haiku" else f"who asks for {family}"
            yield Variable(f"ANTHROPIC_DEFAULT_{family.upper()}_MODEL", name, f"for {what}")


def _of_family(facts: Facts, family: str) -> str:
    if facts.anthropic:
        return ""
    if facts.settings is None:
        return next((name for name in facts.entries if family in name.lower() and not name.startswith(PICKED)), "")
    table = ModelTable.of(facts.settings)
    route = table.route(f"{_CLAUDE}{family}-4-5")
    if route.rule not in (EXACT, PATTERN, FAMILY):
        return ""
    for name in (route.model, f"{route.backend}/{route.model}"):
        found = table.route(name)
        if (found.backend, found.model) == (route.backend, route.model):
            return name
    return route.model  # which the backend itself has told of


def _limit(facts: Facts, model: str, name: str) -> int:
    value = facts.entries.get(model, {}).get(name)
    return value if isinstance(value, int) else 0


def _is_family(name: str) -> bool:
    return any(family in name.lower() for family in FAMILIES)
