"""What GET /v1/models says (PROTOCOL 1.7)."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.model.problems import Refusal
from claudeproxy.web.models import model_json, page

NAMES = [f"model-{number}" for number in range(45)]


def ids(found: dict[str, object]) -> list[str]:
    data = found["data"]
    assert isinstance(data, list)
    return [each["id"] for each in data]


class PageTests(SynchronousTestCase):
    """`page`."""

    def test_first(self) -> None:
        """Twenty are shown unless another number is asked for, and the answer tells that there are more."""
        found = page(NAMES, {})
        self.assertEqual(ids(found), NAMES[:20])
        self.assertEqual((found["first_id"], found["last_id"], found["has_more"]), ("model-0", "model-19", True))
        self.assertEqual(ids(page(NAMES, {"limit": "1000"})), NAMES)

    def test_none(self) -> None:
        """No models are an answer too."""
        self.assertEqual(page([], {})["data"], [])
        self.assertEqual((page([], {})["first_id"], page([], {})["has_more"]), (None, False))

    @given(st.integers(0, 45), st.integers(1, 50))
    def test_forward(self, count: int, limit: int) -> None:
        """Going on after the last one shows every model once, in order, and ends."""
        names, seen, query = NAMES[:count], [], {"limit": str(limit)}
        for _ in range(count + 1):
            found = page(names, query)
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
            found = page(names, query)
            seen = ids(found) + seen
            if not found["has_more"]:
                break
            query["before_id"] = str(found["first_id"])
        self.assertEqual(seen, names)

    def test_between(self) -> None:
        """Both bounds hold together."""
        self.assertEqual(ids(page(NAMES, {"after_id": "model-3", "before_id": "model-6"})), NAMES[4:6])
        self.assertEqual(ids(page(NAMES, {"after_id": "model-44"})), [])

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
                refused = self.assertRaises(Refusal, page, NAMES, {field: value})
                self.assertTrue(refused.problem.message.startswith(f"{field}: "))
                self.assertEqual(refused.problem.status, 400)

    def test_shape(self) -> None:
        """A model has what Anthropic's clients and OpenAI's clients look for."""
        found = model_json("m")
        self.assertEqual((found["type"], found["id"], found["display_name"]), ("model", "m", "m"))
        self.assertRegex(found["created_at"], r"\A\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z")
        self.assertEqual((found["object"], page([], {})["object"]), ("model", "list"))
