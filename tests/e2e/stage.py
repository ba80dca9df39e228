"""
A stage for the real Claude Code: a loopback that nobody else is on, and there the proxy and a scripted backend.

The backend, `tests.fakes.openai`, plays in the test's own process, so that a test can give it any function as its
script and look at what it was asked. Its listening socket is opened within the other network and handed over.
"""

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest_twisted  # type: ignore[import-untyped]
from attrs import frozen
from twisted.internet import reactor
from twisted.internet.interfaces import IReactorSocket, IReactorTime
from twisted.internet.threads import deferToThread
from twisted.web.server import Site

from tests.e2e.daemon import Daemon, clean_environment, running, without_network
from tests.e2e.parts import PARTS
from tests.fakes.openai import FakeOpenAI
from tests.fakes.scripts import Script, call_deltas, error, json_bytes, stream

#: Seconds for one run of Claude Code on a busy machine.
PATIENCE = 120.0

_DOOR = """
import socket
with socket.socket(fileno=0) as gate, socket.create_server(("127.0.0.1", 0)) as door:
    socket.send_fds(gate, [b"."], [door.fileno()])
"""


@frozen
class Run:
    """What one run of Claude Code left behind."""

    status: int
    said: str
    complained: str
    #: The chat requests that the backend got meanwhile, decoded.
    asked: Sequence[Any]
    #: The proxy's log of the time.
    log: str


@frozen
class Stage:
    """`within` starts a command where the proxy and the backend are."""

    daemon: Daemon
    backend: FakeOpenAI
    within: Sequence[str]

    def command(self, *arguments: str) -> list[str]:
        """Claude Code, to be started `within`."""
        place = PARTS["claude"].place
        assert place is not None
        return [place, *arguments]

    def variables(self, home: Path, model: str) -> dict[str, str]:
        """The environment of a user who asks this proxy, with nothing else in `home`."""
        return clean_environment(
            home,
            ANTHROPIC_BASE_URL=self.daemon.url,
            ANTHROPIC_API_KEY="none",
            ANTHROPIC_MODEL=model,
            CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
            DISABLE_TELEMETRY="1",
            TERM="xterm-256color",
            LANG="C.UTF-8",
        )

    async def run(
        self,
        home: Path,
        answers: Callable[[Any], Script],
        *arguments: str,
        model: str = "seeing",
        variables: Mapping[str, str] | None = None,
        patience: float = PATIENCE,
    ) -> Run:
        """
        Claude Code in the folder `home`, to its end. In a thread, so that the reactor can serve the backend.

        `variables` are more of its environment.
        """
        self.backend.answers = answers
        begun, seen = len(self.daemon.log), len(self.backend.chats)
        done = await deferToThread(
            lambda: subprocess.run(
                [*self.within, *self.command(*arguments)],
                env={**self.variables(home, model), **(variables or {})},
                cwd=home,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=patience,
            )
        )
        asked = [received.json for received in self.backend.chats[seen:]]
        return Run(done.returncode, done.stdout, done.stderr, asked, self.daemon.log[begun:])


@contextmanager
def stage(folder: Path, settings: str) -> Iterator[Stage]:
    """A proxy whose settings file reads `settings`; every `BACKEND` in it is the scripted backend's address."""
    backend = FakeOpenAI(IReactorTime(reactor))
    with without_network() as within, _door(within) as door:
        door.setblocking(False)
        site = Site(backend)
        port = IReactorSocket(reactor).adoptStreamPort(door.fileno(), socket.AF_INET, site)  # type: ignore[arg-type]
        address = f"http://127.0.0.1:{door.getsockname()[1]}/v1"
        (folder / "claudeproxy.toml").write_text(settings.replace("BACKEND", address))
        try:
            with running(folder, ["--config=claudeproxy.toml"], within=within) as daemon:
                yield Stage(daemon, backend, within)
        finally:
            pytest_twisted.blockon(port.stopListening())


@contextmanager
def _door(within: Sequence[str]) -> Iterator[socket.socket]:
    """A listening socket of the network that `within` leads to."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        subprocess.run([*within, sys.executable, "-c", _DOOR], stdin=theirs.fileno(), check=True)
        _, [number], _, _ = socket.recv_fds(ours, 1, 1)
    with socket.socket(fileno=number) as door:
        yield door


def calls(*wanted: tuple[str, Mapping[str, Any]], said: str = "", thoughts: str = "") -> Script:
    """An answer that calls these tools, after what is said and thought; the ids are call_0, call_1 and so on."""
    deltas: list[Mapping[str, Any]] = [{"reasoning_content": thoughts}] * bool(thoughts)
    deltas += [{"content": said}] * bool(said)
    for index, (name, arguments) in enumerate(wanted):
        whole = json_bytes(arguments).decode()
        half = len(whole) // 2
        deltas += call_deltas(name, whole[:half], whole[half:], id=f"call_{index}", index=index)
    return stream(*deltas, finish="tool_calls")


def by_turns(*scripts: Script) -> Callable[[Any], Script]:
    """
    The first script answers a conversation without an answer, the second one with one answer in it, and so on.

    A request that is repeated is thus answered as before, and one too many with an error that nobody repeats.
    """

    def answers(body: Any) -> Script:
        turn = len([message for message in body["messages"] if message["role"] == "assistant"])
        return scripts[turn] if turn < len(scripts) else error(400, {"error": {"message": "The play is over."}})

    return answers


def news(body: Any) -> list[Any]:
    """The messages of a request after the last answer in it: results, and what the user said."""
    messages = body["messages"]
    last = max((place for place, message in enumerate(messages) if message["role"] == "assistant"), default=-1)
    return list(messages[last + 1 :])
