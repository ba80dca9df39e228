"""The settings as values, and what each of them may hold."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import attrs
import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.backends.client import Target
from claudeproxy.backends.interfaces import Letter
from claudeproxy.backends.passing import Place
from claudeproxy.routing.declarations import declarations
from claudeproxy.routing.expectations import (
    Expectation,
    Secret,
    Unfit,
    list_of,
    one_of,
    secret,
    text,
    web_address,
    whole_number,
)
from claudeproxy.routing.settings import EMBEDDED, BackendSettings, Settings

KEY = "sk-canary-0123456789"


class SecretTests(SynchronousTestCase):
    def test_never_shown(self) -> None:
        """A secret shows itself in no way of making a text of it, also within the settings."""
        settings = Settings(keys=(Secret(KEY),), backends=(BackendSettings("a", "openai", api_key=Secret(KEY)),))
        for shown in (repr(Secret(KEY)), str(Secret(KEY)), f"{Secret(KEY)}", repr(settings)):
            self.assertIn("<secret>", shown)
            self.assertNotIn("canary", shown)

    def test_never_taken_apart(self) -> None:
        """Nor does what takes objects apart find it: attrs, JSON, copies, pickles, `vars`."""
        backend = BackendSettings("a", "openai", base_url="http://h/v1", api_key=Secret(KEY))
        settings = Settings(keys=(Secret(KEY),), backends=(backend,))
        for shown in (
            repr(attrs.asdict(settings)),
            repr(attrs.astuple(settings)),
            json.dumps(attrs.asdict(settings), default=repr),
            repr(vars(Secret).keys()),
            repr(attrs.asdict(Target("http://h", KEY))),
            repr(attrs.asdict(Place("http://h", KEY))),
            f"{Secret(KEY)!s:>40}",
            f"{Secret(KEY)} {[Secret(KEY)]!r}",
            repr(copy.deepcopy(attrs.asdict(settings)["backends"])),
        ):
            self.assertNotIn("canary", shown)
        for make in (pickle.dumps, json.dumps, msgspec.json.encode, msgspec.to_builtins):
            with self.assertRaises(TypeError) as caught:
                make(Secret(KEY))
            self.assertNotIn("canary", str(caught.exception))
        self.assertRaises(TypeError, pickle.dumps, backend)
        self.assertRaises(TypeError, vars, Secret(KEY))
        self.assertIs(copy.copy(backend.api_key), backend.api_key)

    def test_never_in_a_traceback(self) -> None:
        """Nor does a traceback with all its variables."""

        def fail(settings: Settings, key: Secret, target: Target, letter: Letter) -> None:
            raise ValueError(f"{settings} {key} {target} {letter}")

        backend = BackendSettings("a", "openai", base_url="http://h/v1", api_key=Secret(KEY))
        letter = Letter(b"POST", b"/v1/messages", ((b"x-api-key", KEY.encode()),), KEY.encode())
        try:
            fail(Settings(keys=(Secret(KEY),), backends=(backend,)), Secret(KEY), Target("http://h", KEY), letter)
        except ValueError:
            failure = Failure(captureVars=True)
        for detail in ("brief", "default", "verbose"):
            said = failure.getTraceback(detail=detail)
            self.assertIn("ValueError", said)
            self.assertNotIn("canary", said.replace(f"  KEY : {KEY!r}\n", ""))

    def test_revealed_on_request(self) -> None:
        """Only `reveal` gives the text away."""
        self.assertEqual(Secret(KEY).reveal(), KEY)

    def test_compared_by_value(self) -> None:
        """Two secrets with the same text are the same, and an empty one counts as none."""
        self.assertEqual(Secret(KEY), Secret(KEY))
        self.assertNotEqual(Secret(KEY), Secret(""))
        self.assertEqual((bool(Secret(KEY)), bool(Secret(""))), (True, False))


class ExpectationTests(SynchronousTestCase):
    def assert_refused(self, expectation: Expectation, *values: object) -> None:
        for value in values:
            with self.assertRaises(Unfit, msg=repr(value)):
                expectation.read(value)

    @given(st.integers())
    def test_whole_number(self, number: int) -> None:
        """A whole number is good within its limits, which belong to it, and nowhere else."""
        expectation = whole_number(-5, 500)
        if -5 <= number <= 500:
            self.assertEqual(expectation.read(number), number)
            self.assertEqual(expectation.read(expectation.from_text(str(number))), number)
        else:
            self.assert_refused(expectation, number, expectation.from_text(str(number)))

    def test_nothing_is_coerced(self) -> None:
        """A text is not a number, true is not one, 1.0 is not a whole one, and a number is not a text."""
        self.assert_refused(whole_number(0, 9), "1", True, False, 1.0, None, [1])
        self.assert_refused(text("a text", ".*"), 1, True, None, ["a"])
        self.assert_refused(list_of(text("texts", ".*")), "a", [1], None)
        self.assert_refused(secret("a key", ".*"), 1, True, None)

    def test_number_in_text(self) -> None:
        """Only the plain decimal form of a number is one in the environment."""
        expectation = whole_number(0, 99)
        for form in ("", " 1", "1\r", "1_0", "٣", "0x1", "1.0", "+1", "9" * 5000):
            self.assert_refused(expectation, expectation.from_text(form))

    def test_one_of(self) -> None:
        """A word is one of those listed, to the letter, and the refusal lists them."""
        expectation = one_of("debug", "info", "warn")
        self.assertEqual(expectation.read("warn"), "warn")
        self.assert_refused(expectation, "WARN", "warn ", "", "war")
        self.assertEqual(expectation.words, "debug, info or warn")

    def test_list_in_text(self) -> None:
        """In the environment a list has commas, and spaces around its items do not count."""
        expectation = list_of(text("names", "[a-z]+"))
        self.assertEqual(expectation.read(expectation.from_text("a, bc ,d")), ("a", "bc", "d"))
        self.assertEqual(expectation.read(expectation.from_text("")), ())
        self.assert_refused(expectation, expectation.from_text("a,,b"), expectation.from_text("a b"))

    def test_addresses(self) -> None:
        """An http or https URL with a host is an address, kept without its last slash; nothing is none yet."""
        for good, kept in (
            ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
            ("https://api.example/v1/", "https://api.example/v1"),
            ("http://[::1]:11434", "http://[::1]:11434"),
            ("", ""),
        ):
            self.assertEqual(web_address().read(good), kept)
        self.assert_refused(
            web_address(),
            *("localhost:8000", "ftp://host/v1", "http://", "http:///v1", "http://:80", "//host", "http://host:port"),
            *("http://host:70000", "http://[::1", "http://host/v 1", "http://ho\nst/v1", " http://host", 8000, None),
        )

    def test_address_with_a_key_in_it(self) -> None:
        """Credentials, a query and a fragment are refused without being repeated."""
        for address in (f"http://user:{KEY}@host/v1", f"http://host/v1?key={KEY}", f"http://host/v1#{KEY}"):
            with self.assertRaises(Unfit) as caught:
                web_address().read(address)
            self.assertTrue(caught.exception.hidden)
            self.assertIn("api_key", str(caught.exception))


class SettingsTests(SynchronousTestCase):
    def test_defaults(self) -> None:
        """With nothing set, the embedded model is served on loopback."""
        settings = Settings()
        self.assertEqual((settings.host, settings.port, settings.backends), ("127.0.0.1", 8080, (EMBEDDED,)))
        self.assertEqual((settings.body_limit_mb, settings.grace_ms, settings.ping_ms), (32, 2000, 10_000))
        self.assertEqual(
            (EMBEDDED.provider, EMBEDDED.timeout_ms, EMBEDDED.connect_timeout_ms), ("local", 600_000, 10_000)
        )

    def test_checked_wherever_made(self) -> None:
        """A program that makes settings gets the same checks as a file, and the setting's name."""
        wrong: tuple[dict[str, Any], ...] = (
            {"port": "8080"},
            {"log_level": "loud"},
            {"keys": "one"},
            {"grace_ms": True},
        )
        for values in wrong:
            with self.assertRaisesRegex(ValueError, f"^{next(iter(values))}: expected "):
                Settings(**values)

    def test_no_backend_at_all(self) -> None:
        """Somebody has to answer: settings without any backend cannot be made."""
        with self.assertRaises(ValueError):
            Settings(backends=())

    def test_hosts(self) -> None:
        """A host is an address or a name, without brackets, a port or a scheme."""
        for good in ("localhost", "127.0.0.1", "::1", "::", "fe80::1", "::ffff:1.2.3.4", "proxy.example"):
            self.assertEqual(Settings(host=good).host, good)
        for wrong in ("", "[::1]", "host:80", "cafe:8080", "http://host", "a b"):
            with self.assertRaises(ValueError, msg=wrong):
                Settings(host=wrong)

    def test_origins(self) -> None:
        """An origin has a scheme and a host, perhaps a port, and nothing after it; `null` is none."""
        good = ("https://app.example", "http://localhost:3000", "vscode-webview://abc", "tauri://localhost")
        self.assertEqual(Settings(allowed_origins=good).allowed_origins, good)
        for wrong in ("null", "*", "app.example", "https://", "https://app.example/", "https://a@b"):
            with self.assertRaises(ValueError, msg=wrong):
                Settings(allowed_origins=(wrong,))

    def test_models_are_read_only(self) -> None:
        """The model map of the settings is a copy that nobody can change."""
        models = {"a": "b"}
        settings = Settings(models=models)
        models["a"] = "c"
        self.assertEqual(settings.models["a"], "b")
        with self.assertRaises(TypeError):
            settings.models["a"] = "d"  # type: ignore[index]

    def test_order_of_models_counts(self) -> None:
        """Settings are equal, and hash equally, if their model maps are in the same order: patterns depend on it."""
        one, other = Settings(models={"a*": "x", "*b": "y"}), Settings(models={"*b": "y", "a*": "x"})
        self.assertNotEqual(one, other)
        self.assertEqual(one, Settings(models=dict(one.models)))
        self.assertEqual(hash(one), hash(Settings(models=dict(one.models))))


class DeclarationTests(SynchronousTestCase):
    def test_complete(self) -> None:
        """Every setting has an environment name of its own, a meaning, and a default that fits."""
        every = [*declarations(Settings), *declarations(BackendSettings)]
        self.assertEqual(len({each.env for each in every}), len(every))
        for each in every:
            self.assertTrue(each.doc.endswith("."), each.name)
            if each.name != "provider":
                self.assertEqual(each.expects.read(each.default), each.default)

    def test_names_of_options(self) -> None:
        """An option is called like the environment variable, in small letters with dashes."""
        named = {each.env: each.option for each in (*declarations(Settings), *declarations(BackendSettings))}
        self.assertEqual(named["PORT"], "port")
        self.assertEqual(named["PROVIDER_BASE_URL"], "provider-base-url")
        self.assertEqual(named["LOCAL_GGUF"], "local-gguf")

    def test_secrets_have_no_option(self) -> None:
        """A secret cannot be given on the command line, where every list of processes would show it."""
        hidden = {each.env for each in (*declarations(Settings), *declarations(BackendSettings)) if not each.option}
        self.assertEqual(hidden, {"CLAUDEPROXY_KEYS", "CLAUDEPROXY_ADMIN_KEYS", "PROVIDER_API_KEY"})
