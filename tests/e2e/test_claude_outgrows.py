"""
The real Claude Code in conversations that outgrow the window: it compacts by itself, and finishes its work (issue 5).

What the scripted backend knows of the story it is told is only what stands in the request: a chapter that a summary
forgot is asked for again, and one that never came is missing from the answer.
"""

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted  # type: ignore[import-untyped]
from attrs import Factory, define, frozen

from tests.e2e.daemon import running, without_network
from tests.e2e.stage import Run, Stage, calls, stage
from tests.e2e.test_claude_code import claude, environment
from tests.fakes.scripts import Done, Script, error, json_body, json_bytes, text, usage_chunk

pytestmark = [pytest.mark.claude, pytest.mark.slow]

WINDOW = 32_768
SETTINGS = """
[models]
reader = "narrow/model-a"

[backends.narrow]
provider = "openai"
base_url = "BACKEND"
context_window = 32768
"""
CHAPTERS = range(1, 25)
WORDS = [f"word{number * number}" for number in CHAPTERS]
#: What 2.1.330 and 2.1.197 end a request for a summary with.
SUMMARY_WANTED = "CRITICAL: Respond with TEXT ONLY"
#: A summary of about 1,500 tokens, as real ones have.
CHATTER = " The old man told of the tide and of the boats." * 125


@define
class Narrow:
    """
    A backend with a window of `WINDOW` tokens, which four bytes of a request are one of, and of an answer.

    It refuses what is longer in llama.cpp's words, and cuts its answers at `max_tokens`. It asks for one chapter after
    the other, and when it has seen them all it tells the words that they end with.
    """

    #: Tokens of the prompt, and the longest answer that was asked for; of every request.
    asked: list[tuple[int, int]] = Factory(list)
    #: Tokens of the prompts that it was to sum up.
    summed: list[int] = Factory(list)
    #: Chapters that it asked for.
    read: list[int] = Factory(list)

    def size(self, body: Any) -> int:
        return len(json_bytes([body["messages"], body.get("tools")])) // 4

    def counted(self, body: Any) -> Script:
        return json_body({"input_tokens": self.size(body)})

    def answers(self, body: Any) -> Script:
        tokens, most = self.size(body), body["max_tokens"]
        self.asked.append((tokens, most))
        if tokens > WINDOW:
            fault = {"code": 400, "type": "exceed_context_size_error", "n_prompt_tokens": tokens, "n_ctx": WINDOW}
            return error(400, {"error": {**fault, "message": "request exceeds the available context size"}})
        known = dict(re.findall(r"chapter (\d+) ends with (\w+)", json.dumps(body["messages"])))
        unread = [number for number in CHAPTERS if str(number) not in known]
        if SUMMARY_WANTED in json.dumps(body["messages"][-1]):
            self.summed.append(tokens)
            ends = " ".join(f"chapter {number} ends with {word}." for number, word in known.items())
            return self.told(tokens, most, f"<summary>{CHATTER} {ends}</summary>")
        if not unread:
            return self.told(tokens, most, " ".join(known[str(number)] for number in CHAPTERS))
        self.read.append(unread[0])
        script = calls(("Bash", {"command": f"sh story {unread[0]}", "description": "reads a chapter"}))
        return Script(steps=[*script.steps[:-2], usage_chunk(tokens, 30), Done()])

    def told(self, tokens: int, most: int, words: str) -> Script:
        spent = min(most, len(words) // 4)
        script = text(words[: 4 * most], finish="stop" if len(words) <= 4 * most else "length")
        return Script(steps=[*script.steps[:-2], usage_chunk(tokens, spent), Done()])


def write_story(folder: Path) -> None:
    """A command that tells a chapter of some 1,500 tokens; a file that it had read the client would show again."""
    for number, word in zip(CHAPTERS, WORDS, strict=True):
        lines = [f"{number}.{line} the tide came in and the boats went out, said the old man" for line in range(90)]
        (folder / f".chapter-{number}").write_text("\n".join([*lines, f"chapter {number} ends with {word}\n"]))
    (folder / "story").write_text('sed "" ".chapter-$1"\n')


@frozen
class Way:
    """How a user may set the window up."""

    #: Before `SETTINGS`, and within the backend's.
    proxy: str = ""
    dialect: str = "generic"
    client: Mapping[str, str] = {}
    #: Whether the client compacts before the proxy must refuse a prompt.
    in_time: bool = True


WAYS = {
    "declared": Way(client={"CLAUDE_CODE_MAX_CONTEXT_TOKENS": "42768", "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "4096"}),
    "scaled": Way("client_window = 200000\n", client={"CLAUDE_CODE_DISABLE_1M_CONTEXT": "1"}),
    "refused, counted": Way(dialect="llama.cpp", in_time=False),
    "refused, estimated": Way(in_time=False),
    "refused, all tools": Way(client={"ENABLE_TOOL_SEARCH": "false"}, in_time=False),
}


@pytest.fixture
def theatre(way: Way, tmp_path: Path) -> Iterator[Stage]:
    with stage(tmp_path, f'{way.proxy}{SETTINGS}dialect = "{way.dialect}"\n') as built:
        yield built


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_a_long_story(theatre: Stage, way: Way, tmp_path: Path) -> None:
    """
    With all its tools, reading more than the window holds: it compacts, more than once, and the answer is right.

    No request is longer than the window, none asks for more than is left of it, and every answer has room.
    """
    backend, home = Narrow(), tmp_path / "home"
    home.mkdir()
    write_story(home)
    theatre.backend.others[("POST", "/v1/chat/completions/input_tokens")] = backend.counted
    question = "Read the story and tell which words its chapters end with."
    run = await theatre.run(
        home, backend.answers, "-p", question, "--allowedTools", "Bash", model="reader", variables=way.client
    )
    print(figures(backend, run))
    assert (run.status, run.said) == (0, " ".join(WORDS) + "\n"), run
    assert len(backend.asked) == len(run.asked)
    assert max(tokens for tokens, _ in backend.asked) <= WINDOW
    assert max(tokens + most for tokens, most in backend.asked) <= WINDOW
    assert min(most for _, most in backend.asked) >= 1024
    assert len(backend.summed) >= 2
    assert backend.read == list(CHAPTERS), "nothing was forgotten"
    assert (" 400 prompt_too_long " not in run.log) == way.in_time, run.log


def figures(backend: Narrow, run: Run) -> str:
    """For whoever looks (`pytest -s`)."""
    largest = max(tokens for tokens, _ in backend.asked)
    return (
        f"{len(backend.asked)} requests, the largest of {largest} tokens, {len(backend.summed)} summaries, "
        f"{run.log.count(' 400 prompt_too_long ')} refusals"
    )


# ---- the embedded model

SMALL_WINDOW = 8192
TURNS = 5
#: In the log: how a request was answered, the tokens of its prompt, and those of the answer.
ANSWERED = re.compile(r"POST /v1/messages (\d+) (\S+) .* in (\d+) cached \d+ out (\d+)")


@pytest.mark.model
def test_a_long_talk(tmp_path: Path) -> None:
    """
    `--bare` with the embedded model: a talk of more than 8,192 tokens is summed up, by itself, and goes on.

    What so small a model says of it is of no account.
    """
    home = tmp_path / "home"
    home.mkdir()
    compactions = 0
    with without_network() as within, running(tmp_path / "proxy", within=within) as daemon:
        variables = {
            **environment(home, daemon),
            "ANTHROPIC_MODEL": "smollm2",
            "CLAUDE_CODE_MAX_CONTEXT_TOKENS": "18192",
            "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "1024",
        }
        for turn in range(TURNS):
            told = " ".join(f"Tide number {number} came in." for number in range(190))
            options = ["-p", *["--continue"] * (turn > 0), "--output-format", "stream-json", "--verbose"]
            done = subprocess.run(
                [*within, *claude(*options, "--", f"Part {turn}. {told}")],
                env=variables,
                cwd=home,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=600,
            )
            assert done.returncode == 0, done
            events = [json.loads(line) for line in done.stdout.splitlines()]
            assert events[-1]["result"].strip()
            compactions += len([event for event in events if event.get("subtype") == "compact_boundary"])
        log = daemon.log
    answers = [found.groups() for found in ANSWERED.finditer(log)]
    prompts = [int(tokens) for _, _, tokens, _ in answers]
    print(f"{len(prompts)} requests, the largest of {max(prompts)} tokens, {compactions} compactions: {prompts}")
    assert compactions >= 1
    assert log.count(" POST /v1/messages ") == len(answers), "all were answered by the model"
    assert {status for status, *_ in answers} == {"200"}
    all_that_was_said = TURNS * (prompts[1] - prompts[0])
    assert prompts[-1] < SMALL_WINDOW < all_that_was_said
    assert all(int(tokens) + int(said) <= SMALL_WINDOW for _, _, tokens, said in answers)
    assert any(later < earlier / 2 for earlier, later in pairwise(prompts)), "it was shortened"
