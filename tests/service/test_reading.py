"""Where settings come from: files, environment, command line (issue 2, item 2)."""

import tempfile
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.routing.settings import Settings
from claudeproxy.routing.sources import SettingsError
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

    def test_anew(self) -> None:
        """Every reading sees the files as they are now."""
        self.config.write_text("port = 1", "utf-8")
        reader = Reader(self.config, self.folder, {}, {})
        self.assertEqual(reader.read().settings.port, 1)
        self.config.write_text("port = 2", "utf-8")
        self.assertEqual(reader.read().settings.port, 2)
