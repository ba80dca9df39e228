"""The whole proxy as one service: what the daemon runs, and what another Twisted program embeds."""

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import define, evolve, field
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.internet.threads import deferToThread
from twisted.logger import Logger
from twisted.web.resource import IResource

from claudeproxy.backends.interfaces import Backend
from claudeproxy.backends.state_file import StateFile
from claudeproxy.routing.conflicts import is_loopback
from claudeproxy.routing.settings import Settings
from claudeproxy.routing.sources import verify
from claudeproxy.service.observers import Logs
from claudeproxy.service.reading import NO_FILE
from claudeproxy.service.workshop import Workshop, check_embedded, check_tokenizers, names
from claudeproxy.web.app import MessagesAPI
from claudeproxy.web.exchange import Exchanges
from claudeproxy.web.live import Live
from claudeproxy.web.prompt import make_prompt
from claudeproxy.web.request_log import RequestLog
from claudeproxy.web.site import ProxySite

#: What a daemon that stops gives its last error events to reach their clients, in seconds.
FAREWELL = 1.0


class CannotListen(Exception):
    """The address is taken, or not this machine's; the text says which and what to do."""


def new_id() -> str:
    """Unique for every request and answer; nobody can guess it."""
    return secrets.token_hex(12)


@define(eq=False, slots=False)
class Proxy(Service):
    """Serves the Messages API with ``settings``.

    Starting it starts the backends and, with ``listens``, the HTTP server. Stopping it turns new requests away, lets
    running answers finish for ``drain_ms``, tells the rest, and stops the backends; the Deferred of `stopService`
    fires after that. `resource` is the same API for a Site of somebody else.
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
    _port: IListeningPort | None = field(default=None, init=False)
    _site: ProxySite | None = field(default=None, init=False)
    _state: StateFile | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        verify(self._settings)
        self._logs.set_level(self._settings.log_level)
        self._log = self._logs.logger("service")
        self._workshop = Workshop(self._reactor, self._logs, lambda: secrets.token_hex(32), self._new_id)
        self._exchanges = Exchanges(self._reactor, [RequestLog(self._logs.logger("requests"))], self._new_id)
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
        self.setName("claudeproxy")

    def resource(self) -> IResource:
        """The API, to be put anywhere into a tree of resources. It serves while this service runs."""
        return self._api.resource()

    @property
    def port(self) -> int:
        """Where it listens; the way to learn it when the settings said 0."""
        assert self._port is not None, "it does not listen"
        return int(self._port.getHost().port)  # type: ignore[attr-defined]

    def privilegedStartService(self) -> None:
        super().privilegedStartService()
        if self._listens:
            self._listen()

    def startService(self) -> None:
        super().startService()
        if self._listens and self._port is None:  # nobody called privilegedStartService
            self._listen()
        if self._state is not None:
            self._workshop.learned.load(self._state.load())
        for backend in self._live.backends.values():
            backend.start()
        if self._listens:
            self._introduce()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._drain())

    def reload(self, settings: Settings) -> None:
        """Swaps the settings for new requests; running ones end on those that they began with. It goes on listening
        where it does: host and port stay.

        Raises `SettingsError` or `UnusableModel`, and then nothing has changed.
        """
        # The address stays until a restart: what is checked must fit the one it really listens on.
        unchanged = {each: getattr(self._settings, each) for each in ("host", "port", "state_file")}
        settings = evolve(settings, **unchanged)
        verify(settings)
        check_embedded(settings)
        check_tokenizers(settings)
        before = set(self._live.backends.values())
        live = self._workshop.live(settings)
        self._logs.set_level(settings.log_level)
        self._settings, self._live = settings, live
        for backend in live.backends.values():
            if backend in before:
                backend.look_again()
            else:
                backend.start()
        for retired in self._workshop.retire(live):
            Deferred.fromCoroutine(self._retire(retired))

    async def _retire(self, backend: Backend) -> None:
        await self._exchanges.finished()  # some of those that run just now may be its
        await self._close(backend)

    async def _close(self, backend: Backend) -> None:
        try:
            await backend.close()
        except CancelledError:
            raise
        except Exception:  # one that cannot be closed must not keep the others open
            self._log.failure("closing a backend failed")

    def _listen(self) -> None:
        self._site = site = ProxySite(self.resource(), self._longest_body, self._new_id, self._reactor)
        listening: Deferred[IListeningPort] = self._endpoint().listen(site)
        outcome: list[Any] = []
        listening.addBoth(outcome.append)  # a TCP endpoint answers at once
        failure = outcome[0]
        if isinstance(getattr(failure, "value", None), CannotListenError):
            settings = self._settings
            raise CannotListen(
                # Short: twistd passes on a hundred bytes of it to the terminal that it came from.
                f"cannot listen on {settings.host}:{settings.port}: {_reason(failure.value)}; set PORT or HOST"
            )
        if hasattr(failure, "raiseException"):
            failure.raiseException()
        self._port = failure
        make_prompt([failure])

    def _longest_body(self) -> int:
        return self._settings.body_limit_mb * 1024 * 1024

    def _endpoint(self) -> IStreamServerEndpoint:
        host, port = self._settings.host, self._settings.port
        kind = TCP6ServerEndpoint if ":" in host else TCP4ServerEndpoint
        endpoint: IStreamServerEndpoint = kind(self._reactor, port, backlog=1024, interface=host)
        return endpoint

    def _introduce(self) -> None:
        settings = self._settings
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)
        address = f"http://[{host}]" if ":" in host and not host.startswith("[") else f"http://{host}"
        key = "YOUR_KEY" if settings.keys else "none"
        self._log.info("claudeproxy listens on {address}:{port}", address=address, port=self.port)
        self._log.info("answers come from {backends}", backends=names(self._live.backends.values()))
        embedded = self._live.settings.backends[0].provider == "local"
        self._log.info(
            "start Claude Code with: ANTHROPIC_BASE_URL={address}:{port} ANTHROPIC_API_KEY={key} "
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1 claude{flags}",
            address=address,
            port=self.port,
            key=key,
            # The embedded model's window holds a conversation, but not the definitions of all of Claude Code's tools.
            flags=' --bare --tools ""' if embedded else "",
        )
        if not is_loopback(settings.host):
            self._log.warn("{host} can be reached from other machines; every request needs a key", host=settings.host)

    async def _drain(self) -> None:
        self._exchanges.draining = True
        self._api.orphanage.close()
        if self._port is not None:
            port, self._port = self._port, None
            await maybeDeferred(port.stopListening)
        await self._wait_for(self._exchanges.finished(), self._settings.drain_ms / 1000)
        if len(self._exchanges):
            self._log.warn("{count} answers are cut off, because the daemon stops", count=len(self._exchanges))
            self._exchanges.stop_all()
            await self._wait_for(self._exchanges.finished(), FAREWELL)
        if self._site is not None:
            # An answer is finished before its last bytes are out, and the reactor would not wait for them.
            await self._wait_for(self._site.close_connections(), FAREWELL)
        for backend in self._workshop.all():
            await self._close(backend)
        if self._state is not None:
            await self._state.close()
        self._exchanges.draining = False

    async def _wait_for(self, finished: Deferred[None], seconds: float) -> None:
        if finished.called:
            return
        limit = self._reactor.callLater(seconds, finished.cancel)
        try:
            await finished
        except CancelledError:
            if limit.active():  # it was not our limit
                raise
        else:
            limit.cancel()


def _reason(fault: CannotListenError) -> str:
    return str(getattr(fault.socketError, "strerror", None) or fault.socketError)
