"""The token counts of every dialect (PROTOCOL 4.3)."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.model.events import Usage
from claudeproxy.translate.usage import completed, from_chat, from_progress, from_timings
from tests import strategies


class UsageTests(SynchronousTestCase):
    """Counts."""

    def test_openai(self) -> None:
        """OpenAI counts what was cached within the prompt, Anthropic beside it."""
        counts = {
            "prompt_tokens": 100,
            "completion_tokens": 20,
            "prompt_tokens_details": {"cached_tokens": 70, "cache_write_tokens": 10},
            "completion_tokens_details": {"reasoning_tokens": 5},
        }
        self.assertEqual(from_chat(counts), Usage(input=20, output=20, cache_read=70, cache_creation=10, thinking=5))

    def test_deepseek(self) -> None:
        """DeepSeek has its own names for what was cached."""
        counts = {"prompt_tokens": 100, "prompt_cache_hit_tokens": 80, "prompt_cache_miss_tokens": 20}
        self.assertEqual(from_chat(counts), Usage(input=20, cache_read=80))

    def test_vllm(self) -> None:
        """vLLM may leave the details null, and has its own name for what was written."""
        self.assertEqual(from_chat({"prompt_tokens": 9, "prompt_tokens_details": None}), Usage(input=9))
        written = {"prompt_tokens": 9, "prompt_tokens_details": {"created_cache_tokens": 4}}
        self.assertEqual(from_chat(written), Usage(input=5, cache_creation=4))

    def test_more_cached_than_prompt(self) -> None:
        """No count is ever below 0, and no prompt grows by what is said of its cache."""
        details = {"cached_tokens": 9, "cache_write_tokens": 9}
        self.assertEqual(from_chat({"prompt_tokens": 5, "prompt_tokens_details": details}), Usage(cache_read=5))
        self.assertEqual(from_progress({"total": 5, "cache": 9}), Usage(cache_read=5))

    def test_kimi(self) -> None:
        """Kimi names what was cached beside the prompt's tokens."""
        self.assertEqual(from_chat({"prompt_tokens": 9, "cached_tokens": 4}), Usage(input=5, cache_read=4))

    def test_no_numbers(self) -> None:
        """What is infinite, no number, or beyond any encoder is no count."""
        for count in (float("inf"), float("nan"), float("-inf"), 1e300, 10**400, -1, "5", None):
            self.assertEqual(from_chat({"prompt_tokens": count, "completion_tokens": 3}), Usage(output=3))

    def test_completed(self) -> None:
        """The later count wins, but for a 0."""
        first = Usage(input=5, output=3, cache_read=4, thinking=2)
        self.assertEqual(completed(Usage(output=7), first), Usage(input=5, output=7, cache_read=4))
        self.assertEqual(completed(Usage(input=6), first), Usage(input=6, output=3, thinking=2))
        self.assertEqual(completed(Usage(input=1, output=1), first), Usage(input=1, output=1))
        self.assertEqual(completed(first, None), first)

    def test_llama(self) -> None:
        """llama.cpp's timings tell the cached and the read part apart; its progress includes the cached one."""
        self.assertEqual(
            from_timings({"cache_n": 30, "prompt_n": 10, "predicted_n": 5}), Usage(input=10, output=5, cache_read=30)
        )
        self.assertEqual(from_progress({"total": 40, "cache": 30, "processed": 35}), Usage(input=10, cache_read=30))

    @given(strategies.usages().filter(bool) | st.dictionaries(st.text(max_size=9), strategies.json_values()))
    def test_anything(self, counts: dict[str, Any]) -> None:
        """Whatever a server says, the counts are whole numbers from 0 on."""
        for usage in (from_chat(counts), from_timings(counts), from_progress(counts)):
            for count in (usage.input, usage.output, usage.cache_read, usage.cache_creation, usage.thinking or 0):
                self.assertIs(type(count), int)
                self.assertGreaterEqual(count, 0)
            self.assertEqual(usage.prompt, usage.input + usage.cache_read + usage.cache_creation)
