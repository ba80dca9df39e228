"""What is known of one backend, kept true while the backend comes, goes and changes (issue 4, "Probing").

=========  ===========================  ================================================================================
state      event                        what follows
=========  ===========================  ================================================================================
new        start                        asked; a request waits for the answer, but not longer than `RECOGNITION_TIME`
any        an answer                    it is there; what it says replaces all that was known
there      a request, old facts         asked in the background; a change is told
there      a request did not reach it   asked at once
there      asked, but it is too slow    what is known holds: a server that is busy is not gone
any else   asked, and not reached       it is away; a watch asks after 1, 2, 5, 10 seconds, then every 30
away       a request                    asks as the watch does; if in vain it goes by what was known before
=========  ===========================  ================================================================================

Each going and each coming back is one line of the log, however often it is asked.
"""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from attrs import field
from twisted.internet.defer import Deferred, DeferredList, DeferredSemaphore
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from claudeproxy.backends.client import QUESTION_TIME
from claudeproxy.backends.profile import NOTHING, Facts
from claudeproxy.backends.recognition import Recognised
from claudeproxy.backends.shared import Shared
from claudeproxy.backends.watch import Watch
from claudeproxy.model.kinds import define
from claudeproxy.model.problems import Refusal

#: A request waits so long, in seconds, for its server to say what it is; then it is taken for one that does not say.
RECOGNITION_TIME = 1.5
#: Claude Code gives a list of models 3 seconds (PROTOCOL 7.4); this is how much of them one backend may take.
OFFER_TIME = 1.8
#: Facts older than this, in seconds, are asked anew when they are needed.
FRESH = 60.0
#: The same for a well-known service, whose list of models may be half a megabyte.
FRESH_HOSTED = 3600.0
#: How many models are asked about at once.
AT_ONCE = 4
#: So many names of models are shown in a line of the log.
_SHOWN = 3


@define(eq=False)
class Acquaintance:
    """Everything that one backend told. ``ask`` asks it what it is and raises `Refusal` if it cannot be reached;
    ``told`` puts into words for the log what it said."""

    _backend: str
    _ask: Callable[[], Awaitable[Recognised]]
    _told: Callable[[Recognised], str]
    _clock: IReactorTime
    _log: Logger
    #: Facts hold for so many seconds.
    _lasting: float = FRESH
    #: Whether a request waits for the backend to say what it is, should it not have said so yet.
    _is_awaited: bool = True
    _recognition: Shared[Recognised] = field(init=False)
    #: What it said last, though it may be away since.
    _last: Recognised | None = field(default=None, init=False)
    _models: dict[str, Shared[Facts]] = field(factory=dict, init=False)
    _turns: DeferredSemaphore = field(factory=lambda: DeferredSemaphore(AT_ONCE), init=False)
    _watch: Watch = field(init=False)
    _serving: bool = field(default=False, init=False)
    _away: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._recognition = Shared(self._recognise, self._clock, RECOGNITION_TIME, self._lasting)
        self._watch = Watch(self._clock, self._recognition.renew, self._log_failure)

    def start(self) -> None:
        """Asks for the first time. May be called again after `stop`."""
        self._serving = True
        self._begin()

    def stop(self) -> None:
        """Asks no more of its own accord."""
        self._serving = self._away = False
        self._watch.end()

    def doubt(self) -> None:
        """A request did not reach the backend: is it there?"""
        if self._serving and not self._away:
            self._begin()

    @property
    def last(self) -> Recognised | None:
        """What the backend said last, though it may be away since; None if it never said anything."""
        return self._last

    def is_alive(self) -> bool:
        """Whether the backend answered when it was last asked; should that be long ago, it is asked in the
        background."""
        if self._serving:
            self._recognition.refresh()
        return self._serving and self._last is not None and not self._away

    def knows(self, model: str) -> bool:
        """Whether the backend has told of a model of this very name."""
        return self._last is not None and model in self._last.models

    @property
    def is_up(self) -> bool | None:
        """Whether the backend was there when it was last heard of; None before the first time."""
        return False if self._away else None if self._last is None else True

    async def known(self) -> Recognised | None:
        """What the backend is; None if it has never said so, or not in `RECOGNITION_TIME`."""
        return await self._recognition.get() or self._last

    async def facts(self, model: str) -> Facts:
        """What is known of ``model``, asked of the backend where that is possible and necessary."""
        may_wait = self._is_awaited or self._recognition.found is not None
        known = await self.known() if may_wait else self._last
        if known is None:
            return NOTHING
        facts = known.facts(model)
        if known.ask is None:
            return facts
        shared = self._models.get(model)
        if shared is None:
            shared = self._models[model] = Shared(
                partial(self._ask_of, model), self._clock, RECOGNITION_TIME, self._lasting
            )
        found = shared.found if self._away else await shared.get()
        if found is None and model not in known.models:
            self._models.pop(model, None)  # a name that nobody knows is not worth the memory
        return facts if found is None else found.over(facts)

    async def offered(self) -> Mapping[str, Facts]:
        """The models that the backend lists, with what can be found out of them within `OFFER_TIME`; none while it is
        away."""
        began = self._clock.seconds()
        known = await self.known()
        if known is None or self._away:
            return {}
        if known.ask is None:
            return {name: known.facts(name) for name in known.models}
        asked = DeferredList([Deferred.fromCoroutine(self.facts(name)) for name in known.models], consumeErrors=True)
        limit = self._clock.callLater(max(0.0, began + OFFER_TIME - self._clock.seconds()), asked.cancel)
        try:
            found = await asked
        finally:
            if limit.active():
                limit.cancel()
        return {
            name: facts if known_now else known.facts(name)
            for name, (known_now, facts) in zip(known.models, found, strict=True)
        }

    def _begin(self) -> None:
        Deferred.fromCoroutine(self._recognition.renew()).addErrback(self._log_failure)

    async def _recognise(self) -> Recognised | None:
        began = self._clock.seconds()
        try:
            found = await self._ask()
        except Refusal as refusal:
            self._missed(refusal.problem.message, self._clock.seconds() - began >= QUESTION_TIME)
            return None
        self._met(found)
        return found

    def _met(self, found: Recognised) -> None:
        away, last = self._away, self._last
        self._away, self._last = False, found
        self._watch.end()
        if away or found != last:
            self._models.clear()
        words = "" if found == last else self._told(found)
        if away:
            self._log.info("backend {backend} is back{words}", backend=self._backend, words=words and f": it {words}")
        elif words:
            changed = "" if last is None else " has changed: it now"
            self._log.info("backend {backend}{changed} {words}", backend=self._backend, changed=changed, words=words)

    def _missed(self, reason: str, slow: bool) -> None:
        if not self._serving or (slow and self._last is not None and not self._away):
            return
        self._recognition.forget()
        if not self._away:
            self._away = True
            self._log.warn(
                "backend {backend} is away, and is asked until it is back: {reason}",
                backend=self._backend,
                reason=reason,
            )
        self._watch.begin()

    async def _ask_of(self, model: str) -> Facts | None:
        known = self._last
        if known is None or known.ask is None:
            return None
        await self._turns.acquire()
        try:
            found = await known.ask(model)
        finally:
            self._turns.release()
        if found is not None:
            self._compare(model, found)
        return found

    def _compare(self, model: str, found: Facts) -> None:
        before = self._models[model].found if model in self._models else None
        if before is not None and before != found:
            self._log.info(
                "model {model} of {backend} has changed: {words}",
                model=printable(model),
                backend=self._backend,
                words=window_words([found.window]),
            )

    def _log_failure(self, failure: Failure) -> None:
        self._log.failure("asking backend {backend} what it is failed", failure=failure, backend=self._backend)


def in_words(found: Recognised, dialect: str) -> str:
    """What a backend told, for one line of the log."""
    names = [printable(name) for name in found.models]
    offered = ", ".join(names[:_SHOWN]) or "no list of models"
    if len(names) > _SHOWN:
        offered += f" and {len(names) - _SHOWN} more"
    said = [found.facts(name) for name in found.models] or [found.common]
    words = [f"speaks {dialect} and offers {offered}", window_words([facts.window for facts in said])]
    if found.slots:
        words.append(f"{found.slots} at once")
    lacks = list(dict.fromkeys(lack for facts in said for lack in facts.lacks))
    if lacks:
        words.append(f"its template has no place for {', '.join(lacks)}")
    return "; ".join(words)


def window_words(windows: list[int]) -> str:
    """The windows of some models, in tokens."""
    told = sorted(window for window in windows if window)
    if not told:
        return "window not told"
    return f"window {told[0]}" if told[0] == told[-1] else f"windows {told[0]} to {told[-1]}"


def printable(name: str) -> str:
    """A name that a server gave, fit for a line of the log."""
    return "".join(letter if letter.isprintable() else "?" for letter in name[:200])
