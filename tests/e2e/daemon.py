"""
`twistd claudeproxy` as a user starts it: a process of its own, in a folder of its own, with a clean environment.

The code it runs is that of the working tree, whether or not it is installed.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

from attrs import define, field

ROOT = Path(__file__).parents[2]
#: What of the machine's environment a process needs to run at all.
_INHERITED = ("PATH", "LD_LIBRARY_PATH", "LANG", "TMPDIR", "VIRTUAL_ENV")
#: Seconds for a start on a busy machine.
START = 60.0


class Impatience(AssertionError):
    """What was waited for did not come."""


def wait_until(what: str, seconds: float, look: Any, pause: float = 0.02) -> Any:
    """The first true value of `look`."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise Impatience(f"{what}: not within {seconds:g} s")
        time.sleep(pause)


def clean_environment(home: Path, **more: str) -> dict[str, str]:
    """The least that a process needs, and nothing of a developer's own settings."""
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {**inherited, "HOME": str(home), **more}


def as_if_installed(folder: Path) -> Path:
    """A folder for PYTHONPATH that holds what the wheel holds, made of links into the working tree."""
    tree = folder / "tree"
    plugins = tree / "twisted" / "plugins"
    if not tree.exists():
        plugins.mkdir(parents=True)
        (tree / "claudeproxy").symlink_to(ROOT / "claudeproxy")
        (plugins / "claudeproxy_plugin.py").symlink_to(ROOT / "twisted_plugins" / "claudeproxy_plugin.py")
    return tree


def twistd() -> str:
    """The command of the environment that the tests run in."""
    command = Path(sys.executable).with_name("twistd")
    return str(command) if command.exists() else shutil.which("twistd") or "twistd"


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def alive(pid: int) -> bool:
    """Whether the process runs; one that nobody reaped yet does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def children(pid: int) -> list[int]:
    """The processes that this one started."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@define
class Daemon:
    """A proxy that runs, seen from outside: its address, its log, its process."""

    pid: int
    log_file: Path
    #: The process, if it is ours to wait for: a daemonised one is not.
    process: subprocess.Popen[bytes] | None = None
    port: int = field(default=0)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def logged(self, pattern: str, seconds: float = 10.0, after: int = 0) -> re.Match[str]:
        """The first place in the log that the pattern matches, from the character `after` on; waited for."""
        try:
            found: re.Match[str] = wait_until(
                f"{pattern!r} in the log", seconds, lambda: re.search(pattern, self.log[after:])
            )
        except Impatience as fault:
            raise Impatience(f"{fault}; the log:\n{self.log[after:]}") from None
        return found

    def listening(self) -> "Daemon":
        """Itself, as soon as it says that it listens."""

        def look() -> re.Match[str] | None:
            if self.process is not None and self.process.poll() is not None:
                raise Impatience(f"twistd ended with {self.process.returncode}; the log:\n{self.log}")
            return re.search(r"claudeproxy listens on http://\S+:(\d+)", self.log)

        self.port = int(wait_until("listening", START, look)[1])
        return self

    def asked(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None, timeout: float = 60
    ) -> HTTPResponse:
        """The answer to one request, its body not yet read."""
        response = self.ask(method, path, body, headers, timeout).getresponse()
        return response

    def ask(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None, timeout: float = 60
    ) -> HTTPConnection:
        """A connection with one request on its way; closing it is what a client does that goes away."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        given = {"content-type": "application/json", "anthropic-version": "2023-06-01", **(headers or {})}
        connection.request(method, path, None if body is None else json.dumps(body), given)
        return connection

    def json(self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> Any:
        """The JSON of an answer that must be a 200."""
        response = self.asked(method, path, body, headers)
        said = response.read()
        assert response.status == 200, said
        return json.loads(said)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def ended(self, seconds: float = 20.0) -> int:
        """The exit status as a shell tells it (143 after SIGTERM), waited for; only of a process in front."""
        assert self.process is not None
        status = self.process.wait(seconds)
        return status if status >= 0 else 128 - status


def start(
    folder: Path,
    arguments: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
    twistd_options: Sequence[str] = ("-n", "--pidfile="),
    within: Sequence[str] = (),
    command: Sequence[str] = (),
    pass_fds: Sequence[int] = (),
) -> Daemon:
    """Start it in front on a free port unless told otherwise; `within` is a command to start it through, `pass_fds`
    are open files that it is to have."""
    command = command or [twistd()]
    folder.mkdir(exist_ok=True)
    log_file = folder / "log"
    environment = clean_environment(folder, PYTHONPATH=str(as_if_installed(folder)), PORT="0", PYTHONUNBUFFERED="1")
    with log_file.open("ab") as log:
        process = subprocess.Popen(
            [*within, *command, *twistd_options, "claudeproxy", *arguments],
            cwd=folder,
            env={**environment, **(variables or {})},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=pass_fds,
        )
    return Daemon(process.pid, log_file, process)


def end(daemon: Daemon) -> None:
    """Whatever state it is in, it is gone afterwards."""
    process = daemon.process
    assert process is not None
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def running(
    folder: Path,
    arguments: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
    within: Sequence[str] = (),
) -> Iterator[Daemon]:
    """A daemon in front that listens, for as long as the block lasts."""
    daemon = start(folder, arguments, variables, within=within)
    try:
        yield daemon.listening()
    finally:
        end(daemon)


_HERMIT = """
import fcntl, socket, struct, sys
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH14x", b"lo", 0x41))
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def without_network() -> Iterator[list[str]]:
    """
    A command to start others through, so that they see each other's loopback and no network at all.

    Where the system does not allow such namespaces, it is empty: everything runs as it is.
    """
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        yield []
        return
    holder = subprocess.Popen(
        ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", _HERMIT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with holder:
        assert holder.stdin is not None and holder.stdout is not None
        enter = ["nsenter", "--preserve-credentials", "--user", "--net", "--target", str(holder.pid)]
        allowed = holder.stdout.readline() == b"ready\n" and subprocess.run([*enter, "true"]).returncode == 0
        yield enter if allowed else []
        holder.stdin.close()
