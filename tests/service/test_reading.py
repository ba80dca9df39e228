"""Where settings come from: files, environment, command line (issue 2, item 2)."""

import tempfile
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.routing.keys import key_of
from claudeproxy.routing.settings import BackendSettings, Settings
from claudeproxy.routing.sources import SettingsError, verify
from claudeproxy.service.reading import Reader, Unreadable


class ReaderTests(SynchronousTestCase):
    """`Reader`."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        (self.folder / "etc").mkdir()
        self.config = self.folder / "etc" / "proxy.toml"

    def read(self, config: str | None = None, options: dict[str, str] | None = None, **environ: str) -> Settings:
        if config is not None:
            self.config.write_text(config, "utf-8")
        given = self.config if config is not None else None
        return Reader(given, self.folder, environ, options or {}).read().settings

    def refused(self, kind: type[Exception], *args: Any, **kwargs: Any) -> str:
        return str(self.assertRaises(kind, self.read, *args, **kwargs))

    def test_nothing(self) -> None:
        """With nothing at all the embedded model answers on 127.0.0.1:8080."""
        settings = self.read()
        self.assertEqual((settings.host, settings.port), ("127.0.0.1", 8080))
        self.assertEqual([each.provider for each in settings.backends], ["local"])

    def test_precedence(self) -> None:
        """The command line beats the environment, which beats the file."""
        self.assertEqual(self.read("port = 1").port, 1)
        self.assertEqual(self.read("port = 1", PORT="2").port, 2)
        self.assertEqual(self.read("port = 1", {"port": "3"}, PORT="2").port, 3)

    def test_environment_alone(self) -> None:
        """An OpenAI-compatible server needs the environment alone."""
        settings = self.read(
            PROVIDER="openai",
            PROVIDER_BASE_URL="http://127.0.0.1:8000/v1/",
            PROVIDER_API_KEY="k",
            DEFAULT_MODEL="qwen",
            MODEL_MAP_JSON='{"claude-sonnet-4-5":"qwen2.5-coder-32b-instruct"}',
            PROVIDER_TIMEOUT_MS="5000",
            LOG_LEVEL="debug",
        )
        (backend,) = settings.backends
        self.assertEqual((backend.base_url, backend.api_key.reveal()), ("http://127.0.0.1:8000/v1", "k"))
        self.assertEqual((backend.timeout_ms, settings.default_model), (5000, "qwen"))
        self.assertEqual(dict(settings.models), {"claude-sonnet-4-5": "qwen2.5-coder-32b-instruct"})

    def test_file(self) -> None:
        """The same in a file, with tables for backends and models."""
        settings = self.read(
            'default_model = "m"\n[backends.box]\nprovider = "openai"\nbase_url = "http://h/v1"\napi_key = "k"\n'
            '[models]\nhaiku = "small"\n'
        )
        self.assertEqual((settings.backends[0].name, settings.backends[0].api_key.reveal()), ("box", "k"))
        self.assertEqual(dict(settings.models), {"haiku": "small"})

    def test_map_file(self) -> None:
        """MODEL_MAP_FILE is read, from where the daemon was started; MODEL_MAP_JSON beats it name by name."""
        (self.folder / "map.json").write_text('{"a": "1", "b": "2"}', "utf-8")
        openai: Any = {"PROVIDER": "openai", "PROVIDER_BASE_URL": "http://h/v1"}
        settings = self.read(MODEL_MAP_FILE="map.json", MODEL_MAP_JSON='{"b":"3"}', **openai)
        self.assertEqual(dict(settings.models), {"a": "1", "b": "3"})
        settings = self.read(MODEL_MAP_FILE=str(self.folder / "map.json"), **openai)
        self.assertEqual(dict(settings.models), {"a": "1", "b": "2"})

    def test_unreadable(self) -> None:
        """A file that is not there, is a folder, or is no text: named, with what named it."""
        for path in ("nothing.toml", "etc"):
            reader = Reader(self.folder / path, self.folder, {}, {})
            words = str(self.assertRaises(Unreadable, reader.read))
            self.assertIn(path, words)
            self.assertIn("--config", words)
        self.config.write_bytes(b"\xff\xfe")
        self.assertIn("UTF-8", str(self.assertRaises(Unreadable, Reader(self.config, self.folder, {}, {}).read)))
        self.assertIn("MODEL_MAP_FILE", self.refused(Unreadable, MODEL_MAP_FILE="nothing.json"))

    def test_refused(self) -> None:
        """A wrong setting is refused by name, with what was expected, wherever it came from; a secret is not shown."""
        self.assertIn("PORT", self.refused(SettingsError, PORT="many"))
        self.assertIn("port", self.refused(SettingsError, 'port = "80"'))
        self.assertIn("prot", self.refused(SettingsError, "prot = 80"))
        self.assertIn("whole number", self.refused(SettingsError, options={"port": "-1"}))
        words = self.refused(
            SettingsError, PROVIDER="openai", PROVIDER_BASE_URL="http://h/v1", PROVIDER_API_KEY="canary \u00e4"
        )
        self.assertIn("PROVIDER_API_KEY", words)
        self.assertNotIn("canary", words)

    def test_relative_model(self) -> None:
        """The path of a model is taken from the file's folder, or from where the daemon was started; ~ is home."""
        local = '[backends.local]\nprovider = "local"\ngguf = "models/m.gguf"\n'
        self.assertEqual(self.read(local).backends[0].gguf, str(self.folder / "etc" / "models" / "m.gguf"))
        self.assertEqual(self.read(PROVIDER="local", LOCAL_GGUF="m.gguf").backends[0].gguf, str(self.folder / "m.gguf"))
        absolute = str(self.folder / "m.gguf")
        self.assertEqual(self.read(PROVIDER="local", LOCAL_GGUF=absolute).backends[0].gguf, absolute)
        home = self.read(PROVIDER="local", LOCAL_GGUF="~/m.gguf").backends[0].gguf
        self.assertEqual(home, str(Path("~/m.gguf").expanduser()))

    def opened(self, path: Path) -> Path:
        """The same file, readable by others, as are all the folders above it."""
        for folder in (self.folder, path.parent):
            folder.chmod(0o755)
        path.chmod(0o644)
        return path

    def test_open_settings(self) -> None:
        """A settings file with a secret that other users can read is refused, with the setting and the remedy."""
        backend = '[backends.a]\nprovider = "openai"\nbase_url = "http://h/v1"\n'
        hashed = "sha256:" + "a" * 64
        for config, names in (
            (f'{backend}api_key = "canary"', ["backends.a.api_key"]),
            ('keys = ["canary"]', ["keys"]),
            ('admin_keys = ["canary"]', ["admin_keys"]),
            ('[keys]\nalice = "canary"', ["keys"]),
            (f'keys = ["{hashed}", "canary"]\n{backend}api_key = "canary"', ["keys", "backends.a.api_key"]),
        ):
            self.read(config)
            self.opened(self.config)
            said = self.refused(SettingsError, config).splitlines()
            self.assertEqual(len(said), len(names), said)
            for line, name in zip(said, names, strict=True):
                self.assertTrue(line.startswith(f"{self.config}: {name}: "), line)
                self.assertIn(f"chmod 600 {self.config}", line)
                self.assertNotIn("canary", line)
            for mode in (0o600, 0o640, 0o400):
                self.config.chmod(mode)
                self.assertTrue(self.read())
                Reader(self.config, self.folder, {}, {}).read()
            self.config.chmod(0o602)
            self.assertRaises(SettingsError, Reader(self.config, self.folder, {}, {}).read)
            self.config.chmod(0o644)
            self.config.parent.chmod(0o700)
            Reader(self.config, self.folder, {}, {}).read()

    def test_open_settings_without_secrets(self) -> None:
        """A settings file without secrets may be read by everybody: hashes are none."""
        hashed = f'["sha256:{"a" * 64}"]'
        for config in ("port = 1", f"keys = {hashed}", f"admin_keys = {hashed}", f'[keys]\na = "sha256:{"a" * 64}"'):
            self.config.write_text(config, "utf-8")
            self.opened(self.config)
            self.read(config)

    def test_keys_file(self) -> None:
        """The keys of the file come to the others; it is read anew each time, from beside the settings file."""
        path = self.folder / "etc" / "keys"
        path.write_text("# ours\nalice=plain:one\n", "utf-8")
        settings = self.read('keys = ["two"]\nkeys_file = "keys"')
        self.assertEqual(settings.keys, (key_of("two"), key_of("one", "alice")))
        self.assertEqual(settings.keys_file, "")
        path.write_text("bob=plain:three", "utf-8")
        self.assertEqual(self.read(CLAUDEPROXY_KEYS_FILE="etc/keys").keys, (key_of("three", "bob"),))
        self.assertEqual(self.read('host = "0.0.0.0"\nkeys_file = "keys"').keys, (key_of("three", "bob"),))

    def test_bad_keys_file(self) -> None:
        """One that is not there, is empty, is wrong, or can be read by others is refused by name."""
        path = self.folder / "keys"
        given = {"HOST": "0.0.0.0", "CLAUDEPROXY_KEYS_FILE": "keys"}
        self.assertIn(
            f"CLAUDEPROXY_KEYS_FILE: expected a file that can be read; {path}", self.refused(SettingsError, **given)
        )
        for content, words in ((b"# nobody", "found none"), (b"a b", "in line 1"), (b"\xff\xfe", "UTF-8")):
            path.write_bytes(content)
            said = self.refused(SettingsError, **given)
            self.assertIn(words, said)
            self.assertEqual(len(said.splitlines()), 1, said)
        path.write_text("a", "utf-8")
        self.assertTrue(self.read(**given).keys)
        self.opened(path)
        self.assertIn(f"chmod 600 {path}", self.refused(SettingsError, **given))

    def test_hashes_in_a_keys_file(self) -> None:
        """Hashes are no secret there either, so that a daemon with a user of its own can read them again; but others
        must not add any."""
        path = self.folder / "keys"
        given = {"HOST": "0.0.0.0", "CLAUDEPROXY_KEYS_FILE": "keys"}
        path.write_text(f"# ours\nalice=sha256:{'a' * 64}\nsha256:{'b' * 64}  # nobody's\n", "utf-8")
        self.opened(path)
        path.chmod(0o644)
        self.assertEqual([key.name for key in self.read(**given).keys], ["alice", ""])
        path.chmod(0o646)
        self.assertIn(f"chmod 600 {path}", self.refused(SettingsError, **given))
        path.write_text(f"alice=sha256:{'a' * 64}\ncanary\n", "utf-8")
        path.chmod(0o644)
        said = self.refused(SettingsError, **given)
        self.assertIn(f"chmod 600 {path}", said)
        self.assertNotIn("canary", said)

    def test_api_key_file(self) -> None:
        """The key of a backend may come from a file, as systemd's credentials do; the line end is not part of it."""
        path = self.folder / "etc" / "key"
        path.write_text("sk-1\n", "utf-8")
        config = '[backends.a]\nprovider = "openai"\nbase_url = "http://h/v1"\napi_key_file = "key"\n'
        (backend,) = self.read(config).backends
        self.assertEqual((backend.api_key.reveal(), backend.api_key_file), ("sk-1", ""))
        path.write_bytes(b"sk-2\r\n")
        self.assertEqual(self.read(config).backends[0].api_key.reveal(), "sk-2")
        settings = self.read(PROVIDER="openai", PROVIDER_BASE_URL="http://h", PROVIDER_API_KEY_FILE=str(path))
        self.assertEqual(settings.backends[0].api_key.reveal(), "sk-2")

    def test_bad_api_key_file(self) -> None:
        """One that is not there, is empty, holds no key, can be read by others, or comes beside a key is refused."""
        path = self.folder / "key"
        given = {"PROVIDER": "openai", "PROVIDER_BASE_URL": "http://h", "PROVIDER_API_KEY_FILE": str(path)}
        self.assertIn("PROVIDER_API_KEY_FILE", self.refused(SettingsError, **given))
        for content, words in (("", "nothing"), ("\n", "nothing"), ("canary x", "printable ASCII"), ("a\nb", "ASCII")):
            path.write_text(content, "utf-8")
            said = self.refused(SettingsError, **given)
            self.assertIn(words, said)
            self.assertNotIn("canary", said)
        path.write_text("good", "utf-8")
        self.assertIn("only one of", self.refused(SettingsError, PROVIDER_API_KEY="k", **given))
        self.assertIn("openai", self.refused(SettingsError, **{**given, "PROVIDER": "local", "PROVIDER_BASE_URL": ""}))
        self.opened(path)
        self.assertIn(f"chmod 600 {path}", self.refused(SettingsError, **given))

    def test_programs(self) -> None:
        """A program that names such a file is told that nobody would read it."""
        self.assertIn("keys_file", str(self.assertRaises(SettingsError, verify, Settings(keys_file="x"))))
        backend = BackendSettings("a", "openai", base_url="http://h", api_key_file="x")
        self.assertIn("api_key_file", str(self.assertRaises(SettingsError, verify, Settings(backends=(backend,)))))

    def test_anew(self) -> None:
        """Every reading sees the files as they are now."""
        self.config.write_text("port = 1", "utf-8")
        reader = Reader(self.config, self.folder, {}, {})
        self.assertEqual(reader.read().settings.port, 1)
        self.config.write_text("port = 2", "utf-8")
        self.assertEqual(reader.read().settings.port, 2)
