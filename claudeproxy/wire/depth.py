"""How deep JSON is nested. What is too deep is found without recursion, and its place is named."""

import re
from typing import Any

#: Deeper than any tool's schema, and far from what the translation of one can bear.
DEEPEST = 100
#: So much of a text is searched for the place; a text is not worth more that is refused anyway.
_SEARCHED = 256 * 1024
#: So many of the place's names are told.
_TOLD = 6

_TOKEN = re.compile(rb'"((?:[^"\\]|\\.)*+)(?:"(\s*:)?)?|[\[\]{},]', re.DOTALL)


def is_deeper(value: Any, deepest: int) -> bool:
    """Whether lists and objects stand in one another more than so often."""
    level = [value]
    while level:
        deepest -= 1
        if deepest < 0:
            return True
        level = [
            inner
            for outer in level
            for inner in (outer.values() if type(outer) is dict else outer)
            if type(inner) is dict or type(inner) is list
        ]
    return False


def place_below(text: bytes, deepest: int) -> str:
    """The beginning of the way to the first place that is too deep, as ``tools.0.input_schema``; "" if the text is
    too long to search."""
    way: list[str | int] = []
    name: str | int = ""
    for token in _TOKEN.finditer(text, 0, _SEARCHED):
        match token[0][:1]:
            case b"{" | b"[":
                way.append(name)
                if len(way) > deepest:
                    return ".".join(str(each) for each in way[1 : 1 + _TOLD])
                name = 0 if token[0] == b"[" else ""
            case b"}" | b"]" if way:
                name = way.pop()
            case b",":
                name = name + 1 if isinstance(name, int) else name
            case b'"' if token[2] is not None:
                name = token[1][:40].decode("utf-8", "replace")
    return ""
