"""Edits of a JSON text that leave every other byte as its writer put it: key order, spellings of numbers, blanks,
escapes, members that stand twice (PROTOCOL 4.10).

The text must be JSON with an object at its top, and is read no deeper than the edit asks: everything else is only
measured. Work grows with the length of the text, however deep it is. Where a member stands twice, the last one counts,
as for every JSON reader we know.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from claudeproxy.model.kinds import frozen
from claudeproxy.wire.json import NotJSON, Raw, decode, decode_shallow, encode

_BLANKS = re.compile(rb"[ \t\n\r]*+")
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_SCALAR = re.compile(rb"[^ \t\n\r,\]}]++")
#: The next bracket, and all that is before it; brackets in strings are none.
_TO_BRACKET = re.compile(rb'(?:[^"{}\[\]]++|"[^"\\]*+(?:\\.[^"\\]*+)*+")*+([{}\[\]])', re.DOTALL)


@frozen
class _Value:
    """Where a value stands; ``name`` is that of its member, "" in an array."""

    start: int
    end: int
    name: str = ""


_Cut = tuple[int, int]


def with_model(body: bytes, model: str) -> bytes:
    """``body`` with ``model`` as the value of its top-level member ``model``, wherever that stands; none is added."""
    return _written(body, {"model": encode(model)}, adds=False)


def with_members(body: bytes, values: Mapping[str, Any]) -> bytes:
    """``body`` with these ``values`` for its top-level members of the same names, wherever they stand; those that it
    lacks are added after its last one."""
    return _written(body, {name: encode(value) for name, value in values.items()}, adds=True)


def _written(body: bytes, values: Mapping[str, bytes], adds: bool) -> bytes:
    start = _past(_BLANKS, body, 0)
    pieces, kept, last_end = [], 0, 0
    missing = dict(values)
    for member in _members(body, start, _sizes(body)):
        last_end = member.end
        if member.name in values:
            pieces += [body[kept : member.start], values[member.name]]
            kept = member.end
            missing.pop(member.name, None)
    if adds and missing:
        place = last_end or start + 1
        added = b",".join(encode(name) + b":" + value for name, value in missing.items())
        pieces += [body[kept:place], b"," if last_end else b"", added]
        kept = place
    return b"".join([*pieces, body[kept:]])


def without_thinking(body: bytes, prefix: str) -> tuple[bytes, int]:
    """``body`` without the thinking blocks in ``messages`` whose signature begins with ``prefix``, and their number.

    With a block goes one of the commas beside it, and a message of which nothing is left goes as a whole. ``prefix``
    is plain ASCII; in the text any of its characters may be written as an escape.
    """
    if not _may_hold(body, prefix):
        return body, 0
    cuts: list[_Cut] = []
    removed = 0
    for member in _members(body, _past(_BLANKS, body, 0), {}):
        if member.name != "messages" or not _is(b"[", body, member):
            continue
        messages = list(_elements(body, member.start))
        emptied = []
        for message in messages:
            inside, count, is_empty = _signed_so(body, message, prefix)
            removed += count
            if is_empty:
                emptied.append(message)
            else:
                cuts += inside
        cuts += _cuts(messages, emptied)
    return _without(body, cuts), removed


def _signed_so(body: bytes, message: _Value, prefix: str) -> tuple[list[_Cut], int, bool]:
    """The cuts for a message's thinking blocks, their number, and whether nothing is left of it."""
    cuts: list[_Cut] = []
    count, is_empty = 0, False
    for member in _members(body, message.start, {}) if _is(b"{", body, message) else ():
        if member.name != "content":
            continue
        blocks = list(_elements(body, member.start)) if _is(b"[", body, member) else []
        found = [block for block in blocks if _is(b"{", body, block) and _is_thinking(body, block, prefix)]
        cuts += _cuts(blocks, found)
        count += len(found)
        is_empty = bool(found) and len(found) == len(blocks)
    return cuts, count, is_empty


def _is_thinking(body: bytes, block: _Value, prefix: str) -> bool:
    found = {member.name: body[member.start : member.end] for member in _members(body, block.start, {})}
    signature = decode(found.get("signature", b"null"))
    return (
        decode(found.get("type", b"null")) == "thinking" and isinstance(signature, str) and signature.startswith(prefix)
    )


def _cuts(values: Sequence[_Value], unwanted: Iterable[_Value]) -> list[_Cut]:
    """What must go so that the array loses these: each with the comma before it, or at the front the one after it."""
    places = {value.start for value in unwanted}
    cuts: list[_Cut] = []
    last_end = None  # of the value before, once one is kept
    for number, value in enumerate(values):
        if value.start not in places:
            last_end = value.end
        elif last_end is not None:
            cuts.append((last_end, value.end))
            last_end = value.end
        else:
            cuts.append((value.start, values[number + 1].start if number + 1 < len(values) else value.end))
    return cuts


def _without(body: bytes, cuts: Iterable[_Cut]) -> bytes:
    pieces, kept = [], 0
    for start, end in sorted(cuts):
        pieces.append(body[kept:start])
        kept = end
    return b"".join([*pieces, body[kept:]])


# ---- reading


def _may_hold(body: bytes, prefix: str) -> bool:
    """Whether any string in ``body`` begins with ``prefix``: the two cheap answers first."""
    if b'"' + prefix.encode("ascii") in body:
        return True
    return b"\\u00" in body and _spelt(prefix).search(body) is not None


@cache
def _spelt(prefix: str) -> re.Pattern[bytes]:
    """A string's beginning, each of its characters plain or escaped."""
    either = (rf"(?:{re.escape(each)}|\\u00(?i:{ord(each):02x}))" for each in prefix)
    return re.compile(('"' + "".join(either)).encode("ascii"))


def _members(body: bytes, start: int, sizes: Mapping[str, Raw]) -> Iterator[_Value]:
    """The members of the object that begins at ``start``; ``sizes`` may hold what their values are thought to be."""
    place = _past(_BLANKS, body, start + 1)
    while body[place : place + 1] != b"}":
        key_end = _past(_STRING, body, place)
        key = body[place:key_end]
        name = decode(key) if b"\\" in key else key[1:-1].decode()
        value = _past(_BLANKS, body, _past(_BLANKS, body, key_end) + 1)
        end = _end(body, value, sizes.get(name))
        yield _Value(value, end, name)
        place = _after_comma(body, end)


def _elements(body: bytes, start: int) -> Iterator[_Value]:
    """The elements of the array that begins at ``start``."""
    place = _past(_BLANKS, body, start + 1)
    while body[place : place + 1] != b"]":
        end = _end(body, place)
        yield _Value(place, end)
        place = _after_comma(body, end)


def _after_comma(body: bytes, end: int) -> int:
    place = _past(_BLANKS, body, end)
    return _past(_BLANKS, body, place + 1) if body[place : place + 1] == b"," else place


def _end(body: bytes, start: int, thought: Raw | None = None) -> int:
    """Where the value that begins at ``start`` ends; quickly, if it is what it is ``thought`` to be."""
    if thought is not None:
        end = start + len(thought)
        # A member that stands twice has one size only, and 1 is the beginning of 12.
        if body[start:end] == bytes(thought) and body[end : end + 1] in (b",", b"}", b" ", b"\n", b"\r", b"\t"):
            return end
    first = body[start : start + 1]
    if first == b'"':
        return _past(_STRING, body, start)
    if first not in (b"{", b"["):
        return _past(_SCALAR, body, start)
    depth, place = 1, start + 1
    while depth:
        place = _past(_TO_BRACKET, body, place)
        depth += 1 if body[place - 1] in b"{[" else -1
    return place


def _sizes(body: bytes) -> Mapping[str, Raw]:
    """The values of the top level, found by a reader that is much faster than ours but does not tell where they are."""
    try:
        return decode_shallow(body)
    except NotJSON:  # too deep for it
        return {}


def _is(bracket: bytes, body: bytes, value: _Value) -> bool:
    return body[value.start : value.start + 1] == bracket


def _past(pattern: re.Pattern[bytes], body: bytes, place: int) -> int:
    found = pattern.match(body, place)
    if found is None:
        raise NotJSON(f"no JSON at byte {place}")
    return found.end()
