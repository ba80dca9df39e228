"""Names of tools: what a backend cannot take is shortened on the way there and restored on the way back."""

import re
from collections.abc import Iterable
from hashlib import sha256

from attrs import field

from claudeproxy.model.kinds import define

#: PROTOCOL 4.1.8: OpenAI and those that follow it. Claude Code's MCP tools have longer names.
LONGEST_NAME = 64
_LEGAL = re.compile(rf"[A-Za-z0-9_-]{{1,{LONGEST_NAME}}}")
_HASH_DIGITS = 8


def shortened(name: str) -> str:
    """A legal name, the same for the same name in every request: what fits of it, and a hash of the whole."""
    if _LEGAL.fullmatch(name):
        return name
    digest = sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_DIGITS]
    kept = re.sub(r"[^A-Za-z0-9_-]", "_", name)[: LONGEST_NAME - _HASH_DIGITS - 1]
    return f"{kept}_{digest}"


@define
class Names:
    """The names of one request's tools, both ways."""

    _restored: dict[str, str] = field(factory=dict, init=False)
    _folded: dict[str, str] = field(factory=dict, init=False)

    @classmethod
    def of(cls, tools: Iterable[str]) -> "Names":
        """For tools of these names."""
        names = cls()
        for tool in tools:
            short = shortened(tool)
            names._restored[short] = tool
            names._folded.setdefault(tool.casefold(), tool)
            names._folded.setdefault(short.casefold(), tool)
        return names if names else _NONE

    def restore(self, name: str) -> str:
        """The client's name for what a model calls ``name``: case is mended, an unknown name stays (row 10)."""
        return self._restored.get(name) or self._folded.get(name.casefold()) or name

    def __bool__(self) -> bool:
        return bool(self._restored)


#: Of every request without tools.
_NONE = Names()
