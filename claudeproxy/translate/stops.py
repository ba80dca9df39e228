"""Stop sequences, watched for by the proxy: no backend but vLLM tells which one hit (PROTOCOL 4.3)."""

from attrs import define, field


@define
class StopWatch:
    """Finds the first stop sequence in a text that comes in pieces: the one that is complete first, of several the
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
