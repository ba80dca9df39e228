"""Thinking that comes as ``<think>`` tags in the text (PROTOCOL rows 34 to 36)."""

from attrs import field

from claudeproxy.model.kinds import define

_OPEN, _CLOSE = "<think>", "</think>"


@define
class ThinkTags:
    """Splits a text that comes in pieces into thinking and text.

    Tags count only at the beginning: an opening one must be the first text that is not blank, anything later is text
    about tags. What might become a tag is held back until the next piece decides.
    """

    #: The template wrote the opening tag into the prompt, so that the answer begins with thinking.
    inside: bool = False
    #: From now on all is text, and nothing is held back.
    settled: bool = field(default=False, init=False)
    _held: str = field(default="", init=False)

    def receive(self, text: str) -> tuple[str, str]:
        """The thinking and the text that are certain now, in this order."""
        if self.settled:
            return "", text
        text = self._held + text
        self._held = ""
        if self.inside:
            return self._inside(text)
        start = text.lstrip()
        if start.startswith(_OPEN):
            self.inside = True
            return self._inside(start.removeprefix(_OPEN).lstrip("\n"))
        if _OPEN.startswith(start):  # also when it is blank so far
            self._held = text
            return "", ""
        self.settled = True
        return "", text

    def close(self) -> tuple[str, str]:
        """What was held back, at the end: an unclosed tag was thinking to its end (row 36)."""
        held, self._held = self._held, ""
        return (held, "") if self.inside else ("", held)

    def _inside(self, text: str) -> tuple[str, str]:
        thinking, tag, rest = text.partition(_CLOSE)
        if tag:
            self.settled, self.inside = True, False
            return thinking, rest.lstrip("\n")
        keep = next((n for n in range(min(len(_CLOSE) - 1, len(text)), 0, -1) if text.endswith(_CLOSE[:n])), 0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], ""
