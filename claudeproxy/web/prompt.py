"""Clients' connections whose bytes can leave at once, without a round through the reactor.

Twisted's transports keep what is written until the reactor says that the socket takes it: for every event of a stream
two calls of the kernel to begin and end that wait, and one more round of the reactor in between. A socket of a client
that reads takes it at once, as it nearly always does; only what it does not take needs the wait.
"""

from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet import tcp, unix

from claudeproxy.web.whence import speaks_for_others


class _Prompt:
    """What is added to a transport. Order, back-pressure and every kind of end are the transport's own."""

    def write_promptly(self: Any, data: bytes) -> None:
        """As `write`, but what the socket takes has left when this returns, together with what was written before."""
        waits = self.dataBuffer or self.producerPaused or self._writeDisconnecting
        if waits or self.TLS or self._aborting or self.disconnecting or not self.connected:
            self.write(data)  # behind what waits already, or for nobody
        elif self._tempDataBuffer:
            self._tempDataBuffer.append(data)
            self._tempDataLen += len(data)
            self._flush()
        else:
            try:
                sent = self.socket.send(data)
            except OSError:
                sent = 0  # it takes nothing now, or is broken: the reactor will find out, and tell whom it concerns
            if sent < len(data):
                self.dataBuffer, self.offset = data, sent
                self._maybePauseProducer()
                self.startWriting()

    def _flush(self: Any) -> None:
        if self.doWrite() is not None:
            self.startWriting()  # broken: the reactor meets the same again, and knows what to do
        self._maybePauseProducer()


class PromptServer(_Prompt, tcp.Server):
    """A client's TCP connection."""


class PromptUNIXServer(_Prompt, unix.Server):
    """A client's connection through a UNIX socket."""


_KINDS = {tcp.Server: PromptServer, unix.Server: PromptUNIXServer}


def prompt_writer(transport: Any) -> Callable[[bytes], None]:
    """How to write to a connection at once where that can be, else its own ``write``.

    It is not enough to ask ``transport`` for a `write_promptly`: Twisted's wrappers give out what is beneath them for
    their own, and TLS is such a wrapper, past which the bytes would leave as they are.
    """
    beneath = transport
    while speaks_for_others(beneath):  # it changes nothing that is written
        beneath = beneath.transport
    writer: Callable[[bytes], None] = beneath.write_promptly if isinstance(beneath, _Prompt) else transport.write
    return writer


def make_prompt(ports: Iterable[Any]) -> None:
    """Connections that ``ports`` accept from now on can `write_promptly`, if they are Twisted's own; others are left as
    they are. Under TLS the bytes go the ordinary way."""
    for port in ports:
        port_transport = getattr(port, "transport", None)
        if port_transport in _KINDS:
            port.transport = _KINDS[port_transport]
