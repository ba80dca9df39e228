"""One answer in the making at a backend: from the request that is sent to the last event.

A generation owns its connection. It ends in one of three ways, and says each exactly once: the answer was whole, it
failed (both are its last event), or it was cancelled (then nothing more is delivered).
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from typing import Protocol as Structure

from attrs import field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import IResponse
from zope.interface import implementer

from claudeproxy.backends.client import LONGEST_ERROR, describe, leave_unread, read_body
from claudeproxy.backends.discretion import discreet
from claudeproxy.backends.hush import NO_HUSH, Hush
from claudeproxy.backends.journey import Journey
from claudeproxy.backends.patience import Limits, Patience
from claudeproxy.backends.vigil import Check, Vigil
from claudeproxy.model.events import Event, Failed
from claudeproxy.model.kinds import define
from claudeproxy.model.problems import Problem, Refusal, bad_gateway, overloaded
from claudeproxy.translate.failures import problem_from_answer, seconds_to_wait
from claudeproxy.wire.packed import KNOWN, BadlyPacked, Unpacker
from claudeproxy.wire.stencil import Stencil

#: Who can be given the bytes of an event of an answer's stream.
Straight = Callable[[bytes], None]
#: Row 55: how long, in seconds, a backend may hold its connection after it named the end of its answer.
SETTLING = 3.0


class Machine(Structure):
    """Floor 2's side of a generation: a backend's bytes to events."""

    @property
    def spoken(self) -> bool: ...
    @property
    def settled(self) -> bool: ...
    @property
    def over(self) -> bool: ...
    @property
    def heard_out(self) -> bool: ...
    @property
    def remarks(self) -> list[str]: ...
    @property
    def counted(self) -> int: ...
    @property
    def stencil(self) -> Stencil | None: ...
    def begin(self) -> list[Event]: ...
    def keep_alive(self) -> list[Event]: ...
    def receive(self, data: bytes) -> list[Event]: ...
    def close(self) -> list[Event]: ...
    def fail(self, problem: Problem) -> list[Event]: ...


@implementer(IPushProducer)
@define(eq=False)
class Generation(Protocol):
    """Carries a backend's bytes through a machine to ``deliver``; a producer, so that a slow client slows it down."""

    _backend: str
    _machine: Machine
    _deliver: Callable[[list[Event]], None]
    _clock: IReactorTime
    _limits: Limits
    _log: Logger
    _journey: Journey = field(factory=Journey)
    #: What lines of the log say of the request.
    _told: Mapping[str, Any] = field(factory=dict)
    #: Who is told of the last events before they are delivered.
    _ending: Sequence[Callable[[list[Event]], None]] = ()
    #: Takes the backend's key out of its words.
    _hush: Hush = NO_HUSH
    #: Who is given the bytes of events that only say more of the text, past ``deliver``.
    straight: Straight | None = field(default=None, init=False)
    #: When that was last done, in the clock's seconds.
    passed: float = field(default=0.0, init=False)
    _opening: Deferred[None] | None = field(default=None, init=False)
    _paused: bool = field(default=False, init=False)
    _over: bool = field(default=False, init=False)
    #: None once the body has turned out to be plain.
    _unpacker: Unpacker | None = field(factory=lambda: Unpacker(named=False), init=False)
    _heard: float = field(default=0.0, init=False)
    #: The bytes that came.
    _received: int = field(default=0, init=False)
    _patience: Patience = field(init=False)
    _vigil: Vigil | None = field(default=None, init=False)
    #: The first token is there.
    _listening: bool = field(default=False, init=False)
    #: The end of the moment in which the connection may end by itself.
    _settling: IDelayedCall | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._patience = Patience(self._clock, self._limits, self._last_heard, self._lose_patience)

    def start(self, opening: Awaitable[IResponse], check: Check | None = None) -> None:
        """``opening`` is the request on its way; its response becomes the answer. ``check`` is how to find out whether
        the backend lives while it says nothing, where that can be asked."""
        if check is not None:
            self._vigil = Vigil(self._clock, check, self.fail)
            self._vigil.begin()
        self._patience.begin()
        self._opening = Deferred.fromCoroutine(self._open(opening))

    def conclude(self, events: list[Event]) -> None:
        """Instead of `start`: the answer is known, and no backend is asked."""
        self._finish(events)

    @property
    def spoken(self) -> bool:
        """Whether the model has said anything yet."""
        return self._machine.spoken

    @property
    def remarks(self) -> list[str]:
        """What was repaired or left out in the answer; never content."""
        return self._machine.remarks

    def begin(self) -> None:
        """Delivers the message's start now, though the backend said nothing yet."""
        if not self._over:
            self._deliver(self._machine.begin())

    def keep_alive(self) -> None:
        """Delivers a sign of life, in the open block or one that is opened for it."""
        events = [] if self._over else self._machine.keep_alive()
        if events:
            self._deliver(events)

    def cancel(self) -> None:
        """Hangs up on the backend; delivers nothing more."""
        if self._over:
            return
        self._conclude()
        if self._opening is not None and not self._opening.called:
            self._opening.cancel()
        self._hang_up()

    def fail(self, problem: Problem) -> None:
        """Ends the answer with ``problem`` and hangs up."""
        if not self._over:
            self._finish(self._machine.fail(problem))
            if self._opening is not None and not self._opening.called:
                self._opening.cancel()
            self._hang_up()

    # What the client's side asks, as of any producer.

    def pauseProducing(self) -> None:
        self._paused = True
        if self.transport is not None:
            self._producer.pauseProducing()

    def resumeProducing(self) -> None:
        self._paused = False
        self._heard = self._clock.seconds()  # a silence that the client asked for is not the backend's
        if self.transport is not None and not self._over:
            self._producer.resumeProducing()

    def stopProducing(self) -> None:
        self.cancel()

    @property
    def paused(self) -> bool:
        """Whether the client reads more slowly than the backend writes."""
        return self._paused

    # What the backend's connection says.

    def connectionMade(self) -> None:
        if self._over:
            self._hang_up()
        elif self._paused:
            self._producer.pauseProducing()

    def dataReceived(self, data: bytes) -> None:
        if self._over:
            return
        self._heard = self._clock.seconds()
        if not self._received:
            self._journey.first_byte = self._heard
        self._received += len(data)
        try:
            if self._unpacker is not None:
                data = self._unpacker.receive(data)
                if self._unpacker.idle:
                    self._unpacker = None
            elif (
                self.straight is not None
                and (stencil := self._machine.stencil) is not None
                and (event := stencil.copied(data))
            ):
                self.passed = self._heard
                self.straight(event)  # nothing else can have changed
                return
            events = self._machine.receive(data)
        except BadlyPacked as fault:
            self.fail(bad_gateway(f"Backend {self._backend} sent a packed answer that cannot be unpacked: {fault}."))
            return
        except Exception:  # a fault of ours; synchronous code, so no cancellation passes here
            self._blame_ourselves()
            return
        if self._journey.first_token is None and self._machine.spoken:
            self._journey.first_token = self._heard
        if self._machine.over:
            self._finish(events)
            if self._machine.heard_out:
                self._settle()
            else:  # we cut it: a stop sequence hit, or it cannot be understood
                self._hang_up()
            return
        if events:
            self._deliver(events)
        if not self._listening and not self._over and self._machine.spoken:
            self._listening = True
            self._end_vigil()
            self._patience.listen()
        if self._machine.settled and self._settling is None:  # else signs of life would put it off for ever
            self._settle()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.transport = None
        self._stop_watching()
        if self._over:
            return
        try:
            if reason.check(ResponseDone, PotentialDataLoss) or self._machine.settled:
                events = self._machine.close()
            else:
                events = self._machine.fail(self._broken(reason))
        except Exception:
            self._blame_ourselves()
            return
        self._finish(events)

    # The rest is between us.

    async def _open(self, opening: Awaitable[IResponse]) -> None:
        try:
            response = await opening
            packing = _header(response, "content-encoding").lower()
            if packing not in KNOWN:
                leave_unread(response)
                words = f"Backend {self._backend} sent its answer as {packing}, which was not asked for."
                raise Refusal(bad_gateway(words))
            if response.code == 200:
                self._unpacker = Unpacker(packing == "deflate")  # gzip with its name is undone by treq
                response.deliverBody(self._journey.ear(self, self._hush.body))
                if self._paused and self.transport is not None:
                    self._producer.pauseProducing()  # deliverBody itself resumes
                return
            problem = await self._refused(response)
        except CancelledError:
            # Not by us, or it would be over: whoever runs the backend has given it up.
            problem = overloaded(f"Backend {self._backend} was stopped.")
        except Refusal as refusal:
            problem = refusal.problem
        except Exception:
            if not self._over:
                self._blame_ourselves()
            return
        if not self._over:
            self._finish(self._machine.fail(problem))

    async def _refused(self, response: IResponse) -> Problem:
        if 300 <= response.code < 400:
            leave_unread(response)
            where = _header(response, "location") or "nowhere"
            return bad_gateway(f"Backend {self._backend} redirects to {where}, which is not followed with credentials.")
        body = await read_body(response, LONGEST_ERROR, self._clock, self._limits.silence)
        wait = seconds_to_wait(_header(response, "retry-after"), _header(response, "date"))
        return problem_from_answer(self._backend, response.code, body, wait)

    def _broken(self, reason: Failure) -> Problem:
        return self._fault(f"broke off its answer: {describe(reason.value)}")

    def _fault(self, how: str) -> Problem:
        """Before the first token it is as if the backend had not been there."""
        words = f"Backend {self._backend} {how}"
        return bad_gateway(words) if self._machine.spoken else overloaded(words)

    def _finish(self, events: list[Event]) -> None:
        self._conclude()
        if events and isinstance(events[-1], Failed):
            events = [*events[:-1], Failed(self._hush.problem(events[-1].problem))]
        for each in self._ending:
            each(events)
        self._deliver(events)

    def _conclude(self) -> None:
        self._over = True
        self.straight = None
        self._stop_watching()
        self._journey.ends(self._clock.seconds(), self._heard if self._received else None, self._received)

    def _settle(self) -> None:
        """Gives the connection a moment to end by itself, so that it can be used again."""
        self._end_vigil()
        self._patience.end()
        if self.transport is not None:
            self._settling = self._clock.callLater(SETTLING, self._end_settling)

    def _end_settling(self) -> None:
        """The moment is over."""
        self._settling = None
        if self._paused and not self._over:
            self._settle()  # what the client has not let us read may still belong to the answer
            return
        if not self._over:
            self._finish(self._machine.close())
        self._hang_up()

    def _last_heard(self) -> float | None:
        return None if self._paused else self._heard

    def _lose_patience(self, how: str) -> None:
        self.fail(self._fault(how))

    def _blame_ourselves(self) -> None:
        fault, told = discreet(Failure()), self._told
        self._log.failure("translating the answer of {backend} failed", failure=fault, backend=self._backend, **told)
        self._finish(self._machine.fail(_OURS))
        self._hang_up()

    def _stop_watching(self) -> None:
        self._end_vigil()
        self._patience.end()
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None

    def _end_vigil(self) -> None:
        """The wait for the first token is over."""
        if self._vigil is not None:
            self._vigil.end()
            self._vigil = None

    def _hang_up(self) -> None:
        if self.transport is not None:
            self._producer.stopProducing()

    @property
    def _producer(self) -> IPushProducer:
        return IPushProducer(self.transport)


_OURS = Problem(500, "api_error", "Internal error in claudeproxy while translating the answer.", "internal")


def _header(response: IResponse, name: str) -> str:
    values = response.headers.getRawHeaders(name)
    return str(values[0]) if values else ""
