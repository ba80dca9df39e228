"""How answers stop: the backends' words for it, and stop sequences (PROTOCOL 4.3)."""

import re
from enum import Enum, auto

from attrs import field

from claudeproxy.model.kinds import define

#: No more of a backend's own word than this is told.
_LONGEST_REASON = 40


class Ending(Enum):
    """What a finish reason says of the answer before it."""

    WHOLE = auto()
    #: Cut at the limit of the answer.
    LENGTH = auto()
    #: Cut at the end of the model's window.
    WINDOW = auto()
    #: Cut by a filter, or not given at all (row 52).
    REFUSED = auto()
    #: It broke off on the backend's side (rows 53, 54).
    BROKEN = auto()
    #: The same, because the backend has too much to do.
    BUSY = auto()


#: After these, what is not whole was cut.
CUTS = (Ending.LENGTH, Ending.WINDOW, Ending.REFUSED)
#: Finish reasons in small letters alone; OpenAI's, and what others say instead of them.
_ENDINGS = {
    Ending.WHOLE: (
        *(
            "stop",
            "stopped",
            "eos",
            "eostoken",
            "end",
            "endturn",
            "complete",
            "completed",
            "done",
            "finish",
            "finished",
        ),
        *("stopsequence", "stoptoken", "toolcalls", "toolcall", "tooluse", "functioncall", "load", "unload"),
    ),
    Ending.LENGTH: ("length", "maxtokens", "maxoutputtokens", "lengthlimit", "maxlength", "tokenlimit", "limit"),
    Ending.WINDOW: ("modellength", "modelcontextwindowexceeded", "contextlength", "contextlengthexceeded"),
    Ending.REFUSED: (
        *("contentfilter", "contentfiltered", "sensitive", "safety", "imagesafety", "recitation", "blocklist", "spii"),
        *("prohibitedcontent", "refusal", "moderation", "guardrailintervened"),
    ),
    Ending.BROKEN: ("error", "networkerror", "servererror", "abort", "aborted", "cancelled", "canceled", "failed"),
    Ending.BUSY: ("insufficientsystemresource", "overloaded"),
}
_BY_REASON = {reason: ending for ending, reasons in _ENDINGS.items() for reason in reasons}


def ending_of(reason: str) -> Ending | None:
    """What a finish reason means, however it is spelt; None for one that nobody knows."""
    return _BY_REASON.get(re.sub("[^a-z]", "", reason[:_LONGEST_REASON].lower())) if reason else Ending.WHOLE


def shown_reason(reason: str) -> str:
    """A backend's own word, fit for a line of a log."""
    return "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in reason[:_LONGEST_REASON])


@define
class StopWatch:
    """Finds the first stop sequence in a text that comes in pieces, in the backend's stead: only vLLM tells which one
    hit. The first is the one that is complete first, of several the
    longest, so that it makes no difference where the pieces are cut.

    What might be the beginning of one is held back until the next piece decides.
    """

    stops: tuple[str, ...]
    hit: str | None = field(default=None, init=False)
    _held: str = field(default="", init=False)

    def receive(self, text: str) -> str:
        """The text that is safe to show; after a hit, `hit` is set and nothing more comes."""
        if not self.stops:
            return text
        if self.hit is not None:
            return ""
        text = self._held + text
        found = [(at + len(stop), at, stop) for stop in self.stops if stop and (at := text.find(stop)) >= 0]
        if found:
            _, at, self.hit = min(found)
            self._held = ""
            return text[:at]
        keep = max(_overlap(text, stop) for stop in self.stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def close(self) -> str:
        """What was held back in vain."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of ``text`` that begins ``stop``."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
