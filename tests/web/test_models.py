"""What GET /v1/models says (PROTOCOL 1.7)."""

from typing import Any

from anthropic.types import ModelInfo
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.backends.interfaces import Abilities, Offer
from claudeproxy.model.problems import Refusal
from claudeproxy.routing.settings import BackendSettings, Settings
from claudeproxy.routing.table import ModelTable
from claudeproxy.web.models import catalogue, model_json, page

NAMES = [f"model-{number}" for number in range(45)]
MAIN = BackendSettings("main", "openai", base_url="http://127.0.0.1:8000/v1")
SMALL = BackendSettings("small", "openai", base_url="http://127.0.0.1:8001/v1")


def entries(names: list[str]) -> dict[str, dict[str, Any]]:
    return {name: model_json(Offer(name), name) for name in names}


def ids(found: dict[str, object]) -> list[str]:
    data = found["data"]
    assert isinstance(data, list)
    return [each["id"] for each in data]


class PageTests(SynchronousTestCase):
    """`page`."""

    def test_first(self) -> None:
        """Twenty are shown unless another number is asked for, and the answer tells that there are more."""
        found = page(entries(NAMES), {})
        self.assertEqual(ids(found), NAMES[:20])
        self.assertEqual((found["first_id"], found["last_id"], found["has_more"]), ("model-0", "model-19", True))
        self.assertEqual(ids(page(entries(NAMES), {"limit": "1000"})), NAMES)

    def test_none(self) -> None:
        """No models are an answer too."""
        self.assertEqual(page({}, {})["data"], [])
        self.assertEqual((page({}, {})["first_id"], page({}, {})["has_more"]), (None, False))

    @given(st.integers(0, 45), st.integers(1, 50))
    def test_forward(self, count: int, limit: int) -> None:
        """Going on after the last one shows every model once, in order, and ends."""
        names, seen, query = NAMES[:count], [], {"limit": str(limit)}
        for _ in range(count + 1):
            found = page(entries(names), query)
            seen += ids(found)
            if not found["has_more"]:
                break
            query["after_id"] = str(found["last_id"])
        self.assertEqual(seen, names)

    @given(st.integers(1, 45), st.integers(1, 50))
    def test_backward(self, count: int, limit: int) -> None:
        """Going back before the first one does the same from the other end."""
        names = NAMES[:count]
        seen, query = [names[-1]], {"limit": str(limit), "before_id": names[-1]}
        for _ in range(count + 1):
            found = page(entries(names), query)
            seen = ids(found) + seen
            if not found["has_more"]:
                break
            query["before_id"] = str(found["first_id"])
        self.assertEqual(seen, names)

    def test_between(self) -> None:
        """Both bounds hold together."""
        self.assertEqual(ids(page(entries(NAMES), {"after_id": "model-3", "before_id": "model-6"})), NAMES[4:6])
        self.assertEqual(ids(page(entries(NAMES), {"after_id": "model-44"})), [])

    def test_refused(self) -> None:
        """A limit that is none, and an id that nobody has, are refused by name."""
        for field, value in (
            ("limit", "0"),
            ("limit", "1001"),
            ("limit", "-1"),
            ("limit", "x"),
            ("limit", ""),
            ("limit", "1.5"),
            ("limit", "٣"),
            ("limit", "9" * 5000),
            ("after_id", "nobody"),
            ("before_id", ""),
        ):
            with self.subTest(f"{field}={value[:9]}"):
                refused = self.assertRaises(Refusal, page, entries(NAMES), {field: value})
                self.assertTrue(refused.problem.message.startswith(f"{field}: "))
                self.assertEqual(refused.problem.status, 400)

    def test_shape(self) -> None:
        """A model has what Anthropic's clients and OpenAI's clients look for."""
        found = model_json(Offer("m"), "m")
        self.assertEqual((found["type"], found["id"], found["display_name"]), ("model", "m", "m"))
        self.assertRegex(found["created_at"], r"\A\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z")
        self.assertEqual((found["object"], page({}, {})["object"]), ("model", "list"))

    def test_what_is_known(self) -> None:
        """Window, longest answer and abilities are shown where they are known, and null where they are not."""
        able = Abilities(tools=True, images=False, thinking=True, efforts=("low", "high"), structured=True)
        found = model_json(Offer("m", 32768, 8192, able), "alias")
        self.assertEqual((found["max_input_tokens"], found["max_tokens"], found["id"]), (32768, 8192, "alias"))
        capabilities = found["capabilities"]
        self.assertEqual(capabilities["image_input"], {"supported": False})
        self.assertTrue(capabilities["thinking"]["types"]["adaptive"]["supported"])
        self.assertEqual(
            [name for name in ("low", "medium", "high") if capabilities["effort"][name]["supported"]], ["low", "high"]
        )
        bare = model_json(Offer("m"), "m")
        self.assertEqual([bare[name] for name in ("max_input_tokens", "max_tokens", "capabilities")], [None] * 3)

    def test_official_sdk(self) -> None:
        """The official SDK takes an entry for what it is, capabilities included."""
        able = Abilities(tools=True, images=True, thinking=True, efforts=(), structured=False)
        for offer in (Offer("m"), Offer("m", 4096, 1024, able)):
            ModelInfo.model_validate(model_json(offer, "m"), strict=False)

    def test_as_told(self) -> None:
        """What an Anthropic server says of its model comes back, under the name that is asked for here."""
        told = {"type": "model", "id": "claude-x", "display_name": "Claude X", "max_input_tokens": 7}
        found = model_json(Offer("claude-x", as_told=told), "mine")
        self.assertEqual((found["id"], found["display_name"], found["max_input_tokens"]), ("mine", "Claude X", 7))


class CatalogueTests(SynchronousTestCase):
    """`catalogue`."""

    def table(self, **settings: Any) -> ModelTable:
        return ModelTable.of(Settings(**{"backends": (MAIN, SMALL), **settings}))

    def assert_all_lead_there(self, table: ModelTable, found: dict[str, dict[str, Any]]) -> None:
        """An alias and its name are answered by the same model."""
        for name in found:
            if name.startswith("anthropic/"):
                one, two = table.route(name), table.route(name.removeprefix("anthropic/"))
                self.assertEqual((one.backend, one.model), (two.backend, two.model))

    def test_backends(self) -> None:
        """The default backend's models stand there by name, another's with its name in front, and both may be asked
        for so; the picker gets an alias of each."""
        table = self.table()
        found = catalogue(
            table.names(),
            table.route,
            {"main": [Offer("qwen", 8192)], "small": [Offer("tiny/x"), Offer("claude-local")]},
        )
        self.assertEqual(
            list(found),
            ["qwen", "small/tiny/x", "small/claude-local", "anthropic/qwen", "anthropic/small/tiny/x"],
        )
        self.assertEqual(found["anthropic/qwen"]["max_input_tokens"], 8192)
        self.assertEqual(table.route("anthropic/small/tiny/x").model, "tiny/x")
        self.assert_all_lead_there(table, found)

    def test_map(self) -> None:
        """The map's names and the default model tell of the models that they lead to; patterns are no names."""
        table = self.table(models={"claude-sonnet-4-5": "small/tiny", "claude-*": "qwen"}, default_model="qwen")
        found = catalogue(table.names(), table.route, {"main": [Offer("qwen", 8192)], "small": [Offer("tiny", 2048)]})
        self.assertEqual(
            list(found), ["claude-sonnet-4-5", "qwen", "small/tiny", "anthropic/qwen", "anthropic/small/tiny"]
        )
        self.assertEqual(found["claude-sonnet-4-5"]["max_input_tokens"], 2048)
        self.assert_all_lead_there(table, found)

    def test_out_of_reach(self) -> None:
        """A model that no name leads to is not listed: here every unknown name goes to the default."""
        lone = BackendSettings("openai", "openai", base_url="http://127.0.0.1:8000/v1")
        table = ModelTable.of(Settings(backends=(lone,), default_model="qwen"))
        found = catalogue(table.names(), table.route, {"openai": [Offer("qwen"), Offer("other")]})
        self.assertEqual(list(found), ["qwen", "anthropic/qwen"])
