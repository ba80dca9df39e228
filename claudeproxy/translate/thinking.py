"""How each dialect is asked to think, or not to (PROTOCOL 4.6)."""

from typing import Any

from claudeproxy.model.anthropic import MessagesRequest
from claudeproxy.model.kinds import frozen
from claudeproxy.translate.dialects import Dialect

#: Budgets, in tokens, up to which an effort is meant.
_BUDGETS = ((1024, "low"), (8192, "medium"), (24576, "high"))
_EFFORTS = ("low", "medium", "high", "xhigh", "max")
#: The smallest budget that OpenRouter takes, in tokens.
_LEAST_BUDGET = 1024
#: The name under which an effort is told to be lost.
EFFORT = "output_config.effort"


@frozen
class Asked:
    """What the request says of thinking. ``effort`` is "" where it says nothing."""

    on: bool
    effort: str
    budget: int | None
    #: The client does not want to see it (``display`` omitted).
    hidden: bool
    #: The newest word for the effort is none that anybody knows.
    odd_effort: bool = False

    @property
    def level(self) -> str:
        """The effort, from the budget if need be."""
        if self.effort:
            return self.effort
        if self.budget is None:
            return "medium"
        return next((effort for most, effort in _BUDGETS if self.budget <= most), "xhigh")


def asked(request: MessagesRequest) -> Asked:
    """Reads the request; an effort given in mid-conversation replaces the earlier one, the newest wins."""
    efforts = [config.effort for config in (request.output_config, *_midway(request)) if config and config.effort]
    effort = next((each for each in reversed(efforts) if each in _EFFORTS), "")
    odd = bool(efforts) and efforts[-1] not in _EFFORTS
    thinking = request.thinking
    if thinking is None or thinking.type == "disabled":
        return Asked(False, effort, None, False, odd)
    budget = thinking.budget_tokens if thinking.type == "enabled" else None
    return Asked(True, effort, budget, thinking.display == "omitted", odd)


def _midway(request: MessagesRequest) -> list[Any]:
    return [message.output_config for message in request.messages]


def ask(body: dict[str, Any], wanted: Asked, model: str, dialect: Dialect) -> list[str]:
    """Puts the dialect's own switches into ``body``; gives what of the wish it has no word for."""
    switches = _SWITCHES[dialect.thinking](wanted, model.rpartition("/")[2].lower())
    body.update(switches)
    lost = [EFFORT] if wanted.odd_effort or (wanted.effort and not (wanted.on and _says_effort(switches))) else []
    if wanted.budget is None:  # adaptive leaves it to the model, and one that cannot think has decided
        return lost
    if dialect.budget_field:
        body[dialect.budget_field] = wanted.budget
        return lost
    if not switches:
        return ["thinking", *lost]
    return lost if _AMOUNTS & switches.keys() else ["thinking.budget_tokens", *lost]


def affordable(budget: int, most: int) -> int:
    """What of ``budget`` may be thought of an answer that is cut to ``most`` tokens: a quarter is kept for what it
    says, or the model thinks to the end and says nothing."""
    return max(1, min(budget, most * 3 // 4))


def within(body: dict[str, Any], most: int, dialect: Dialect) -> dict[str, Any]:
    """The same ``body`` with no larger budget than an answer that is cut to ``most`` tokens can afford."""
    budget = body.get(dialect.budget_field) if dialect.budget_field else None
    if isinstance(budget, int) and affordable(budget, most) < budget:
        body = {**body, dialect.budget_field: affordable(budget, most)}
    budget = body["reasoning"].get("max_tokens") if isinstance(body.get("reasoning"), dict) else None
    if isinstance(budget, int) and affordable(budget, most) < budget:
        less = affordable(budget, most)
        body = {**body, "reasoning": {"max_tokens": less} if less >= _LEAST_BUDGET else {"enabled": True}}
    return body


def lost_without(wanted: Asked) -> list[str]:
    """What of the wish is lost where a model refuses to be asked."""
    lost = [] if wanted.budget is None else ["thinking"]
    return [*lost, EFFORT] if wanted.effort else lost


def _says_effort(switches: dict[str, Any]) -> bool:
    """Whether an effort is among them, under any of its names."""
    inner = (switches.get("chat_template_kwargs", {}), switches.get("reasoning", {}))
    return isinstance(switches.get("think"), str) or "reasoning_effort" in switches | inner[0] or "effort" in inner[1]


def _none(wanted: Asked, model: str) -> dict[str, Any]:
    return {}


def _effort(wanted: Asked, model: str) -> dict[str, Any]:
    """OpenAI: only reasoning models take the field; what is least differs between them."""
    if model.startswith("gpt-5"):
        least = "none" if model.startswith("gpt-5.") else "minimal"
        most = "max" if model.startswith("gpt-5.") else "high"
        level = most if wanted.level in ("xhigh", "max") and most == "high" else wanted.level
        return {"reasoning_effort": level if wanted.on else least}
    if model.startswith(("o1", "o3", "o4")):
        return {"reasoning_effort": min(wanted.level, "high", key=_EFFORTS.index) if wanted.on else "low"}
    return {}


def _template(wanted: Asked, model: str) -> dict[str, Any]:
    """llama.cpp and vLLM: variables of the chat template, which templates without them ignore."""
    kwargs: dict[str, Any] = {"enable_thinking": wanted.on}
    if wanted.on and wanted.effort:
        kwargs["reasoning_effort"] = min(wanted.effort, "high", key=_EFFORTS.index)
    return {"chat_template_kwargs": kwargs}


def _openrouter(wanted: Asked, model: str) -> dict[str, Any]:
    if not wanted.on:
        return {"reasoning": {"enabled": False}}
    if wanted.budget is not None:
        return {"reasoning": {"max_tokens": wanted.budget}}
    if wanted.effort:
        return {"reasoning": {"effort": min(wanted.effort, "xhigh", key=_EFFORTS.index)}}
    return {"reasoning": {"enabled": True}}


def _deepseek(wanted: Asked, model: str) -> dict[str, Any]:
    if not wanted.on:
        return {"thinking": {"type": "disabled"}}
    level = {"low": "low", "max": "max"}.get(wanted.level, "high")
    return {"thinking": {"type": "enabled"}, "reasoning_effort": level}


def _kimi(wanted: Asked, model: str) -> dict[str, Any]:
    """K2's thinking models always think, K3 knows efforts, the others a switch."""
    if "k2-thinking" in model:
        return {}
    if "k3" in model:
        return {"reasoning_effort": {"low": "low", "max": "max"}.get(wanted.level, "high") if wanted.on else "low"}
    return {"thinking": {"type": "enabled" if wanted.on else "disabled"}}


def _glm(wanted: Asked, model: str) -> dict[str, Any]:
    """``clear_thinking`` false: earlier thinking stays in the prompt, so that the prefix does."""
    return {"thinking": {"type": "enabled", "clear_thinking": False} if wanted.on else {"type": "disabled"}}


def _lmstudio(wanted: Asked, model: str) -> dict[str, Any]:
    """Models that cannot think refuse the field; `backends.translating` then repeats without it."""
    return {"reasoning_effort": min(wanted.level, "xhigh", key=_EFFORTS.index) if wanted.on else "none"}


def _ollama(wanted: Asked, model: str) -> dict[str, Any]:
    """A switch; a level for models that have levels, which gpt-oss cannot do without."""
    most = "high" if wanted.level == "xhigh" else wanted.level
    if model.startswith("gpt-oss"):
        return {"think": min(most, "high", key=_EFFORTS.index) if wanted.on else "low"}
    if wanted.on and wanted.effort:
        return {"think": most}
    return {"think": wanted.on}


_SWITCHES = {
    "none": _none,
    "effort": _effort,
    "template": _template,
    "openrouter": _openrouter,
    "deepseek": _deepseek,
    "kimi": _kimi,
    "glm": _glm,
    "lmstudio": _lmstudio,
    "ollama": _ollama,
}
#: Those of a body's fields that say how much.
_AMOUNTS = frozenset({"reasoning_effort", "reasoning"})
#: The fields of a body that ask for thinking, to be left out for a model that knows none.
FIELDS = ("reasoning_effort", "reasoning", "thinking", "chat_template_kwargs", "thinking_budget_tokens")
