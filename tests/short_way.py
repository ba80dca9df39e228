"""How a generation takes what nearly all of an answer consists of, for tests of the machines alone."""

from claudeproxy.translate.stream_machine import StreamMachine


def shortly(machine: StreamMachine, data: bytes) -> bytes:
    """The event that is copied out of ``data``; empty if they are to be received."""
    return b"" if machine.stencil is None else machine.stencil.copied(data)
