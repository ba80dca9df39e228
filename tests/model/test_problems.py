"""The closed list of what can go wrong (PROTOCOL 3)."""

from attrs.exceptions import FrozenInstanceError
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.model import problems
from claudeproxy.model.problems import LONGEST_DETAIL, Problem, Refusal, from_status, prompt_too_long
from tests.message_rules import check_fit


class ProblemTests(SynchronousTestCase):
    """What a caller is told."""

    def test_fitting(self) -> None:
        """Every problem's status and type belong together."""
        for problem in (
            problems.invalid_request("m"),
            problems.unauthenticated("m"),
            problems.forbidden("m"),
            problems.not_found("m"),
            problems.wrong_method("m"),
            problems.too_large("m"),
            problems.internal("req_1"),
            problems.bad_gateway("m"),
            problems.overloaded("m", 2),
            prompt_too_long(),
        ):
            check_fit(problem.status, problem.type)
            self.assertTrue(problem.outcome)

    @given(st.integers(400, 599), st.text(max_size=20), st.none() | st.integers(0, 9999))
    def test_any_status(self, status: int, message: str, seconds: int | None) -> None:
        """Whatever a backend answers becomes a status with the type that fits it; its class stays."""
        problem = from_status(status, message, seconds)
        check_fit(problem.status, problem.type)
        self.assertEqual(problem.status // 100, status // 100)
        self.assertEqual(problem.message, message)

    def test_table(self) -> None:
        """The statuses that clients treat in their own way pass through, what may come back is an overload."""
        for status, expected in {
            401: 401,
            402: 402,
            403: 403,
            404: 404,
            429: 429,
            500: 500,
            502: 502,
            503: 529,
            504: 529,
        }.items():
            self.assertEqual(from_status(status, "m", 7).status, expected)
        self.assertEqual(from_status(429, "m", 7).retry_after, 7)
        self.assertEqual(from_status(503, "m", 7).retry_after, 7)
        self.assertEqual(from_status(500, "m").status // 100, 5)

    def test_hopeless(self) -> None:
        """A refused key is not tried again for a minute; a limit may be tried as often as the client likes."""
        self.assertIs(from_status(401, "m").should_retry, False)
        self.assertIs(from_status(403, "m").should_retry, False)
        self.assertIsNone(from_status(429, "m").should_retry)
        self.assertIsNone(from_status(529, "m").should_retry)

    def test_bounded(self) -> None:
        """A backend's text is kept, but not without bound."""
        self.assertEqual(len(from_status(400, "x" * 10**6).message), LONGEST_DETAIL)

    def test_too_long(self) -> None:
        """The words are those that make Claude Code compact, with numbers only if both are known."""
        self.assertEqual(prompt_too_long(210, 200).message, "prompt is too long: 210 tokens > 200 maximum")
        self.assertEqual(prompt_too_long().message, "prompt is too long")
        self.assertEqual(prompt_too_long(210).message, "prompt is too long")
        self.assertEqual((prompt_too_long().status, prompt_too_long().type), (400, "invalid_request_error"))

    def test_frozen(self) -> None:
        """A problem is a value."""
        problem = problems.invalid_request("m")
        self.assertRaises(FrozenInstanceError, setattr, problem, "status", 200)
        self.assertEqual(problem, problems.invalid_request("m"))
        self.assertIsInstance(Refusal(problem).problem, Problem)
        self.assertEqual(str(Refusal(problem)), "m")
