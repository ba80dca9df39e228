"""The whole proxy in memory, without its daemon: the real site, the real HTTP client, and a fake backend between."""

import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any

from attrs import evolve
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory as ProtocolFactory
from twisted.internet.protocol import Protocol
from twisted.logger import LogEvent, Logger, formatEvent
from twisted.web.server import Site

from claudeproxy.backends.chat import ChatBackend
from claudeproxy.backends.client import BackendClient, Target
from claudeproxy.routing.settings import BackendSettings, Settings
from claudeproxy.routing.table import ModelTable
from claudeproxy.translate.dialects import DIALECTS
from claudeproxy.web.app import MessagesAPI
from claudeproxy.web.exchange import Exchanges
from claudeproxy.web.live import Live
from claudeproxy.web.site import ProxySite
from tests.fakes.callers import Caller, caller
from tests.fakes.network import Network
from tests.fakes.openai import FakeOpenAI, Script

__all__ = ["BACKEND_PORT", "FRONT_PORT", "House", "body", "rendered"]

FRONT_PORT = 8080
BACKEND_PORT = 9000
#: Nobody may ever see this in a log.
BACKEND_KEY = "sk-backend-canary-7f3a"


def body(**fields: Any) -> dict[str, Any]:
    """A small streaming request; ``fields`` are laid over it, those that are None left out."""
    small = {
        "model": "claude-sonnet-4-5",
        "max_tokens": 64,
        "stream": True,
        "messages": [{"role": "user", "content": "Hi"}],
    }
    return {name: value for name, value in {**small, **fields}.items() if value is not None}


class House:
    """
    ``fake`` is the backend, `ask` asks the proxy, ``events`` is all that was logged. With ``dialect`` None the backend
    is asked what it is; ``settings`` are laid over the defaults.
    """

    def __init__(self, dialect: str | None = "generic", **settings: Any) -> None:
        self.network = Network()
        self.fake = FakeOpenAI(self.network)
        self.network.listenTCP(BACKEND_PORT, Site(self.fake, reactor=self.network))
        self.events: list[LogEvent] = []
        self.log = Logger("claudeproxy.test", observer=self.events.append)  # type: ignore[arg-type]
        backend = BackendSettings("fake", "openai", base_url=f"http://127.0.0.1:{BACKEND_PORT}/v1")
        self.settings = Settings(backends=(backend,), **settings)
        self.patience = 600.0
        self.client = BackendClient.over_network("fake", self.network, 10)
        self.backend = ChatBackend(
            "fake",
            self.client,
            self._locate,
            self.network,
            self.patience,
            self.log,
            dialect=None if dialect is None else DIALECTS[dialect],
        )
        ids = map("{:024x}".format, itertools.count(1))
        self.live = Live(self.settings, ModelTable.of(self.settings), {"fake": self.backend})
        self.exchanges = Exchanges(self.network, self.log, lambda: next(ids))
        self.api = MessagesAPI(lambda: self.live, self.exchanges, self.network, self.log, lambda: next(ids))
        site = ProxySite(
            self.api.resource(), lambda: self.live.settings.body_limit_mb * 1024 * 1024, self.network
        )
        self.network.listenTCP(FRONT_PORT, site)

    async def _locate(self) -> Target:
        return Target(f"http://127.0.0.1:{BACKEND_PORT}/v1", BACKEND_KEY)

    def reset(self, **settings: Any) -> None:
        """New settings, as a reload brings them."""
        self.settings = evolve(self.settings, **settings)
        self.live = Live(self.settings, ModelTable.of(self.settings), {"fake": self.backend})

    def caller(self) -> Caller:
        """A new client."""
        return caller(self.network, FRONT_PORT)

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str | bytes | None] | None = None,
    ) -> Caller:
        """A request from a new client, and all that follows at once."""
        return self.caller().ask(method, path, body, headers)

    def chat(self, script: Script, **fields: Any) -> Caller:
        """A small request, answered by the backend with ``script``."""
        self.fake.plays(script)
        return self.ask("POST", "/v1/messages", body(**fields))

    def pass_time(self, seconds: float) -> None:
        self.network.pass_time(seconds)

    @property
    def lines(self) -> list[str]:
        """The log, as it would be written."""
        return [formatEvent(event) for event in self.events]

    @property
    def request_lines(self) -> list[LogEvent]:
        """Of the log only the line that each request gets."""
        return [event for event in self.events if "duration" in event]


def rendered(events: list[LogEvent]) -> str:
    """All that any observer could make of these events: format, fields, tracebacks."""
    return "\n".join(f"{formatEvent(event)} {_fields(event)}" for event in events)


def _fields(event: LogEvent) -> str:
    failure = event.get("log_failure")
    traceback = "" if failure is None else failure.getTraceback()
    return json.dumps(event, default=repr) + traceback
