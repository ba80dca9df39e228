"""Where a Site is to be reached: any number of endpoint strings, opened and closed as one.

=========  =========================================================================================================
kind       what is done here beside what Twisted does
=========  =========================================================================================================
all        many may wait to be let in
``ssl``    the certificate can be read again; TLS 1.2 and newer
``unix``   nobody but the daemon's user may come in unless ``mode`` says so; the file of one that was killed is replaced
``systemd``  looked at before it is used: its family, whether it listens, and who can reach it. It stays open for the
           next process when this one stops listening, and a socket's file stays as systemd made it
=========  =========================================================================================================
"""

import errno
import os
import socket
import stat
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from attrs import field
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import CancelledError, Deferred, fail, maybeDeferred, succeed
from twisted.internet.endpoints import (
    AdoptedStreamServerEndpoint,
    TCP4ServerEndpoint,
    TCP6ServerEndpoint,
    serverFromString,
    wrapServerTLS,
)
from twisted.internet.error import CannotListenError, ConnectionDone
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.internet.tcp import Port
from twisted.internet.unix import Port as UNIXPort
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from claudeproxy.model.kinds import define
from claudeproxy.routing.addresses import Address, is_loopback
from claudeproxy.service.certificates import WORDS, BadCertificate, ServerCertificate
from claudeproxy.web.site import is_readable

#: So many connections may wait to be let in, unless the address says otherwise.
BACKLOG = 1024
#: What an address of these kinds may say; of the others Twisted knows.
_KNOWN = {"tcp": ("port", "interface", "backlog"), "ssl": ("port", "interface", "backlog", *WORDS)}
_KNOWN["tcp6"] = _KNOWN["tcp"]
_KNOWN["unix"] = ("address", "mode", "backlog", "lockfile")


class BadAddress(Exception):
    """An endpoint string means nothing; the text says which, and why."""


class CannotListen(Exception):
    """The address is taken, or not this machine's; the text says which and what to do."""


class _UNIXPort(UNIXPort):
    """Takes the place of a socket that nobody listens at, and stops also where its file may not be removed: privileges
    may be gone that it took to make it."""

    def startListening(self) -> None:
        if self.wantPID:
            _clear(os.fsdecode(self._bindPath))
        super().startListening()

    def connectionLost(self, reason: Any) -> None:
        try:
            super().connectionLost(reason)
        except OSError:
            super(UNIXPort, self).connectionLost(reason)


class _InheritedUNIXPort(_UNIXPort):
    """Leaves the socket and its file as they are. Twisted's own would set the file's mode, remove it at the end, and
    shut the socket down for the next process too."""

    _shouldShutdown = False

    def __init__(self, inherited: socket.socket, factory: IProtocolFactory, reactor: Any) -> None:
        super().__init__(b"\0inherited", factory, socket.SOMAXCONN, reactor=reactor)  # a name that is no file's
        self._preexistingSocket = inherited


@implementer(IStreamServerEndpoint)
@define(eq=False)
class _UNIXEndpoint:
    """Listens on a port of `_UNIXPort`'s kind."""

    _make: Callable[[IProtocolFactory], UNIXPort]

    def listen(self, factory: IProtocolFactory) -> Any:
        try:
            port = self._make(factory)
            port.startListening()
        except (CannotListenError, OSError):  # the latter of its lock, where the folder is missing or not to be written
            return fail()
        return succeed(port)


@define(eq=False)
class Door:
    """One address, and its port once it is open."""

    address: Address
    #: As the user wrote it.
    written: str
    _endpoint: IStreamServerEndpoint
    certificate: ServerCertificate | None = None
    is_open: bool = False
    port: IListeningPort | None = field(default=None, init=False)

    @property
    def is_inherited(self) -> bool:
        """Whether the socket goes on without us."""
        return self.address.kind == "systemd"

    def listen(self, factory: IProtocolFactory) -> None:
        """Raises `CannotListen`."""
        outcome: list[Any] = []
        self._endpoint.listen(factory).addBoth(outcome.append)  # all kinds that are known here answer at once
        if outcome and isinstance(outcome[0], Failure):
            outcome[0].trap(CannotListenError, OSError)
            raise CannotListen(_reason(outcome[0].value))
        if not outcome:
            raise CannotListen("it does not listen at once, as an address of claudeproxy must")
        self.port = outcome[0]

    @property
    def url(self) -> str:
        """What a user writes to get here."""
        host: Any = self.port.getHost() if self.port is not None else None
        match host:
            case UNIXAddress(name=path):
                return f"unix:{os.fsdecode(path or b'')}"
            case IPv4Address(port=port) | IPv6Address(port=port):
                interface = self.address.interface
                name = str(host.host) if interface is None else interface
                name = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(name, name)
                scheme = "https" if self.address.kind in ("ssl", "tls") else "http"
                return f"{scheme}://[{name}]:{port}" if ":" in name else f"{scheme}://{name}:{port}"
        return self.written

    async def close(self) -> None:
        """Lets nobody else in. Who is before the door already is let in, unless somebody else opens to them."""
        port, self.port = self.port, None
        if isinstance(port, Port) and not self.is_inherited:
            _let_in_and_shut(port)
        elif port is not None:
            await maybeDeferred(port.stopListening)


@define(eq=False)
class Listening:
    """Several addresses for one factory: all of them are open, or none."""

    doors: Sequence[Door]
    _log: Logger

    @classmethod
    def at(
        cls, setting: str, written: Sequence[str], addresses: Iterable[Address], reactor: Any, log: Logger
    ) -> "Listening":
        """Makes ready to listen on ``addresses``, and opens nothing. Raises `BadAddress`, which names the ``setting``
        and the address as ``written``."""
        doors = []
        for place, address in enumerate(addresses):
            text = written[place] if place < len(written) else _host_and_port(address)
            try:
                doors.append(_door(address, text, reactor))
            except BadAddress as fault:
                raise BadAddress(f"{setting}: {text}: {fault}") from None
        return cls(doors, log)

    @property
    def ports(self) -> list[IListeningPort]:
        """The open ones."""
        return [door.port for door in self.doors if door.port is not None]

    @property
    def found_open(self) -> frozenset[str]:
        """The addresses that other machines can reach, as they are written."""
        return frozenset(door.written for door in self.doors if door.is_open)

    @property
    def urls(self) -> list[str]:
        """Where it is to be reached, once it is."""
        return [door.url for door in self.doors if door.port is not None]

    def listen(self, factory: IProtocolFactory, remedy: str) -> None:
        """Opens all doors. Raises `CannotListen`, which tells the ``remedy``, and then none is open."""
        for door in self.doors:
            try:
                door.listen(factory)
            except CannotListen as fault:
                Deferred.fromCoroutine(self.close())
                # Short: twistd passes on a hundred bytes of it to the terminal that it came from.
                raise CannotListen(f"cannot listen on {door.written}: {fault}; set {remedy}") from None
        self._look_at_certificates()

    async def close(self) -> None:
        """Lets nobody else in."""
        for door in self.doors:
            try:
                await door.close()
            except CancelledError:
                raise
            except Exception:  # one that cannot be closed must not keep the others open
                self._log.failure("closing {address} failed", address=door.written)

    def renewed(self) -> Callable[[], None]:
        """Reads all certificates again. Raises `BadCertificate`; what it gives brings them into force."""
        fresh = [(door.certificate, door.certificate.read()) for door in self.doors if door.certificate is not None]

        def take() -> None:
            for certificate, options in fresh:
                if certificate.take(options):
                    self._log.info("new connections get the new certificate in {file}", file=certificate.file)
            self._look_at_certificates()

        return take

    def _look_at_certificates(self) -> None:
        now = datetime.now(UTC)
        for words in {door.certificate.out_of_date(now) for door in self.doors if door.certificate is not None} - {""}:
            self._log.warn("{words}: clients will not believe it", words=words)


def _let_in_and_shut(port: Port) -> None:
    """In one go: `stopListening` closes a round of the reactor later, and would hang up on all who come meanwhile."""
    for _ in range(BACKLOG):
        if not is_readable(port):
            break
        port.doRead()
    port.stopReading()
    port.connectionLost(Failure(ConnectionDone()))


def _door(address: Address, written: str, reactor: Any) -> Door:
    for name, _ in address.options:
        if name not in _KNOWN.get(address.kind, (name,)):
            raise BadAddress(f"{name} means nothing to {address.kind}, which knows {', '.join(_KNOWN[address.kind])}")
    if address.words and address.kind in _KNOWN:
        raise BadAddress(f"there is more to it than {address.kind} knows: {':'.join(address.words)}")
    certificate = None
    is_open = address.is_open is not False  # of a kind that is not known here it is taken for granted
    try:
        match address.kind:
            case "tcp" | "tcp6":
                endpoint: IStreamServerEndpoint = _tcp(address, reactor)
            case "ssl":
                certificate = ServerCertificate(address)
                endpoint = wrapServerTLS(certificate, _tcp(address, reactor), reactor)
            case "unix":
                endpoint = _unix(address, reactor)
            case "systemd":
                endpoint, is_open = _inherited(address, reactor)
            case _:
                endpoint = serverFromString(reactor, str(address))
    except BadCertificate as fault:
        raise BadAddress(str(fault)) from None
    except (ValueError, TypeError, LookupError, AttributeError, OSError) as fault:  # what Twisted's parsers raise
        raise BadAddress(str(fault)) from None
    return Door(address, written, endpoint, certificate, is_open)


def _tcp(address: Address, reactor: Any) -> IStreamServerEndpoint:
    interface = address.interface or ""
    kind = TCP6ServerEndpoint if ":" in interface else TCP4ServerEndpoint
    port, backlog = _number(address, "port", 65535), _number(address, "backlog", 65535, BACKLOG)
    endpoint: IStreamServerEndpoint = kind(reactor, port, backlog, interface)
    return endpoint


def _unix(address: Address, reactor: Any) -> IStreamServerEndpoint:
    path = address.get("address")
    if not path:
        raise BadAddress("expected the path of a socket")
    try:
        mode = int(address.get("mode", "600"), 8)
    except ValueError:
        raise BadAddress(f"mode: expected an octal number such as 660, found {address.get('mode')!r}") from None
    backlog, lock = _number(address, "backlog", 65535, BACKLOG), _number(address, "lockfile", 1, 1)
    return _UNIXEndpoint(lambda factory: _UNIXPort(path.encode(), factory, backlog, mode, reactor, lock))


def _clear(path: str) -> None:
    """Removes the socket of one that was killed, and its lock. Twisted asks only whether the process lives that the
    lock names, and in containers another one soon has its number."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
        with socket.socket(socket.AF_UNIX) as trial:
            trial.setblocking(False)
            if trial.connect_ex(path) == errno.ECONNREFUSED:
                os.remove(path)
                os.remove(f"{path}.lock")
    except OSError:  # there is none, or it is not ours to remove: who listens finds that out
        pass


def _inherited(address: Address, reactor: Any) -> tuple[IStreamServerEndpoint, bool]:
    """The socket that was handed over, and whether other machines can reach it."""
    try:
        endpoint: Any = serverFromString(reactor, str(address))
    except LookupError:
        raise BadAddress("no such socket was handed over; it is the socket unit that does") from None
    if not isinstance(endpoint, AdoptedStreamServerEndpoint):
        raise BadAddress("Twisted does not take it for a socket that is handed over")
    found = socket.socket(fileno=os.dup(endpoint.fileno))  # which finds its family out
    if found.family != endpoint.addressFamily:
        found.close()
        raise BadAddress(f"the socket is of another family: write domain={found.family.name.removeprefix('AF_')}")
    if not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        found.close()
        raise BadAddress("the socket does not listen; its unit needs Accept=no and ListenStream=")
    if found.family == socket.AF_UNIX:
        found.setblocking(False)
        return _UNIXEndpoint(lambda factory: _InheritedUNIXPort(found, factory, reactor)), False
    with found:
        return endpoint, not is_loopback(str(found.getsockname()[0]))


def _number(address: Address, name: str, most: int, default: int | None = None) -> int:
    given = address.get(name, "" if default is None else str(default))
    if not (given.isascii() and given.isdigit() and int(given) <= most):
        raise BadAddress(f"{name}: expected a whole number from 0 to {most}, found {given!r}")
    return int(given)


def _host_and_port(address: Address) -> str:
    return f"{address.get('interface')}:{address.get('port')}"


def _reason(fault: Any) -> str:
    cause = getattr(fault, "socketError", fault)
    return str(getattr(cause, "strerror", None) or cause)
