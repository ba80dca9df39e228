"""The embedded model: one child process, kept alive, and where it listens just now.

What the service does with what happens (a *quick death* is one before `HEALTHY_AFTER` seconds of serving):

=========  ==========================  =========================================================================
state      event                       what follows
=========  ==========================  =========================================================================
stopped    start                       spawn; starting
starting   address                     everybody who waits gets it; serving
starting   error line, never served    nobody waits any more: the next start would end the same way; failed
starting   death                       pause, doubled with each quick death; resting
serving    death                       pause; resting
resting    the pause is over           spawn, with a new key, on a new port; starting
any        stop                        stdin is closed, after `STOP_PATIENCE` the child is killed; stopped
=========  ==========================  =========================================================================

After `PATIENT_DEATHS` quick deaths in a row nobody is kept waiting any more until a child serves again; the service
goes on trying.
"""

from collections.abc import Callable, Mapping
from math import ceil
from pathlib import Path

from attrs import evolve, field
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IDelayedCall, IReactorProcess, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from claudeproxy.backends.embedded_child import Orders
from claudeproxy.backends.embedded_process import ModelProcess, Serving, how_it_ended
from claudeproxy.backends.gguf import alias_of
from claudeproxy.model.kinds import define, frozen
from claudeproxy.model.problems import Problem, Refusal, overloaded

#: Seconds of rest before the next start.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
#: A child that served for so many seconds had no trouble starting: its death begins a new count.
HEALTHY_AFTER = 60.0
PATIENT_DEATHS = 3
#: Seconds between closing the child's stdin, upon which it should end at once, and killing it.
STOP_PATIENCE = 2.0


@frozen
class Address:
    """Where the embedded model serves until its process ends; ``window`` is in tokens."""

    host: str
    port: int
    key: str = field(repr=False)
    alias: str
    window: int


def pause_after(quick_deaths: int) -> float:
    """Seconds to rest after so many quick deaths in a row: 0.5 after none or one, then 1, 2, … 30."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(max(0, quick_deaths - 1), 10))


@define(eq=False, slots=False)
class EmbeddedModel(Service):
    """Runs the model's process for as long as the service runs, and tells where it serves.

    ``window`` is in tokens, 0 is the model's own; an empty ``chat_template`` is the model's own. ``make_key`` is
    asked for every process anew. The service may be started again when the Deferred of `stopService` has fired.
    """

    _gguf: Path
    _processes: IReactorProcess
    _clock: IReactorTime
    _make_key: Callable[[], str]
    _window: int = 0
    _chat_template: str = ""
    _sampling: Mapping[str, float] = field(factory=dict)
    _log: Logger = field(factory=lambda: Logger(namespace="claudeproxy.backends.embedded"))

    _process: ModelProcess | None = field(init=False, default=None)
    _address: Address | None = field(init=False, default=None)
    _has_served: bool = field(init=False, default=False)
    _serves_since: float | None = field(init=False, default=None)
    _quick_deaths: int = field(init=False, default=0)
    _verdict: Problem | None = field(init=False, default=None)
    _waiting: list[Deferred[Address]] = field(init=False, factory=list)
    _next_start: IDelayedCall | None = field(init=False, default=None)
    _stopping: Deferred[None] | None = field(init=False, default=None)

    @property
    def alias(self) -> str:
        """The name that the model is served under, known before it serves."""
        return alias_of(self._gguf)

    @property
    def pid(self) -> int | None:
        """The process's id, None while there is none."""
        return None if self._process is None else self._process.pid

    @property
    def serves(self) -> bool:
        """Whether the model is loaded, and its process lives."""
        return self._address is not None

    async def ready(self) -> Address:
        """Where the model serves, as soon as it does.

        Raises `Refusal` if it will not soon: start-up failed for good, it died too often, or the service stopped.
        Waits without a limit of its own; cancelling is safe.
        """
        if self._address is not None:
            return self._address
        if self._verdict is not None:
            raise Refusal(self._verdict)
        waiting: Deferred[Address] = Deferred(self._forget)
        self._waiting.append(waiting)
        return await waiting

    def _forget(self, waiting: Deferred[Address]) -> None:
        if waiting in self._waiting:
            self._waiting.remove(waiting)

    def startService(self) -> None:
        super().startService()
        self._verdict, self._serves_since, self._quick_deaths, self._has_served = None, None, 0, False
        self._spawn()

    def stopService(self) -> Deferred[None] | None:
        """Fires when the process is gone, which takes `STOP_PATIENCE` seconds at the most."""
        super().stopService()
        self._address = None
        self._refuse(overloaded("The embedded model is being stopped."))
        if self._next_start is not None:
            self._next_start.cancel()
            self._next_start = None
        if self._process is None or self._stopping is not None:
            return self._stopping
        self._process.let_go()
        last_call = self._clock.callLater(STOP_PATIENCE, self._kill, self._process)
        # Not cancellable: there is nothing to do about a process but wait for its end.
        self._stopping = Deferred()
        return self._stopping.addCallback(lambda _: last_call.cancel() if last_call.active() else None)

    def _spawn(self) -> None:
        self._next_start = None
        key, sampling = self._make_key(), dict(self._sampling)
        orders = Orders(str(self._gguf), self.alias, key, self._window, self._chat_template, sampling)
        process = ModelProcess(orders, self._on_serving, self._on_end)
        self._process = process
        try:
            process.spawn(self._processes)
        except OSError as error:
            self._process = None
            self._rest(f"not started: {error.strerror}", "")

    def _on_serving(self, serving: Serving) -> None:
        if self._process is None or self._stopping is not None:
            return
        orders = self._process.orders
        self._address = Address(serving.host, serving.port, orders.key, orders.alias, serving.window)
        self._has_served, self._verdict = True, None
        self._serves_since = self._clock.seconds()
        self._log.info(
            "embedded model {alias} serves on {host}:{port}, window {window} tokens",
            alias=orders.alias,
            host=serving.host,
            port=serving.port,
            window=serving.window,
        )
        self._tell(self._address)

    def _on_end(self, reason: Failure) -> None:
        process, self._process = self._process, None
        self._address = None
        if self._stopping is not None:
            stopped, self._stopping = self._stopping, None
            stopped.callback(None)
        elif process is not None and process.broken is not None and not self._has_served:
            self._give_up(process.broken, process.complaints)
        elif process is not None:
            self._rest(process.broken or how_it_ended(reason), process.complaints)

    def _give_up(self, error: str, complaints: str) -> None:
        self._log.error(
            "embedded model cannot be served: {error} {complaints}",
            error=error,
            complaints=" | ".join(complaints.splitlines()),
        )
        self._refuse(evolve(overloaded(f"The embedded model cannot be served. {error}"), should_retry=False))

    def _rest(self, how: str, complaints: str) -> None:
        served = 0.0 if self._serves_since is None else self._clock.seconds() - self._serves_since
        self._serves_since = None
        self._quick_deaths = 0 if served >= HEALTHY_AFTER else self._quick_deaths + 1
        pause = pause_after(self._quick_deaths)
        self._log.warn(
            "embedded model ended ({how}) after serving for {served:.0f} s; next start in {pause} s {complaints}",
            how=how,
            served=served,
            pause=pause,
            complaints=" | ".join(complaints.splitlines()),
        )
        self._next_start = self._clock.callLater(pause, self._spawn)
        if self._quick_deaths >= PATIENT_DEATHS:
            times = f"{self._quick_deaths} times in a row"
            self._refuse(overloaded(f"The embedded model ended {times} ({how}); it is being restarted.", ceil(pause)))

    def _refuse(self, verdict: Problem) -> None:
        self._verdict = verdict
        self._tell(Failure(Refusal(verdict)))

    def _tell(self, outcome: Address | Failure) -> None:
        while self._waiting:  # whoever is told may cancel another one who waits
            self._waiting.pop(0).callback(outcome)

    def _kill(self, process: ModelProcess) -> None:
        self._log.warn("embedded model does not end by itself; killing it")
        try:
            process.kill()
        except ProcessExitedAlready:
            pass  # its end is about to be reported
