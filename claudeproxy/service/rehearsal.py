"""Whether a daemon could open its doors, found out without opening them: for who asks before the start."""

import socket
from pathlib import Path
from typing import Any

from twisted.logger import Logger

from claudeproxy.routing.addresses import Address
from claudeproxy.routing.conflicts import addresses
from claudeproxy.routing.settings import Settings
from claudeproxy.routing.sources import verify
from claudeproxy.service.listening import BadAddress, Listening
from claudeproxy.service.trace_parts import check_tracing

#: The longest path of a unix socket, in bytes.
_LONGEST_PATH = 107


def rehearse(settings: Settings, reactor: Any) -> None:
    """Does what the daemon does before it listens. Raises `BadAddress` or `SettingsError`.

    Sockets that systemd hands over are there at the start alone; and whether a port is free is not asked, since the
    daemon itself may have it.
    """
    found_open: frozenset[str] = frozenset()
    for setting, where in (
        ("listen", addresses(settings)),
        ("admin_listen", tuple(map(Address.read, settings.admin_listen))),
    ):
        written = getattr(settings, setting) or tuple(map(str, where))
        here = [(text, each) for text, each in zip(written, where, strict=True) if each.kind != "systemd"]
        texts, places = [text for text, _ in here], [each for _, each in here]
        found_open |= Listening.at(setting, texts, places, reactor, Logger()).found_open
        for text, each in here:
            try:
                _has_a_place(each)
            except OSError as fault:
                name = setting if getattr(settings, setting) else "host (HOST)"
                raise BadAddress(f"{name}: {text}: {fault.strerror or fault}") from None
    verify(settings, found_open)
    check_tracing(settings)


def _has_a_place(address: Address) -> None:
    """Raises `OSError` for an interface that is not this machine's, or a socket for which there is no folder."""
    if address.kind == "unix":
        path = Path(address.get("address"))
        if len(bytes(path)) > _LONGEST_PATH:
            raise OSError("this path is too long for a socket")
        path.parent.stat()
        if path.exists() and not path.is_socket():
            raise OSError("there is a file in the socket's place")
    elif address.interface:
        family, kind, _, _, where = socket.getaddrinfo(address.interface, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as trial:
            trial.bind(where)
