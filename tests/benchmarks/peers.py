"""Who is measured: claudeproxy, HAProxy with the same bytes, a bare relay of Klein and treq, and whoever is named."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from attrs import frozen

from tests.benchmarks.load import Target
from tests.e2e.daemon import free_port, running

#: The cores of the one that is measured, and of all others; the same one on a machine with a single core.
MEASURED, OTHERS = 0, (os.cpu_count() or 1) - 1

_HAPROXY = """
global
    maxconn 8000
    nbthread 1
defaults
    mode http
    timeout connect 10s
    timeout client 1h
    timeout server 1h
    option http-no-delay
frontend front
    bind 127.0.0.1:{port}
    default_backend back
backend back
    http-reuse always
    server only 127.0.0.1:{server}
"""


@frozen
class Peer:
    """Another proxy, as the command line tells it: where it is asked, and how it is started."""

    name: str
    path: str
    #: ``{port}`` is where it shall listen, ``{server}`` the address of the server behind.
    command: str


def pinned(core: int) -> list[str]:
    """A command to start others through, so that they keep to one core."""
    return ["taskset", "-c", str(core)] if shutil.which("taskset") else []


@contextmanager
def kept_aside() -> Iterator[None]:
    """This process, which makes the load, leaves the core of the one that is measured alone."""
    if not pinned(OTHERS):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {OTHERS})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def process(command: Sequence[str], core: int, port: int, variables: Mapping[str, str] | None = None) -> Iterator[int]:
    """The id of a process that runs for as long as the block does, as soon as it listens on ``port`` (0: at once)."""
    environment = {**os.environ, **(variables or {})}
    running = subprocess.Popen(
        [*pinned(core), *command], env=environment, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 60
        while port and not _listens(port):
            if running.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{' '.join(command)} does not listen on port {port}")
            time.sleep(0.05)
        yield running.pid
    finally:
        os.killpg(running.pid, signal.SIGTERM)
        running.wait(20)


@contextmanager
def server() -> Iterator[int]:
    """The port of the server behind all of them."""
    port = free_port()
    with process([sys.executable, "-m", "tests.benchmarks.server", str(port)], OTHERS, port):
        yield port


@contextmanager
def claudeproxy(folder: Path, server: int, dialect: str = "generic") -> Iterator[Target]:
    """As users start it, with everything on."""
    settings = {
        "PROVIDER": "openai",
        "PROVIDER_BASE_URL": f"http://127.0.0.1:{server}/v1",
        "PROVIDER_DIALECT": dialect,
    }
    with running(folder, variables=settings, within=pinned(MEASURED)) as daemon:
        yield Target("claudeproxy", daemon.port, "/v1/messages", daemon.pid)


@contextmanager
def haproxy(folder: Path, server: int) -> Iterator[Target]:
    """It passes the server's bytes on and understands nothing of them: what everybody is compared to."""
    port = free_port()
    file = folder / "haproxy.cfg"
    file.write_text(_HAPROXY.format(port=port, server=server))
    with process(["haproxy", "-db", "-q", "-f", str(file)], MEASURED, port) as pid:
        yield Target("HAProxy", port, "/v1/chat/completions", pid, is_anthropic=False)


@contextmanager
def bare_relay(server: int) -> Iterator[Target]:
    """Klein and treq with nothing between them."""
    port = free_port()
    url = f"http://127.0.0.1:{server}/v1/chat/completions"
    with process([sys.executable, "-m", "tests.benchmarks.bare_relay", str(port), url], MEASURED, port) as pid:
        yield Target("Klein and treq, bare", port, "/v1/chat/completions", pid, is_anthropic=False)


@contextmanager
def other(peer: Peer, server: int) -> Iterator[Target]:
    """One that was named."""
    port = free_port()
    command = peer.command.format(port=port, server=f"http://127.0.0.1:{server}")
    with process(["sh", "-c", f"exec {command}"], MEASURED, port) as pid:
        yield Target(peer.name, port, peer.path, pid, is_anthropic="/chat/completions" not in peer.path)


@contextmanager
def everybody(folder: Path, server: int, peers: Sequence[Peer]) -> Iterator[list[Target]]:
    """All of them; they run beside each other and are measured one after the other."""
    with ExitStack() as stack:
        found = [stack.enter_context(claudeproxy(folder / "ours", server))]
        if shutil.which("haproxy"):
            found.append(stack.enter_context(haproxy(folder, server)))
        found.append(stack.enter_context(bare_relay(server)))
        found += [stack.enter_context(other(peer, server)) for peer in peers]
        yield found


def _listens(port: int) -> bool:
    with socket.socket() as attempt:
        return attempt.connect_ex(("127.0.0.1", port)) == 0
