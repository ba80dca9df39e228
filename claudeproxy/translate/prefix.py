"""How a prompt goes on from an earlier one, and how much of it a backend may have cached (issue 5, part 3; pure).

A backend caches prompts by their beginnings, so that one early change costs all that follows it. Tools come first in
nearly every template; whatever at the head differs, nothing is taken to be reusable.
"""

from claudeproxy.model.kinds import frozen
from claudeproxy.translate.chain import Chain

NEW, SAME, GROWN, BROKEN = "new", "same", "grown", "broken"
#: Why a prefix broke: a closed list, fit for the labels of a metric.
BACKEND, MODEL, TOOLS, SYSTEM, SETTINGS = "backend", "model", "tools", "system", "settings"
MESSAGE, TAIL, SHORTENED = "message", "tail", "shortened"


@frozen
class Continuity:
    """How a prompt goes on from an earlier one."""

    kind: str
    #: The place of the first message that differs, in the list that is sent; None where it is the head, or nothing.
    at: int | None = None
    #: The cause of what is broken, and with it the role of the message.
    why: str = ""
    role: str = ""
    #: So long is the prompt, and so much of its beginning is the earlier prompt's beginning, in bytes.
    size: int = 0
    shared: int = 0
    #: What of the earlier prompt's tokens should be in the cache; 0 if nobody counted them.
    expected_tokens: int = 0

    @property
    def share(self) -> float:
        """The part of the prompt that could have been cached."""
        return self.shared / self.size if self.size else 0.0

    @property
    def words(self) -> str:
        """What broke, for the log: ``12:user message changed``."""
        place = "head" if self.at is None else str(self.at)
        return f"{place}:{_WORDS.get(self.why, '').format(role=self.role)}"

    @property
    def header(self) -> str:
        """For ``x-claudeproxy-cache``."""
        parts = [self.kind]
        if self.kind == BROKEN:
            parts += [f"reason={self.why}", f"at={'head' if self.at is None else self.at}"]
        return "; ".join([*parts, f"expected-tokens={self.expected_tokens}"])


_WORDS = {
    BACKEND: "another backend",
    MODEL: "another model",
    TOOLS: "tools changed",
    SYSTEM: "system prompt changed",
    SETTINGS: "settings changed",
    MESSAGE: "{role} message changed",
    TAIL: "last {role} message changed",
    SHORTENED: "conversation shortened",
}


def begun(current: Chain, like: Chain | None = None, tokens: int = 0) -> Continuity:
    """For a conversation of its own. ``like`` is one that had as many ``tokens``; an equal head may be cached."""
    if like is None or like.head != current.head:
        return Continuity(NEW, size=current.size)
    return Continuity(NEW, size=current.size, shared=current.ends[0], expected_tokens=_part(tokens, 0, like))


def compare(previous: Chain, current: Chain, tokens: int = 0) -> Continuity:
    """How ``current`` goes on from ``previous``, whose prompt had so many ``tokens``, 0 if nobody counted them.

    A prompt that is the beginning of the earlier one is broken, too, though all of it is cached: its client took
    something back.
    """
    for why, before, now in (
        (BACKEND, previous.backend, current.backend),
        (MODEL, previous.model, current.model),
        (TOOLS, previous.tools, current.tools),
        (SYSTEM, previous.system, current.system),
        (SETTINGS, previous.settings, current.settings),
    ):
        if before != now:
            return Continuity(BROKEN, why=why, size=current.size)
    common = current.common(previous)
    shared, expected = current.ends[common], _part(tokens, common, previous)
    if common == len(previous):
        kind = SAME if common == len(current) else GROWN
        return Continuity(kind, size=current.size, shared=shared, expected_tokens=expected)
    role = (current if common < len(current) else previous).role(common)
    why = _why(previous, current, common)
    return Continuity(BROKEN, current.first + common, why, role, current.size, shared, expected)


def _why(previous: Chain, current: Chain, common: int) -> str:
    """Of two chains that differ at ``common``, before the end of the earlier one."""
    if common == len(current):
        return SHORTENED
    if previous.has_after(common, current):
        return SHORTENED  # what stood between is left out
    if common == len(previous) - 1:
        return TAIL
    return SHORTENED if len(current) < len(previous) else MESSAGE


def _part(tokens: int, messages: int, chain: Chain) -> int:
    """What of the ``tokens`` of ``chain`` belongs to its first ``messages``."""
    return tokens * chain.ends[messages] // chain.size if chain.size else 0
