"""The whole proxy as one service: what the daemon runs, and what another Twisted program embeds."""

import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from attrs import evolve, field
from twisted.application.service import Service
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.threads import deferToThread
from twisted.logger import Logger
from twisted.web.resource import IResource

from claudeproxy.backends.interfaces import Backend
from claudeproxy.backends.state_file import StateFile
from claudeproxy.backends.unusable import BadTokenizer, UnusableModel
from claudeproxy.model.kinds import define
from claudeproxy.routing.addresses import Address
from claudeproxy.routing.conflicts import addresses
from claudeproxy.routing.declarations import only_restart
from claudeproxy.routing.settings import Settings
from claudeproxy.routing.sources import SettingsError, verify
from claudeproxy.service.certificates import BadCertificate
from claudeproxy.service.introduction import introduce
from claudeproxy.service.listening import CannotListen, Listening
from claudeproxy.service.observers import Logs
from claudeproxy.service.reading import NO_FILE
from claudeproxy.service.trace_parts import check_tracing, exporting
from claudeproxy.service.workshop import Workshop, check_files
from claudeproxy.web.admin import AdminAPI
from claudeproxy.web.app import MessagesAPI
from claudeproxy.web.exchange import Exchanges, Witness
from claudeproxy.web.exposition import Exposition, MetricsPage, Sources
from claudeproxy.web.gate import Gate
from claudeproxy.web.limits import Terms, affordable_connections
from claudeproxy.web.live import Live
from claudeproxy.web.metrics import Metrics
from claudeproxy.web.prompt import make_prompt
from claudeproxy.web.recorder import Recorder
from claudeproxy.web.records import RecordsAPI
from claudeproxy.web.request_log import RequestLog
from claudeproxy.web.site import ProxySite

#: What a daemon that stops gives its last error events to reach their clients, in seconds.
FAREWELL = 1.0


def new_id() -> str:
    """Unique for every request and answer; nobody can guess it."""
    return secrets.token_hex(12)


@define(eq=False, slots=False)
class Proxy(Service):
    """Serves the Messages API with ``settings``.

    Making it raises `SettingsError`, or `service.listening.BadAddress` for an address that means nothing. Starting it
    starts the backends and, with ``listens``, the HTTP servers. Stopping it lets nobody else in, lets running answers
    finish for ``drain_ms``, tells the rest, and stops the backends; the Deferred of `stopService` fires after that.
    `resource` is the same API for a Site of somebody else.
    """

    _settings: Settings
    _reactor: Any
    _listens: bool = True
    _logs: Logs = field(factory=Logs)
    _new_id: Callable[[], str] = new_id
    _log: Logger = field(init=False)
    _workshop: Workshop = field(init=False)
    _exchanges: Exchanges = field(init=False)
    _live: Live = field(init=False)
    _api: MessagesAPI = field(init=False)
    _metrics: Metrics = field(factory=Metrics, init=False)
    _records: RecordsAPI = field(init=False)
    _admin: AdminAPI = field(init=False)
    _doors: Listening = field(init=False)
    _admin_doors: Listening = field(init=False)
    #: Clients' and operators', once they are served.
    _sites: list[ProxySite] = field(factory=list, init=False)
    _state: StateFile | None = field(default=None, init=False)
    _exporting: Any = field(default=None, init=False)
    #: The end of what is waited for while it stops.
    _limit: IDelayedCall | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        verify(self._settings)
        self._doors = self._listening("listen", addresses(self._settings))
        self._admin_doors = self._listening("admin_listen", map(Address.read, self._settings.admin_listen))
        verify(self._settings, self._found_open())
        check_tracing(self._settings)
        self._set_log(self._settings)
        self._log = self._logs.logger("service")
        self._workshop = Workshop(self._reactor, self._logs, lambda: secrets.token_hex(32), self._new_id)
        recorder = Recorder(lambda: self._settings)
        witnesses: list[Witness] = [RequestLog(self._logs.logger("requests")), self._metrics, recorder]
        if self._settings.tracing:
            self._exporting = exporting(self._reactor, self._logs.logger("tracing"))
            witnesses.append(self._exporting.tracing)
        self._exchanges = Exchanges(self._reactor, witnesses, self._new_id)
        self._records = RecordsAPI(lambda: self._live, recorder, self._reactor, self._new_id)
        self._live = self._workshop.live(self._settings)
        if self._settings.state_file not in ("", NO_FILE):
            self._state = StateFile(
                Path(self._settings.state_file),
                self._workshop.learned.dump,
                self._reactor,
                deferToThread,
                log=self._logs.logger("state"),
            )
            self._workshop.changed = self._state.changed
        log = self._logs.logger("web")
        self._api = MessagesAPI(lambda: self._live, self._exchanges, self._reactor, log, self._new_id)
        exposition = self._api.exposition = self._exposition()
        self._admin = AdminAPI(lambda: self._live, self._exchanges, exposition, log)
        self.setName("claudeproxy")

    def resource(self) -> Gate:
        """The API, to be put anywhere into a tree of resources. It serves while this service runs. What operators look
        at is below ``/admin``, unless there is a listener for them."""
        return self._api.resource(None if self._settings.admin_listen else self.records())

    def records(self) -> IResource:
        """The flight recorder's routes, with a gate of their own, for a Site of their own."""
        return self._records.resource()

    def metrics(self) -> IResource:
        """The metrics as a resource of their own, whatever the settings say and whoever asks."""
        assert self._api.exposition is not None
        return MetricsPage(self._api.exposition, self._logs.logger("metrics"))

    @property
    def port(self) -> int:
        """The first TCP port; the way to learn it when the settings said 0."""
        for port in self._doors.ports:
            host = port.getHost()
            if isinstance(host, IPv4Address | IPv6Address):
                return int(host.port)
        raise AssertionError("it listens on no TCP port")

    @property
    def urls(self) -> list[str]:
        """Where clients can reach it."""
        return self._doors.urls

    @property
    def longest_drain(self) -> float:
        """How long stopping may take, in seconds, as far as it is the clients' affair."""
        return self._settings.drain_ms / 1000 + 3 * FAREWELL

    def privilegedStartService(self) -> None:
        super().privilegedStartService()
        self._listen()

    def startService(self) -> None:
        super().startService()
        if not self._sites:  # nobody called privilegedStartService
            self._listen()
        if self._state is not None:
            self._workshop.learned.load(self._state.load())
        if self._exporting is not None:
            self._exporting.start()
        for backend in self._live.backends.values():
            backend.start()
        if self._listens:
            introduce(self._log, self._settings, self._doors, self._admin_doors, self._live.backends.values())

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._drain())

    def hurry(self) -> None:
        """While it stops: what still runs is ended now, as it would be after ``drain_ms``."""
        if self._limit is not None and self._limit.active():
            self._log.info("told again to stop: the running answers get no more time")
            self._limit.reset(0)

    def reload_refused(self) -> None:
        """Settings could not even be read: that counts as a reload, too."""
        self._metrics.reloads["refused"] += 1

    def reload(self, settings: Settings) -> None:
        """Swaps the settings for new requests; running ones end on those that they began with. It goes on listening
        where it does, with certificates that are read again.

        Raises `SettingsError`, `UnusableModel`, `BadTokenizer` or `BadCertificate`, and then nothing has changed.
        """
        # The addresses stay until a restart: what is checked must fit those it really listens on.
        unchanged = {each: getattr(self._settings, each) for each in only_restart(Settings)}
        settings = evolve(settings, **unchanged)
        try:
            verify(settings, self._found_open())
            check_files(settings)
            renewed = [each.renewed() for each in (self._doors, self._admin_doors)]
        except (SettingsError, UnusableModel, BadTokenizer, BadCertificate):
            self.reload_refused()
            raise
        before = set(self._live.backends.values())
        live = self._workshop.live(settings)
        for take in renewed:
            take()
        self._set_log(settings)
        self._settings, self._live = settings, live
        self._metrics.reloads["ok"] += 1
        for backend in live.backends.values():
            if backend in before:
                backend.look_again()
            else:
                backend.start()
        for retired in self._workshop.retire(live):
            Deferred.fromCoroutine(self._retire(retired))

    def _set_log(self, settings: Settings) -> None:
        self._logs.set_level(settings.log_level)
        self._logs.set_form(settings.log_format)

    def _exposition(self) -> Exposition:
        workshop, orphanage = self._workshop, self._api.orphanage
        sources = Sources(
            live=lambda: self._live,
            running=self._exchanges.running,
            waiting=lambda: len(orphanage),
            resends=workshop.resends,
            verdicts=workshop.verdicts,
            log_lines_lost=lambda: self._logs.lost,
        )
        return Exposition(self._metrics, sources, self._reactor)

    async def _retire(self, backend: Backend) -> None:
        await self._exchanges.finished()  # some of those that run just now may be its
        orphanage = self._api.orphanage
        while orphanage.has_of(backend):  # for as long as they may, at most; who adopts one is waited for, too
            await orphanage.changed()
            await self._exchanges.finished()
        await self._close(backend)

    async def _close(self, backend: Backend) -> None:
        try:
            await backend.close()
        except CancelledError:
            raise
        except Exception:  # one that cannot be closed must not keep the others open
            self._log.failure("closing a backend failed")

    def _listening(self, setting: str, where: Iterable[Address]) -> Listening:
        """Ready to listen there."""
        written = getattr(self._settings, setting)
        return Listening.at(
            setting, written, where if self._listens else (), self._reactor, self._logs.logger("service")
        )

    def _found_open(self) -> frozenset[str]:
        return self._doors.found_open | self._admin_doors.found_open

    def _listen(self) -> None:
        for doors, gate, remedy in (
            (self._doors, self.resource(), "LISTEN" if self._settings.listen else "PORT or HOST"),
            (self._admin_doors, self._admin.resource(self.records()), "ADMIN_LISTEN"),
        ):
            site = ProxySite(
                gate, self._longest_body, self._exchanges.refused, self._reactor, self._terms, gate.welcomes
            )
            try:
                doors.listen(site, remedy)
            except CannotListen:
                self._sites.clear()
                Deferred.fromCoroutine(self._doors.close())
                raise
            make_prompt(doors.ports)
            self._sites.append(site)

    def _longest_body(self) -> int:
        return self._settings.body_limit_mb * 1024 * 1024

    def _terms(self) -> Terms:
        settings = self._settings
        return Terms(
            settings.header_limit_kb * 1024,
            settings.request_timeout_ms / 1000,
            settings.idle_ms / 1000,
            settings.max_connections or affordable_connections(),
        )

    async def _drain(self) -> None:
        self._exchanges.draining = True
        self._api.orphanage.close()
        await self._doors.close()
        await self._wait_for(Deferred.fromCoroutine(self._all_answered()), self._settings.drain_ms / 1000)
        self._exchanges.closed = True
        self._api.orphanage.close()
        if len(self._exchanges):
            self._log.warn("{count} answers are cut off, because the daemon stops", count=len(self._exchanges))
            self._exchanges.stop_all()
            await self._wait_for(self._exchanges.finished(), FAREWELL)
        await self._admin_doors.close()  # until now its monitors could see that it stops
        for site in self._sites:
            # An answer is finished before its last bytes are out, and the reactor would not wait for them.
            await self._wait_for(site.close_connections(), FAREWELL)
        self._sites.clear()
        for backend in self._workshop.all():
            await self._close(backend)
        if self._state is not None:
            await self._state.close()
        if self._exporting is not None:
            await self._exporting.stop()
        self._exchanges.draining = self._exchanges.closed = False

    async def _all_answered(self) -> None:
        """Until every answer is out and every client has left, or has had the time to ask once more."""
        for site in self._sites[:1]:  # operators may go on looking
            await site.drain()
        while len(self._exchanges):
            await self._exchanges.finished()

    async def _wait_for(self, finished: Deferred[None], seconds: float) -> None:
        if finished.called:
            return
        limit = self._limit = self._reactor.callLater(seconds, finished.cancel)
        try:
            await finished
        except CancelledError:
            if limit.active():  # it was not our limit
                raise
        else:
            limit.cancel()
