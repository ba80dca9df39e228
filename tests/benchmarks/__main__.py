"""How fast the proxy is, beside others: `python -m tests.benchmarks [--json FILE] [--peer NAME PATH COMMAND]`.

Every figure is CPU of the proxy's process alone, as the kernel counts it; the ratio is to HAProxy passing the same
bytes through, if it is installed. A peer is another proxy: NAME for the table, PATH to ask (``/v1/messages``, or
``/v1/chat/completions`` for one that passes through), and the COMMAND that starts it, where ``{port}`` is its port and
``{server}`` the address of an OpenAI-compatible server. It takes some minutes. Linux only.
"""

import argparse
import asyncio
import json
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from attrs import asdict, frozen

from tests.benchmarks import peers
from tests.benchmarks.load import Client, Outcome, Target, Work, body, connect, measured, questions, streams
from tests.benchmarks.measures import cpu, processor, resident
from tests.benchmarks.ten_turns import requests

#: What a request of Claude Code's with all of its tools weighs.
LARGE = 87_000
TOOLS = 27
QUIET = 2000
_COUNTED = ("model", "system", "messages", "tools")
MIB = 1024 * 1024


@frozen
class Figure:
    """One line of the table; the values by the name of the one who was measured."""

    what: str
    unit: str
    values: dict[str, float]
    #: What it shall be at most (or at least, for a rate), in words.
    goal: str = ""

    def ratio(self, name: str) -> float | None:
        """To HAProxy."""
        base = self.values.get("HAProxy")
        return self.values[name] / base if base and name in self.values else None


def large_request(model: str) -> dict[str, Any]:
    """As Claude Code's first request of a conversation: `TOOLS` tools, `LARGE` bytes of JSON."""
    recorded = next(requests(full=True))
    tools = [{**each, "name": f"{each['name']}{at or ''}"} for at in range(3) for each in recorded["tools"]][:TOOLS]
    asked = body(model, system=recorded["system"], messages=recorded["messages"], tools=tools)
    text = asked["system"][-1]["text"]
    short = LARGE - len(json.dumps(asked, separators=(",", ":")))
    filled = (text * (1 + max(0, short) // len(text)))[: max(0, short)]
    return {**asked, "system": [*asked["system"][:-1], {**asked["system"][-1], "text": text + filled}]}


def conversation(model: str, messages: int) -> dict[str, Any]:
    """So many messages of 300 characters."""
    said = [{"role": ("user", "assistant")[at % 2], "content": f"{at} " + "words " * 50} for at in range(messages)]
    return body(model, messages=said)


def many(make: Callable[[int], dict[str, Any]], count: int) -> Iterator[dict[str, Any]]:
    return map(make, range(count))


class Run:
    """Measures one thing after the other."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self.targets = list(targets)
        self.figures: list[Figure] = []
        self._ours = targets[0]

    async def everybody(self, work: Work, anthropic_only: bool = False) -> dict[str, Outcome]:
        """The work done for each of them: as many times as makes a median, for each in turn."""
        asked = [each for each in self.targets if each.is_anthropic or not anthropic_only]
        outcomes: dict[str, list[Outcome]] = {each.name: [] for each in asked}
        for _ in range(3):
            for target in asked:
                outcomes[target.name].append(await measured(target, work))
        return {name: sorted(found, key=lambda each: each.cpu)[1] for name, found in outcomes.items()}

    async def median(self, work: Work) -> Outcome:
        """The same for ours alone."""
        return sorted([await measured(self._ours, work) for _ in range(3)], key=lambda each: each.cpu)[1]

    def add(self, what: str, unit: str, values: dict[str, float], goal: str = "") -> None:
        self.figures.append(Figure(what, unit, values, goal))
        shown = "  ".join(f"{name} {value:,.2f}" for name, value in values.items())
        sys.stderr.write(f"{what}: {shown} {unit}\n")

    async def streamed(self) -> None:
        for kind in ("text", "thinking"):
            found = await self.everybody(streams(body(f"{kind}-100-50"), 100))
            values = {name: each.per_event for name, each in found.items()}
            self.add(f"A streamed event of {kind}, 100 streams of 50 a second", "us of CPU", values, "2.5 x HAProxy")
            if kind == "text":
                late = {name: each.lateness(0.99) for name, each in found.items()}
                self.add("How late 99 of 100 tokens are at most", "ms", late, "3 x HAProxy")
        found = await self.everybody(streams(body("text-20000-0"), 1))
        rates = {name: each.events / each.cpu for name, each in found.items()}
        self.add("A flood of one stream", "events per second of CPU", rates, "70,000 at least")

    async def asked(self) -> None:
        small = body("text-1-0")
        found = await self.everybody(streams(small, 4, 100))
        self.add("A tiny request on a new connection", "ms of CPU", _per_request(found), "1.0 ms")
        found = await self.everybody(questions([small] * 400))
        self.add("A tiny request on a kept connection", "ms of CPU", _per_request(found))
        tiny = found
        found = await self.everybody(questions([large_request("text-1-0")] * 100))
        more = {name: each.per_request - tiny[name].per_request for name, each in found.items()}
        self.add(f"What {LARGE // 1000} KB with {TOOLS} tools cost more", "ms of CPU", more, "1.0 ms")
        found = {"claudeproxy": await self.median(_counting())}
        self.add("count_tokens of the same, estimated", "ms of CPU", _per_request(found), "1.0 ms")

    async def counted(self, target: Target) -> None:
        """What was counted by the server before, of one whose server can count."""
        await measured(target, _counting())
        found = sorted([(await measured(target, _counting())).per_request for _ in range(3)])[1]
        self.add("count_tokens of the same, remembered", "ms of CPU", {"claudeproxy": found}, "1.0 ms")

    async def grows(self) -> None:
        """Costs that must grow no faster than what is asked for."""
        for count in (10, 100, 1000):
            outcome = await self.median(streams(body("text-20-5"), count))
            self.add(
                f"A streamed event, {count:,} streams of 5 a second", "us of CPU", {"claudeproxy": outcome.per_event}
            )
        for length in (1, 10, 100, 1000):
            outcome = await self.median(questions([conversation("text-1-0", length)] * 20))
            self.add(f"A conversation of {length:,} messages", "ms of CPU", {"claudeproxy": outcome.per_request})
        for size in (1024, 64 * 1024, MIB, 8 * MIB):
            outcome = await self.median(questions([body(f"large-{size}-0")] * 10))
            self.add(f"A token of {size // 1024:,} KB", "ms of CPU", {"claudeproxy": outcome.per_request})

    async def held(self, target: Target) -> float:
        """KB of memory that a quiet stream holds, of one who is fresh."""
        await measured(target, streams(body("text-20-0"), 20, 10))
        before = resident(target.pid)
        clients = [await self._open(target) for _ in range(QUIET)]
        found = (resident(target.pid) - before) / QUIET / 1024
        for client in clients:
            client.transport.close()
        return found

    async def _open(self, target: Target) -> Client:
        client = await connect(target, Outcome())
        ending = client.send(body("quiet-1-0"))
        ending.add_done_callback(lambda done: done.exception())
        while not client.begun:
            await asyncio.sleep(0.001)
        return client


def _counting() -> Work:
    question = {name: value for name, value in large_request("text-1-0").items() if name in _COUNTED}
    return questions([question] * 100, "/v1/messages/count_tokens")


def _per_request(found: dict[str, Outcome]) -> dict[str, float]:
    return {name: each.per_request for name, each in found.items()}


def _stopwatch(folder: Path, server: int) -> tuple[float, float]:
    """Seconds of CPU from twistd to listening, and the memory it has then in MiB above that of the bare imports."""
    with peers.claudeproxy(folder / "fresh", server) as target:
        spent, held = cpu(target.pid), resident(target.pid)
    command = [sys.executable, "-m", "tests.benchmarks.bare_relay", "imports"]
    with peers.process(command, peers.MEASURED, 0) as pid:
        time.sleep(3)
        bare = resident(pid)
    return spent, (held - bare) / MIB


async def run(folder: Path, named: Sequence[peers.Peer]) -> list[Figure]:
    """The whole set."""
    with peers.server() as server, peers.everybody(folder, server, named) as targets:
        run = Run(targets)
        for target in targets:  # nobody is measured cold
            await measured(target, streams(body("text-20-0"), 5, 4))
        spent, more = _stopwatch(folder, server)
        run.add("From twistd to listening", "s of CPU", {"claudeproxy": spent}, "0.7 s")
        run.add("Memory above the bare imports", "MiB", {"claudeproxy": more}, "8 MiB")
        await run.streamed()
        await run.asked()
        with peers.claudeproxy(folder / "counting", server, "llama.cpp") as target:
            await run.counted(target)
        await run.grows()
    with peers.server() as server:
        held: dict[str, float] = {}
        for fresh in (peers.claudeproxy(folder / "third", server), peers.bare_relay(server)):
            with fresh as target:
                held[target.name] = await run.held(target)
        run.add(f"One of {QUIET:,} quiet streams", "KB", held, "1.3 x bare")
        return run.figures


def table(figures: Sequence[Figure]) -> str:
    """For people, and for the README."""
    names = list(dict.fromkeys(name for each in figures for name in each.values))
    lines = [["", *names, "Ratio to HAProxy", "Goal"], ["---"] * (len(names) + 3)]
    for each in figures:
        ratio = each.ratio("claudeproxy")
        values = [f"{each.values[name]:,.2f}" if name in each.values else "" for name in names]
        lines.append([f"{each.what} ({each.unit})", *values, "" if ratio is None else f"{ratio:.2f}", each.goal])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


@contextmanager
def many_descriptors() -> Iterator[None]:
    """Two thousand streams need more than the usual thousand."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--peer", nargs=3, action="append", default=[], metavar=("NAME", "PATH", "COMMAND"))
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder, many_descriptors(), peers.kept_aside():
        figures = asyncio.run(run(Path(folder), [peers.Peer(*each) for each in arguments.peer]))
    machine = f"{processor()}, {platform.python_implementation()} {platform.python_version()}"
    when = datetime.now(UTC).date().isoformat()
    print(f"{when}, {machine}\n\n{table(figures)}")
    if arguments.json is not None:
        told = {"date": when, "machine": machine, "figures": [asdict(each) for each in figures]}
        arguments.json.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
