"""Addresses to listen on, in the words of Twisted's endpoint strings (`tcp:8080:interface=127.0.0.1`). Pure.

They are taken apart here so that it can be told who could reach them before anything listens. Whether the rest of such
a string means something is found out where it is opened, in ``service.listening``.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator

from attrs import evolve

from claudeproxy.model.kinds import frozen

#: What the words without a name mean, by their place behind the kind.
_PLACES = {
    "tcp": ("port", "interface", "backlog"),
    "tcp6": ("port", "backlog", "interface"),
    "ssl": (
        "port",
        "privateKey",
        "certKey",
        "sslmethod",
        "interface",
        "backlog",
        "extraCertChain",
        "dhParameters",
    ),
    "tls": ("path", "port", "backlog", "interface"),
    "unix": ("address", "mode", "backlog", "lockfile"),
}
#: Where those listen that do not say it.
_EVERYWHERE = {"tcp": "", "ssl": "", "tcp6": "::", "tls": "::"}
_FILES = {"ssl": ("privateKey", "certKey", "extraCertChain", "dhParameters"), "unix": ("address",), "tls": ("path",)}


@frozen
class Address:
    """One endpoint string, taken apart. What stood there without a name has got one, where its kind is known."""

    kind: str
    words: tuple[str, ...] = ()
    options: tuple[tuple[str, str], ...] = ()

    @classmethod
    def read(cls, text: str) -> Address:
        """Of any text that has a kind."""
        (_, kind), *rest = _parts(text)
        words = [value for name, value in rest if name is None]
        places = _PLACES.get(kind, ())
        named = [*zip(places, words, strict=False), *((name, value) for name, value in rest if name is not None)]
        return cls(kind, tuple(words[len(places) :]), tuple(named))

    def __str__(self) -> str:
        """The endpoint string again, quoted where it must be."""
        named = (f"{_nameless(name)}={_quoted(value)}" for name, value in self.options)
        return ":".join([self.kind, *map(_nameless, self.words), *named])

    def get(self, name: str, default: str = "") -> str:
        """What it says of this."""
        return dict(self.options).get(name, default)

    def with_paths(self, absolute: Callable[[str], str]) -> Address:
        """Itself, with its files' paths as ``absolute`` gives them."""
        files = _FILES.get(self.kind, ())
        return evolve(
            self, options=tuple((name, absolute(value) if name in files else value) for name, value in self.options)
        )

    @property
    def interface(self) -> str | None:
        """The interface's address or name, "" for all of them; None for what has none, or keeps it to itself."""
        return self.get("interface", _EVERYWHERE[self.kind]) if self.kind in _EVERYWHERE else None

    @property
    def is_open(self) -> bool | None:
        """Whether other machines can reach it; None if only the start can tell."""
        if self.kind == "haproxy" and self.words:  # in front of an endpoint string of its own
            return Address.read(str(self).partition(":")[2]).is_open
        interface = self.interface
        if interface is None:
            return False if self.kind == "unix" else None
        return not is_loopback(interface)


def simple(host: str, port: int) -> Address:
    """What HOST and PORT mean."""
    return Address("tcp", (), (("port", str(port)), ("interface", host)))


def is_loopback(host: str) -> bool:
    """True if only this machine can reach it: 127.0.0.0/8, ::1 and localhost."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.casefold() == "localhost"
    return address == ipaddress.IPv6Address("::1") or address in ipaddress.IPv4Network("127.0.0.0/8")


def _parts(text: str) -> Iterator[tuple[str | None, str]]:
    """The parts between colons, each with the name before its first ``=``; a backslash takes the next one as it is."""
    name: str | None = None
    value = ""
    for token in re.findall(r"\\.|.", text, re.DOTALL):
        if token == ":":
            yield name, value
            name, value = None, ""
        elif token == "=" and name is None:
            name, value = value, ""
        else:
            value += token[-1]
    yield name, value


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace(":", "\\:")


def _nameless(word: str) -> str:
    """Quoted so that no part of it is taken for a name."""
    return _quoted(word).replace("=", "\\=")
