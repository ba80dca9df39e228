"""Where a request really comes from, whatever is said of that on its way: for what is given to this machine alone.

A client is believed to be on this machine only where nothing speaks for anything else. What stands in front of the
proxy hides its own clients behind its own address, and gives itself away by one of these:

- a header that such servers add: ``x-forwarded-for`` and its kind;
- a Host that is not this machine: it passes on what its clients wrote;
- HTTP/1.0, which nginx speaks if nobody told it otherwise, and then it writes the Host itself;
- the PROXY protocol (``haproxy:``), in which whoever connects says who he is.
"""

from typing import Any

from twisted.internet.address import UNIXAddress
from twisted.protocols.policies import ProtocolWrapper
from twisted.web.http import Request

from claudeproxy.routing.addresses import is_loopback
from claudeproxy.web.guard import is_this_machine

#: Who carries one of these comes from somewhere else, through something that runs here; so do those of ``_FAMILY``.
_PASSED_ON = frozenset({b"forwarded", b"via", b"x-real-ip"})
_FAMILY = b"x-forwarded-"


def is_local(request: Request) -> bool:
    """Whether the client itself is on this machine, rather than a proxy that is."""
    hosts = request.requestHeaders.getRawHeaders(b"host", ())
    if len(hosts) != 1 or request.clientproto == b"HTTP/1.0" or _is_passed_on(request):
        return False
    layers = _layers(request)
    if not layers or any(map(speaks_for_others, layers)):
        return False
    peer: Any = layers[-1].getPeer()
    host = getattr(peer, "host", None)
    near = isinstance(peer, UNIXAddress) or (isinstance(host, str) and is_loopback(host.removeprefix("::ffff:")))
    return near and is_this_machine(hosts[0].decode("utf-8", "replace"))


def came_through_a_file(request: Request) -> bool:
    """Whether it came through a unix socket, where no web page can be made to ask."""
    layers = _layers(request)
    return bool(layers) and isinstance(layers[-1].getHost(), UNIXAddress)


def speaks_for_others(layer: Any) -> bool:
    """Whether this part of a connection is one of the PROXY protocol."""
    if not isinstance(layer, ProtocolWrapper):
        return False
    from twisted.protocols.haproxy._wrapper import HAProxyProtocolWrapper  # there is no public name for it

    return isinstance(layer, HAProxyProtocolWrapper)


def _is_passed_on(request: Request) -> bool:
    names = (name.lower() for name, _ in request.requestHeaders.getAllRawHeaders())
    return any(name in _PASSED_ON or name.startswith(_FAMILY) for name in names)


def _layers(request: Request) -> list[Any]:
    """What its connection is made of: TLS, say, and at the end the socket's own transport."""
    transport: Any = getattr(request.channel, "transport", None)
    found = []
    while transport is not None:
        found.append(transport)
        transport = transport.transport if isinstance(transport, ProtocolWrapper) else None
    return found
