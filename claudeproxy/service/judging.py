"""What is to be said of settings and of the backends that they name: faults, warnings, and where names lead. Pure."""

from collections.abc import Iterator

from claudeproxy.backends.interfaces import Offer
from claudeproxy.model.kinds import frozen
from claudeproxy.routing.settings import Settings
from claudeproxy.routing.table import UNMAPPED, is_alias, target_of
from claudeproxy.service.surveying import Finding, Survey

#: Below this window Claude Code cannot even send its tools, and below this one it needs a variable more.
TOO_SMALL = 16_384
SMALL = 24_000
#: What Ollama takes for right on a small machine.
_OLLAMAS_OWN = 4096
#: A name that every Claude Code asks for, sooner or later.
_USUAL = "claude-sonnet-4-5"


@frozen
class Target:
    """Where a name of the model map leads, and whether the backend has that."""

    name: str
    backend: str
    model: str
    #: None if it cannot be known.
    offered: bool | None


@frozen
class Judgement:
    """All that was found."""

    targets: tuple[Target, ...]
    #: What keeps requests from being answered.
    faults: tuple[str, ...]
    warnings: tuple[str, ...]


def judge(survey: Survey, exposed: str = "") -> Judgement:
    """``exposed`` is a settings file with secrets that others on the machine can read."""
    settings = survey.live.settings
    findings = {each.settings.name: each for each in survey.findings}
    targets = tuple(_targets(settings, findings))
    faults = [each.problem for each in survey.findings if each.problem]
    faults += [_missing(each, findings.get(each.backend)) for each in targets if each.offered is False]
    warnings = [*_of_settings(survey, exposed)]
    for each in survey.findings:
        used = {target.model for target in targets if target.backend == each.settings.name}
        warnings += [f"{each.settings.name}: {words}" for words in _of_backend(each, used)]
    return Judgement(targets, tuple(faults), tuple(warnings))


def _targets(settings: Settings, findings: dict[str, Finding]) -> Iterator[Target]:
    written = {**settings.models, **({"default_model": settings.default_model} if settings.default_model else {})}
    for name, text in written.items():
        target = target_of(text, settings.backends)
        yield Target(name, target.backend, target.model, _offered(target.model, findings.get(target.backend)))


def _offered(model: str, finding: Finding | None) -> bool | None:
    if finding is None:
        return False
    if finding.problem or finding.any_name or not finding.offers:
        return None
    names = {each.model for each in finding.offers}
    return bool(names & {model, f"{model}:latest"})


def _missing(target: Target, finding: Finding | None) -> str:
    known = ", ".join(each.model for each in finding.offers[:5]) if finding is not None else ""
    has = f"; it has {known}" if known else ""
    return f"{target.name} leads to {target.model}, which {target.backend} does not offer{has}"


def _of_settings(survey: Survey, exposed: str) -> Iterator[str]:
    if exposed:
        yield f"{exposed} holds secrets, and others on this machine can read it: chmod 600"
    first = survey.findings[0]
    route = survey.live.resolve(_USUAL)
    if route.rule == UNMAPPED and first.settings.provider not in ("local", "anthropic") and not first.any_name:
        yield (
            f"a client's usual names, such as {_USUAL}, go to {route.backend} as they came, which does not know them: "
            "set default_model"
        )


def _of_backend(finding: Finding, used: set[str]) -> Iterator[str]:
    if finding.problem:
        return
    if not finding.offers:
        yield "it tells of no models; a wrong api_key may be the reason"
    if finding.dialect == "ollama-compat":
        yield (
            "through its OpenAI-compatible address nobody can set Ollama's window, and what does not fit is cut off in "
            'silence: set provider = "ollama" and base_url to Ollama\'s root'
        )
    if finding.settings.provider == "ollama" and 0 < finding.settings.num_ctx <= _OLLAMAS_OWN:
        yield f"num_ctx = {finding.settings.num_ctx} is too small for an agent: OLLAMA_NUM_CTX=32768 is usual"
    if finding.dialect == "generic" and finding.settings.provider == "openai" and finding.settings.dialect == "auto":
        yield "nothing told what kind of server it is: it is asked for what all have; set dialect if you know it"
    if finding.lacks:
        yield f"its template has no place for {', '.join(finding.lacks)}"
    for offer in finding.offers:
        if not is_alias(offer.model) and (offer.model in used or len(finding.offers) == 1):
            yield from (f"{offer.model}: {words}" for words in _of_model(offer, finding))


def _of_model(offer: Offer, finding: Finding) -> Iterator[str]:
    if not offer.window:
        yield "its window is not told, so that nothing guards it: set context_window"
    elif offer.window < TOO_SMALL:
        yield f"its window of {offer.window} tokens is too small for Claude Code's tools"
    elif offer.window < SMALL:
        yield "its window is small: CLAUDE_CODE_MAX_OUTPUT_TOKENS is needed (python -m claudeproxy env)"
    tools = offer.abilities.tools if offer.abilities is not None else None
    if tools is False and "tools" not in finding.lacks:
        yield "it has no tools, and no agent works without"
