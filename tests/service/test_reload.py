"""SIGHUP (issue 2, item 7; STYLE P28)."""

import signal
import tempfile
from pathlib import Path

from twisted.logger import formatEvent
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.service.observers import Logs
from claudeproxy.service.proxy import Proxy
from claudeproxy.service.reading import Reader
from claudeproxy.service.reload import ReloadOnHangup
from claudeproxy.service.systemd import Systemd
from tests.fakes.callers import caller
from tests.fakes.house import body
from tests.fakes.network import Network

BACKEND = '[backends.box]\nprovider = "openai"\nbase_url = "http://127.0.0.1:9000/v1"\ndialect = "generic"\n'


class ReloadTests(SynchronousTestCase):
    """`ReloadOnHangup`."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.config = Path(folder.name) / "proxy.toml"
        self.write("")
        self.environ = {"PING_MS": "5000"}
        self.network = Network()
        self.events: list[dict[str, object]] = []
        logs = Logs(self.events.append)  # type: ignore[arg-type]
        reader = Reader(self.config, Path(folder.name), self.environ, {})
        settled = reader.read()
        self.proxy = Proxy(settled.settings, self.network, logs=logs)
        systemd = Systemd({}, self.network, logs.logger("systemd"), 1)
        self.service = ReloadOnHangup(self.proxy, reader, settled, self.network, logs.logger("reload"), systemd)
        self.before = signal.getsignal(signal.SIGHUP)
        self.proxy.startService()
        self.service.startService()
        self.addCleanup(self.stop)

    def stop(self) -> None:
        if self.service.running:
            self.service.stopService()

    def write(self, settings: str) -> None:
        self.config.write_text(f"{settings}\n{BACKEND}", "utf-8")

    def reload(self) -> list[str]:
        """What the log says about it."""
        self.events.clear()
        self.service.reload()
        return [formatEvent(event) for event in self.events]

    def status(self, key: str | None = None) -> int:
        asked = caller(self.network, 8080).ask("POST", "/v1/messages/count_tokens", body(), {"x-api-key": key})
        return asked.status

    def test_good(self) -> None:
        """The new settings are in force, and the log says what changed."""
        self.write('keys = ["sk-canary"]')
        (line,) = self.reload()
        self.assertIn("keys", line)
        self.assertNotIn("canary", line)
        self.assertEqual((self.status(), self.status("sk-canary")), (401, 200))

    def test_bad(self) -> None:
        """Bad ones are refused in the log, by name, and the old stay; the next good ones are taken."""
        for wrong in ("port = 'x'", "nonsense", "nobody_knows = 1", 'host = "0.0.0.0"', "= ="):
            self.write(wrong)
            lines = self.reload()
            self.assertTrue(lines and all("refused" in line for line in lines), (wrong, lines))
            self.assertEqual({event["log_level"].name for event in self.events}, {"error"})  # type: ignore[attr-defined]
            self.assertEqual(self.status(), 200)
        self.config.unlink()
        self.assertIn("proxy.toml", self.reload()[0])
        self.write('keys = ["k"]')
        self.reload()
        self.assertEqual(self.status(), 401)

    def test_unchanged(self) -> None:
        """Nothing changed is said, too."""
        self.assertIn("nothing", self.reload()[0])

    def test_pinned(self) -> None:
        """What the environment pins a reload cannot change, and the log says so."""
        self.write("ping_ms = 7000")
        lines = "\n".join(self.reload())
        self.assertIn("ping_ms", lines)
        self.assertIn("environment", lines)
        self.assertEqual(self.proxy._settings.ping_ms, 5000)

    def test_restart(self) -> None:
        """What only a restart can change is named."""
        self.write("port = 8181")
        lines = "\n".join(self.reload())
        self.assertIn("port", lines)
        self.assertIn("restart", lines)
        self.assertEqual(self.status(), 200)

    def test_signal(self) -> None:
        """The signal reloads, from within the reactor; after the service was stopped it does what it did before."""
        self.assertNotEqual(signal.getsignal(signal.SIGHUP), self.before)
        self.write('keys = ["k"]')
        signal.raise_signal(signal.SIGHUP)
        self.assertEqual(len(self.network.later), 1)
        self.network.pump()
        self.assertEqual(self.status(), 401)
        self.service.stopService()
        self.assertEqual(signal.getsignal(signal.SIGHUP), self.before)
