"""Clients that speak HTTP/1.1 by hand over `tests.fakes.network`, so that every byte and every write can be seen."""

import json
from collections.abc import Mapping
from typing import Any

from attrs import Factory, define, field
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure

from tests.fakes.network import End, Network

JSON_HEADERS: Mapping[str, str] = {"host": "127.0.0.1:8080", "content-type": "application/json"}


@define(eq=False)
class Caller(Protocol):
    """One client on one connection; `ask` sends a request, the properties read what came back to the last one."""

    network: Network
    transport: End = field(default=None)
    #: What came, a segment a write of the server.
    reads: list[bytes] = Factory(list)
    lost: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.reads.append(data)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.lost = reason

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str | bytes | None] | None = None,
        *,
        pump: bool = True,
    ) -> "Caller":
        """Send a request; ``body`` is bytes, or a value sent as JSON. A header that is None is left out."""
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        given: dict[str, Any] = {**JSON_HEADERS, "content-length": str(len(data)), **(headers or {})}
        lines = [f"{method} {path} HTTP/1.1".encode()]
        for name, value in given.items():
            if value is not None:
                lines.append(name.encode() + b": " + (value if isinstance(value, bytes) else value.encode()))
        return self.send(b"\r\n".join([*lines, b"", data]), pump=pump)

    def send(self, data: bytes, *, pump: bool = True) -> "Caller":
        """Send these bytes; what came before is forgotten."""
        self.reads.clear()
        self.transport.write(data)
        if pump:
            self.network.pump()
        return self

    def vanish(self) -> None:
        """The client's process dies."""
        self.transport.abortConnection()
        self.network.pump()

    def leave(self) -> None:
        """The client closes its connection politely."""
        self.transport.loseConnection()
        self.network.pump()

    @property
    def raw(self) -> bytes:
        """All that came."""
        return b"".join(self.reads)

    @property
    def answered(self) -> bool:
        """Whether status and headers are there."""
        return b"\r\n\r\n" in self.raw

    @property
    def status(self) -> int:
        return int(self.raw.split(b" ", 2)[1])

    @property
    def headers(self) -> dict[str, str]:
        """By name in lower case; of several of one name the last."""
        lines = self.raw.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
        pairs = (line.decode().partition(":") for line in lines)
        return {name.strip().lower(): value.strip() for name, _, value in pairs}

    @property
    def body(self) -> bytes:
        """The body as far as it has come, chunks joined."""
        return b"".join(self.chunks)

    @property
    def chunks(self) -> list[bytes]:
        """The chunks of the body; a body with a length is one."""
        rest = self.raw.partition(b"\r\n\r\n")[2]
        if self.headers.get("transfer-encoding") != "chunked":
            return [rest] if rest else []
        found = []
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            length = int(size, 16)
            if not length:
                break
            found.append(rest[:length])
            rest = rest[length + 2 :]
        return found

    @property
    def ended(self) -> bool:
        """Whether the body came to its proper end."""
        if self.headers.get("transfer-encoding") == "chunked":
            return self.raw.endswith(b"0\r\n\r\n")
        return len(self.body) == int(self.headers.get("content-length", "-1"))

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def caller(network: Network, port: int) -> Caller:
    """A new connection to ``port``."""
    new = Caller(network)
    network.dial(port, new)
    return new
