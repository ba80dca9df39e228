"""The measuring itself: nothing is missed, and nothing counted twice."""

import asyncio
import json
import sys
from collections.abc import Iterator

import pytest

from tests.benchmarks.__main__ import LARGE, TOOLS, Figure, large_request, table
from tests.benchmarks.load import Target, body, measured, questions, streams
from tests.benchmarks.measures import cpu, resident
from tests.benchmarks.peers import OTHERS, process
from tests.e2e.daemon import free_port


@pytest.fixture(scope="module")
def server() -> Iterator[Target]:
    """The server of the benchmarks, asked directly."""
    port = free_port()
    with process([sys.executable, "-m", "tests.benchmarks.server", str(port)], OTHERS, port) as pid:
        yield Target("server", port, "/v1/chat/completions", pid, is_anthropic=False)


@pytest.mark.parametrize("kind", ["text", "thinking"])
def test_paced(server: Target, kind: str) -> None:
    """Three streams of twenty tokens, and beside these the role, the end, and the usage of each."""
    outcome = asyncio.run(measured(server, streams(body(f"{kind}-20-200"), 3)))
    assert (outcome.requests, outcome.events, len(outcome.late)) == (3, 3 * 23, 3 * 20)
    assert outcome.wall >= 20 / 200 and outcome.cpu > 0
    assert 0 <= outcome.lateness(0.5) <= outcome.lateness(1.0)


def test_at_once(server: Target) -> None:
    """A flood, and a token of a megabyte, one after the other on one connection."""
    work = questions([body("text-500-0"), body(f"large-{1024 * 1024}-0")])
    outcome = asyncio.run(measured(server, work))
    assert (outcome.requests, outcome.events) == (2, 503 + 4)


def test_refused(server: Target) -> None:
    """Who does not answer with a 200 is not measured."""
    with pytest.raises(AssertionError, match="server answers"):
        asyncio.run(measured(server, questions([body("unheard of")])))


def test_process(server: Target) -> None:
    """A process costs something from its beginning on."""
    assert cpu(server.pid) > 0 and resident(server.pid) > 1024 * 1024


def test_large_request() -> None:
    """It weighs what the table says, and no two tools have the same name."""
    asked = large_request("any")
    assert abs(len(json.dumps(asked, separators=(",", ":"))) - LARGE) < 100
    assert len({each["name"] for each in asked["tools"]}) == TOOLS


def test_table() -> None:
    """Ratios stand where there is somebody to compare with."""
    figures = [Figure("One", "ms", {"claudeproxy": 3.0, "HAProxy": 1.5}, "2"), Figure("Two", "s", {"claudeproxy": 1.0})]
    assert table(figures).splitlines()[2:] == ["| One (ms) | 3.00 | 1.50 | 2.00 | 2 |", "| Two (s) | 1.00 |  |  |  |"]
