"""SIGHUP (issue 2, item 7; STYLE P28)."""

import signal
import tempfile
from pathlib import Path

from twisted.logger import formatEvent
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.routing.declarations import Declaration, declarations
from claudeproxy.routing.settings import BackendSettings, Settings
from claudeproxy.routing.sources import SettingsError, Sources, settle
from claudeproxy.service.certificates import BadCertificate
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
        self.service.let_go()

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
        """The signal reloads, from within the reactor. While the daemon stops it does nothing, at the end what it did
        before."""
        self.assertNotEqual(signal.getsignal(signal.SIGHUP), self.before)
        self.write('keys = ["k"]')
        signal.raise_signal(signal.SIGHUP)
        self.assertEqual(len(self.network.later), 1)
        self.network.pump()
        self.assertEqual(self.status(), 401)
        self.service.stopService()
        self.write('keys = ["another"]')
        self.events.clear()
        signal.raise_signal(signal.SIGHUP)
        self.network.pump()
        self.assertEqual([formatEvent(event).rpartition(" ")[2] for event in self.events], ["stops"])
        self.assertEqual((self.status("k"), self.status("another")), (200, 401))
        self.assertNotIn("Settings", repr(self.service._hung_up))  # which is made of it when another takes its place
        self.service.let_go()
        self.assertEqual(signal.getsignal(signal.SIGHUP), self.before)

    def test_certificate(self) -> None:
        """A certificate that cannot be used refuses the whole reload."""

        class Expired:
            found_open: frozenset[str] = frozenset()

            def renewed(self) -> None:
                raise BadCertificate("/chain.pem: no certificate in PEM format")

        doors, self.proxy._admin_doors = self.proxy._admin_doors, Expired()  # type: ignore[assignment]
        self.write('keys = ["k"]')
        (line,) = self.reload()
        self.assertIn("/chain.pem", line)
        self.assertEqual(self.status(), 200)
        self.proxy._admin_doors = doors

    def test_systemd(self) -> None:
        """Systemd is told when a reload begins and when it is over, refused or not."""
        told: list[str] = []

        class Manager:
            def reloading(self) -> None:
                told.append("reloading")

            def ready(self, status: str) -> None:
                told.append(status)

        self.service._systemd = Manager()  # type: ignore[assignment]
        self.reload()
        self.write("nonsense")
        self.reload()
        self.assertEqual([told[0], told[2]], ["reloading"] * 2)
        self.assertIn("read again", told[1])
        self.assertIn("refused", told[3])


#: In the settings file, what a setting might be instead. The first one that is good and different is taken.
CANDIDATES = (
    *('"localhost"', '["unix:/s"]', '"warn"', '["k"]', '["https://a.example"]', '"drop"', '"reject"', '"client"'),
    *('"vllm"', '{ images = "no" }', '"5m"', '"http://127.0.0.1:9001"', '"x-other"', '"json"', '"off"'),
)


class EverySettingTests(SynchronousTestCase):
    """Each setting that there is, alone in a reload."""

    def house(self, provider: str = "openai") -> tuple[Proxy, ReloadOnHangup, Path, str, list[str]]:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        config = Path(folder.name) / "proxy.toml"
        root = "/v1" if provider in ("openai", "responses") else ""
        backend = f'[backends.box]\nprovider = "{provider}"\nbase_url = "http://127.0.0.1:9000{root}"\n'
        config.write_text(backend)
        reader, network, lines = Reader(config, Path(folder.name), {}, {}), Network(), list[str]()
        logs = Logs(lambda event: lines.append(formatEvent(event)))  # type: ignore[arg-type,func-returns-value]
        settled = reader.read()
        proxy = Proxy(settled.settings, network, logs=logs)
        systemd = Systemd({}, network, logs.logger("systemd"), 1)
        return proxy, ReloadOnHangup(proxy, reader, settled, network, logs.logger("x"), systemd), config, backend, lines

    def other(self, declared: Declaration, file: str, before: str) -> str:
        """The settings file ``file``, in which ``before`` has another good value for this setting."""
        simple = isinstance(declared.default, int)
        each = str(not declared.default).lower() if declared.default in (True, False) else str(declared.default)
        numbers = (str(declared.default + 1), "true") if simple else ()
        default = settle(Sources(config_text=before))
        for value in (*numbers, *CANDIDATES, each):
            text = file.format(f"{declared.name} = {value}\n")
            try:
                if settle(Sources(config_text=text)).settings != default.settings:
                    return text
            except SettingsError:
                continue
        raise AssertionError(f"no other value is known for {declared.name}: add one to CANDIDATES")

    def test_every_setting(self) -> None:
        """It is in force after the reload, or the log names it and says that it takes a restart."""
        for declared in declarations(Settings):
            if declared.name == "keys_file":
                continue  # what is in it becomes a part of `keys`
            with self.subTest(declared.name):
                proxy, service, config, backend, lines = self.house()
                before = getattr(proxy._live.settings, declared.name)
                config.write_text(self.other(declared, "{}" + backend, backend))
                service.reload()
                said, now = "\n".join(lines), getattr(proxy._live.settings, declared.name)
                if declared.restart:
                    self.assertIn(f"{declared.name} changed, which needs a restart", said)
                    self.assertEqual(now, before)
                elif declared.name == "log_level":  # which is in force for this very line already
                    self.assertNotEqual(now, before)
                else:
                    self.assertRegex(said, f"settings reloaded; changed: .*{declared.name}")
                    self.assertNotEqual(now, before)
                self.assertIs(proxy._settings, proxy._live.settings)

    def test_every_setting_of_a_backend(self) -> None:
        """A backend of which anything changed is made anew."""
        for declared in declarations(BackendSettings)[1:]:
            if declared.only_for == ("local",) or declared.name in ("tokenizers", "api_key_file"):
                continue  # needs the files that they name; they are part of the same value
            with self.subTest(declared.name):
                proxy, service, config, backend, lines = self.house(declared.only_for[0])
                before = proxy._live.backends["box"]
                rows = [line for line in backend.splitlines() if not line.startswith(declared.name)]
                config.write_text(self.other(declared, "\n".join(rows) + "\n{}", backend))
                service.reload()
                self.assertRegex("\n".join(lines), f"changed: .*backends.box.{declared.name}")
                self.assertIsNot(proxy._live.backends["box"], before)
