"""The real llama.cpp and its cache: a conversation of Claude Code's, turn by turn (issue 5, part 3)."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from tests.benchmarks.ten_turns import TURNS, requests
from tests.e2e.daemon import ROOT, Daemon, running
from tests.e2e.test_embedded_child import COMMAND, orders
from tests.e2e.test_llama_tools import TEMPLATE, streamed, usage

pytestmark = pytest.mark.model

#: The part of a prompt that must be found in the cache on the next turn.
KEPT = 0.95


SETTINGS = """
default_model = "tiny"

[backends.llama]
provider = "openai"
base_url = "ADDRESS"
api_key = "secret"
"""


@contextmanager
def llama(window: int, gguf: str = "") -> Iterator[str]:
    """The address of a llama.cpp, below its API, whose template shows tools: the model's own does not."""
    more = {"gguf": gguf} if gguf else {}
    process = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    with process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(orders(window=window, chat_template=TEMPLATE.read_text("utf-8"), **more))
        process.stdin.flush()
        place = json.loads(process.stdout.readline())
        try:
            yield f"http://{place['host']}:{place['port']}"
        finally:
            process.stdin.close()


@contextmanager
def proxied(folder: Path, address: str) -> Iterator[Daemon]:
    """The proxy before that server."""
    folder.mkdir(exist_ok=True)
    (folder / "claudeproxy.toml").write_text(SETTINGS.replace("ADDRESS", address + "/v1"))
    with running(folder, ["--config=claudeproxy.toml"]) as daemon:
        yield daemon


@pytest.mark.slow
def test_ten_turns(tmp_path: Path) -> None:
    """From the second turn on what was the whole prompt a turn ago is found in the cache, though system messages,
    tools, results, thoughts and an attribution line are in it."""
    with llama(8192) as address, proxied(tmp_path / "proxy", address) as daemon:
        asked = [usage(streamed(daemon, {**request, "model": "tiny"})) for request in requests()]
    assert len(asked) == TURNS
    for (before, _), (prompt, cached) in pairwise(asked):
        assert prompt > before
        assert cached >= KEPT * before, asked
