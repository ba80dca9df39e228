"""Model names: exactly, by glob, by family, by default."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.routing.settings import BackendSettings, Settings
from claudeproxy.routing.table import ModelTable, Route

MAIN = BackendSettings("main", "openai", base_url="http://127.0.0.1:8000/v1")
SMALL = BackendSettings("small", "openai", base_url="http://127.0.0.1:8001/v1")

ANTHROPIC = BackendSettings("anthropic", "anthropic", base_url="http://127.0.0.1:8002")


def table(models: dict[str, str] | None = None, default: str = "", *backends: BackendSettings) -> ModelTable:
    """A table over the backends main and small."""
    return ModelTable.of(Settings(models=models or {}, default_model=default, backends=backends or (MAIN, SMALL)))


class RouteTests(SynchronousTestCase):
    def assert_models(self, table: ModelTable, expected: dict[str, str]) -> None:
        """Each name goes to its model on the backend main."""
        for name, model in expected.items():
            self.assertEqual(table.route(name), Route("main", model, requested=name))

    def test_exactly_before_glob(self) -> None:
        """An exact name beats a pattern, wherever either is written."""
        routes = table({"claude-*": "any", "claude-sonnet-4-5": "exact"})
        self.assert_models(routes, {"claude-sonnet-4-5": "exact", "claude-opus-4-5": "any"})

    def test_globs_in_written_order(self) -> None:
        """Of two patterns that fit, the first written one counts."""
        self.assert_models(
            table({"claude-h*": "first", "claude-*": "second"}), {"claude-haiku": "first", "claude-x": "second"}
        )
        self.assert_models(table({"claude-*": "second", "claude-h*": "first"}), {"claude-haiku": "second"})

    def test_wildcards(self) -> None:
        """A star stands for any text, a question mark for one character, and a bracket for itself."""
        routes = table({"a?c": "one", "x*z": "any", "b[12]*": "bracket"}, "none")
        expected = {"abc": "one", "ac": "none", "abbc": "none", "xz": "any", "x/y\nz": "any", "b[12]!": "bracket"}
        self.assert_models(routes, {**expected, "b1!": "none"})

    def test_glob_before_family(self) -> None:
        """A pattern that fits beats the family, so that a lone star leaves nothing to it."""
        self.assert_models(
            table({"opus": "family", "*-4-*": "glob"}), {"claude-opus-4-5": "glob", "claude-opus-5": "family"}
        )

    def test_family_word(self) -> None:
        """A name whose family is an entry of the map goes there, for every family."""
        for family in ("opus", "sonnet", "haiku", "fable", "mythos"):
            routes = table({f"claude-{family}-3": "third", family: "family"}, "none")
            self.assert_models(routes, {f"claude-{family}-9": "family", family: "family", "claude": "none"})

    def test_family_of_another_entry(self) -> None:
        """Without an entry for the family, the first written name or pattern that contains its word stands for it."""
        routes = table({"claude-haiku-*": "h", "claude-opus-4-5": "o1", "claude-opus-4-6": "o2"}, "none")
        self.assert_models(routes, {"opus": "o1", "claude-opus-9": "o1", "HAIKU": "h", "sonnet": "none"})

    def test_default_model(self) -> None:
        """A name that nothing matches goes to the default model, although the map has just one target."""
        self.assert_models(table({"a": "one"}, "default"), {"b": "default"})

    def test_default_model_elsewhere(self) -> None:
        """The default model may name its backend."""
        self.assertEqual(table({}, "small/qwen3-4b").route("x"), Route("small", "qwen3-4b", "x"))

    def test_only_target(self) -> None:
        """Without a default model, a name that nothing matches goes to the map's only target, however often written."""
        self.assert_models(table({"a": "one", "b*": "one", "c": "main/one"}), {"x": "one"})

    def test_as_it_came(self) -> None:
        """With several targets, or none, and no default model, a name goes to the default backend untouched."""
        for routes in (table(), table({"a": "one", "b": "two"})):
            self.assert_models(routes, {"Qwen/Qwen3-Coder[1m]": "Qwen/Qwen3-Coder[1m]", "": ""})

    def test_case(self) -> None:
        """Case does not matter in matching, and is kept in what is sent."""
        routes = table({"Claude-Sonnet-4-5": "Qwen", "claude-OPUS-*": "Big"})
        self.assert_models(routes, {"claude-sonnet-4-5": "Qwen", "CLAUDE-SONNET-4-5": "Qwen", "Claude-Opus-1": "Big"})

    def test_suffixes_of_the_request(self) -> None:
        """`[1m]` and a date at the end of a name are not needed to match."""
        routes = table({"claude-sonnet-4-5": "s", "claude-opus-?-?": "o"}, "none")
        for suffix in ("", "[1m]", "[1M]", "-20250929", "-20250929[1m]"):
            self.assert_models(routes, {f"claude-sonnet-4-5{suffix}": "s", f"claude-opus-4-1{suffix}": "o"})
        self.assert_models(routes, {"claude-sonnet-4-5-2025": "s"})  # by its family
        self.assert_models(routes, {"fable-2025092": "none", "[1m]": "none"})

    def test_suffixes_of_the_map(self) -> None:
        """A dated name in the map is found by its undated form and by another date."""
        routes = table({"claude-x-20250929": "x"}, "none")
        self.assert_models(routes, {"claude-x": "x", "claude-x-20250929": "x", "claude-x-20260101[1m]": "x"})

    def test_raw_name_first(self) -> None:
        """A name is looked for as it came before it is looked for without its suffixes, exactly and by glob."""
        exact = table({"claude-x": "plain", "claude-x[1m]": "long", "claude-x-20250929": "dated"})
        self.assert_models(exact, {"claude-x": "plain", "claude-x[1m]": "long", "claude-x-20250929": "dated"})
        self.assert_models(table({"*-x": "plain", "*[1m]": "long"}), {"claude-x[1m]": "long", "claude-x": "plain"})

    def test_suffixes_of_a_glob_stay(self) -> None:
        """A pattern keeps its suffix: `*[1m]` is for the names that have it, not for all."""
        self.assert_models(table({"*[1m]": "long", "a": "b"}), {"x[1m]": "long", "x": "x"})

    def test_targets_on_other_backends(self) -> None:
        """A target that begins with a backend's name and a slash goes there; slashes may follow."""
        routes = table({"a": "small/qwen3-4b", "b": "small/Qwen/Qwen3", "c": "Qwen/Qwen3", "d": "Small/x"})
        self.assertEqual(routes.route("a"), Route("small", "qwen3-4b", "a"))
        self.assertEqual(routes.route("b"), Route("small", "Qwen/Qwen3", "b"))
        self.assert_models(routes, {"c": "Qwen/Qwen3", "d": "Small/x"})

    def test_single_backend_named_like_its_provider(self) -> None:
        """The one backend that the environment describes takes nothing off a model such as `openai/gpt-oss-20b`."""
        lone = BackendSettings("openai", "openai", base_url="http://127.0.0.1:8000/v1")
        routes = table({"a": "openai/gpt-oss-20b"}, "", lone)
        self.assertEqual(routes.route("a"), Route("openai", "openai/gpt-oss-20b", "a"))
        named = table({"a": "main/qwen3"}, "", MAIN)
        self.assertEqual(named.route("a"), Route("main", "qwen3", "a"))

    def test_names(self) -> None:
        """The names on offer are those of the map that are not patterns, as and in the order they are written."""
        self.assertEqual(table({"b": "x", "*": "x", "Claude-A[1m]": "x", "a?": "x"}).names(), ("b", "Claude-A[1m]"))

    def test_memory_is_bounded(self) -> None:
        """Names that clients invent, many or long, do not stay in memory; the answers stay right."""
        routes = table({"a": "b", "c": "d"})
        for number in range(3000):
            self.assertEqual(routes.route(f"name-{number}").model, f"name-{number}")
        routes.route("x" * 1_000_000)
        self.assertLess(len(routes._remembered), 1100)
        self.assertLess(max(map(len, routes._remembered)), 1000)
        self.assertIs(routes.route("a"), routes.route("a"))

    def test_hostile_names(self) -> None:
        """No name of a client makes a pattern of the map search for long."""
        routes = table({"*a*a*a*a*a*a*a*b": "x", "c": "y"})
        self.assertEqual(routes.route("a" * 50_000).model, "a" * 50_000)

    @given(
        st.dictionaries(st.text("aAbB-*?[1m]/", min_size=1), st.text("xyz/", min_size=1)),
        st.text("aAbB-*?[1m]20250929"),
    )
    def test_every_name_has_a_route(self, models: dict[str, str], name: str) -> None:
        """Whatever the map and the name, there is one route, the same each time and to a backend that exists."""
        routes = table(models)
        route = routes.route(name)
        self.assertEqual(route, table(models).route(name))
        self.assertEqual(route, routes.route(name))
        self.assertEqual(route.requested, name)
        self.assertIn(route.backend, ("main", "small"))
        self.assertIn(route.model, {name, *models.values(), *(target.partition("/")[2] for target in models.values())})


class AddressTests(SynchronousTestCase):
    """Names that say where they belong."""

    def test_backend_in_front(self) -> None:
        """`backend/model` is that model there; what is written in the map comes first, the families come after."""
        routes = table({"haiku": "tiny", "small/*-x": "other"})
        self.assertEqual(routes.route("small/claude-haiku"), Route("small", "claude-haiku", "small/claude-haiku"))
        self.assertEqual(routes.route("small/a-x"), Route("main", "other", "small/a-x"))
        self.assertEqual(routes.route("nobody/claude-haiku"), Route("main", "tiny", "nobody/claude-haiku"))
        self.assertEqual(table().route("small/"), Route("main", "small/", "small/"))

    def test_alias_of_the_picker(self) -> None:
        """`anthropic/` is taken off a name that would not be in the picker without it, and off no other."""
        self.assertEqual(table().route("anthropic/qwen"), Route("main", "qwen", "anthropic/qwen"))
        self.assertEqual(table().route("anthropic/small/qwen"), Route("small", "qwen", "anthropic/small/qwen"))
        router = "anthropic/claude-opus-4.5"
        self.assertEqual(table().route(router), Route("main", router, router))
        self.assertEqual(table({"anthropic/qwen": "mapped"}).route("anthropic/qwen").model, "mapped")
        self.assertEqual(table({}, "", MAIN, SMALL, ANTHROPIC).route("anthropic/qwen").backend, "anthropic")
