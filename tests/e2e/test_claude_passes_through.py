"""The real Claude Code through the proxy to servers that speak Anthropic's API themselves (PROTOCOL 4.10, issue 4):
llama.cpp's own /v1/messages, and a scripted one that is asked what it received.

A recorder stands between the client and the proxy and writes down all bytes that pass, so that both sides can be
compared. It runs where they are: in a network without anybody else.
"""

import itertools
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from socket import AF_INET
from typing import Any

import pytest
import pytest_twisted  # type: ignore[import-untyped]
from attrs import field, frozen
from twisted.internet import reactor
from twisted.internet.interfaces import IReactorSocket, IReactorTime
from twisted.internet.threads import deferToThread
from twisted.web.server import Site

from tests.e2e.daemon import ROOT, Daemon, clean_environment, running, without_network
from tests.e2e.stage import PATIENCE, _door, by_turns, news
from tests.e2e.test_claude_code import ONE_SENTENCE, claude
from tests.e2e.test_claude_tools import ALLOWED, shell, shown
from tests.e2e.test_embedded_child import COMMAND, orders
from tests.fakes import anthropic
from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.openai import Received
from tests.fakes.scripts import Script, step_bytes

pytestmark = pytest.mark.claude

#: Both lead to llama.cpp's own Anthropic endpoint.
LLAMA = """
[models]
raw = "raw/tiny"
repaired = "repaired/tiny"

[backends.raw]
provider = "anthropic"
base_url = "BACKEND"
api_key = "secret"

[backends.repaired]
provider = "anthropic"
base_url = "BACKEND"
api_key = "secret"
repair = true
"""
#: Takes connections, passes their bytes on to the port of its first argument, and writes those of each into two files
#: of the folder of its second: what the client said, and what it heard.
RECORDER = """
import asyncio, itertools, sys
port, folder = int(sys.argv[1]), sys.argv[2]
numbers = itertools.count()

async def carry(reader, writer, path):
    with open(path, "wb", buffering=0) as record:
        while data := await reader.read(65536):
            record.write(data)
            writer.write(data)
            await writer.drain()
    writer.close()

async def met(reader, writer):
    number = next(numbers)
    there, back = await asyncio.open_connection("127.0.0.1", port)
    ways = (reader, back, f"{folder}/{number}.said"), (there, writer, f"{folder}/{number}.heard")
    await asyncio.gather(*(carry(*way) for way in ways), return_exceptions=True)

async def main():
    server = await asyncio.start_server(met, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"""
_numbers = itertools.count(1)
#: What the proxy says for itself, with each request.
OURS = {"host", "content-length", "accept-encoding", "connection", "x-api-key", "authorization"}


@frozen
class Sent:
    """One request as the client wrote it."""

    method: str
    target: str
    headers: frozenset[tuple[str, str]]
    body: bytes = field(repr=False)


def requests(said: bytes) -> Iterator[Sent]:
    """Those of one connection, each with its length."""
    while said:
        head, _, said = said.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        headers = {(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)}
        assert "transfer-encoding" not in dict(headers)
        length = int(dict(headers).get("content-length", "0"))
        yield Sent(method, target, frozenset(each for each in headers if each[0] not in OURS), said[:length])
        said = said[length:]


def arrived(received: Received) -> Sent:
    """The same of a request that has reached the backend."""
    named = [(name.decode().lower(), values) for name, values in received.headers.getAllRawHeaders()]
    headers = frozenset((name, each.decode("latin-1")) for name, values in named if name not in OURS for each in values)
    target = received.path + ("?" + received.query) * bool(received.query)
    return Sent(received.method, target, headers, received.body)


@frozen
class Run:
    """What one run of Claude Code left behind."""

    status: int
    said: str
    complained: str
    #: What it sent to the proxy, and what arrived at the backend.
    sent: Sequence[Sent]
    arrived: Sequence[Received]
    #: All that it heard.
    heard: bytes

    @property
    def asked(self) -> list[Any]:
        """The requests for an answer, decoded."""
        return [each.json for each in self.arrived if each.path == "/v1/messages"]


@frozen
class Passage:
    """The proxy, a scripted backend behind it, and a recorder before it; `within` starts a command there."""

    daemon: Daemon
    backend: FakeAnthropic
    within: Sequence[str]

    async def run(self, home: Path, answers: Callable[[Any], Script], *arguments: str) -> Run:
        """Claude Code in the folder `home`, to its end. In a thread, so that the reactor can serve the backend."""
        self.backend.answers = answers
        seen = len(self.backend.received)
        records = home / "records"
        records.mkdir()
        with recorder(self.within, self.daemon.port, records) as url:
            done = await deferToThread(
                lambda: subprocess.run(
                    [*self.within, claude()[0], *arguments],
                    env=variables(home, url, "claude-sonnet-4-5"),
                    cwd=home,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    timeout=PATIENCE,
                )
            )
        sent = [each for record in sorted(records.glob("*.said")) for each in requests(record.read_bytes())]
        heard = b"".join(record.read_bytes() for record in sorted(records.glob("*.heard")))
        return Run(done.returncode, done.stdout, done.stderr, sent, self.backend.received[seen:], heard)


def variables(home: Path, url: str, model: str, **more: str) -> dict[str, str]:
    """The environment of a user who asks this address, with nothing else in `home`."""
    return clean_environment(
        home,
        ANTHROPIC_BASE_URL=url,
        ANTHROPIC_API_KEY="none",
        ANTHROPIC_MODEL=model,
        CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
        DISABLE_TELEMETRY="1",
        LANG="C.UTF-8",
        **more,
    )


@contextmanager
def recorder(within: Sequence[str], port: int, folder: Path) -> Iterator[str]:
    """The address of a recorder before this port."""
    command = [*within, sys.executable, "-c", RECORDER, str(port), str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def passage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Passage]:
    backend = FakeAnthropic(IReactorTime(reactor))
    folder = tmp_path_factory.mktemp("proxy")
    with without_network() as within, _door(within) as listening:
        listening.setblocking(False)
        adopted = IReactorSocket(reactor).adoptStreamPort(listening.fileno(), AF_INET, Site(backend))  # type: ignore[arg-type]
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        told = {"PROVIDER": "anthropic", "PROVIDER_BASE_URL": address, "PROVIDER_API_KEY": "secret"}
        try:
            with running(folder, variables=told, within=within) as daemon:
                yield Passage(daemon, backend, within)
        finally:
            pytest_twisted.blockon(adopted.stopListening())


@contextmanager
def llama(within: Sequence[str]) -> Iterator[str]:
    """The address of a llama.cpp with the packaged model."""
    process = subprocess.Popen([*within, *COMMAND], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    with process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(orders(window=8192))
        process.stdin.flush()
        place = json.loads(process.stdout.readline())
        yield f"http://{place['host']}:{place['port']}"


@frozen
class Hermitage:
    """The proxy before a llama.cpp."""

    daemon: Daemon
    within: Sequence[str]


@pytest.fixture(scope="module")
def hermitage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hermitage]:
    folder = tmp_path_factory.mktemp("proxy")
    with without_network() as within, llama(within) as address:
        (folder / "claudeproxy.toml").write_text(LLAMA.replace("BACKEND", address))
        with running(folder, ["--config=claudeproxy.toml"], within=within) as daemon:
            yield Hermitage(daemon, within)


@pytest.mark.model
@pytest.mark.parametrize("model", ["raw", "repaired"])
def test_llama(hermitage: Hermitage, tmp_path: Path, model: str) -> None:
    """`claude -p hello` prints what llama.cpp says at its own Anthropic endpoint, passed on or repaired."""
    begun = len(hermitage.daemon.log)
    done = subprocess.run(
        [*hermitage.within, *claude("-p", "--", "hello")],
        env=variables(tmp_path, hermitage.daemon.url, model, CLAUDE_CODE_EXTRA_BODY=ONE_SENTENCE),
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done
    assert done.stdout.strip(), done
    hermitage.daemon.logged(rf"POST /v1/messages 200 \w+ .* {model} -> {model}/tiny .* out [1-9]", after=begun)


def assert_same_bytes(run: Run) -> None:
    """Whatever the client sent to the API has reached the backend as it was, and nothing else has."""
    there = [arrived(each) for each in run.arrived if each.method == "POST"]
    assert Counter(there) == Counter(each for each in run.sent if each.method == "POST")
    assert len(there) > 0


@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_bytes(passage: Passage, tmp_path: Path) -> None:
    """A run with tools works, and each request arrives byte for byte, with all headers but those of one connection."""
    run = await passage.run(
        tmp_path,
        by_turns(
            answer(
                anthropic.thinking("Let me", " see."),
                anthropic.text("I look."),
                anthropic.call("Bash", '{"command": "echo h', 'öring > fish.txt", "description": "a"}'),
                stop_reason="tool_use",
            ),
            answer(anthropic.call("Bash", *pieces(shell("cat fish.txt")), id="toolu_2"), stop_reason="tool_use"),
            answer(anthropic.text("All", " is well.")),
        ),
        *("-p", "Look after the harbour.", *ALLOWED),
    )
    assert (run.status, run.said) == (0, "All is well.\n"), run
    assert (tmp_path / "fish.txt").read_text() == "höring\n"
    assert_same_bytes(run)
    assert "höring" in shown(news(run.asked[2]))
    [thought] = [block for block in run.asked[1]["messages"][-2]["content"] if block["type"] == "thinking"]
    assert thought == {"type": "thinking", "thinking": "Let me see.", "signature": "EqQBCgYI"}
    assert any(name == "anthropic-beta" for each in run.sent for name, _ in each.headers)


@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_overflow(passage: Passage, tmp_path: Path) -> None:
    """Anthropic's own words for a prompt that is too long arrive as they are: the client sums up and goes on."""
    full = anthropic.refused(400, "invalid_request_error", "prompt is too long: 250000 tokens > 200000 maximum")
    work = [
        answer(anthropic.call("Bash", *pieces(shell(f"echo {turn}")), id=f"toolu_{turn}"), stop_reason="tool_use")
        for turn in range(3)
    ]
    talk = by_turns(*work, full)

    def backend(body: Any) -> Script:
        said = shown(body["messages"])
        if "CRITICAL: Respond with TEXT ONLY" in said:
            return answer(anthropic.text("<summary>The tide was counted.</summary>"))
        if "The tide was counted." in said:
            return answer(anthropic.text("We went on."))
        return talk(body)

    run = await passage.run(tmp_path, backend, "-p", "Count the tide.", *ALLOWED)
    assert (run.status, run.said) == (0, "We went on.\n"), run
    assert step_bytes(full.steps[0]) in run.heard
    assert b"HTTP/1.1 400 Bad Request\r\n" in run.heard
    assert_same_bytes(run)


@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_rate_limit(passage: Passage, tmp_path: Path) -> None:
    """A rate limit arrives as it is, headers included: the client waits as long as it is told, and asks again."""
    limited = anthropic.refused(429, "rate_limit_error", "Slow down,  please.", retry_after="2")
    scripts = iter([limited])

    def backend(body: Any) -> Script:
        return next(scripts, answer(anthropic.text("Here I am.")))

    run = await passage.run(tmp_path, backend, "-p", "hello", *ALLOWED)
    assert (run.status, run.said) == (0, "Here I am.\n"), run
    assert step_bytes(limited.steps[0]) in run.heard
    assert b"retry-after: 2\r\n" in run.heard.lower()
    first, second = [each for each in run.arrived if each.path == "/v1/messages"][:2]
    assert second.arrived - first.arrived >= 2
    assert second.body == first.body
    assert_same_bytes(run)


def answer(*blocks: dict[str, Any], **more: Any) -> Script:
    """A streamed answer with an id of its own: the client takes equal ids for one answer, and never comes to an end."""
    events = anthropic.events(*blocks, **more)
    events[0]["message"]["id"] = f"msg_{next(_numbers)}"
    return Script(headers=anthropic.HEADERS, steps=anthropic.frames(events))


def pieces(wanted: tuple[str, Any]) -> tuple[str, str]:
    """The arguments of a call, in two pieces."""
    whole = json.dumps(wanted[1])
    return whole[:9], whole[9:]
