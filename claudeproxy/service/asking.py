"""What the commands have in common that ask something: a reactor for a while, the settings, the running daemon."""

import json
import os
from collections.abc import Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TextIO
from urllib.parse import urlsplit

from attrs import field
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from claudeproxy.backends.client import BackendClient
from claudeproxy.model.kinds import frozen
from claudeproxy.model.problems import Refusal
from claudeproxy.routing.addresses import Address
from claudeproxy.routing.conflicts import addresses
from claudeproxy.routing.settings import Settings
from claudeproxy.routing.sources import Settled
from claudeproxy.service.commands import FAILED, Command
from claudeproxy.service.reading import Reader

#: How long a daemon may take to let us in, in seconds.
_PATIENCE = 5.0
#: Where a key is looked for that the command line does not give: a list of processes shows that to everybody.
KEY_VARIABLE = "CLAUDEPROXY_KEY"


#: The kinds of addresses that a client can ask, and how.
_SCHEMES = {"tcp": "http", "tcp6": "http", "ssl": "https"}
#: Who listens everywhere is asked here.
_NEAREST = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


class NoAnswer(Exception):
    """The daemon cannot be asked, or refuses; the text says why and what to do."""

    def __init__(self, words: str, status: int = 0) -> None:
        super().__init__(words)
        self.status = status


class NetworkCommand(Command):
    """A command that needs the network. The reactor runs for as long as it is at work."""

    optParameters: ClassVar[list[list[Any]]] = [
        ["config", "c", None, "The settings file (TOML) that the daemon is given."],
    ]
    optFlags: ClassVar[list[list[Any]]] = [["json", None, "Print JSON."]]

    def run(self, out: TextIO, err: TextIO) -> int:
        status = in_reactor(lambda reactor: self.act(reactor, out, err))
        if status is not None:
            return status
        out.write(self.surrender)
        err.write("claudeproxy: interrupted\n")
        return FAILED

    async def act(self, reactor: Any, out: TextIO, err: TextIO) -> int:
        """`run`, while the reactor runs."""
        raise AssertionError(f"{type(self).__name__} does nothing")

    def fails(self, fault: Exception, status: int, out: TextIO, err: TextIO, **more: str) -> int:
        """Says what is wrong, to programs as JSON with ``more`` in it, and gives ``status`` back."""
        if self["json"]:
            write_json(out, {**more, "faults": str(fault).splitlines()})
        else:
            out.write(self.surrender)
        write_lines(err, f"claudeproxy: {fault}".splitlines())
        return status

    def read(self, environ: Mapping[str, str], folder: Path, options: Mapping[str, str] | None = None) -> Settled:
        """The settings, as the daemon would read them in this environment. Raises `SettingsError` or `Unreadable`."""
        config = None if self["config"] is None else folder / self["config"]
        return Reader(config, folder, environ, options or {}).read()


def in_reactor(work: Callable[[Any], Coroutine[Any, Any, int]]) -> int | None:
    """Runs the reactor until ``work`` is done, whose result it gives; None if it was interrupted. Only once in a
    process."""
    from twisted.internet import reactor

    running: Any = reactor
    outcome: list[Any] = []

    def done(result: Any) -> None:
        outcome.append(result)
        if running.running:
            running.stop()

    running.callWhenRunning(lambda: Deferred.fromCoroutine(work(running)).addBoth(done))
    running.run()
    if not outcome:
        return None
    if isinstance(outcome[0], Failure):
        outcome[0].raiseException()
    return int(outcome[0])


def here() -> tuple[Mapping[str, str], Path]:
    """This process's environment and directory."""
    return dict(os.environ), Path.cwd()


def write_lines(out: TextIO, lines: Iterable[str]) -> None:
    """Each on a line of its own, whatever servers and clients have put into it: no terminal takes it for an order."""
    for line in lines:
        out.write("".join(each if each.isprintable() else "?" for each in line) + "\n")


def write_json(out: TextIO, value: Any) -> None:
    """For programs, and for people who look at it: in ASCII, where no terminal finds an order."""
    out.write(json.dumps(value, indent=2) + "\n")


def address_of(settings: Settings, operators: bool = False) -> str:
    """Where a daemon with these settings is asked from this machine: by clients, who cannot use a unix socket, or by
    ``operators``. Raises `NoAnswer` if the settings do not tell."""
    admin = tuple(map(Address.read, settings.admin_listen)) if operators else ()
    kinds = {**_SCHEMES, "unix": "unix"} if operators else _SCHEMES
    for each in sorted((each for each in admin or addresses(settings) if each.kind in kinds), key=_plainest):
        if each.kind == "unix":
            return f"unix:{each.get('address')}"
        host = _NEAREST.get(each.interface or "", each.interface or "")
        host = f"[{host}]" if ":" in host else host
        return f"{kinds[each.kind]}://{host or _NEAREST['']}:{each.get('port')}"
    raise NoAnswer("the settings do not tell an address that can be asked from here; name one with --url")


def _plainest(address: Address) -> bool:
    """Certificates are seldom made out to this machine's own address."""
    return address.kind == "ssl"


@implementer(IAgentEndpointFactory)
@frozen
class _Socket:
    _reactor: Any
    _path: str

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        endpoint: IStreamClientEndpoint = UNIXClientEndpoint(self._reactor, self._path, _PATIENCE)
        return endpoint


@frozen
class Daemon:
    """A running daemon. ``url`` is an http address, or ``unix:`` and the path of its socket."""

    url: str
    _key: str = field(repr=False)
    _client: BackendClient
    _root: str

    @classmethod
    def at(cls, url: str, key: str, reactor: Any) -> "Daemon":
        """Raises `NoAnswer` for an address that means nothing."""
        if url.startswith("unix:"):
            agent = Agent.usingEndpointFactory(reactor, _Socket(reactor, url.removeprefix("unix:")))
            return cls(url, key, BackendClient.over_agent("daemon", agent, reactor), "http://localhost")
        if not _is_web_address(url):
            raise NoAnswer(f"expected an address such as http://127.0.0.1:8080, or unix:/path, found {url!r}")
        client = BackendClient.over_network("daemon", reactor, _PATIENCE)
        return cls(url.rstrip("/"), key, client, url.rstrip("/").removesuffix("/v1"))

    async def get(self, path: str) -> Any:
        """The JSON at ``path``. Raises `NoAnswer`."""
        headers = {"x-api-key": self._key} if self._key else {}
        try:
            status, said = await self._client.get(self._root + path, headers)
        except Refusal as refusal:
            words = refusal.problem.message.rpartition(": ")[2]
            raise NoAnswer(f"no daemon answers at {self.url} ({words}); name another with --url") from None
        if status != 200:
            words = _complaint(said)
            raise NoAnswer(f"the daemon at {self.url} answers with status {status}{words}", status)
        return said

    async def close(self) -> None:
        """Gives back its connections."""
        await self._client.close()


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of a port that is none, or a bracket that stands alone
        return False


def _complaint(said: Any) -> str:
    match said:
        case {"error": {"message": str(words)}}:
            return f": {words}"
    return ""
