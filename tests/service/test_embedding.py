"""The program in the README that embeds the proxy, run as its readers would run it; and what is said around it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Timer
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from twisted.application.service import MultiService
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.routing.settings import BackendSettings, Settings
from claudeproxy.routing.sources import SettingsError
from claudeproxy.service.proxy import Proxy

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
#: Seconds until a program that neither comes up nor ends is killed.
PATIENCE = 30.0

HELLO = b'{"model": "claude-sonnet-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}'


def the_program() -> str:
    """The one Python block of the README, on free ports, with a backend where nobody listens."""
    (source,) = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    for written, instead in (
        ("port=8080", "port=0"),
        ('"tcp:9000:', '"tcp:0:'),
        ("127.0.0.1:8000/v1", "127.0.0.1:1/v1"),
    ):
        assert source.count(written) == 1, f"the README's program says {written} {source.count(written)} times"
        source = source.replace(written, instead)
    return str(source)


class Shop:
    """The program, running under twistd."""

    def __init__(self, folder: Path) -> None:
        (folder / "shop.py").write_text(the_program(), encoding="utf-8")
        command = [
            sys.executable,
            "-c",
            "from twisted.scripts.twistd import run; run()",
            "--pidfile=",
            "-ny",
            "shop.py",
        ]
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._limit = Timer(PATIENCE, self._process.kill)
        self._limit.start()
        self.log = ""

    def waits_for(self, pattern: str) -> str:
        """The group of the first line of the log, from its beginning on, that the pattern matches."""
        while not (found := re.search(pattern, self.log)):
            assert self._process.stdout is not None
            line = self._process.stdout.readline()
            assert line, f"it ended without a line {pattern!r}:\n{self.log}"
            self.log += line
        return found[1]

    def ends(self, by: signal.Signals) -> int:
        """The exit status, as `subprocess` has it, after a signal."""
        self._process.send_signal(by)
        rest, _ = self._process.communicate()
        self.log += rest
        return self._process.returncode

    def close(self) -> None:
        """Leaves nothing behind, however the test went."""
        self._limit.cancel()
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def ask(url: str, body: bytes | None = None) -> tuple[int, Any, Any]:
    """Status, headers and JSON of an answer; None for what is no JSON."""
    try:
        with urlopen(Request(url, body), timeout=PATIENCE) as answer:
            return answer.status, answer.headers, json.load(answer)
    except HTTPError as fault:
        text = fault.read()
        said = json.loads(text) if fault.headers.get_content_type() == "application/json" else None
        return fault.code, fault.headers, said


class ReadmeProgramTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.shop = Shop(Path(folder.name))
        self.addCleanup(self.shop.close)

    def test_both_doors(self) -> None:
        """The README's program serves the API on a port of its own and below a prefix of another Site, and ends."""
        own = "http://127.0.0.1:" + self.shop.waits_for(r"claudeproxy listens on http://127\.0\.0\.1:(\d+)")
        site = "http://127.0.0.1:" + self.shop.waits_for(r"\] Site starting on (\d+)")
        for door in (own, f"{site}/llm"):
            status, headers, said = ask(f"{door}/health")
            self.assertEqual((status, said), (200, {"status": "ok"}), door)
            self.assertIn("request-id", headers)
            status, headers, said = ask(f"{door}/v1/messages?beta=true", HELLO)
            self.assertEqual((status, said["error"]["type"]), (529, "overloaded_error"), said)
            self.assertIn("Backend main cannot be reached", said["error"]["message"])
            self.assertEqual(said["request_id"], headers["request-id"])
        recorded = ask(f"{site}/llm/admin/requests")[2]["data"]
        self.assertEqual({each["path"] for each in recorded}, {"/v1/messages", "/llm/v1/messages"}, "no monitor's")
        self.assertEqual(ask(f"{site}/health")[0], 404, "the Site's other paths stay its own")
        line = next(line for line in README.splitlines() if line.startswith("ANTHROPIC_BASE_URL=") and "--bare" in line)
        line = line.replace("http://127.0.0.1:8080", own).removesuffix(' --bare --tools ""')
        self.assertEqual(self.shop.waits_for("start Claude Code with: (.*)"), line)
        self.assertEqual(self.shop.ends(signal.SIGTERM), -signal.SIGTERM, "a shell calls it 143")
        self.assertNotIn("Traceback", self.shop.log)


class PromiseTests(SynchronousTestCase):
    """What the README says about embedding, beside the program."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.settings = Settings(backends=[BackendSettings("main", "openai", base_url="http://127.0.0.1:1/v1")])

    def test_only_a_resource(self) -> None:
        """With ``listens=False`` the resource is the only door."""
        Proxy(self.settings, self.reactor, listens=False).startService()
        self.assertEqual(self.reactor.tcpServers, [])

    def test_a_service(self) -> None:
        """Without it, a MultiService that starts makes it listen where the settings say."""
        several = MultiService()
        Proxy(self.settings, self.reactor).setServiceParent(several)
        several.startService()
        ((port, _, _, interface),) = self.reactor.tcpServers
        self.assertEqual((port, interface), (8080, "127.0.0.1"))

    def test_two_proxies(self) -> None:
        """Two proxies fit into one MultiService as soon as one of them has another name."""
        several = MultiService()
        Proxy(self.settings, self.reactor).setServiceParent(several)
        another = Proxy(self.settings, self.reactor, listens=False)
        self.assertRaises(RuntimeError, another.setServiceParent, several)
        another = Proxy(self.settings, self.reactor, listens=False)
        another.setName("another")
        another.setServiceParent(several)
        self.assertEqual(len(list(several)), 2)

    def test_what_does_not_fit(self) -> None:
        """All that does not fit together is one `SettingsError`, before anything is made."""
        settings = Settings(host="0.0.0.0", backends=[BackendSettings("main", "openai")])
        error = self.assertRaises(SettingsError, Proxy, settings, self.reactor)
        self.assertEqual([fault.setting for fault in error.faults], ["host", "backends.main.base_url"])
