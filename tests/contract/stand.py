"""A stand: the whole proxy in memory with one kind of backend behind, told what to say in `tests.contract.parts`."""

import itertools
from collections.abc import Mapping
from typing import Any, ClassVar

from twisted.logger import LogEvent
from twisted.web.resource import Resource
from twisted.web.server import Site

from claudeproxy.routing.expectations import Secret
from claudeproxy.routing.settings import BackendSettings, Settings
from claudeproxy.service.observers import Logs
from claudeproxy.service.proxy import Proxy
from tests.contract.parts import Part, Writer, spelt
from tests.fakes.callers import Caller
from tests.fakes.house import BACKEND_KEY, BACKEND_PORT, FRONT_PORT, House, body
from tests.fakes.network import End, Network
from tests.fakes.openai import Received
from tests.fakes.scripts import EVENT_STREAM, Script, error, silent


class Stand(House):
    """
    One kind of backend. A new kind is a subclass that says how its answers are spelt (`writer`), which fake serves
    them (`make_fake`, anything with ``plays`` and ``received``), and what is different about it.
    """

    #: The setting ``provider``, the end of ``base_url``, and more settings of the backend.
    provider: ClassVar[str]
    base_path: ClassVar[str] = "/v1"
    told: ClassVar[Mapping[str, Any]] = {}
    #: The path where answers are made.
    path: ClassVar[str]
    headers: ClassVar[Mapping[str, str]] = EVENT_STREAM
    writer: ClassVar[type[Writer]]
    model: ClassVar[str] = "fake-model"
    #: Whether it tells which tokens came from its cache.
    tells_cached: ClassVar[bool] = True
    #: Whether it opens its answers by telling how much of the prompt it has read.
    tells_progress: ClassVar[bool] = False
    #: Whether stop sequences are the proxy's to find, not the backend's.
    stops_in_proxy: ClassVar[bool] = True
    #: Where it is asked whether it lives while it says nothing; "" if it is not.
    alive_path: ClassVar[str] = ""
    #: Whether its answers go to the client byte for byte. What the backend says of itself, how, and whether it says all
    #: of it, is then its own affair; in the proxy's words is only what the proxy has to tell of itself.
    passes_on: ClassVar[bool] = False

    fake: Any

    def __init__(self, **backend: Any) -> None:
        self.network = Network()
        self.fake = self.make_fake(self.network)
        self.network.listenTCP(BACKEND_PORT, Site(self.fake, reactor=self.network))
        self.events: list[LogEvent] = []
        place = {"base_url": f"http://127.0.0.1:{BACKEND_PORT}{self.base_path}", "api_key": Secret(BACKEND_KEY)}
        backends = (BackendSettings("fake", self.provider, **{**place, **self.told, **backend}),)
        self.settings = Settings(backends=backends, log_level="debug", port=FRONT_PORT)
        ids = map("{:024x}".format, itertools.count(1))
        logs = Logs(self.events.append)  # type: ignore[arg-type]
        self.proxy = Proxy(self.settings, self.network, logs=logs, new_id=lambda: next(ids))
        self.proxy.startService()
        self.network.pump()

    def make_fake(self, network: Network) -> Resource:
        """The backend."""
        raise NotImplementedError

    # How to make it talk.

    def script(self, *parts: Part) -> Script:
        """A streamed answer."""
        return Script(headers=self.headers, steps=spelt(self.writer(), parts))

    def whole(self, *parts: Part) -> Script:
        """What it answers to a client that wants no stream. The proxy asks most kinds for a stream all the same."""
        return self.script(*parts)

    def unended(self, *parts: Part) -> Script:
        """An answer without its very last word; then nothing."""
        script = self.script(*parts)
        return Script(headers=self.headers, steps=script.steps[:-1])

    def refusal(self, status: int, words: str, headers: Mapping[str, str] | None = None) -> Script:
        """An error instead of an answer."""
        return error(status, {"error": {"message": words, "type": "some_error", "code": None}}, headers)

    def overflow(self, prompt: int, window: int) -> Script:
        """Its own words for a prompt that is too long."""
        raise NotImplementedError

    def leaves_unanswered(self, path: str) -> None:
        """Makes it say nothing to a GET there."""
        self.fake.others["GET", path] = lambda _: silent(headers=False)

    def tool_names(self, received: Received) -> list[str]:
        """The names of the tools that it was offered."""
        return [each["function"]["name"] for each in received.json["tools"]]

    # How to ask it, and how to look at it.

    def say(self, *parts: Part, **fields: Any) -> Caller:
        """A small request, answered with these parts, and all that follows at once."""
        streams = fields.get("stream", True)
        return self.play(self.script(*parts) if streams else self.whole(*parts), **fields)

    def play(self, script: Script, headers: Mapping[str, str] | None = None, **fields: Any) -> Caller:
        """A small request, answered with ``script``."""
        self.fake.plays(script)
        return self.ask("POST", "/v1/messages", self.request(**fields), headers)

    def request(self, **fields: Any) -> dict[str, Any]:
        return body(**{"model": self.model, **fields})

    @property
    def asked(self) -> list[Received]:
        """The requests for an answer that have reached the backend."""
        return [each for each in self.fake.received if each.path == self.path]

    @property
    def open_ends(self) -> list[End]:
        """The proxy's ends of its connections to the backend that are still open."""
        return [end for end in self.network.ends[::2] if end.port == BACKEND_PORT and not end.is_lost]

    @property
    def timers(self) -> list[str]:
        """What waits for its time and is not of the HTTP library's own housekeeping."""
        waiting: Any = self.network.getDelayedCalls()
        return [repr(call.func) for call in waiting if not _housekeeping(call.func)]


def _housekeeping(call: Any) -> bool:
    """Limits of connections that lie idle, and the clock by which every site writes its dates."""
    owner = getattr(call, "__self__", None)
    module: str = call.__module__ if owner is None else type(owner).__module__
    return module.startswith("twisted.web.") or "TimeoutMixin" in repr(call) or "TimedChannel" in repr(call)
