"""Which of a llama.cpp server's slots a conversation is answered in (issue 5, part 3; pure).

A slot keeps the prompt it answered last. A server left to itself chooses by likeness and then by age, which is as good
as long as it keeps the prompts of overwritten slots in memory (``--cache-ram``, its default); without that memory a
title or a sub-agent may land where the main conversation is. This book keeps them apart. It names a slot only where it
is free: a request that names a busy slot waits for it, although another may be idle.
"""

from collections import OrderedDict

from attrs import define, field


@define
class _Slot:
    thread: int | None = None
    #: A small request of its own, such as a title's, was answered there last.
    side: bool = True
    busy: bool = False


@define(eq=False)
class SlotBook:
    """The slots of one server, each by its number."""

    #: How many there are.
    count: int
    _slots: OrderedDict[int, _Slot] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._slots = OrderedDict((number, _Slot()) for number in range(self.count))

    def take(self, thread: int, side: bool = False) -> int | None:
        """The slot to name in a request of ``thread``, which is busy until `give_back`; None to name none, because
        there is but one, or because none is free. ``side`` requests keep off the slots of others, if they can."""
        if self.count < 2:
            return None
        own = next((number for number, slot in self._slots.items() if slot.thread == thread), None)
        if own is not None:
            return None if self._slots[own].busy else self._occupy(own, thread, side)
        free = [number for number, slot in self._slots.items() if not slot.busy]  # the least recently used first
        if not free:
            return None
        # Never used, then used by side requests, then any.
        chosen = min(free, key=lambda number: (self._slots[number].thread is not None, not self._slots[number].side))
        return self._occupy(chosen, thread, side)

    def give_back(self, number: int) -> None:
        """The answer in this slot has ended."""
        self._slots[number].busy = False

    def _occupy(self, number: int, thread: int, side: bool) -> int:
        self._slots[number] = _Slot(thread, side, busy=True)
        self._slots.move_to_end(number)
        return number
