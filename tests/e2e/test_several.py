"""Several instances: behind HAProxy, with the very configuration of the README, and on one socket of systemd's."""

import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from tests.benchmarks.peers import server
from tests.e2e.daemon import ROOT, Daemon, end, free_port, running, wait_until
from tests.e2e.parts import PARTS
from tests.e2e.sockets import Load, start_with
from tests.e2e.test_daemon import slow_backend

#: The log tells the first eight characters.
SESSIONS = [f"{number:08}-of-two-dozen" for number in range(24)]


@frozen
class Street:
    """Two houses and one gate."""

    gate: int
    daemons: tuple[Daemon, Daemon]

    def ask(self, method: str, path: str, session: str = "", body: Any = None) -> tuple[int, bytes]:
        connection = HTTPConnection("127.0.0.1", self.gate, timeout=30)
        headers = {"content-type": "application/json"} | ({"x-claude-code-session-id": session} if session else {})
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        found = answer.status, answer.read()
        connection.close()
        return found

    def begin(self, session: str, tokens: int, stream: bool) -> HTTPConnection:
        """A request whose answer comes at a token a second."""
        connection = HTTPConnection("127.0.0.1", self.gate, timeout=30)
        told = {"model": f"text-{tokens}-1", "max_tokens": 9, "stream": stream}
        body = json.dumps({**told, "messages": [{"role": "user", "content": "Hi"}]})
        headers = {"content-type": "application/json", "x-claude-code-session-id": session}
        connection.request("POST", "/v1/messages", body, headers)
        return connection

    def logged(self, pattern: str) -> bool:
        """Whether either of the two has it in its log."""
        return any(re.search(pattern, each.log) for each in self.daemons)

    def speak(self, session: str) -> None:
        body = {"model": "text-3-0", "max_tokens": 9, "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
        status, said = self.ask("POST", "/v1/messages", session, body)
        assert status == 200 and b"message_stop" in said, said

    def served(self, session: str) -> list[int]:
        """How often each of the two has answered this session."""
        return [len(re.findall(rf" {session[:8]} POST /v1/messages 200 ", each.log)) for each in self.daemons]


def configuration(gate: int, ports: list[int]) -> str:
    """That of the README, with other ports."""
    readme = (ROOT / "README.md").read_text("utf-8")
    [example] = re.findall(r"^```haproxy\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    for told, real in zip((8080, 8081, 8082), (gate, *ports), strict=True):
        assert f":{told}" in example
        example = example.replace(f":{told}", f":{real}")
    return example


@pytest.fixture
def street(tmp_path: Path) -> Iterator[Street]:
    with ExitStack() as stack:
        behind = stack.enter_context(server())
        settings = {"PROVIDER": "openai", "PROVIDER_BASE_URL": f"http://127.0.0.1:{behind}/v1", "INTERRUPT_MS": "1000"}
        first, second = (
            stack.enter_context(running(tmp_path / name, variables=settings)) for name in ("first", "second")
        )
        gate, file = free_port(), tmp_path / "haproxy.cfg"
        file.write_text(configuration(gate, [first.port, second.port]))
        process = stack.enter_context(
            subprocess.Popen([PARTS["haproxy"].place or "", "-db", "-f", str(file)], stderr=subprocess.DEVNULL)
        )
        stack.callback(process.terminate)
        built = Street(gate, (first, second))
        wait_until("a gate that is open", 20, lambda: _open(built))
        yield built


def _open(street: Street) -> bool:
    try:
        return street.ask("GET", "/health/ready")[0] == 200
    except OSError:
        return False


@pytest.mark.haproxy
def test_sessions_stay_where_they_are(street: Street) -> None:
    """Each session is always answered by the same one, and both have some."""
    for _ in range(3):
        for session in SESSIONS:
            street.speak(session)
    homes = [street.served(session) for session in SESSIONS]
    assert all(sorted(home) == [0, 3] for home in homes), homes
    assert len({tuple(home) for home in homes}) == 2, homes


@pytest.mark.haproxy
def test_one_is_restarted(street: Street) -> None:
    """While one of them stops and is gone, every request is answered."""
    for session in SESSIONS:
        street.speak(session)
    street.daemons[0].signal(signal.SIGTERM)
    for _ in range(4):
        for session in SESSIONS:
            street.speak(session)
    assert street.daemons[0].ended() == 143


@pytest.mark.haproxy
@pytest.mark.parametrize("stream", [True, False])
def test_interrupted(street: Street, stream: bool) -> None:
    """Who leaves before the answer began has left the instance, too, at once."""
    connection = street.begin("escaping", 8, stream)
    time.sleep(0.5)
    connection.close()
    wait_until("an instance that knows", 3, lambda: street.logged(" escaping POST /v1/messages 499 client_gone "))


@pytest.mark.haproxy
def test_joined(street: Street) -> None:
    """Who loses patience finds the answer when it asks again."""
    connection = street.begin("joiner", 6, False)
    time.sleep(2)
    connection.close()
    time.sleep(0.5)
    retry = street.begin("joiner", 6, False)
    began = time.monotonic()
    answer = retry.getresponse()
    assert answer.status == 200 and len(json.loads(answer.read())["content"][0]["text"].split()) == 6
    assert time.monotonic() - began < 5
    retry.close()
    wait_until("its line of the log", 3, lambda: street.logged(" joiner POST /v1/messages 200 .* joined"))


def test_one_socket(tmp_path: Path) -> None:
    """Two instances take their clients from the same socket; while one of them stops, nobody is refused."""
    with slow_backend(tmp_path, 4, 0.05) as variables:
        with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
            load = Load(listener.getsockname()[1], 4)
            where = "systemd:domain=INET:index=0"
            started = [start_with(listener, tmp_path / name, where, **variables) for name in ("first", "second")]
            try:
                first, _ = [each.listening() for each in started]
                with load.running(streaming=6, whole=4, fresh=4):
                    time.sleep(2)
                    first.signal(signal.SIGTERM)
                    assert first.ended(60) == 143
                    time.sleep(1)
            finally:
                for each in started:
                    end(each)
    assert load.faults == []
    served = [each.log.count(" POST /v1/messages 200 ") for each in started]
    assert min(served) > 5 and load.answered > 100, served
