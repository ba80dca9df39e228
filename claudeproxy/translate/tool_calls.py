"""A model's tool calls out of the pieces that servers send (PROTOCOL 5.1; the rows named are its rows)."""

import re
from collections.abc import Iterator
from typing import Any

from attrs import define, field, frozen

from claudeproxy.wire.json import NotJSON, decode, encode_text


@frozen
class ToolCall:
    """A call as the backend meant it: its own id or "", its own name, and its arguments as JSON text, if they are."""

    id: str
    name: str
    arguments: str


@define(eq=False)
class _Open:
    index: int | None
    id: str
    name: str = ""
    pieces: list[str] = field(factory=list)

    @property
    def arguments(self) -> str:
        return "".join(self.pieces)

    @property
    def is_whole(self) -> bool:
        """Whether the arguments are an object already. It is asked for every piece, and looks at their ends first."""
        if not self.pieces or not self.pieces[-1].rstrip().endswith("}") or not self.pieces[0].lstrip().startswith("{"):
            return False
        return _is_object(self.arguments)


@define
class ToolCalls:
    """Collects pieces; gives whole calls, in the order of their indices, or without these as they began."""

    #: The names of the calls that were cut.
    dropped: list[str] = field(factory=list, init=False)
    _open: list[_Open] = field(factory=list, init=False)
    #: Those that `complete` took: what comes for them later is empty, or is another call.
    _taken: list[_Open] = field(factory=list, init=False)
    #: Those that the delta at hand has spoken of.
    _touched: list[_Open] = field(factory=list, init=False)

    def __bool__(self) -> bool:
        return bool(self._open)

    def receive(self, entries: Any) -> None:
        """The ``tool_calls`` of one delta; null and [] are nothing (row 23)."""
        self._touched.clear()
        for position, entry in enumerate(entries if isinstance(entries, list) else ()):
            if isinstance(entry, dict):
                self._entry(entry, alone=position == 0)

    def receive_legacy(self, entry: Any) -> None:
        """A ``function_call``, as servers of old send one (row 22)."""
        if isinstance(entry, dict):
            self._entry({"function": entry, "index": 0}, alone=True)

    def complete(self) -> Iterator[ToolCall]:
        """Takes out the calls that are whole already, for text that follows them (row 20)."""
        for call in self._open[:]:
            if call.name and call.is_whole:
                self._open.remove(call)
                self._taken.append(call)
                yield ToolCall(call.id, call.name, call.arguments)

    def finish(self, cut: bool) -> Iterator[ToolCall]:
        """Takes out all that is left. If the answer was ``cut`` at its limit, a call that is not whole was cut too,
        and is dropped (row 15); its name stays in `dropped`."""
        calls, self._open = self._open, []
        if all(call.index is not None for call in calls):
            calls.sort(key=lambda call: call.index or 0)  # row 18; those of one index stay in their order
        for call in calls:
            if not call.name and not call.arguments.strip():
                continue  # an empty entry is nothing
            if cut and not _is_object(call.arguments):
                self.dropped.append(call.name)
                continue
            yield ToolCall(call.id, call.name, mended(call.arguments, closing=not cut))

    def _entry(self, entry: dict[str, Any], alone: bool) -> None:
        function = entry.get("function")
        if not isinstance(function, dict):
            function = entry
        id, name = _word(entry.get("id")), _word(function.get("name"))
        index = index_of(entry.get("index"))
        arguments = function.get("arguments")
        brings = arguments is not None and (not isinstance(arguments, str) or bool(arguments.strip()))
        if not brings and self._was_taken(index, id):
            return
        call = self._find(index, id, name, alone, brings)
        self._touched.append(call)
        call.id = call.id or id
        if name and name != call.name and not call.pieces:
            call.name += name  # row 8: a name in pieces; a server that repeats it whole means the same
        elif name and not call.name:
            call.name = name  # row 9: after some arguments
        if isinstance(arguments, str):
            if arguments:
                call.pieces.append(arguments)
        elif arguments is not None:
            call.pieces.append(encode_text(arguments))  # row 12: an object instead of its text

    def _find(self, index: int | None, id: str, name: str, alone: bool, brings: bool) -> _Open:
        """The call that a piece belongs to; a new one if it begins one (rows 1 to 7, 18)."""
        if index is not None:
            for call in reversed(self._open):
                if call.index == index:
                    if id and call.id and id != call.id and name:
                        break  # row 3: every call has index 0, but an id of its own
                    return self._begin(index, id) if self._begins(call, name, brings) else call
            return self._begin(index, id)
        if id:
            for call in reversed(self._open):
                if call.id == id:
                    return self._begin(None, id) if self._begins(call, name, brings) else call
            return self._begin(None, id)
        last = self._open[-1] if self._open else None
        if last is None or not alone:
            return self._begin(None, "")
        if name and (last.pieces or last.id) and (name != last.name or last.is_whole):
            return self._begin(None, "")
        return last

    def _begins(self, call: _Open, name: str, brings: bool) -> bool:
        """Whether a piece with the same index or id as ``call`` is another call all the same (row 7)."""
        if not name:
            return False
        return any(call is each for each in self._touched) or bool(
            call.pieces and call.name and (name != call.name or (brings and call.is_whole))
        )

    def _was_taken(self, index: int | None, id: str) -> bool:
        return any((id and call.id == id) or (index is not None and call.index == index) for call in self._taken)

    def _begin(self, index: int | None, id: str) -> _Open:
        call = _Open(index, id)
        self._open.append(call)
        return call


def index_of(value: Any) -> int | None:
    """An index as servers write it: 0, 0.0 or "0"; None for what is none."""
    if isinstance(value, str) and re.fullmatch("[0-9]{1,9}", value):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) else None


def mended(arguments: str, closing: bool) -> str:
    """Arguments with unambiguous faults put right (rows 13, 14, 17); anything else as it is, for the client to judge.

    ``closing`` allows to add missing brackets at the end, which is wrong where the answer was cut.
    """
    text = arguments.strip()
    if text in ("", "null"):
        return "{}"
    value = _value(text)
    if isinstance(value, dict):
        return text
    if isinstance(value, str) and isinstance(_value(value), dict):
        return value
    if value is not _INVALID:
        return text  # row 16: valid, but no object
    unfenced = _without_fence(text)
    for attempt in (unfenced, _without_trailing_commas(unfenced), *([_closed(unfenced)] if closing else [])):
        if isinstance(_value(attempt), dict):
            return attempt.strip()
    return arguments


_INVALID = object()
_FENCE = "```"
#: A JSON string, closed or not, or a comma before a closing bracket: strings are matched so that commas in them stay.
#: Possessive, because a model may stop in the middle of a megabyte, and nobody is to wait for a second reading of it.
_STRING_OR_COMMA = re.compile(r'("(?:[^"\\]++|\\.)*+(?:"|\Z))|,(?=\s*[}\]])', re.DOTALL)
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"|([{}\[\]])|(")', re.DOTALL)


def _without_fence(text: str) -> str:
    if len(text) < 2 * len(_FENCE) or not (text.startswith(_FENCE) and text.endswith(_FENCE)):
        return text
    return text[len(_FENCE) : -len(_FENCE)].removeprefix("json").strip()


def _without_trailing_commas(text: str) -> str:
    return _STRING_OR_COMMA.sub(lambda found: found[1] or "", text)


def _closed(text: str) -> str:
    """The text with its missing closing brackets; as it is if anything else is missing, such as a quote."""
    missing: list[str] = []
    for found in _STRING_OR_BRACKET.finditer(text):
        bracket = found[1]
        if found[2]:
            return text
        if bracket in ("{", "["):
            missing.append("}" if bracket == "{" else "]")
        elif bracket and (not missing or missing.pop() != bracket):
            return text
    return text + "".join(reversed(missing))


def _value(text: str) -> Any:
    try:
        return decode(text.encode("utf-8", "surrogatepass"))
    except NotJSON:
        return _INVALID


def _is_object(text: str) -> bool:
    return isinstance(_value(text), dict)


def _word(value: Any) -> str:
    return value if isinstance(value, str) else ""
