"""What a backend says when it fails (PROTOCOL 3.2, 3.3, rows 53 and 76-78)."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.model.problems import LONGEST_DETAIL, Problem
from claudeproxy.translate.failures import (
    empty_answer,
    problem_from_answer,
    problem_from_error,
    problem_from_text,
    seconds_to_wait,
)
from tests import strategies
from tests.message_rules import check_fit

N, M = 210_345, 200_000
LLAMA = f"request ({N} tokens) exceeds the available context size ({M} tokens), try increasing it"
LLAMA_COUNTS = {"type": "exceed_context_size_error", "n_prompt_tokens": N, "n_ctx": M}
OPENAI = f"This model's maximum context length is {M} tokens. However, your messages resulted in {N} tokens."
COMMAS = f"This model's maximum context length is {M:,} tokens. However, your messages resulted in {N:,} tokens."
CONFIGURED = f"Input tokens exceed the configured limit of {M} tokens. Your messages resulted in {N} tokens."
VLLM = (
    f"This model's maximum context length is {M} tokens. However, you requested {N + 10} tokens "
    f"({N} in the messages, 10 in the completion). Please reduce"
)
OPENROUTER = (
    f"This endpoint's maximum context length is {M} tokens. However, you requested about {N} tokens "
    f"({N} of text input)."
)
LM_STUDIO = (
    "The number of tokens to keep from the initial prompt is greater than the context length "
    f"(n_keep: {N}>= n_ctx: {M}). Try to load"
)
RAW = {
    "code": 400,
    "message": "Provider returned error",
    "metadata": {"raw": json.dumps({"error": {"message": OPENAI}})},
}
#: What is said, and whether its numbers are known.
OVERFLOWS: dict[str, tuple[object, bool]] = {
    "llama.cpp": ({"error": {"code": 400, "message": LLAMA, **LLAMA_COUNTS}}, True),
    "llama.cpp, text alone": ({"error": {"message": LLAMA}}, True),
    "OpenAI": ({"error": {"message": OPENAI, "code": "context_length_exceeded"}}, True),
    "OpenAI, commas": ({"error": {"message": COMMAS}}, True),
    "OpenAI, Responses": ({"error": {"message": "Your input exceeds the context window of this model."}}, False),
    "OpenAI, configured": ({"error": {"message": CONFIGURED}}, True),
    "OpenAI, code alone": ({"error": {"message": "no", "code": "context_length_exceeded"}}, False),
    "vLLM": ({"object": "error", "message": VLLM, "code": 400}, True),
    "OpenRouter": ({"error": {"code": 400, "message": OPENROUTER}}, True),
    "OpenRouter, raw": ({"error": RAW}, True),
    "Ollama": ({"error": "the prompt is longer than the context length currently available to the model"}, False),
    "LM Studio": ({"error": LM_STUDIO}, True),
    "Anthropic": ({"error": {"type": "invalid_request_error", "message": f"prompt is too long: {N} tokens"}}, False),
    "anybody": ({"detail": "context length exceeded"}, False),
    "LiteLLM": ({"error": {"message": "litellm.ContextWindowExceededError: no", "code": "400"}}, False),
}


def said(value: object, status: int = 400, retry_after: int | None = None) -> Problem:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return problem_from_answer("box", status, data, retry_after)


class OverflowTests(SynchronousTestCase):
    """The words that start a compaction."""

    def test_every_wording(self) -> None:
        """Every server's wording becomes Anthropic's, with the numbers where they are the backend's own."""
        for name, (value, numbers) in OVERFLOWS.items():
            for status in (400, 500):
                with self.subTest(f"{name}, {status}"):
                    problem = said(value, status)
                    wanted = f"prompt is too long: {N} tokens > {M} maximum" if numbers else "prompt is too long"
                    self.assertEqual(problem.message, wanted)
                    self.assertEqual((problem.status, problem.type), (400, "invalid_request_error"))

    def test_answer_too_long(self) -> None:
        """If only the answer asked for is too much, the words are those that make the client ask for less."""
        words = (
            "This model's maximum context length is 1000 tokens. However, you requested 1500 tokens "
            "(600 in the messages, 900 in the completion)."
        )
        self.assertEqual(
            said({"message": words}).message,
            "input length and `max_tokens` exceed context limit: 600 + 900 > 1000, "
            "decrease input length or `max_tokens` and try again",
        )

    def test_no_overflow(self) -> None:
        """Other refusals that speak of tokens are not taken for one."""
        for status, words in (
            (429, "maximum context length"),
            (401, LLAMA),
            (400, "max_tokens must be at least 1, got 'many'"),
        ):
            self.assertNotIn("prompt is too long", said({"error": {"message": words}}, status).message)


class ShapeTests(SynchronousTestCase):
    """Every shape of row 76."""

    def test_shapes(self) -> None:
        """The most telling text is found, whatever it is wrapped in, and the backend is named."""
        for value in (
            {"error": {"message": "no luck", "type": "t", "code": None}},
            {"error": "no luck"},
            {"error": {"error": {"message": "no luck"}}},
            {"detail": "no luck"},
            {"detail": [{"loc": ["body"], "msg": "no luck", "type": "missing"}]},
            {"message": "no luck"},
            {"object": "error", "message": "no luck", "type": "t", "param": None, "code": 400},
            {"error": {"code": 400, "message": "wrapped", "metadata": {"raw": '{"error":{"message":"no luck"}}'}}},
            {"error": {"code": 400, "message": "wrapped", "metadata": {"raw": "no luck"}}},
            "no luck",
            ["no luck"],
            b"no luck",
            b"<html><head><title>Oops</title><style>a{}</style></head><body><h1>no</h1> <p>luck</p></body></html>",
        ):
            with self.subTest(repr(value)):
                problem = said(value)
                self.assertEqual(problem.status, 400)
                self.assertIn("no luck", problem.message)
                self.assertIn("box", problem.message)
                self.assertNotIn("<", problem.message)
                self.assertNotIn("Oops", problem.message)

    def test_empty(self) -> None:
        """An empty answer has a message too."""
        value: object
        for value in (b"", b"   ", b"{}", b"null", {"error": {}}, {"error": None}, {"error": {"message": ""}}, []):
            self.assertIn("box", said(value, 500).message)

    def test_bounded(self) -> None:
        """A long text is cut."""
        for value in (b"x" * 10**6, {"error": {"message": "x" * 10**6}}, {"detail": ["x" * 1000] * 1000}):
            self.assertLessEqual(len(said(value).message), LONGEST_DETAIL)

    def test_in_a_200(self) -> None:
        """An error inside a 200 has the status it carries; without one it is the backend's failure (row 77)."""
        for code, status in (
            (402, 402),
            ("429", 429),
            (503, 529),
            (529, 529),
            (500, 502),
            (None, 502),
            ("x", 502),
            ("²", 502),
        ):
            problem = said({"error": {"code": code, "message": "m"}}, 200)
            self.assertEqual(problem.status // 100, status // 100, code)
            if status in (402, 429, 529):
                self.assertEqual(problem.status, status, code)

    def test_loading(self) -> None:
        """llama.cpp that still loads its model is worth another try in a moment."""
        loading = {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}
        problem = said(loading, 503)
        self.assertEqual((problem.status, problem.type), (529, "overloaded_error"))
        assert problem.retry_after is not None
        self.assertTrue(2 <= problem.retry_after <= 5)

    def test_retry_after(self) -> None:
        """The time to wait is passed on."""
        self.assertEqual(said({"error": {"message": "m"}}, 429, 7).retry_after, 7)
        self.assertIsNone(said({"error": {"message": "m"}}, 429).retry_after)

    def test_seconds_to_wait(self) -> None:
        """retry-after is read in whole seconds, a time of day by the answer's own date; what is none is left out."""
        date = "Wed, 21 Oct 2026 07:28:00 GMT"
        for header, seconds in (
            ("7", 7),
            ("1.2", 2),
            ("0", 0),
            ("", None),
            ("nan", None),
            ("inf", None),
            ("-3", 0),
            ("soon", None),
            ("Wed, 21 Oct 2026 07:28:17 GMT", 17),
            ("Wednesday, 21-Oct-26 07:29:00 GMT", 60),
            ("Thu, 22 Oct 2026 07:28:00 GMT", 86400),
            ("Wed, 21 Oct 2026 06:28:17 GMT", 0),
            ("Wed, 99 Oct 2026 07:28:17 GMT", None),
            ("Wed, 21 Oct 99999999999999999999 07:28:17 GMT", None),
        ):
            self.assertEqual(seconds_to_wait(header, date), seconds, header)
            self.assertIsNone(seconds_to_wait("Wed, 21 Oct 2026 07:28:17 GMT", ""))

    @given(st.text(max_size=80), st.text(max_size=80))
    def test_any_header(self, header: str, date: str) -> None:
        """No header raises, and no wait is negative."""
        wait = seconds_to_wait(header, date)
        self.assertTrue(wait is None or wait >= 0)

    def test_permanent(self) -> None:
        """Some servers answer 500 for what will never work; clients would try it ten times."""
        for words in (
            "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj",
            "Jinja exception: roles must alternate",
        ):
            self.assertEqual(said({"error": {"message": words}}, 500).status, 400)

    @given(st.integers(200, 599).filter(lambda status: not 300 <= status < 400), strategies.json_values())
    def test_any_json(self, status: int, value: Any) -> None:
        """Whatever a backend says, there is a problem with a status and a type that fit."""
        problem = problem_from_error("box", value, status)
        check_fit(problem.status, problem.type)
        self.assertTrue(problem.message)

    @given(st.binary(max_size=100))
    def test_any_bytes(self, data: bytes) -> None:
        """The same for any bytes."""
        problem = said(data, 500)
        check_fit(problem.status, problem.type)

    @given(strategies.chat_errors())
    def test_in_a_chunk(self, error: Any) -> None:
        """The same for any error in a chunk."""
        problem = problem_from_error("box", {"error": error}, 200)
        check_fit(problem.status, problem.type)

    def test_digits_without_end(self) -> None:
        """Numbers that nobody can mean do no harm."""
        words = f"maximum context length is {'9' * 5000} tokens. However, your messages resulted in 5 tokens"
        self.assertTrue(said({"error": {"message": words, "code": "9" * 5000}}, 400).message)
        self.assertTrue(said({"error": {"message": "m", "code": "9" * 5000}}, 200).message)


class TextTests(SynchronousTestCase):
    """What comes where JSON is due, and what does not come."""

    def test_shown(self) -> None:
        """It is shown in part, on one line, without markup and what cannot be printed."""
        for text, shown in (
            (b"hello there", "hello there"),
            (b"<p>no\n\x1b[31m  luck</p>", "no [31m luck"),
            (b"\xff\x00x", "\ufffdx"),
            (b"<html>", "<html>"),
            (b"a" * 500, "a" * 100),
        ):
            problem = problem_from_text("box", text)
            self.assertEqual((problem.status, problem.message), (502, f"Backend box sent what is no JSON: {shown}"))

    def test_known(self) -> None:
        """Words that are known mean what they always mean."""
        self.assertEqual(
            problem_from_text("box", OPENAI.encode()).message, f"prompt is too long: {N} tokens > {M} maximum"
        )
        self.assertEqual(problem_from_text("box", b"roles must alternate").status, 400)

    def test_damaged(self) -> None:
        """What the model says in a damaged chunk is not taken for the server's own words."""
        damaged = b'{"choices":[{"delta":{"content":"prompt is too long'
        self.assertEqual(problem_from_text("box", damaged).status, 502)

    def test_empty_answer(self) -> None:
        """An empty answer means that the prompt was too long if it was; only a backend's own count is told."""
        for counted, estimated, window, message in (
            (9, 5, 8, "prompt is too long: 9 tokens > 8 maximum"),
            (8, 5, 8, "prompt is too long"),
            (0, 9, 8, "prompt is too long"),
            (0, 91, 100, "prompt is too long"),
            (0, 80, 100, "Backend box gave an empty answer."),
            (80, 200, 100, "Backend box gave an empty answer."),
            (900, 900, 0, "Backend box gave an empty answer."),
        ):
            problem = empty_answer("box", counted, estimated, window)
            self.assertEqual(problem.message, message, (counted, estimated, window))
            self.assertEqual(problem.status, 400 if "long" in message else 502)
