"""
The real Claude Code waits: for a backend that is mute for long, and for an answer that it had given up before.

The times are settings of the proxy, and small here. `test_sixteen_minutes` takes the default ones.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted  # type: ignore[import-untyped]
from attrs import field, frozen
from twisted.internet.defer import Deferred, gatherResults

from tests.e2e.daemon import ROOT, Daemon, clean_environment, running, wait_until, without_network
from tests.e2e.parts import PARTS
from tests.e2e.stage import Run, Stage, by_turns, calls, news, stage
from tests.e2e.test_claude_code import Screen, terminal
from tests.e2e.test_claude_tools import SETTINGS, answers, encoded, shell, shown
from tests.e2e.test_embedded_child import COMMAND, orders
from tests.fakes.scripts import Script, Send, Wait, reasoning, text

pytestmark = pytest.mark.claude

#: Ways to set a proxy, in milliseconds.
PROXIES = {
    "default": "",
    # Pings and signs of life come soon.
    "lively": "grace_ms = 500\nping_ms = 500\nliveness_ms = 2000\n",
    # Nothing comes before the model's own words, and whoever leaves after a second is waited for.
    "speechless": "grace_ms = 60000\ninterrupt_ms = 1000\nlinger_ms = 15000\n",
    # The same, but for the start of a message, or a blank.
    "curt": "grace_ms = 0\nping_ms = 60000\nliveness_ms = 3000\ninterrupt_ms = 1000\nlinger_ms = 15000\n",
}
#: Every event that the client gets, a line each.
EVENTS = ("--output-format", "stream-json", "--verbose", "--include-partial-messages")
UNTHINKING = {"MAX_THINKING_TOKENS": "0"}
ALLOWED = ("--allowedTools", "Bash")


def late(script: Script, seconds: float) -> Script:
    """The same, after a silence without even headers."""
    return Script(steps=[Wait(seconds), *script.steps])


@frozen
class Play:
    """A conversation whose first answer is waited for; if it is a call, the second one ends it."""

    question: str
    first: Script
    #: What the client prints.
    said: str
    #: The kind of the empty deltas that it waits by: thinking if the request thinks.
    sign: str
    #: The first answer, as the backend is to see it ever after.
    remembered: Mapping[str, Any]
    turns: int = 1
    model: str = "seeing"
    variables: Mapping[str, str] = field(factory=dict)

    def backend(self, mute: float) -> Callable[[Any], Script]:
        rest = [text("It is noted.")] * (self.turns - 1)
        return by_turns(late(self.first, mute), *rest, text("Later."))


def remembered_call(command: str) -> dict[str, Any]:
    _, arguments = shell(command)
    function = {"name": "Bash", "arguments": json.dumps(arguments, separators=(",", ":"))}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "call_0", "type": "function", "function": function}],
    }


PLAYS = {
    "text": Play(
        "How deep is the harbour?",
        text("Nine ", "fathoms."),
        "Nine fathoms.",
        "thinking_delta",
        {"role": "assistant", "content": "Nine fathoms."},
    ),
    "text, unthinking": Play(
        "How wide is the harbour?",
        text("Ninety ", "fathoms."),
        "Ninety fathoms.",
        "text_delta",
        {"role": "assistant", "content": "Ninety fathoms."},
        variables=UNTHINKING,
    ),
    "thoughts": Play(
        "How old is the harbour?",
        reasoning(["Let me ", "see."], ["Nine ", "centuries."]),
        "Nine centuries.",
        "thinking_delta",
        {"role": "assistant", "content": "Nine centuries.", "reasoning_content": "Let me see."},
        model="thinking",
    ),
    "call": Play(
        "Note the tide.",
        calls(shell("echo high >> tide.txt")),
        "It is noted.",
        "thinking_delta",
        remembered_call("echo high >> tide.txt"),
        turns=2,
    ),
    "call, unthinking": Play(
        "Note the wind.",
        calls(shell("echo west >> wind.txt")),
        "It is noted.",
        "text_delta",
        remembered_call("echo west >> wind.txt"),
        turns=2,
        variables=UNTHINKING,
    ),
}


@frozen
class Wake:
    """What a play left behind: the first run, and the one that went on with it."""

    folder: Path
    first: Run
    second: Run


async def perform(theatre: Stage, folder: Path, mute: float) -> dict[str, Wake]:
    """All plays at once: they wait most of the time."""
    backends = {play.question: play.backend(mute) for play in PLAYS.values()}

    def backend(body: Any) -> Script:
        [asked] = [question for question in backends if question in shown(body["messages"])]
        return backends[asked](body)

    async def wake(name: str) -> Wake:
        play = PLAYS[name]
        home = folder / name.replace(", ", "-")
        home.mkdir()

        async def run(*arguments: str) -> Run:
            return await theatre.run(
                home,
                backend,
                *("-p", *arguments, *EVENTS, *ALLOWED),
                model=play.model,
                variables=play.variables,
                patience=mute + 120,
            )

        return Wake(home, await run(play.question), await run("And then?", "--continue"))

    wakes = await gatherResults([Deferred.fromCoroutine(wake(name)) for name in PLAYS])
    return dict(zip(PLAYS, wakes, strict=True))


def own(play: Play, run: Run) -> list[Any]:
    """What the backend was asked in this play; others ran at the same time."""
    return [body for body in run.asked if play.question in shown(body["messages"])]


def lines(run: Run) -> list[Any]:
    return [json.loads(line) for line in run.said.splitlines()]


def result(run: Run) -> str:
    assert run.status == 0, run
    return str(lines(run)[-1]["result"])


def empty_deltas(run: Run) -> list[str]:
    """The kinds of the deltas without content that the client saw."""
    deltas = [line["event"].get("delta", {}) for line in lines(run) if line["type"] == "stream_event"]
    return [delta["type"] for delta in deltas if "" in (delta.get("text"), delta.get("thinking"))]


def check(play: Play, wake: Wake) -> None:
    """One request for one answer, the right one, and a conversation that shows nothing of the wait."""
    assert result(wake.first) == play.said
    assert [len(answers(body)) for body in own(play, wake.first)] == list(range(play.turns))
    signs = empty_deltas(wake.first)
    assert signs.count(play.sign) >= 3
    if play.model == "seeing":  # there the model itself does not think
        assert set(signs) == {play.sign}
    assert result(wake.second) == "Later."
    bodies = [body for run in (wake.first, wake.second) for body in run.asked if play.question in shown(body)]
    last = max(bodies, key=lambda body: len(body["messages"]))
    for earlier, later in pairwise(bodies):
        if len(later["messages"]) > len(earlier["messages"]):
            assert encoded(later["messages"]).startswith(encoded(earlier["messages"])[:-1])
    assert answers(last)[0] == play.remembered
    assert len(answers(last)) == play.turns
    assert "And then?" in shown(news(last))


@pytest.fixture(scope="module")
def theatre(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A proxy that is set in one of these ways."""
    with stage(tmp_path_factory.mktemp("proxy"), PROXIES[request.param] + SETTINGS) as built:
        yield built


def through(proxy: str) -> pytest.MarkDecorator:
    """Which proxy a test is for."""
    return pytest.mark.parametrize("theatre", [proxy], indirect=True)


@pytest.fixture(scope="module")
def wakes(theatre: Stage, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Wake]:
    waited = perform(theatre, tmp_path_factory.mktemp("wakes"), 12)
    return pytest_twisted.blockon(Deferred.fromCoroutine(waited))  # type: ignore[no-any-return]


@through("lively")
@pytest.mark.parametrize("name", PLAYS)
def test_a_mute_backend(wakes: dict[str, Wake], name: str) -> None:
    """A long silence before the answer costs one request, and leaves no trace in the conversation, which goes on.

    Whatever the answer is: text, thoughts or a call, in a request that thinks or one that does not.
    """
    check(PLAYS[name], wakes[name])


@through("lively")
def test_calls_are_run_once(wakes: dict[str, Wake]) -> None:
    """A call that was waited for is run, and but once."""
    assert (wakes["call"].folder / "tide.txt").read_text() == "high\n"
    assert (wakes["call, unthinking"].folder / "wind.txt").read_text() == "west\n"


@through("lively")
@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_whole_answer(theatre: Stage, tmp_path: Path) -> None:
    """A stream that fails after signs of life is asked for again without `stream`, and waited for with blanks."""
    broken = Send(b'data: {"error":{"message":"out of memory","type":"server_error","code":500}}\n\n')
    scripts = iter([Script(steps=[Wait(4), broken]), late(text("Here I am."), 6)])
    run = await theatre.run(tmp_path, lambda _: next(scripts), "-p", "Where are you?", *EVENTS)
    assert result(run) == "Here I am."
    assert len(run.asked) == 2
    assert came_whole(run)


@through("speechless")
@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_a_retry_joins(theatre: Stage, tmp_path: Path) -> None:
    """A client that gives up and asks again is given the answer that runs already, as often as it does so."""
    backend = by_turns(late(text("Worth the wait."), 8))
    hasty = {"API_TIMEOUT_MS": "3000"}
    run = await theatre.run(tmp_path, backend, "-p", "Are you there?", *EVENTS, variables=hasty)
    check_joined(run)


@pytest.mark.slow
@through("curt")
@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_a_retry_without_stream_joins(theatre: Stage, tmp_path: Path) -> None:
    """A client that gives up a stream and asks for the same without one is given the answer that runs already."""
    backend = by_turns(late(text("Worth the wait."), 20))
    hasty = {"CLAUDE_BYTE_STREAM_IDLE_TIMEOUT_MS": "10000"}  # the least that 2.1.330 takes; 2.1.197 takes none
    run = await theatre.run(tmp_path, backend, "-p", "Are you there?", *EVENTS, variables=hasty)
    check_joined(run)
    assert came_whole(run)


def check_joined(run: Run) -> None:
    """One request to the backend, though the client sent it more than once."""
    assert result(run) == "Worth the wait."
    assert len(run.asked) == 1
    assert " client_gone " in run.log
    assert [" joined " in line for line in run.log.splitlines() if " 200 end_turn " in line] == [True]


def came_whole(run: Run) -> bool:
    """Whether the client got the last answer as one message: it shows what it streams piece by piece."""
    *_, last, _ = lines(run)
    return bool(last["type"] == "assistant")


@pytest.mark.slow
@pytest.mark.skipif("CLAUDEPROXY_TEST_SIXTEEN_MINUTES" not in os.environ, reason="run on purpose: it takes as long")
@through("default")
@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_sixteen_minutes(theatre: Stage, tmp_path: Path) -> None:
    """With nothing configured a backend may be mute for sixteen minutes: there is one request, and the answer."""
    for name, wake in (await perform(theatre, tmp_path, 16 * 60)).items():
        check(PLAYS[name], wake)


# ---- the screen, and a real llama.cpp that somebody looks into

#: Starts the server that its arguments name, hands it the orders and tells its address, then all that its slot does.
WATCH = """
import json, subprocess, sys, time
from http.client import HTTPConnection
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdin.write(sys.stdin.buffer.readline())
child.stdin.flush()
line = child.stdout.readline()
print(line.decode().strip(), flush=True)
place = json.loads(line)
before = None
while True:
    connection = HTTPConnection(place["host"], place["port"], timeout=60)
    connection.request("GET", "/slots", headers={"Authorization": "Bearer secret"})
    [slot] = json.loads(connection.getresponse().read())
    connection.close()
    [token] = slot.get("next_token") or [{}]
    seen = {
        "busy": slot["is_processing"],
        "read": slot.get("n_prompt_tokens_processed", 0),
        "said": token.get("n_decoded", 0),
    }
    if seen != before:
        print(json.dumps({"at": time.monotonic(), **seen}), flush=True)
    before = seen
    time.sleep(0.03)
"""


@frozen
class Lookout:
    """A llama.cpp server, what its slot did so far, and a proxy in front of it."""

    daemon: Daemon
    within: Sequence[str]
    _seen: Path

    @property
    def seen(self) -> list[Any]:
        return [json.loads(line) for line in self._seen.read_text().splitlines()[1:] if line.endswith("}")]


@pytest.fixture(scope="module")
def lookout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lookout]:
    folder = tmp_path_factory.mktemp("lookout")
    seen = folder / "seen"
    with without_network() as within, seen.open("wb") as out:
        command = [*within, sys.executable, "-c", WATCH, *COMMAND]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, cwd=ROOT) as watch:
            assert watch.stdin is not None
            watch.stdin.write(orders())
            watch.stdin.flush()
            try:
                wait_until("the server", 60, lambda: b"\n" in seen.read_bytes())
                place = json.loads(seen.read_text().splitlines()[0])
                variables = {
                    "PROVIDER": "openai",
                    "PROVIDER_BASE_URL": f"http://{place['host']}:{place['port']}/v1",
                    "PROVIDER_API_KEY": "secret",
                    "DEFAULT_MODEL": "tiny",
                }
                with running(folder / "proxy", variables=variables, within=within) as daemon:
                    daemon.logged("speaks llama.cpp", 30)
                    yield Lookout(daemon, within, seen)
            finally:
                watch.kill()


@contextmanager
def conversation(lookout: Lookout, home: Path, question: str, system: str = "Be kind.") -> Iterator[Screen]:
    """Claude Code on a terminal, just asked; the system prompt may be too long for tmux's command line."""
    (home / "system").write_text(system)
    settled = {"hasCompletedOnboarding": True, "projects": {str(home): {"hasTrustDialogAccepted": True}}}
    (home / ".claude.json").write_text(json.dumps(settled))
    command = f"exec {PARTS['claude'].place} --bare --tools '' --system-prompt \"$(cat system)\" -- '{question}'"
    variables = clean_environment(
        home,
        ANTHROPIC_BASE_URL=lookout.daemon.url,
        ANTHROPIC_API_KEY="none",
        ANTHROPIC_MODEL="tiny",
        CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
        DISABLE_TELEMETRY="1",
        TERM="xterm-256color",
        LANG="C.UTF-8",
    )
    with terminal(lookout.within, ["sh", "-c", command], variables, home) as screen:
        screen.answer_questions()
        yield screen


def escape(lookout: Lookout, screen: Screen, limit: float, awaited: Callable[[Any], bool]) -> list[Any]:
    """
    Escape frees the slot within `limit` seconds; what the slot did since it took the request up.

    It is pressed once the busy slot is as `awaited`. llama.cpp looks up from its work between two batches of the
    prompt, or two tokens; on a machine that is busy with something else the one that began, and the one that follows,
    may take longer than that. A model that does not stop goes on for a minute.
    """
    for _ in range(3):
        wait_until("the model at work", 60, lambda: lookout.seen[-1]["busy"] and awaited(lookout.seen[-1]), 0.01)
        pressed = time.monotonic()
        screen.press("Escape")
        wait_until("a free slot", 60, lambda: not lookout.seen[-1]["busy"])
        seen = lookout.seen
        idle = [place for place, each in enumerate(seen) if not each["busy"]]
        took = seen[idle[-1]]["at"] - pressed
        signs = seen[idle[-2] + 1 : idle[-1]]
        longest = max((later["at"] - earlier["at"] for earlier, later in pairwise(signs)), default=0.0)
        if took < max(limit, 2.5 * longest):
            return signs
        screen.press("C-u", "hello again, tell me more", "Enter")
    raise AssertionError(f"it went on for {took:.2f} s: {signs}")


@pytest.mark.tmux
@pytest.mark.model
def test_escape_in_prefill(lookout: Lookout, tmp_path: Path) -> None:
    """Escape while the prompt is read frees the model's slot within 2 s."""
    begun = len(lookout.daemon.log)
    with conversation(lookout, tmp_path, "hello", "alpha beta " * 3500) as screen:
        signs = escape(lookout, screen, 2.0, lambda slot: slot["read"] >= 512)
        lookout.daemon.logged(r"POST /v1/messages 200 client_gone \S+ tiny -> \S+ (?!first)", after=begun)
    assert not any(each["said"] for each in signs)


@pytest.mark.tmux
@pytest.mark.model
def test_escape_in_the_answer(lookout: Lookout, tmp_path: Path) -> None:
    """Escape while the answer comes frees the model's slot within 1 s.

    2.1.197 asks for a title at the same time, and does not take that back.
    """
    begun = len(lookout.daemon.log)
    with conversation(lookout, tmp_path, "hello, write a very long story about a lighthouse") as screen:
        escape(lookout, screen, 1.0, lambda slot: slot["said"] > 3)
        lookout.daemon.logged(r"POST /v1/messages 200 client_gone \S+ tiny -> \S+ first ", after=begun)
