"""Whether a prompt fits, and what is left for the answer (issue 5)."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.model.problems import Refusal
from claudeproxy.translate.dialects import DIALECTS
from claudeproxy.translate.window import Fit, limited, wanted

ANY = DIALECTS["generic"]
SOURCES = ("exact", "tokenizer", "learned", "estimate")
fits = st.builds(
    Fit,
    st.integers(1, 200_000),
    st.sampled_from(SOURCES),
    st.integers(0, 100_000),
    st.none() | st.integers(1, 128_000),
    st.booleans(),
    st.integers(0, 200_000),
)


class FitTests(SynchronousTestCase):
    """`Fit`."""

    def refusal(self, fit: Fit) -> str:
        return str(self.assertRaises(Refusal, fit.check).problem.message)

    def test_exact(self) -> None:
        """A prompt that leaves no room for an answer is refused with its true numbers, one that does is not."""
        words = self.refusal(Fit(7681, "exact", 8192, 32_000))
        self.assertEqual(words, "prompt is too long: 7681 tokens > 7680 maximum")
        self.assertEqual(self.refusal(Fit(9000, "exact", 8192)), "prompt is too long: 9000 tokens > 8192 maximum")
        Fit(7680, "exact", 8192, 32_000).check()

    def test_short_answers(self) -> None:
        """No more room is kept than the answer may take."""
        Fit(8191, "exact", 8192, 1).check()
        self.refusal(Fit(8192, "exact", 8192, 1))

    def test_large_windows(self) -> None:
        """However large a window is, no more is kept than a good summary takes."""
        Fit(200_000 - 4096, "exact", 200_000, 32_000).check()
        self.refusal(Fit(200_000 - 4095, "exact", 200_000, 32_000))

    def test_doubt(self) -> None:
        """Before anything was learned only what surely cannot fit is refused; an estimate tells no number."""
        Fit(8500, "estimate", 8192).check()
        self.assertEqual(self.refusal(Fit(9500, "estimate", 8192)), "prompt is too long")
        Fit(7680, "learned", 8192).check()
        self.assertEqual(self.refusal(Fit(7681, "learned", 8192)), "prompt is too long")

    def test_silent_cuts(self) -> None:
        """A server that shortens prompts in silence never gets one that may be too long."""
        self.refusal(Fit(7500, "learned", 8192, cuts_silently=True))
        Fit(7300, "learned", 8192, cuts_silently=True).check()
        Fit(7500, "learned", 8192, cuts_silently=True, counted=7000).check()

    def test_unknown_window(self) -> None:
        """Without a window nothing is refused, and nothing is limited."""
        fit = Fit(10**6, "exact", 0, 10**6)
        fit.check()
        self.assertEqual((fit.left, fit.is_near), (None, False))

    def test_left(self) -> None:
        """An answer may have what is left of the window, and no less than was asked for if there is room."""
        self.assertEqual(Fit(3000, "exact", 8192, 128_000).left, 5192)
        self.assertIsNone(Fit(3000, "exact", 8192, 5192).left)
        self.assertIsNone(Fit(3000, "exact", 8192).left)

    def test_counted(self) -> None:
        """What the server counted an earlier turn to be is not in doubt, only what was added to it."""
        self.assertEqual(Fit(6000, "learned", 8192, 128_000).left, 8192 - 6180 - 32)
        self.assertEqual(Fit(6000, "learned", 8192, 128_000, counted=5500).left, 8192 - 6125 - 32)
        self.assertEqual(Fit(6000, "learned", 8192, 128_000, counted=1).left, 8192 - 6180 - 32)

    def test_near_the_window(self) -> None:
        """However near the window an estimate comes, an answer gets half of what is kept for it: one word is none."""
        for tokens, source in ((7600, "learned"), (8500, "estimate"), (7680, "exact")):
            self.assertGreaterEqual(Fit(tokens, source, 8192, 128_000).left or 0, 256)
        self.assertEqual(Fit(8500, "estimate", 8192, 128_000).left, 256)

    @given(fits)
    def test_sums(self, fit: Fit) -> None:
        """What is sent never asks for more than the window holds, as far as the count is right."""
        try:
            fit.check()
        except Refusal:
            self.assertGreater(fit.window, 0)
            return
        if fit.window and fit.wanted is not None and fit.source != "estimate":
            asked = fit.wanted if fit.left is None else fit.left
            self.assertLessEqual(fit.tokens + asked, fit.window)
            self.assertGreaterEqual(asked, min(fit.wanted, fit.window // 16, 4096) // 2)
            self.assertGreaterEqual(asked, 1)


class LimitTests(SynchronousTestCase):
    """Every dialect's own field."""

    def test_fields(self) -> None:
        """The limit stands where the dialect has it, and nothing else changes."""
        bodies: tuple[dict[str, Any], ...] = (
            {"a": 1, "max_tokens": 9000},
            {"a": 1, "max_completion_tokens": 9000},
            {"a": 1, "max_output_tokens": 9000},
            {"a": 1, "options": {"num_ctx": 7, "num_predict": 9000}},
        )
        for body in bodies:
            self.assertEqual(wanted(body), 9000)
            self.assertEqual(wanted(limited(body, 10, ANY)), 10)
            self.assertEqual(limited(limited(body, 10, ANY), 9000, ANY), body)
        for body in ({"a": 1}, {"options": {"num_predict": -1}}):
            self.assertIsNone(wanted(body))
        self.assertEqual(limited({"a": 1}, 10, ANY), {"a": 1})

    def test_budgets(self) -> None:
        """A budget for thinking is cut with the answer that it is a part of; one that fits stays as it is."""
        for dialect, budget, most, left in (
            ("llama.cpp", {"thinking_budget_tokens": 31999}, 2000, {"thinking_budget_tokens": 1500}),
            ("llama.cpp", {"thinking_budget_tokens": 31999}, 1, {"thinking_budget_tokens": 1}),
            ("llama.cpp", {"thinking_budget_tokens": 1024}, 2000, {"thinking_budget_tokens": 1024}),
            ("openrouter", {"reasoning": {"max_tokens": 31999}}, 2000, {"reasoning": {"max_tokens": 1500}}),
            ("openrouter", {"reasoning": {"max_tokens": 31999}}, 1300, {"reasoning": {"enabled": True}}),
            ("openrouter", {"reasoning": {"effort": "high"}}, 2000, {"reasoning": {"effort": "high"}}),
        ):
            found = limited({"max_tokens": 64000, **budget}, most, DIALECTS[dialect])
            self.assertEqual(found, {"max_tokens": most, **left})
