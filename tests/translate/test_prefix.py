"""What of a prompt was there before: fingerprints, and what differs (issue 5, part 3)."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.translate.chain import FINE, GROUP, Chain
from claudeproxy.translate.prefix import Continuity, begun, compare
from claudeproxy.wire.json import Raw, encode
from tests.strategies import nasty_texts

TOOLS = [{"type": "function", "function": {"name": "Bash", "parameters": Raw(b'{"type":"object"}')}}]


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def body(*messages: dict[str, Any], system: str = "Be brief.", **more: Any) -> dict[str, Any]:
    first = [{"role": "system", "content": system}] if system else []
    return {"model": "m", "messages": [*first, *messages], "tools": TOOLS, **more}


TALK = (user("1"), assistant("2"), user("3"), assistant("4"), user("5"))


def after(before: tuple[Any, ...], now: tuple[Any, ...], **more: Any) -> Continuity:
    return compare(Chain.of(body(*before)), Chain.of(body(*now, **more)), 1000)


class CompareTests(SynchronousTestCase):
    """One request after another."""

    def test_grown(self) -> None:
        """More messages behind the same ones: all of the earlier prompt should be in the cache."""
        how = after(TALK[:3], TALK)
        self.assertEqual((how.kind, how.at, how.why, how.expected_tokens), ("grown", None, "", 1000))
        self.assertEqual(how.header, "grown; expected-tokens=1000")
        self.assertLess(how.share, 1)

    def test_same(self) -> None:
        """The same request once more."""
        how = after(TALK, TALK)
        self.assertEqual((how.kind, how.share, how.expected_tokens), ("same", 1.0, 1000))

    def test_changed(self) -> None:
        """An earlier message is another: its place in the list that is sent, and whose it is."""
        how = after(TALK, (TALK[0], assistant("other"), *TALK[2:], assistant("6"), user("7")))
        self.assertEqual((how.kind, how.at, how.why, how.role), ("broken", 2, "message", "assistant"))
        self.assertEqual(how.words, "2:assistant message changed")
        self.assertEqual(how.header, f"broken; reason=message; at=2; expected-tokens={how.expected_tokens}")
        self.assertTrue(0 < how.expected_tokens < 1000)

    def test_last_changed(self) -> None:
        """The last message is another: its client thought better of it, or added to it."""
        how = after(TALK[:3], (*TALK[:2], user("3, and more"), assistant("4"), user("5")))
        self.assertEqual((how.why, how.at, how.words), ("tail", 3, "3:last user message changed"))

    def test_shortened(self) -> None:
        """Messages are gone: at the end, in the middle, or all of them for a summary."""
        for now, at in ((TALK[:3], 4), ((*TALK[:1], *TALK[3:]), 2), ((user("In short: 1 to 5."), assistant("6")), 1)):
            how = after(TALK, now)
            self.assertEqual((how.kind, how.why, how.at), ("broken", "shortened", at))
        self.assertEqual(after(TALK, TALK[:3]).share, 1.0)

    def test_head(self) -> None:
        """What stands before the messages, each by its name; nothing behind it is reusable."""
        first = Chain.of(body(*TALK), "a")
        for now, backend, why in (
            (body(*TALK, system="Be kind."), "a", "system"),
            (body(*TALK, system=""), "a", "system"),
            (body(*TALK) | {"tools": []}, "a", "tools"),
            (body(*TALK, chat_template_kwargs={"enable_thinking": True}), "a", "settings"),
            (body(*TALK) | {"model": "n"}, "a", "model"),
            (body(*TALK), "b", "backend"),
        ):
            how = compare(first, Chain.of(now, backend), 1000)
            self.assertEqual((how.kind, how.why, how.at, how.shared, how.expected_tokens), ("broken", why, None, 0, 0))
            self.assertIn("; at=head; ", how.header)

    def test_no_part_of_the_prompt(self) -> None:
        """What no template writes down changes nothing."""
        self.assertEqual(
            after(TALK, TALK, max_tokens=7, temperature=1, stream_options={}, return_progress=True).kind, "same"
        )

    def test_begun(self) -> None:
        """A conversation of its own: a head that was there before may be cached."""
        like, other = Chain.of(body(*TALK)), Chain.of(body(*TALK, system="x"))
        how = begun(Chain.of(body(user("9"))), like, 1000)
        self.assertEqual((how.kind, how.header[:4]), ("new", "new;"))
        self.assertTrue(0 < how.expected_tokens < 1000)
        self.assertEqual(begun(other, like, 1000), Continuity("new", size=other.size))

    def test_responses(self) -> None:
        """The Responses API: instructions, a text for all input, items without a role."""
        call = {"type": "function_call", "call_id": "a", "name": "Bash", "arguments": "{}"}
        first = {"model": "m", "instructions": "Be brief.", "input": [user("1"), call]}
        how = compare(Chain.of(first), Chain.of({**first, "input": [user("1"), call | {"name": "Read"}, user("2")]}))
        self.assertEqual((how.at, how.role, how.why), (1, "call", "tail"))
        how = compare(Chain.of(first), Chain.of({**first, "instructions": "Be kind."}))
        self.assertEqual(how.why, "system")
        self.assertEqual(compare(Chain.of({"input": "1"}), Chain.of({"input": [user("1"), user("2")]})).kind, "grown")

    def test_images(self) -> None:
        """An image weighs what it costs in tokens, not its bytes."""
        shown = [{"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 10**6}}]
        how = after((user(shown), *TALK), (user(shown), *TALK[:2], user("other"), *TALK[3:]))
        self.assertTrue(0 < how.shared < 10_000)


class ChainTests(SynchronousTestCase):
    """Fingerprints by themselves."""

    def test_bounded(self) -> None:
        """Beyond some thousands of messages groups of them share a digest; growth is growth all the same, and a change
        in a whole group is found."""
        many = [user(str(number)) for number in range(FINE + 3 * GROUP)]
        whole = Chain.of({"messages": many})
        self.assertEqual(len(whole), FINE + 3)
        for end in (FINE - 1, FINE + 1, FINE + GROUP + 1, FINE + 3 * GROUP):
            self.assertEqual(
                compare(Chain.of({"messages": many[:end]}), whole).kind[:4], "grow" if end < len(many) else "same"
            )
        self.assertEqual(compare(whole, Chain.of({"messages": [*many[:-9], user("x"), *many[-8:]]})).kind, "broken")

    @settings(max_examples=200, deadline=None)
    @given(st.lists(nasty_texts(), max_size=8), st.lists(nasty_texts(), max_size=8), st.integers(0, 8))
    def test_any(self, one: list[str], other: list[str], kept: int) -> None:
        """For any two conversations the first message that differs is found, and how much they share."""
        before = [user(text) for text in one]
        now = [*before[:kept], *(user(text) for text in other)]
        first, second = Chain.of(body(*before)), Chain.of(body(*now))
        how = compare(first, second, 1000)
        same = 0
        while same < min(len(before), len(now)) and encode(before[same]) == encode(now[same]):
            same += 1
        if same == len(before):
            self.assertEqual((how.kind, how.at), ("same" if len(now) == same else "grown", None))
        else:
            self.assertEqual((how.kind, how.at), ("broken", 1 + same))
        alone = Chain.of(body(*now[:same]))
        self.assertEqual((how.shared, how.size), (alone.size, second.size))
        self.assertEqual(how.expected_tokens, 1000 * alone.size // first.size)
