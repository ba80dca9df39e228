"""What follows from what is known of a model (issue 4, "Probing")."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.backends.interfaces import Abilities
from claudeproxy.backends.listings import is_embedding, listed, lmstudio
from claudeproxy.backends.profile import NOTHING, Facts, Profile
from claudeproxy.translate.dialects import DIALECTS


def profile(family: str, facts: Facts = NOTHING, model: str = "m", window: int = 0, **own: Any) -> Profile:
    return Profile.of(model, DIALECTS[family], facts, own, window)


class ProfileTests(SynchronousTestCase):
    """`Profile`."""

    def test_last_word(self) -> None:
        """The server's cells lie over the family's, the settings' over both."""
        told = Facts({"tools": "no", "images": "no"}, 100, tools=False)
        self.assertEqual(profile("llama.cpp", told).dialect.tools, "no")
        found = profile("llama.cpp", told, tools="yes")
        self.assertEqual((found.dialect.tools, found.dialect.images), ("yes", "no"))
        assert found.abilities is not None
        self.assertIs(found.abilities.tools, True)

    def test_window(self) -> None:
        """The settings' window is the last word; then the one that Ollama is asked for; then what was told."""
        told = Facts({}, 4096)
        self.assertEqual(profile("generic", told).window, 4096)
        self.assertEqual(profile("generic", told, window=100).window, 100)
        self.assertEqual(profile("ollama", Facts({"num_ctx": 10}, 4096)).window, 10)
        self.assertEqual(profile("generic").window, 0)

    def test_nothing_told(self) -> None:
        """Of a model of which nobody said anything nothing is said: not even for a well-known service."""
        for family in DIALECTS:
            self.assertIsNone(profile(family, Facts(window=5)).abilities)
            self.assertEqual(profile(family).offer.window, 0)

    def test_abilities(self) -> None:
        """What was told, and where nothing was what the family says of all its models."""
        told = Facts({"images": "yes"}, tools=True, thinking=False)
        self.assertEqual(profile("llama.cpp", told).abilities, Abilities(True, True, False, (), True))
        self.assertEqual(profile("generic", Facts(tools=False)).abilities, Abilities(False, False, False, (), False))

    def test_efforts(self) -> None:
        """Only efforts that make a difference, under the server's own names."""
        for family, model, efforts in (
            ("openrouter", "a/b", ("low", "medium", "high", "xhigh")),
            ("deepseek", "deepseek-chat", ("low", "high", "max")),
            ("openai", "gpt-4o", ()),
            ("openai", "gpt-5", ("low", "medium", "high")),
            ("glm", "glm-4.6", ()),
            ("vllm", "qwen", ()),
            ("ollama", "gpt-oss:20b", ("low", "medium", "high")),
            ("ollama", "qwen3:4b", ()),
        ):
            found = profile(family, Facts(thinking=True), model).abilities
            assert found is not None
            self.assertEqual(found.efforts, efforts, (family, model))
        told = profile("lmstudio", Facts(thinking=True, efforts=("low", "high"))).abilities
        assert told is not None
        self.assertEqual(told.efforts, ("low", "high"))

    def test_thinking_unknown(self) -> None:
        """Where asking might be in vain it is not promised; where the service has a way of asking, it is."""
        for family, model, thinks in (
            ("llama.cpp", "m", False),
            ("deepseek", "m", True),
            ("openai", "gpt-4o", False),
            ("openai", "gpt-5", True),
            ("kimi", "kimi-k2", True),
        ):
            found = profile(family, Facts(tools=True), model).abilities
            assert found is not None
            self.assertIs(found.thinking, thinks, (family, model))

    def test_thinking_set(self) -> None:
        """Settings that say how to ask, or not to, are the last word on thinking, too."""
        found = profile("vllm", Facts(thinking=True), thinking="none").abilities
        assert found is not None
        self.assertIs(found.thinking, False)

    def test_over(self) -> None:
        """Where one source is silent the other speaks."""
        one, other = Facts({"a": 1}, 0, tools=False), Facts({"a": 2, "b": 3}, 7, tools=True, thinking=True)
        self.assertEqual(one.over(other), Facts({"a": 1, "b": 3}, 7, False, True))


class ListingTests(SynchronousTestCase):
    """`listings`."""

    def test_windows(self) -> None:
        """Each server has its own name for the window; what is no number of tokens is none."""
        for name in ("max_model_len", "context_length", "context_window", "max_context_length"):
            self.assertEqual(listed({"data": [{"id": "m", name: 8192}]})["m"].window, 8192)
        values: tuple[Any, ...] = (None, "8192", -1, 0, True, 1.5, [])
        for value in values:
            self.assertEqual(listed({"data": [{"id": "m", "max_model_len": value}]})["m"].window, 0)

    def test_no_list(self) -> None:
        """Anything else is an empty list."""
        values: tuple[Any, ...] = (None, [], {}, {"data": {}}, {"data": [None, 5, {"id": 7}, {}]}, "x")
        for value in values:
            self.assertEqual(listed(value), {})
            self.assertIn(lmstudio(value), ({}, None))

    def test_adapter(self) -> None:
        """vLLM: an adapter has the window of the model that it is an adapter for."""
        found = listed(
            {
                "data": [
                    {"id": "base", "owned_by": "vllm", "root": "base", "parent": None, "max_model_len": 32768},
                    {"id": "sql", "owned_by": "vllm", "root": "/sql", "parent": "base", "max_model_len": None},
                ]
            }
        )
        self.assertEqual([each.window for each in found.values()], [32768, 32768])

    def test_openrouter(self) -> None:
        """OpenRouter tells nearly all of it; the window is the one of the provider that answers."""
        entry = {
            "id": "a/b",
            "context_length": 262144,
            "architecture": {"modality": "text+image->text", "input_modalities": ["text", "image"]},
            "top_provider": {"context_length": 131072, "max_completion_tokens": 16384, "is_moderated": False},
            "supported_parameters": ["tools", "tool_choice", "reasoning", "structured_outputs", "response_format"],
        }
        blind = {
            "id": "c",
            "context_length": 4096,
            "architecture": {"input_modalities": ["text"]},
            "top_provider": {"context_length": None, "max_completion_tokens": None},
            "supported_parameters": ["temperature"],
        }
        found = listed({"data": [entry, blind]})
        one, other = (profile("openrouter", found[name], name) for name in ("a/b", "c"))
        self.assertEqual((one.window, one.max_output), (131072, 16384))
        self.assertEqual(one.abilities, Abilities(True, True, True, ("low", "medium", "high", "xhigh"), True))
        self.assertEqual((other.window, other.max_output), (4096, 0))
        self.assertEqual(other.abilities, Abilities(False, False, False, (), False))
        self.assertEqual((other.dialect.thinking, other.dialect.schema_output), ("none", "prompt"))

    def test_kimi(self) -> None:
        """Kimi tells the window and two of the abilities."""
        entry = {"id": "k", "context_length": 262144, "supports_image_in": True, "supports_reasoning": False}
        found = profile("kimi", listed({"data": [entry]})["k"], "k")
        self.assertEqual((found.window, found.dialect.images, found.dialect.thinking), (262144, "yes", "none"))

    def test_lmstudio(self) -> None:
        """LM Studio's newer list: the window that a model is loaded with; none while it is not."""
        loaded = {
            "type": "llm",
            "key": "openai/gpt-oss-20b",
            "loaded_instances": [
                {"id": "openai/gpt-oss-20b", "config": {"context_length": 16384}},
                {"id": "openai/gpt-oss-20b:2", "config": {"context_length": 8192}},
            ],
            "max_context_length": 131072,
            "capabilities": {
                "vision": False,
                "trained_for_tool_use": True,
                "reasoning": {"allowed_options": ["low", "medium", "high"], "default": "medium"},
            },
        }
        other = {"type": "llm", "key": "other", "loaded_instances": [], "max_context_length": 32768}
        found = lmstudio({"models": [loaded, other]})
        assert found is not None
        self.assertEqual(
            {name: facts.window for name, facts in found.items()},
            {
                "openai/gpt-oss-20b": 8192,
                "openai/gpt-oss-20b:2": 8192,
                "other": 0,
            },
        )
        facts = found["openai/gpt-oss-20b"]
        self.assertEqual((facts.tools, facts.thinking, facts.efforts), (True, True, ("low", "medium", "high")))
        self.assertEqual(found["other"], NOTHING)

    def test_lmstudio_older(self) -> None:
        """Its older list tells of eyes by the type."""
        entries = [
            {"id": "v", "type": "vlm", "state": "loaded", "max_context_length": 32768, "loaded_context_length": 4096},
            {"id": "l", "type": "llm", "state": "not-loaded", "max_context_length": 9, "capabilities": ["tool_use"]},
        ]
        found = lmstudio({"data": entries})
        assert found is not None
        self.assertEqual(found["v"], Facts({"images": "yes"}, 4096))
        self.assertEqual(found["l"], Facts({"images": "no"}, 0, True))
        self.assertTrue(is_embedding({"type": "embeddings"}) and is_embedding({"type": "embedding"}))
