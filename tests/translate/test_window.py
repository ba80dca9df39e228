"""Whether a prompt fits, and what is left for the answer (issue 5)."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.model.problems import Refusal
from claudeproxy.translate.window import Fit, limited, wanted

SOURCES = ("exact", "tokenizer", "learned", "estimate")
fits = st.builds(
    Fit,
    st.integers(1, 200_000),
    st.sampled_from(SOURCES),
    st.integers(0, 100_000),
    st.none() | st.integers(1, 128_000),
    st.booleans(),
)


class FitTests(SynchronousTestCase):
    """`Fit`."""

    def refusal(self, fit: Fit) -> str:
        return str(self.assertRaises(Refusal, fit.check).problem.message)

    def test_exact(self) -> None:
        """A prompt that leaves no room for an answer is refused with its true numbers, one that does is not."""
        words = self.refusal(Fit(8065, "exact", 8192, 32_000))
        self.assertEqual(words, "prompt is too long: 8065 tokens > 8064 maximum")
        self.assertEqual(self.refusal(Fit(9000, "exact", 8192)), "prompt is too long: 9000 tokens > 8192 maximum")
        Fit(8064, "exact", 8192, 32_000).check()

    def test_short_answers(self) -> None:
        """No more room is kept than the answer may take."""
        Fit(8191, "exact", 8192, 1).check()
        self.refusal(Fit(8192, "exact", 8192, 1))

    def test_doubt(self) -> None:
        """An estimate refuses only what surely cannot fit, and tells no number."""
        Fit(8500, "estimate", 8192).check()
        self.assertEqual(self.refusal(Fit(9500, "estimate", 8192)), "prompt is too long")
        Fit(8300, "learned", 8192).check()
        self.refusal(Fit(8500, "learned", 8192))

    def test_silent_cuts(self) -> None:
        """A server that shortens prompts in silence never gets one that may be too long."""
        self.refusal(Fit(7900, "learned", 8192, cuts_silently=True))
        Fit(7500, "learned", 8192, cuts_silently=True).check()

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

    @given(fits)
    def test_sums(self, fit: Fit) -> None:
        """What is sent never asks for more than the window holds, as far as the count is right."""
        try:
            fit.check()
        except Refusal:
            self.assertGreater(fit.window, 0)
            return
        if fit.window and fit.wanted is not None and fit.source == "exact":
            asked = fit.wanted if fit.left is None else fit.left
            self.assertLessEqual(fit.tokens + asked, fit.window)
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
            self.assertEqual(wanted(limited(body, 10)), 10)
            self.assertEqual(limited(limited(body, 10), 9000), body)
        for body in ({"a": 1}, {"options": {"num_predict": -1}}):
            self.assertIsNone(wanted(body))
        self.assertEqual(limited({"a": 1}, 10), {"a": 1})
