"""A model's tool calls out of the pieces that servers send (PROTOCOL 5.1; the rows named are its rows)."""

import re
from collections.abc import Iterator, Sequence
from typing import Any, Self

from attrs import field

from claudeproxy.model.kinds import define, frozen
from claudeproxy.translate.arguments import is_object, mended, without_halves
from claudeproxy.wire.json import encode_text


@frozen
class ToolCall:
    """A call as the backend meant it: its own id or "", its own name, and its arguments as JSON text, if they are."""

    id: str
    name: str
    arguments: str


@frozen
class _Piece:
    """What one entry says; ``arguments`` are a piece of JSON text, or None if it has none."""

    index: int | None
    id: str
    name: str
    arguments: str | None

    @classmethod
    def of(cls, entry: dict[str, Any]) -> Self:
        function = entry.get("function")
        if not isinstance(function, dict):
            function = entry
        arguments = function.get("arguments")
        if arguments is not None and not isinstance(arguments, str):
            arguments = encode_text(arguments)  # row 12: an object instead of its text
        return cls(index_of(entry.get("index")), _word(entry.get("id")), _word(function.get("name")), arguments)

    @property
    def brings(self) -> bool:
        """Whether it has arguments that are more than blanks."""
        return self.arguments is not None and bool(self.arguments.strip())

    def mirrors(self, other: "_Piece") -> bool:
        """Whether it says in the legacy field what ``other`` says in the new one."""
        return self.name in ("", other.name) and (not self.brings or self.arguments == other.arguments)


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
        return is_object(self.arguments)

    @property
    def is_blank(self) -> bool:
        """Whether all it has is the ``{}`` that some servers begin with before the real arguments."""
        return len(self.pieces) == 1 and self.pieces[0].strip() == "{}"

    def is_repeated_by(self, piece: _Piece) -> bool:
        """Whether ``piece`` is this call once more, as servers send it that end with a summary (row 4)."""
        if not self.id or (self.id, self.index) != (piece.id, piece.index) or piece.name not in ("", self.name):
            return False
        text = (piece.arguments or "").strip()
        return text.startswith("{") and text.endswith("}") and text == self.arguments.strip() and is_object(text)


@define
class ToolCalls:
    """Collects pieces; gives whole calls, in the order of their indices, or without these as they began."""

    #: The names of the calls that were cut.
    dropped: Sequence[str] = field(default=(), init=False)
    _open: list[_Open] = field(factory=list, init=False)
    #: Those that `complete` took: what comes for them later is empty, or is another call.
    _taken: Sequence[_Open] = field(default=(), init=False)
    #: Those that the delta at hand has spoken of.
    _touched: list[_Open] = field(factory=list, init=False)
    #: What the delta at hand has said in its ``tool_calls``.
    _said: list[_Piece] = field(factory=list, init=False)

    def __bool__(self) -> bool:
        return bool(self._open)

    def receive(self, entries: Any) -> None:
        """The ``tool_calls`` of one delta; null and [] are nothing (row 23), a bare object is a list of one."""
        self._touched.clear()
        self._said.clear()
        if isinstance(entries, dict):
            entries = [entries]
        for position, entry in enumerate(entries if isinstance(entries, list) else ()):
            if isinstance(entry, dict):
                piece = _Piece.of(entry)
                self._said.append(piece)
                self._add(piece, alone=position == 0)

    def receive_legacy(self, entry: Any) -> None:
        """A ``function_call``, as servers of old send one (row 22).

        Some send every piece in both fields: what `receive` has heard from the same delta is not heard again.
        """
        if isinstance(entry, dict):
            piece = _Piece.of({"function": entry, "index": 0})
            if not any(piece.mirrors(said) for said in self._said):
                self._add(piece, alone=True)

    def complete(self) -> Iterator[ToolCall]:
        """Takes out the calls that are whole already, for text that follows them (row 20)."""
        for call in self._open[:]:
            if call.name and call.is_whole:
                self._open.remove(call)
                self._taken = (*self._taken, call)
                yield ToolCall(call.id, call.name, without_halves(call.arguments))

    def finish(self, cut: bool) -> Iterator[ToolCall]:
        """Takes out all that is left. If the answer was ``cut`` at its limit, a call that is not whole was cut too,
        and is dropped (row 15); its name stays in `dropped`."""
        calls, self._open = self._open, []
        if all(call.index is not None for call in calls):
            calls.sort(key=lambda call: call.index or 0)  # row 18; those of one index stay in their order
        for call in calls:
            if not call.name and not call.arguments.strip():
                continue  # an empty entry is nothing
            arguments = mended(call.arguments, closing=not cut)
            if cut and not (call.arguments.strip() and is_object(arguments)):
                self.dropped = (*self.dropped, call.name)
                continue
            yield ToolCall(call.id, call.name, arguments)

    def _add(self, piece: _Piece, alone: bool) -> None:
        if not piece.brings and self._was_taken(piece.index, piece.id):
            return
        if any(call.is_repeated_by(piece) for call in (*self._taken, *self._open)):
            return
        call = self._find(piece, alone)
        self._touched.append(call)
        call.id = call.id or piece.id
        if piece.name and piece.name != call.name and not call.pieces:
            call.name += piece.name  # row 8: a name in pieces; a server that repeats it whole means the same
        elif piece.name and not call.name:
            call.name = piece.name  # row 9: after some arguments
        if piece.arguments:
            if call.is_blank and piece.arguments.lstrip().startswith("{"):
                call.pieces.clear()
            call.pieces.append(piece.arguments)

    def _find(self, piece: _Piece, alone: bool) -> _Open:
        """The call that a piece belongs to; a new one if it begins one (rows 1 to 7, 18)."""
        index, id, name = piece.index, piece.id, piece.name
        call = self._named(piece) if id else None
        if call is None and index is not None:
            call = next((each for each in reversed(self._open) if each.index == index), None)
            if call is not None and id and call.id and id != call.id and name:
                call = None  # row 3: every call has index 0, but an id of its own
        if call is not None:
            return self._begin(index, id) if self._begins(call, piece) else call
        last = self._open[-1] if self._open else None
        if id or index is not None or last is None or not alone:
            return self._begin(index, id)
        if name and (last.pieces or last.id) and (name != last.name or last.is_whole):
            return self._begin(None, "")
        return last

    def _named(self, piece: _Piece) -> _Open | None:
        """The call that has the piece's own id, which says more than its index: calls may take turns at one index.

        Where a name begins a call at another index, its id is one that was given twice (row 7).
        """
        same = [call for call in self._open if call.id == piece.id]
        for call in reversed(same):
            if call.index == piece.index:
                return call
        if not same or piece.name or any(call.index == piece.index and not call.id for call in self._open):
            return None
        return same[-1]

    def _begins(self, call: _Open, piece: _Piece) -> bool:
        """Whether a piece with the same index or id as ``call`` is another call all the same (row 7)."""
        if not piece.name:
            return False
        if any(call is each for each in self._touched):
            return True
        if not call.pieces or not call.name:
            return False
        if piece.name != call.name:
            return True
        return piece.brings and call.is_whole and not (call.is_blank and call.id and call.id == piece.id)

    def _was_taken(self, index: int | None, id: str) -> bool:
        return any((id and call.id == id) or (index is not None and call.index == index) for call in self._taken)

    def _begin(self, index: int | None, id: str) -> _Open:
        call = _Open(index, id)
        self._open.append(call)
        return call


def index_of(value: Any) -> int | None:
    """An index as servers write it: 0, 0.0 or "0"; None for what is none."""
    if type(value) is int:
        return value
    if isinstance(value, str) and re.fullmatch("[0-9]{1,9}", value):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) else None


def _word(value: Any) -> str:
    return value if isinstance(value, str) else ""
