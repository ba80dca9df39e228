"""The real Claude Code, with no network but its own loopback, answered by the embedded model through `twistd`."""

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from attrs import frozen

from tests.e2e.daemon import Daemon, clean_environment, running, wait_until, without_network
from tests.e2e.parts import PARTS

pytestmark = [pytest.mark.claude, pytest.mark.model]

#: A request of the conversation, answered to its end. The answer itself is whatever so small a model says.
ANSWERED = r"POST /v1/messages 200 (end_turn|stop_sequence) .* -> local/smollm2-135m-instruct .* out [1-9]"
#: Seconds for one answer.
PATIENCE = 120.0
#: Claude Code puts this into its requests: so small a model now and then repeats itself until its window is full,
#: which takes minutes (seen here), so that its first sentence must do.
ONE_SENTENCE = '{"temperature": 0, "stop_sequences": [".", "!", "?", "\\n"]}'
#: What a first start asks, in words of each screen, and the keys that say yes. Measured with 2.1.330.
QUESTIONS = {
    "Choose the text style": ("Enter",),
    "Do you want to use this API key?": ("Up", "Enter"),
    "Press Enter to continue": ("Enter",),
    "Is this a project you created or one you trust?": ("Down", "Enter"),
}


@frozen
class Hermitage:
    """A daemon on a loopback that nobody else is on; `within` starts a command there."""

    daemon: Daemon
    within: Sequence[str]


@pytest.fixture(scope="module")
def hermitage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hermitage]:
    with without_network() as within, running(tmp_path_factory.mktemp("daemon"), within=within) as daemon:
        yield Hermitage(daemon, within)


def claude(*arguments: str) -> list[str]:
    place = PARTS["claude"].place
    assert place is not None
    return [place, "--bare", "--tools", "", *arguments]


def environment(home: Path, daemon: Daemon) -> dict[str, str]:
    """A user's first start: an empty home, and the variables that the README names."""
    return clean_environment(
        home,
        ANTHROPIC_BASE_URL=daemon.url,
        ANTHROPIC_API_KEY="none",
        CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
        CLAUDE_CODE_EXTRA_BODY=ONE_SENTENCE,
        DISABLE_TELEMETRY="1",
        TERM="xterm-256color",
        LANG="C.UTF-8",
    )


def test_one_shot(hermitage: Hermitage, tmp_path: Path) -> None:
    """`claude -p "hello"` prints the model's answer and exits with 0."""
    begun = len(hermitage.daemon.log)
    done = subprocess.run(
        [*hermitage.within, *claude("-p", "hello")],
        env=environment(tmp_path, hermitage.daemon),
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()
    hermitage.daemon.logged(ANSWERED, after=begun)


@pytest.mark.tmux
def test_interactive(hermitage: Hermitage, tmp_path: Path) -> None:
    """`claude -- "hello"` on a terminal shows the model's answer, and ends when told to.

    Without the two dashes its command line takes "hello" for the name of one more tool (seen with 2.1.330).
    """
    begun = len(hermitage.daemon.log)
    variables = environment(tmp_path, hermitage.daemon)
    with terminal([*hermitage.within], claude("--", "hello"), variables, tmp_path) as screen:
        screen.answer_questions()
        hermitage.daemon.logged(ANSWERED, PATIENCE, after=begun)
        wait_until("the answer on the screen", 20, lambda: screen.shows_an_answer())
        screen.press("/exit", "Enter")
        wait_until("the end", 20, lambda: not screen.text())


@frozen
class Screen:
    """A terminal of tmux, and what stands on it."""

    _tmux: Sequence[str]

    def text(self) -> str:
        """All of it; empty once the program on it has ended."""
        shown = subprocess.run([*self._tmux, "capture-pane", "-p"], capture_output=True, text=True)
        return shown.stdout.strip()

    def press(self, *keys: str) -> None:
        for key in keys:
            subprocess.run([*self._tmux, "send-keys", key], check=True)
            time.sleep(0.3)  # as somebody types: a key that comes while the screen is drawn is lost

    def answer_questions(self) -> None:
        """Says yes to all that a first start asks, until the question of the command line stands there."""
        asked = set(QUESTIONS)
        deadline = time.monotonic() + 60
        while "> hello" not in self.text().replace("❯", ">"):
            for question in [each for each in asked if each in self.text()]:
                time.sleep(0.3)
                self.press(*QUESTIONS[question])
                asked.discard(question)
            assert time.monotonic() < deadline, f"the screen does not go on:\n{self.text()}"
            time.sleep(0.1)

    def shows_an_answer(self) -> bool:
        """Whether below the question stands a bullet with text."""
        below = self.text().replace("❯", ">").partition("> hello")[2]
        return any(line.startswith("● ") and "API Error" not in line for line in below.splitlines())


@contextmanager
def terminal(within: Sequence[str], command: Sequence[str], variables: dict[str, str], home: Path) -> Iterator[Screen]:
    """`command` on a terminal of its own, which is gone with the block."""
    tmux = [PARTS["tmux"].place or "tmux", "-S", str(home / "tmux"), "-f", "/dev/null"]
    start = ["new-session", "-d", "-x", "100", "-y", "50", "-c", str(home), *command]
    subprocess.run([*within, *tmux, *start], env=variables, check=True)
    screen = Screen(tmux)
    try:
        yield screen
    except AssertionError as fault:
        raise AssertionError(f"{fault}\nthe screen:\n{screen.text()}") from None
    finally:
        subprocess.run([*tmux, "kill-server"], capture_output=True)
