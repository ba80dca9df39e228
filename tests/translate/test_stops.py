"""Stop sequences are found wherever the text is cut, and no text is lost for them (PROTOCOL 4.3)."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.translate.stops import Ending, StopWatch, ending_of, shown_reason

#: Few letters, so that sequences overlap, begin within each other and repeat.
WORDS = st.text("abc", min_size=1, max_size=4)


def watched(stops: tuple[str, ...], pieces: list[str]) -> tuple[str, str | None]:
    """What is shown, and what hit."""
    watch = StopWatch(stops)
    shown = "".join(watch.receive(piece) for piece in pieces)
    return shown + watch.close(), watch.hit


def independent(stops: tuple[str, ...], text: str) -> tuple[str, str | None]:
    """The same, letter by letter: the first sequence that is complete ends the text; of several the longest."""
    for end in range(1, len(text) + 1):
        hits = [stop for stop in stops if stop and text[:end].endswith(stop)]
        if hits:
            hit = max(hits, key=len)
            return text[: end - len(hit)], hit
    return text, None


class EndingTests(SynchronousTestCase):
    """`ending_of`."""

    def test_known(self) -> None:
        """Servers spell reasons differently."""
        for reason, ending in (
            ("", Ending.WHOLE),
            ("stop", Ending.WHOLE),
            ("tool_calls", Ending.WHOLE),
            ("MAX_TOKENS", Ending.LENGTH),
            ("maxTokens", Ending.LENGTH),
            ("model_length", Ending.WINDOW),
            ("content-filter", Ending.REFUSED),
            ("network_error", Ending.BROKEN),
            ("insufficient_system_resource", Ending.BUSY),
        ):
            self.assertIs(ending_of(reason), ending, reason)

    def test_unknown(self) -> None:
        """What nobody knows is not guessed."""
        for reason in ("stopped by the cat", "5", "length" * 100, "repetition", "…"):
            self.assertIsNone(ending_of(reason), reason)

    def test_shown(self) -> None:
        """An unknown reason is shown on one line of a log, in part."""
        self.assertEqual(shown_reason("a\n\x1b[1mé" + "x" * 99), "a??[1m?" + "x" * 33)


class StopWatchTests(SynchronousTestCase):
    """`StopWatch`."""

    def test_none(self) -> None:
        """Without stop sequences nothing is held back."""
        watch = StopWatch(())
        self.assertEqual((watch.receive("abc"), watch.close(), watch.hit), ("abc", "", None))

    def test_every_split(self) -> None:
        """A sequence is found wherever two pieces meet; the text before it is shown, the rest is not."""
        text = "Hello STOP and more"
        for place in range(len(text) + 1):
            self.assertEqual(watched(("STOP", "nope"), [text[:place], text[place:]]), ("Hello ", "STOP"))
        self.assertEqual(watched(("STOP",), list(text)), ("Hello ", "STOP"))

    def test_at_once(self) -> None:
        """Only what may be the beginning of a sequence is held back."""
        watch = StopWatch(("STOP", "\n\nHuman:"))
        self.assertEqual(watch.receive("Hello ST"), "Hello ")
        self.assertEqual(watch.receive("ILL\n"), "STILL")
        self.assertEqual(watch.receive("x"), "\nx")

    def test_nothing_after(self) -> None:
        """After a hit nothing is shown any more."""
        watch = StopWatch(("b",))
        self.assertEqual((watch.receive("abc"), watch.receive("def"), watch.close()), ("a", "", ""))

    def test_two_at_once(self) -> None:
        """Of two sequences the one that is complete first ends the text, also if the other began before it."""
        for pieces in (["abca"], ["a", "bca"], list("abca")):
            self.assertEqual(watched(("abca", "b"), pieces), ("a", "b"))
            self.assertEqual(watched(("ca", "bca"), pieces), ("a", "bca"))

    @given(st.text("abc", max_size=20), st.lists(WORDS, max_size=4).map(tuple), st.data())
    def test_any_split(self, text: str, stops: tuple[str, ...], data: st.DataObject) -> None:
        """In any split the same text is shown and the same sequence hits, as an independent search finds them."""
        pieces, rest = [], text
        while rest:
            size = data.draw(st.integers(1, len(rest)))
            pieces.append(rest[:size])
            rest = rest[size:]
        self.assertEqual(watched(stops, pieces), independent(stops, text))

    @given(st.lists(st.text("abSTOP", max_size=6)))
    def test_nothing_lost(self, pieces: list[str]) -> None:
        """Without a hit all text is shown, in order."""
        text = "".join(pieces)
        shown, hit = watched(("STOPS", "never"), pieces)
        if hit is None:
            self.assertEqual(shown, text)
        else:
            self.assertTrue(text.startswith(shown + hit))
