"""The whole proxy in memory: the real service, the real site, the real HTTP client, with a fake backend behind."""

import itertools
import json
from collections.abc import Mapping
from typing import Any

from attrs import evolve
from twisted.logger import LogEvent, formatEvent
from twisted.web.server import Site

from claudeproxy.routing.expectations import Secret
from claudeproxy.routing.settings import BackendSettings, Settings
from claudeproxy.service.observers import Logs
from claudeproxy.service.proxy import Proxy
from tests.fakes.callers import Caller, caller
from tests.fakes.network import Network
from tests.fakes.openai import Answer, FakeOpenAI, Script

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
    ``fake`` is the backend, of the class ``make_fake``; `ask` asks the proxy, ``events`` is all that was logged. With
    the dialect ``auto`` the backend is asked what it is; ``backend`` are settings of the backend, ``others`` what it
    answers on other paths; the settings are laid over the defaults.
    """

    def __init__(
        self,
        dialect: str = "generic",
        backend: Mapping[str, Any] | None = None,
        others: Mapping[tuple[str, str], Answer] | None = None,
        make_fake: type[FakeOpenAI] = FakeOpenAI,
        **settings: Any,
    ) -> None:
        self.network = Network()
        self.fake = make_fake(self.network, others=dict(others or {}))
        self.network.listenTCP(BACKEND_PORT, Site(self.fake, reactor=self.network))
        self.events: list[LogEvent] = []
        root = f"http://127.0.0.1:{BACKEND_PORT}"
        told = {"provider": "openai", "base_url": f"{root}/v1", "api_key": Secret(BACKEND_KEY), "dialect": dialect}
        told |= backend or {}
        if told["provider"] == "anthropic":
            told = {**told, "dialect": "auto"}
        backends = (BackendSettings("fake", **told),)
        self.settings = Settings(backends=backends, **{"log_level": "debug", "port": FRONT_PORT, **settings})
        ids = map("{:024x}".format, itertools.count(1))
        self.proxy = Proxy(
            self.settings,
            self.network,
            logs=Logs(self.events.append),  # type: ignore[arg-type]
            new_id=lambda: next(ids),
        )
        self.proxy.startService()
        self.network.pump()

    def reset(self, **settings: Any) -> None:
        """A reload with other settings."""
        self.settings = evolve(self.settings, **settings)
        self.proxy.reload(self.settings)

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
