"""What lies between a generation and its client, so that a client that comes back finds its answer (issue 5)."""

from collections.abc import Callable, Hashable
from typing import ClassVar, Protocol

from attrs import evolve, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from zope.interface import implementer

from claudeproxy.backends.generation import Generation, Straight
from claudeproxy.model.events import (
    Event,
    Failed,
    InputDelta,
    MessageStart,
    MessageStop,
    TextDelta,
    ThinkingDelta,
    tells,
)
from claudeproxy.model.kinds import define, frozen
from claudeproxy.model.problems import Problem
from claudeproxy.web.exchange import Origin

#: What an orphan may hold, in characters of its answer.
LARGEST = 16 * 1024 * 1024
#: How many orphans there may be. They count towards no other limit, and each keeps its backend busy.
MOST = 256
_LAST = (MessageStop, Failed)


@frozen
class Terms:
    """When an answer outlives its client, in seconds."""

    #: Who leaves so soon after the request has given up on purpose.
    interrupt: float
    #: How long the answer waits for another client.
    linger: float


class Listener(Protocol):
    """Who is given the events."""

    #: Whether its client hears of them as they come: one that wants the answer whole has nothing of it until the end.
    streams: ClassVar[bool]

    def deliver(self, events: list[Event]) -> None:
        """The next events; the last one is MessageStop or Failed."""

    @property
    def straight(self) -> Straight | None:
        """Who can be given in their place the bytes of events that only say more of the text, if anybody."""


@implementer(IPushProducer)
@define(eq=False)
class Tape:
    """One answer in the making, and the client that listens to it.

    As long as no client has heard anything of the answer, all of it is kept, up to `LARGEST`. Should the client go away
    then, `leave` decides: the generation ends with it, or becomes an orphan for a while, and the next client gets all
    of it.
    """

    _clock: IReactorTime
    #: What makes another request the same one; None if no other ever is.
    _key: Callable[[], Hashable] | None
    _terms: Terms
    _orphanage: "Orphanage"
    _listener: Listener | None
    #: What the request that began it was told.
    origin: Origin
    #: Who makes the answer, and must stay until it is made.
    maker: object = None
    #: By how much clients are told that the prompt is larger than it is.
    scale: float = 1.0
    #: When the present client asked. Who joins may change its mind as well: to leave soon is an interrupt then, too,
    #: while real clients are patient with a retry for as long as with the first request (300 s and more).
    began: float = field(init=False)
    _generation: Generation | None = field(default=None, init=False)
    #: All events so far; None once a client has heard of the answer.
    _kept: list[Event] | None = field(factory=list, init=False)
    _size: int = field(default=0, init=False)
    #: The id under which the present client gets the answer; "" for the generation's own.
    _id: str = field(default="", init=False)
    over: bool = field(default=False, init=False)
    failed: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self.began = self._clock.seconds()

    def roll(self, generation: Generation) -> None:
        """``generation`` delivers to `deliver`; it may have begun already."""
        self._generation = generation

    def deliver(self, events: list[Event]) -> None:
        """The generation's next events."""
        if isinstance(events[-1], _LAST):
            self.over, self.failed = True, isinstance(events[-1], Failed)
        if self._kept is not None:
            self._kept += events
            self._size += sum(map(_size, events))
        if self._listener is not None:
            if self._kept is not None and (
                (self._listener.streams and any(map(tells, events))) or self._size > LARGEST
            ):
                self._kept = self._key = None  # from now on nobody else can have it
            self._listener.deliver([self._renamed(event) for event in events] if self._id else events)
            if self.over:
                self._let_go()
            elif self._kept is None and self._generation is not None:
                self._generation.straight = self._listener.straight  # nothing is left for the tape to do with them
        elif self.failed or self._size > LARGEST:
            self._orphanage.bury(self)

    def leave(self) -> None:
        """The client is gone."""
        self._listener = None
        if self.over and self._kept is None:
            return
        waited = self._clock.seconds() - self.began
        patient = self._terms.linger and waited >= self._terms.interrupt
        if self._key is None or self._kept is None or self.failed or not patient:
            self.cancel()
            return
        self._orphanage.take_in(self._key(), self, self._terms.linger)
        if self.paused:
            self.resumeProducing()  # it was the client's wish

    def play_to(self, listener: Listener, message_id: str) -> None:
        """A client has come for the orphan: gives it all that it missed, and then the rest."""
        self._listener, self._id, self.began = listener, message_id, self._clock.seconds()
        missed, self._kept = self._kept or [], None
        events = [self._renamed(event) for event in missed if not _is_sign_of_life(event)]
        if not (listener.streams and any(map(tells, missed))):
            self._kept = missed
        else:
            self._key = None
        if events:
            listener.deliver(events)
        if self.over:
            self._let_go()

    def _let_go(self) -> None:
        """Its client has the answer: who hold each other would stay until they are looked for."""
        self._kept = self._key = self._listener = self._generation = None

    def _renamed(self, event: Event) -> Event:
        return evolve(event, id=self._id) if isinstance(event, MessageStart) else event

    # The generation, as its client sees it.

    @property
    def spoken(self) -> bool:
        """Whether the model has said anything yet."""
        return self._generation is not None and self._generation.spoken

    @property
    def passed(self) -> float:
        """When the generation last gave the client something past the tape, in the clock's seconds; 0.0 for never."""
        return 0.0 if self._generation is None else self._generation.passed

    @property
    def remarks(self) -> list[str]:
        """What was repaired or left out in the answer; never content."""
        return [] if self._generation is None else self._generation.remarks

    @property
    def paused(self) -> bool:
        """Whether the client reads more slowly than the backend writes."""
        return self._generation is not None and self._generation.paused

    def begin(self) -> None:
        """Delivers the message's start now, though the backend said nothing yet."""
        if self._generation is not None:
            self._generation.begin()

    def keep_alive(self) -> None:
        """Delivers a sign of life that every client takes for one."""
        if self._generation is not None:
            self._generation.keep_alive()

    def fail(self, problem: Problem) -> None:
        """Ends the answer with ``problem``."""
        if self._generation is not None:
            self._generation.fail(problem)

    def cancel(self) -> None:
        """Hangs up on the backend; nothing more is delivered."""
        if self._generation is not None:
            self._generation.cancel()

    def pauseProducing(self) -> None:
        if self._generation is not None:
            self._generation.pauseProducing()

    def resumeProducing(self) -> None:
        if self._generation is not None:
            self._generation.resumeProducing()

    def stopProducing(self) -> None:
        """The client's connection broke; who answers it is told as well, and calls `leave`."""


@define(eq=False)
class Orphanage:
    """Answers that lost their clients while they were waited for. Memory is bounded: there are no more than `MOST`,
    each stays but for its time, and holds no more than `LARGEST`."""

    _clock: IReactorTime
    #: What each was asked for with, and the end of its time; in the order in which they were lost.
    _orphans: dict[Tape, tuple[Hashable, IDelayedCall]] = field(factory=dict, init=False)
    _watched: list[Deferred[None]] = field(factory=list, init=False)

    def take_in(self, key: Hashable, tape: Tape, linger: float) -> None:
        """Keeps ``tape`` for ``linger`` seconds, for who asks with an equal ``key``. Several may have the same one."""
        if len(self._orphans) >= MOST:
            self._end(next(iter(self._orphans)))
        self._orphans[tape] = key, self._clock.callLater(linger, self._end, tape)

    def adopt(self, key: Hashable) -> Tape | None:
        """The answer that was asked for with an equal key and that nobody waits for any more; of several the one that
        was lost first."""
        tape = next((each for each, (asked, _) in self._orphans.items() if asked == key), None)
        if tape is not None:
            self._release(tape)
            self._tell()
        return tape

    def bury(self, tape: Tape) -> None:
        """Its answer failed, or is too large to be kept."""
        if tape in self._orphans:
            self._end(tape)

    def close(self) -> None:
        """Ends them all."""
        for tape in list(self._orphans):
            self._end(tape)

    def has_of(self, maker: object) -> bool:
        """Whether ``maker`` makes one of them."""
        return any(each.maker is maker for each in self._orphans)

    def changed(self) -> Deferred[None]:
        """Fires once one of them has ended, or found a client."""
        self._watched.append(Deferred())
        return self._watched[-1]

    def __len__(self) -> int:
        return len(self._orphans)

    def _end(self, tape: Tape) -> None:
        self._release(tape)
        tape.cancel()
        self._tell()

    def _release(self, tape: Tape) -> None:
        _, limit = self._orphans.pop(tape)
        if limit.active():
            limit.cancel()

    def _tell(self) -> None:
        watched, self._watched = self._watched, []
        for each in watched:
            each.callback(None)


def _is_sign_of_life(event: Event) -> bool:
    return isinstance(event, TextDelta | ThinkingDelta) and not tells(event)


def _size(event: Event) -> int:
    match event:
        case TextDelta(text=words) | ThinkingDelta(thinking=words) | InputDelta(partial_json=words):
            return len(words)
    return 256
