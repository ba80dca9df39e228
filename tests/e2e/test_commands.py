"""The commands beside twistd against real daemons, and what they say given to a shell and to the real Claude Code."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import pytest_twisted  # type: ignore[import-untyped]
from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IReactorUNIX
from twisted.internet.threads import deferToThread
from twisted.web.server import Site

from claudeproxy.routing.expectations import Secret
from claudeproxy.routing.settings import BackendSettings, Settings
from claudeproxy.service.asking import Daemon as Asked
from claudeproxy.service.asking import NoAnswer
from claudeproxy.service.proxy import Proxy
from tests.e2e.daemon import ROOT, Daemon, clean_environment, free_port
from tests.e2e.parts import PARTS
from tests.e2e.stage import Stage, stage
from tests.fakes.scripts import text

SETTINGS = """
default_model = "model-a"

[backends.scripted]
provider = "openai"
base_url = "BACKEND"
dialect = "openai"
context_window = 65536
"""


@pytest.fixture(scope="module")
def theatre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("proxy"), SETTINGS) as built:
        yield built


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "claudeproxy", *arguments]


def run(folder: Path, arguments: Sequence[str], within: Sequence[str] = (), **variables: str) -> str:
    """What it prints; it must end with 0."""
    done = subprocess.run(
        [*within, *arguments],
        env=clean_environment(folder, PYTHONPATH=str(ROOT), **variables),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.claude
@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_env_for_claude_code(theatre: Stage, tmp_path: Path) -> None:
    """Whoever evaluates what `env` says can start Claude Code with nothing else, and it keeps to the real window."""
    claude = PARTS["claude"].place
    assert claude is not None
    ask = f"{sys.executable} -m claudeproxy env --url={theatre.daemon.url} --model=model-a"
    script = f'eval "$({ask})" && exec "$0" -p hello'
    theatre.backend.answers = lambda body: text("Hello yourself.")
    said = await deferToThread(run, tmp_path, ["sh", "-c", script, claude], theatre.within)
    assert said == "Hello yourself.\n"
    asked = theatre.backend.chats[-1].json
    assert (asked["model"], asked["tools"] != []) == ("model-a", True)


@pytest.mark.model
def test_embedded(proxy: Daemon, tmp_path: Path) -> None:
    """Against the embedded model: `check` is content, `env` knows the window, `why` tells of the request that was."""
    assert "Ready." in run(tmp_path, command("check"))
    variables = run(tmp_path, command("env", "--url", proxy.url))
    assert "MAX_CONTEXT_TOKENS=18192\n" in variables and "MAX_OUTPUT_TOKENS=1024\n" in variables
    asked = {"model": "any", "max_tokens": 8, "messages": [{"role": "user", "content": "Say a word."}]}
    answer = proxy.asked("POST", "/v1/messages", asked)
    answer.read()
    said = run(tmp_path, command("why", str(answer.getheader("request-id"))), PORT=str(proxy.port))
    assert "counted exactly" in said or "estimated" in said
    assert "speaks" not in said and "Say a word" not in said
    assert answer.getheader("request-id") in run(tmp_path, command("why", "--list"), PORT=str(proxy.port))


@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_unix_socket(tmp_path: Path) -> None:
    """Who comes in by a unix socket is on this machine, and the commands can come that way."""
    server = BackendSettings("none", "openai", base_url=f"http://127.0.0.1:{free_port()}/v1", dialect="generic")
    proxy = Proxy(Settings(backends=[server], keys=[Secret("key")]), reactor, listens=False)
    place = str(tmp_path / "socket")
    port = IReactorUNIX(reactor).listenUNIX(place, Site(proxy.resource()))
    try:
        daemon = Asked.at(f"unix:{place}", "", reactor)
        assert (await daemon.get("/admin/requests"))["data"] == []
        with pytest.raises(NoAnswer, match="401"):
            await daemon.get("/v1/models")
        assert [each["path"] for each in (await daemon.get("/admin/requests"))["data"]] == ["/v1/models"]
        await daemon.close()
        absent = Asked.at(f"unix:{place}.not", "", reactor)
        with pytest.raises(NoAnswer, match="no daemon answers"):
            await absent.get("/admin/requests")
    finally:
        await maybeDeferred(port.stopListening)
