"""Whether a prompt fits a window, and what is left of it for the answer (issue 5, PROTOCOL 3.3, 6.5). Pure."""

from collections.abc import Mapping
from typing import Any

from claudeproxy.model.kinds import frozen
from claudeproxy.model.problems import Refusal, prompt_too_long
from claudeproxy.translate import thinking
from claudeproxy.translate.dialects import Dialect

#: How far a count may be off, as a part of it, by how it was found; and as a part of what was added to a counted
#: prompt, which may be text of quite another kind (the request for a summary is: 22 % off was seen).
_DOUBT = {"exact": 0.0, "tokenizer": 0.01, "learned": 0.03, "estimate": 0.12}
_DOUBT_OF_REST = 0.25
#: What a template may add that nobody knows of, in tokens.
_TEMPLATE = 32
#: What is kept for the answer, as a part of the window, and in tokens: a client that compacts asks for a summary of
#: all there is, and with less of it would forget what it was about.
_ANSWER, _LONGEST_ANSWER = 16, 4096
#: From this part of the window on an estimate is not enough, where an exact count is to be had.
_NEAR = 0.8
_LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens")


@frozen
class Fit:
    """A prompt of ``tokens``, counted as ``source`` says, in a ``window`` (tokens; 0 if nobody knows it)."""

    tokens: int
    source: str
    window: int
    #: The longest answer that is asked for, in tokens; None if nothing is said of it.
    wanted: int | None = None
    #: The server shortens a prompt that is too long without a word: in doubt it must not get it.
    cuts_silently: bool = False
    #: So many of the tokens the server has counted itself, in an earlier turn: they are not in doubt.
    counted: int = 0

    @property
    def largest(self) -> int:
        """The longest prompt that leaves room for an answer, in tokens."""
        return self.window - self._answer

    @property
    def is_near(self) -> bool:
        """Whether it is worth while to count exactly."""
        return bool(self.window) and self.source != "exact" and self._at_most > _NEAR * self.window

    def check(self) -> None:
        """Raises `Refusal` for a prompt that cannot fit. The two numbers are told only if both are sure.

        What was merely estimated has the benefit of the doubt: after one answer more is known.
        """
        if not self.window:
            return
        tokens = self._at_least if self.source == "estimate" else self.tokens
        if (self._at_most if self.cuts_silently else tokens) > self.largest:
            if self.source != "exact":
                raise Refusal(prompt_too_long())
            raise Refusal(prompt_too_long(self.tokens, self.window if self.tokens > self.window else self.largest))

    @property
    def left(self) -> int | None:
        """What an answer may have, in tokens, where that is less than was asked for; None if it is not.

        Never less than half of what was kept for it: should the count be too high, an answer that ends after a word is
        worth nothing, and should it not, the server says so.
        """
        if not self.window or self.wanted is None:
            return None
        left = max(-(-self._answer // 2), self.window - int(self._at_most))
        return left if left < self.wanted else None

    @property
    def _answer(self) -> int:
        kept = max(1, min(self.window // _ANSWER, _LONGEST_ANSWER))
        return kept if self.wanted is None else max(1, min(self.wanted, kept))

    @property
    def _doubt(self) -> float:
        part = _DOUBT.get(self.source, _DOUBT["estimate"])
        doubt = self.tokens * part
        if self.counted:
            doubt = min(doubt, abs(self.tokens - self.counted) * _DOUBT_OF_REST)
        return doubt + (_TEMPLATE if part else 0)

    @property
    def _at_least(self) -> float:
        return self.tokens - self._doubt

    @property
    def _at_most(self) -> float:
        return self.tokens + self._doubt


def wanted(body: Mapping[str, Any]) -> int | None:
    """The longest answer that a request of any dialect asks for, in tokens; None if it says nothing, or "no limit"."""
    options = body.get("options")
    values = [body.get(name) for name in _LIMITS] + [options.get("num_predict") if isinstance(options, dict) else None]
    return next((value for value in values if isinstance(value, int) and value > 0), None)


def limited(body: dict[str, Any], most: int, dialect: Dialect) -> dict[str, Any]:
    """The same request for an answer of ``most`` tokens, where it said a length, and with a budget for thinking that
    fits into it."""
    for name in _LIMITS:
        if name in body:
            return thinking.within({**body, name: most}, most, dialect)
    if isinstance(body.get("options"), dict) and "num_predict" in body["options"]:
        return {**body, "options": {**body["options"], "num_predict": most}}
    return body
