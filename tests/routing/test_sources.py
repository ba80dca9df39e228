"""Settings file, environment and command line: what wins, what is refused, and how that is said."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.routing.addresses import is_loopback
from claudeproxy.routing.expectations import Secret
from claudeproxy.routing.settings import EMBEDDED, BackendSettings, Settings
from claudeproxy.routing.sources import (
    SettingsError,
    Settled,
    Sources,
    changes,
    declared,
    model_map_path,
    options,
    settle,
    verify,
)

URL = "http://127.0.0.1:8000/v1"
CANARY = "sk-canary-0123456789"
OPENAI = {"PROVIDER": "openai", "PROVIDER_BASE_URL": URL}
TWO_BACKENDS = f"""
[backends.main]
provider = "openai"
base_url = "{URL}"
api_key = "from-the-file"

[backends.small]
provider = "openai"
base_url = "http://127.0.0.1:8001/v1"
"""

LOCAL_WITH_ADDRESS = f'[backends.a]\nprovider = "local"\nbase_url = "{URL}"'


def settled(config: str | None = None, environ: dict[str, str] | None = None, **options: str) -> Settled:
    """Settle a file called p.toml, an environment and options."""
    given = {name.replace("_", "-"): value for name, value in options.items()}
    return settle(Sources(config, "p.toml", environ or {}, given))


class SourcesCase(SynchronousTestCase):
    def assert_refused(self, *lines: str, config: str | None = None, environ: dict[str, str] | None = None) -> None:
        """These sources have exactly these faults."""
        with self.assertRaises(SettingsError) as caught:
            settled(config, environ)
        self.assertEqual(str(caught.exception).splitlines(), list(lines))


class PrecedenceTests(SourcesCase):
    def test_nothing_configured(self) -> None:
        """Without any source the settings are their defaults: the embedded model answers."""
        self.assertEqual(settled(), Settled(Settings(), {}, {}))
        self.assertEqual(settled().settings.backends, (EMBEDDED,))

    def test_file_environment_command_line(self) -> None:
        """The command line beats the environment, which beats the file."""
        file, environ = "port = 1", {"PORT": "2"}
        self.assertEqual(settled(file).settings.port, 1)
        self.assertEqual(settled(file, environ).settings.port, 2)
        self.assertEqual(settled(file, environ, port="3").settings.port, 3)

    def test_empty_is_unset(self) -> None:
        """An empty environment variable counts as none; an empty option says "none" and beats the file."""
        nothing = dict.fromkeys((each.env for each in declared()), "")
        self.assertEqual(settled('default_model = "a"', nothing).settings.default_model, "a")
        self.assertEqual(settled('default_model = "a"', default_model="").settings.default_model, "")

    def test_environment_alone(self) -> None:
        """The environment alone describes a backend, which is named after its provider."""
        environ = {**OPENAI, "PROVIDER_API_KEY": CANARY, "PROVIDER_TIMEOUT_MS": "5", "PROVIDER_DIALECT": "vllm"}
        backend = BackendSettings("openai", "openai", URL, Secret(CANARY), "vllm", timeout_ms=5)
        self.assertEqual(settled(environ=environ).settings.backends, (backend,))

    def test_another_embedded_model(self) -> None:
        """Without PROVIDER the embedded model is meant, so that its GGUF and window can be set alone."""
        (backend,) = settled(environ={"LOCAL_GGUF": "my.gguf", "LOCAL_WINDOW": "4096"}).settings.backends
        self.assertEqual(backend, BackendSettings("local", "local", gguf="my.gguf", window=4096))

    def test_first_backend_of_the_file(self) -> None:
        """The environment overrides the first backend of the file, setting by setting, and no other."""
        main, small = settled(TWO_BACKENDS, {"PROVIDER_BASE_URL": "https://b/v1"}).settings.backends
        self.assertEqual(main, BackendSettings("main", "openai", "https://b/v1", Secret("from-the-file")))
        self.assertEqual(small.base_url, "http://127.0.0.1:8001/v1")

    def test_whole_file(self) -> None:
        """Every setting can be written in the file, in its own type."""
        settings = settled(f"""
            host = "0.0.0.0"
            keys = ["{CANARY}"]
            allowed_hosts = ["host.docker.internal"]
            allowed_origins = []
            body_limit_mb = 64
            [backends.mine]
            provider = "local"
            window = 2048
            [models]
            "claude-*" = "smollm"
        """).settings
        self.assertEqual((settings.host, settings.keys, settings.body_limit_mb), ("0.0.0.0", (Secret(CANARY),), 64))
        self.assertEqual((settings.allowed_hosts, settings.allowed_origins), (("host.docker.internal",), ()))
        self.assertEqual(settings.backends, (BackendSettings("mine", "local", window=2048),))
        self.assertEqual(settings.models, {"claude-*": "smollm"})


class ModelMapTests(SourcesCase):
    def settled_map(self, path: str, text: str | None, config: str = "", **environ: str) -> Settled:
        return settle(Sources(config, "p.toml", {"MODEL_MAP_FILE": path, **environ}, {}, text))

    def test_name_by_name(self) -> None:
        """[models] yields to MODEL_MAP_FILE, and that to MODEL_MAP_JSON, name by name and whatever the case."""
        config = '[models]\na = "1"\nb = "1"\nc = "1"'
        result = self.settled_map("m.json", '{"B": "2", "c": "2"}', config, MODEL_MAP_JSON='{"C": "3", "d": "3"}')
        self.assertEqual(dict(result.settings.models), {"C": "3", "d": "3", "B": "2", "a": "1"})

    def test_stronger_patterns_first(self) -> None:
        """The names of the stronger map come first, because patterns are tried in that order."""
        result = settled('[models]\n"claude-*" = "1"\n', {"MODEL_MAP_JSON": '{"claude-h*": "2"}'})
        self.assertEqual(list(result.settings.models), ["claude-h*", "claude-*"])

    def test_written_order(self) -> None:
        """Within a map the names stay in written order."""
        names = [f"n{number}*" for number in (3, 1, 2)]
        result = settled(environ={"MODEL_MAP_JSON": json.dumps(dict.fromkeys(names, "x"))})
        self.assertEqual(list(result.settings.models), names)

    def test_toml_map(self) -> None:
        """A MODEL_MAP_FILE whose name ends in .toml is a flat TOML table."""
        self.assertEqual(dict(self.settled_map("m.TOML", '"a.b" = "c"').settings.models), {"a.b": "c"})

    def test_path(self) -> None:
        """The path to be read is that of the option, else that of the environment, else there is none."""
        environ = {"MODEL_MAP_FILE": "e.json"}
        self.assertEqual(model_map_path(environ, {"model-map-file": "o.json"}), "o.json")
        self.assertEqual(model_map_path(environ, {}), "e.json")
        self.assertIsNone(model_map_path({"MODEL_MAP_FILE": ""}, {}))

    def test_unreadable(self) -> None:
        """A MODEL_MAP_FILE that cannot be read is refused by name and path."""
        with self.assertRaises(SettingsError) as caught:
            self.settled_map("gone.json", None)
        self.assertEqual(str(caught.exception), "MODEL_MAP_FILE: expected a file that can be read, found 'gone.json'")

    def test_broken(self) -> None:
        """What is no object of model names is refused, with the name of its source and the place of the mistake."""
        for text, message in (
            ('{"a" "b"}', "MODEL_MAP_JSON: expected JSON: JSON is malformed: expected ':' (byte 5)"),
            ("[1]", "MODEL_MAP_JSON: expected an object of model names"),
            ('{"a": 1}', "MODEL_MAP_JSON: expected a model name, found 'a' = 1"),
            ('{"a": ""}', "MODEL_MAP_JSON: expected a model name, found 'a' = ''"),
            ('{"": "a"}', "MODEL_MAP_JSON: expected a model name, found '' = 'a'"),
            ('{"a": null}', "MODEL_MAP_JSON: expected a model name, found 'a' = null"),
            ('{"a": "b", "A": "b"}', "MODEL_MAP_JSON: the names 'a' and 'A' differ only by case"),
        ):
            self.assert_refused(message, environ={"MODEL_MAP_JSON": text})
        with self.assertRaisesRegex(SettingsError, r"^MODEL_MAP_FILE \(m.json\): expected JSON: "):
            self.settled_map("m.json", "a = 1")

    def test_unquoted_dot(self) -> None:
        """A name with a dot that was not quoted is refused with the reason."""
        self.assert_refused(
            "p.toml: models: expected a model name, found 'claude-4' = a table (a name with a dot needs quotes)",
            config='[models]\nclaude-4.5 = "x"',
        )

    def test_target_without_model(self) -> None:
        """A target that names a backend and no model is refused."""
        self.assert_refused(
            "p.toml: default_model: expected a model after the backend's name, found 'main/'",
            "p.toml: models: expected a model after the backend's name, found 'small/'",
            config=f'default_model = "main/"\n{TWO_BACKENDS}\n[models]\na = "small/"',
        )


class RefusalTests(SourcesCase):
    def test_all_at_once(self) -> None:
        """Every fault of every source is named, each with where it is, what was expected and what was found."""
        self.assert_refused(
            "p.toml: log_level: expected debug, info, warn or error, found 'loud'",
            "PORT: expected a whole number from 0 to 65535, found 'abc'",
            "PROVIDER: expected openai, ollama, responses, anthropic or local, found 'vllm'",
            config='log_level = "loud"',
            environ={"PORT": "abc", "PROVIDER": "vllm"},
        )

    def test_found_by_a_program(self) -> None:
        """Each fault carries the setting's name in the file, for a program to look at."""
        with self.assertRaises(SettingsError) as caught:
            settled("[backends.main]\nprovider = 1", {"PORT": "x"})
        self.assertEqual([fault.setting for fault in caught.exception.faults], ["port", "backends.main.provider"])

    def test_wrong_types(self) -> None:
        """A value of the wrong type is refused, also if it only has quotes too many; nothing is coerced."""
        number = "expected a whole number from 0 to 65535, found"
        for value, found in (
            ('"8080"', "the text '8080'"),
            ("true", "true"),
            ("80.0", "80.0"),
            ("[80]", "a list"),
            ("{a = 80}", "a table"),
            ("2026-11-22", "2026-11-22"),
        ):
            self.assert_refused(f"p.toml: port: {number} {found}", config=f"port = {value}")

    def test_unknown_keys(self) -> None:
        """An unknown key is refused, with what may have been meant and where it would belong."""
        self.assert_refused(
            "p.toml: prot: unknown setting; did you mean 'port'?",
            "p.toml: zzz: unknown setting",
            "p.toml: base_url: unknown here; it belongs to a table such as [backends.main]",
            "p.toml: backends.main.baseurl: unknown setting; did you mean 'base_url'?",
            "p.toml: backends.main.port: unknown here; it belongs to the top of the file, above the first [table]",
            config='prot = 1\nzzz = 1\nbase_url = "x"\n[backends.main]\nprovider = "local"\nbaseurl = 1\nport = 2',
        )

    def test_unknown_option(self) -> None:
        """An option that does not exist is refused."""
        with self.assertRaisesRegex(SettingsError, "^--prot: unknown option$"):
            settled(prot="1")

    def test_broken_toml(self) -> None:
        """Broken TOML is refused with line and column, and does not hide the faults of other sources."""
        self.assert_refused(
            "p.toml: expected TOML: Invalid value (at line 2, column 8)",
            "PORT: expected a whole number from 0 to 65535, found 'x'",
            config="# first\nport = oops",
            environ={"PORT": "x", "PROVIDER_BASE_URL": URL},
        )

    def test_hostile_toml(self) -> None:
        """TOML that breaks its reader is refused like any other."""
        for config in ("port = " + "1" * 5000, "port = " + "[" * 100_000):
            with self.assertRaisesRegex(SettingsError, "^p.toml: expected TOML: "):
                settled(config)

    def test_ollama(self) -> None:
        """Ollama's address is its root; its window and how long it keeps a model can be set for it alone."""
        environ = {"PROVIDER": "ollama", "PROVIDER_BASE_URL": "http://h:11434/"}
        both = {**environ, "OLLAMA_NUM_CTX": "8192", "OLLAMA_KEEP_ALIVE": "1h30m"}
        found = settled("", both).settings.backends[0]
        self.assertEqual((found.base_url, found.num_ctx, found.keep_alive), ("http://h:11434", 8192, "1h30m"))
        for path in ("/v1", "/api", "/api/chat", "/v1/"):
            address = f"http://h:11434{path}"
            root = "expected Ollama's root, such as http://127.0.0.1:11434, without /v1 and without /api"
            self.assert_refused(
                f"PROVIDER_BASE_URL: {root}, found {address.rstrip('/')!r}",
                environ={"PROVIDER": "ollama", "PROVIDER_BASE_URL": address},
            )
        self.assert_refused(
            "OLLAMA_NUM_CTX: is for the provider ollama, not for openai",
            environ={"PROVIDER": "openai", "PROVIDER_BASE_URL": URL, "OLLAMA_NUM_CTX": "1"},
        )
        self.assert_refused(
            "OLLAMA_KEEP_ALIVE: expected a duration such as 30m, or a number of seconds, where -1 is for ever, found "
            "'soon'",
            environ={**environ, "OLLAMA_KEEP_ALIVE": "soon"},
        )

    def test_openai_needs_an_address(self) -> None:
        """An openai backend without an address is refused."""
        refused = "expected an http:// or https:// address such as http://127.0.0.1:8000/v1, found nothing"
        self.assert_refused(f"PROVIDER_BASE_URL: {refused}", environ={"PROVIDER": "openai"})
        config = '[backends.a]\nprovider = "openai"'
        self.assert_refused(f"p.toml: backends.a.base_url: {refused}", config=config)

    def test_settings_of_another_provider(self) -> None:
        """What means nothing to a provider is refused: a GGUF for openai, an address for the embedded model."""
        self.assert_refused(
            "LOCAL_GGUF: is for the provider local, not for openai",
            "LOCAL_WINDOW: is for the provider local, not for openai",
            environ={**OPENAI, "LOCAL_GGUF": "a.gguf", "LOCAL_WINDOW": "1"},
        )
        self.assert_refused(
            "PROVIDER_BASE_URL: is for the provider openai or ollama or responses or anthropic, not for local; "
            "set PROVIDER=openai (or ollama, responses, anthropic)",
            "OLLAMA_NUM_CTX: is for the provider ollama, not for local; set PROVIDER=ollama",
            environ={"PROVIDER_BASE_URL": URL, "OLLAMA_NUM_CTX": "1"},
        )
        for said in ({"environ": {"PROVIDER": "local", "PROVIDER_BASE_URL": URL}}, {"config": LOCAL_WITH_ADDRESS}):
            with self.assertRaises(SettingsError) as raised:
                settled(said.get("config"), said.get("environ"))  # type: ignore[arg-type]
            self.assertNotIn("set PROVIDER", str(raised.exception))

    def test_anthropic(self) -> None:
        """Anthropic's address is the root, with /v1 at its end or without; a path of its API is refused."""
        for path in ("", "/v1", "/v1/", "/anthropic", "/v1/account/gateway/anthropic"):
            environ = {"PROVIDER": "anthropic", "PROVIDER_BASE_URL": f"https://h{path}"}
            self.assertEqual(settled("", environ).settings.backends[0].base_url, f"https://h{path}".rstrip("/"))
        for path in ("/v1/messages", "/messages/", "/anthropic/v1/messages/count_tokens", "/v1/models"):
            address = f"https://h{path}"
            self.assert_refused(
                "PROVIDER_BASE_URL: expected the server's root, such as https://api.anthropic.com, with or without /v1 "
                f"but with nothing behind it, found {address.rstrip('/')!r}",
                environ={"PROVIDER": "anthropic", "PROVIDER_BASE_URL": address},
            )

    def test_shape_of_backends(self) -> None:
        """Backends are tables with a provider, a plain name, and no other of that name."""
        self.assert_refused("p.toml: backends: expected tables such as [backends.main]", config="[[backends]]\na = 1")
        self.assert_refused("p.toml: backends.main: expected a table [backends.main]", config='[backends]\nmain = "a"')
        self.assert_refused(
            "p.toml: backends.a.provider: expected openai, ollama, responses, anthropic or local, found nothing",
            config="[backends.a]",
        )
        self.assert_refused(
            "p.toml: backends: expected a name of letters, digits, '.', '_' and '-', found 'a/b'",
            config='[backends."a/b"]\nprovider = "local"',
        )
        self.assert_refused(
            "p.toml: backends.A: another backend has the same name",
            config='[backends.a]\nprovider = "local"\n[backends.A]\nprovider = "local"',
        )

    def test_beyond_loopback(self) -> None:
        """A host that other machines can reach needs keys; the refusal names both settings."""
        for host in ("0.0.0.0", "::", "192.168.1.2", "proxy.example", "127.1", "localhost.example", "::ffff:127.0.0.1"):
            self.assertFalse(is_loopback(host), host)
            with self.assertRaisesRegex(SettingsError, "^HOST: .* needs keys: set CLAUDEPROXY_KEYS"):
                settled(environ={"HOST": host})
            self.assertEqual(settled(environ={"HOST": host, "CLAUDEPROXY_KEYS": CANARY}).settings.host, host)

    def test_loopback(self) -> None:
        """A loopback host needs no keys."""
        for host in ("127.0.0.1", "127.8.9.1", "::1", "0:0::1", "localhost", "LocalHost"):
            self.assertTrue(is_loopback(host), host)
            self.assertEqual(settled(environ={"HOST": host}).settings.host, host)

    def test_nothing_that_only_follows(self) -> None:
        """A fault that only follows from another one is not named: keys that cannot be read are not missing keys."""
        self.assert_refused(
            "CLAUDEPROXY_KEYS: expected a list of keys of printable ASCII without spaces",
            "PROVIDER_BASE_URL: expected an http:// or https:// address such as http://127.0.0.1:8000/v1, found 'x'",
            environ={"HOST": "0.0.0.0", "CLAUDEPROXY_KEYS": "a b", "PROVIDER": "openai", "PROVIDER_BASE_URL": "x"},
        )

    def test_made_by_a_program(self) -> None:
        """A program that makes its settings itself can ask for the same verdict."""
        verify(Settings())
        with self.assertRaisesRegex(SettingsError, "^host: '0.0.0.0' can be reached"):
            verify(Settings(host="0.0.0.0"))


class SecrecyTests(SourcesCase):
    def test_never_in_a_refusal(self) -> None:
        """Whatever is wrong with a secret, or with the text around it, the refusal does not repeat it."""
        texts = (
            f"keys = '{CANARY}'",
            f"keys = ['{CANARY} {CANARY}']",
            f"keys = {{ a = '{CANARY}' }}",
            f"keys = ['{CANARY}",
            f"api_key = '{CANARY}'",
            f"backends = '{CANARY}'",
            f"backends.api_key = '{CANARY}'",
            f"models = '{CANARY}'",
            f"[backends.a]\nprovider = 'openai'\nbase_url = '{URL}'\napi_key = ['{CANARY}']",
            f"[backends.a]\nprovider = 'openai'\nbase_url = 'http://u:{CANARY}@host/v1'",
            f"[backends.a]\nprovider = 'openai'\nbase_url = 'http://host/v1?key={CANARY}'",
            f"[backends.a]\nprovider = 'local'\napi_key = '{CANARY}'",
            f"x = {CANARY}",
        )
        sources = [Sources(text) for text in texts]
        sources.append(Sources(environ={"CLAUDEPROXY_KEYS": f"{CANARY} x", "PROVIDER_API_KEY": f"{CANARY}\r"}))
        for each in sources:
            with self.assertRaises(SettingsError, msg=each.config_text) as caught:
                settle(each)
            self.assertNotIn("canary", str(caught.exception) + repr(caught.exception) + repr(each))

    def test_never_in_the_result(self) -> None:
        """What was settled can be logged as it is."""
        result = settled(environ={**OPENAI, "PROVIDER_API_KEY": CANARY, "CLAUDEPROXY_KEYS": CANARY})
        self.assertEqual(result.settings.keys[0].reveal(), CANARY)
        self.assertNotIn("canary", repr(result))

    def test_no_option(self) -> None:
        """The command line offers every setting but the secrets."""
        offered = {name for name, _ in options()}
        self.assertEqual(len(offered), len(declared()) - 3)
        self.assertTrue({"port", "provider-base-url", "model-map-json", "model-map-file", "local-gguf"} <= offered)
        self.assertFalse({"provider-api-key", "claudeproxy-keys", "keys"} & offered)


class ReloadTests(SourcesCase):
    def test_pinned(self) -> None:
        """What environment or command line decided is pinned, with the name of the one that did."""
        result = settled("grace_ms = 1", {"PORT": "1", **OPENAI, "MODEL_MAP_JSON": '{"a": "b"}'}, port="2", host="::1")
        self.assertEqual(
            result.pinned,
            {
                "port": "option --port",
                "host": "option --host",
                "models.a": "environment variable MODEL_MAP_JSON",
                "backends.openai.provider": "environment variable PROVIDER",
                "backends.openai.base_url": "environment variable PROVIDER_BASE_URL",
            },
        )

    def test_changed(self) -> None:
        """A reload names what changed, down to the backend's setting, and which of it needs a restart."""
        old = settled(TWO_BACKENDS)
        new = settled("port = 1\nping_ms = 2\n" + TWO_BACKENDS.replace("8001", "9001"))
        self.assertEqual(changes(old, new).changed, ("port", "ping_ms", "backends.small.base_url"))
        self.assertEqual(changes(old, new).restart, ("port",))
        self.assertEqual(changes(old, old).changed, ())

    def test_changed_backends_and_models(self) -> None:
        """A backend that comes, goes or changes place is a change, and so is the order of the model map."""
        one, other = '[backends.a]\nprovider = "local"\n', '[backends.b]\nprovider = "local"\n'
        for old, new in ((one, one + other), (one + other, one), (one + other, other + one)):
            self.assertEqual(changes(settled(old), settled(new)).changed, ("backends",))
        forth, back = '[models]\na = "x"\nb = "y"', '[models]\nb = "y"\na = "x"'
        self.assertEqual(changes(settled(forth), settled(back)).changed, ("models",))

    def test_ineffective(self) -> None:
        """What the file says in vain is named with what pins it; where both agree there is nothing to say."""
        environ = {"PORT": "1", "PROVIDER_API_KEY": "pinned", "MODEL_MAP_JSON": '{"A": "x", "b": "x"}'}
        config = f'port = 2\n{TWO_BACKENDS}\n[models]\na = "y"\nb = "x"'
        old, new = settled(config.replace("port = 2", "port = 1"), environ), settled(config, environ)
        self.assertEqual(changes(old, new).changed, ())
        self.assertEqual(
            changes(old, new).ineffective,
            {
                "port": "environment variable PORT",
                "models.a": "environment variable MODEL_MAP_JSON",
                "backends.main.api_key": "environment variable PROVIDER_API_KEY",
            },
        )
        self.assertNotIn("port", old.overruled)


_NAMES = st.sampled_from([each.name for each in declared() if each.name] + ["backends", "oops"])
_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.integers(), st.booleans(), st.text(max_size=8), st.sampled_from(["openai", "local", URL])),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_NAMES, inner, max_size=3),
    max_leaves=6,
)


def _toml(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {_toml(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value).replace("\x7f", "\\u007f")


class AnythingTests(SynchronousTestCase):
    @given(
        st.dictionaries(_NAMES, _VALUES, max_size=4),
        st.dictionaries(st.sampled_from([each.env for each in declared()]), st.text(max_size=6), max_size=4),
        st.one_of(st.none(), st.text(max_size=10)),
    )
    def test_settled_or_refused(self, file: dict[str, Any], environ: dict[str, str], model_map: str | None) -> None:
        """Whatever the sources hold, they end as settings that fit together or as a refusal with a line a fault."""
        config = "".join(f"{name} = {_toml(value)}\n" for name, value in file.items())
        try:
            verify(settle(Sources(config, "p.toml", environ, {}, model_map)).settings)
        except SettingsError as error:
            self.assertTrue(error.faults)
            self.assertTrue(all(fault.where and fault.problem for fault in error.faults))

    @given(st.text())
    def test_any_file(self, config: str) -> None:
        """Any text at all is settings or a refusal."""
        try:
            settled(config)
        except SettingsError as error:
            self.assertTrue(error.faults)
