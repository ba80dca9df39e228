"""How long an answer is waited for: until its first token, between two reads after that, and in all."""

from collections.abc import Callable

from attrs import field
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from claudeproxy.model.kinds import define, frozen


@frozen
class Limits:
    """How long an answer may take, in seconds; 0 for as long as it takes."""

    #: Between two bytes after the first token.
    silence: float
    #: Until the first token.
    first_token: float = 0.0
    #: From the request to the last event.
    total: float = 0.0


@define(eq=False)
class Patience:
    """Gives up a backend that exceeds its limits, with words for what it did. A silence that the client asked for, by
    not reading, is not the backend's."""

    _clock: IReactorTime
    _limits: Limits
    #: When the backend was last heard, in the clock's seconds; None while it is not listened to.
    _heard: Callable[[], float | None]
    _give_up: Callable[[str], None]
    _watch: IDelayedCall | None = field(default=None, init=False)
    _end: IDelayedCall | None = field(default=None, init=False)

    def begin(self) -> None:
        """The request is on its way."""
        if self._limits.first_token:
            self._watch = self._clock.callLater(self._limits.first_token, self._never_spoke)
        if self._limits.total:
            self._end = self._clock.callLater(self._limits.total, self._took_too_long)

    def listen(self) -> None:
        """The first token is there: from now on no silence may last too long."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._limits.silence:
            self._watch = self._clock.callLater(self._limits.silence, self._check_silence)

    def end(self) -> None:
        """Nothing is waited for any more."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._end is not None:
            self._end.cancel()
            self._end = None

    def _never_spoke(self) -> None:
        self._watch = None
        self._give_up(f"did not begin its answer within {self._limits.first_token:g} s.")

    def _took_too_long(self) -> None:
        self._end = None
        self._give_up(f"did not finish its answer within {self._limits.total:g} s.")

    def _check_silence(self) -> None:
        heard, now = self._heard(), self._clock.seconds()
        silent = 0.0 if heard is None else now - heard
        if silent < self._limits.silence:
            self._watch = self._clock.callLater(self._limits.silence - silent, self._check_silence)
        else:
            self._watch = None
            self._give_up(f"fell silent for {self._limits.silence:g} s in the middle of its answer.")
