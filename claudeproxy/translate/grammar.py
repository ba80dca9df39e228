"""Which sequences of events are legal (PROTOCOL 2.1). Every answer passes through here before it leaves.

House rules
1. The machine never mends: what is illegal is a fault of the code before it, and raises.
2. It keeps no content, only where it stands.

    state    event                    then
    -------  -----------------------  ------------------------------------------------------------
    NEW      MessageStart             BETWEEN
    BETWEEN  BlockStart, next index   IN_BLOCK   indices are dense: two of our three consumers fail otherwise
    IN_BLOCK a delta of that block    IN_BLOCK   a signature only once, and nothing but the stop after it
    IN_BLOCK BlockStop, same index    BETWEEN    a thinking block only after its signature
    BETWEEN  MessageDelta             ENDING
    ENDING   MessageStop              OVER
    any but OVER  Ping                the same
    any but OVER  Failed              OVER       instead of all the rest; also inside a block
"""

from enum import Enum, auto

from attrs import field

from claudeproxy.model.events import (
    BlockStart,
    BlockStop,
    Event,
    Failed,
    InputDelta,
    MessageDelta,
    MessageStart,
    MessageStop,
    Ping,
    SignatureDelta,
    TextDelta,
    ThinkingDelta,
)
from claudeproxy.model.kinds import define


class IllegalEvent(RuntimeError):
    """An event at a place where no client understands it: a fault of ours, never of a peer."""


class State(Enum):
    """Where the answer stands."""

    NEW = auto()
    BETWEEN = auto()
    IN_BLOCK = auto()
    ENDING = auto()
    OVER = auto()


_NEW, _BETWEEN, _IN_BLOCK, _ENDING, _OVER = State

#: Which deltas a block takes; a block type that is not here takes none.
_DELTAS: dict[str, tuple[type, ...]] = {
    "text": (TextDelta,),
    "thinking": (ThinkingDelta, SignatureDelta),
    "tool_use": (InputDelta,),
    "server_tool_use": (InputDelta,),
}


@define
class EventMachine:
    """Says yes by returning, and no by raising `IllegalEvent`."""

    state: State = field(default=State.NEW, init=False)
    _next_index: int = field(default=0, init=False)
    _deltas: tuple[type, ...] = field(default=(), init=False)
    _awaits_signature: bool = field(default=False, init=False)

    def admit(self, event: Event) -> None:
        """Moves on if ``event`` is legal here; else raises and stays where it was."""
        kind = type(event)
        state = self.state
        if state is _IN_BLOCK and kind in self._deltas:
            if event.index != self._next_index:  # type: ignore[union-attr]
                raise self._illegal(event)
            if kind is SignatureDelta:
                self._awaits_signature = False
                self._deltas = ()
        elif state is _OVER:
            raise self._illegal(event)
        elif kind is Ping:
            return
        elif kind is Failed:
            self.state = _OVER
        elif state is _NEW and kind is MessageStart:
            self.state = _BETWEEN
        elif state is _BETWEEN and isinstance(event, BlockStart) and event.index == self._next_index:
            self._open(event)
        elif state is _IN_BLOCK and isinstance(event, BlockStop) and event.index == self._next_index:
            if self._awaits_signature:
                raise self._illegal(event)
            self._next_index += 1
            self.state = _BETWEEN
        elif state is _BETWEEN and kind is MessageDelta:
            self.state = _ENDING
        elif state is _ENDING and kind is MessageStop:
            self.state = _OVER
        else:
            raise self._illegal(event)

    def _open(self, event: BlockStart) -> None:
        kind = event.block.get("type", "")
        self._deltas = _DELTAS.get(kind, ())
        self._awaits_signature = kind == "thinking"
        self.state = _IN_BLOCK

    def _illegal(self, event: Event) -> IllegalEvent:
        # Only the kind: an event's content may be somebody's conversation, and this text reaches the log.
        return IllegalEvent(f"{type(event).__name__} in state {self.state.name}, at block {self._next_index}")
