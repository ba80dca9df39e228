"""Server-sent events in any split (PROTOCOL rows 64-70)."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.wire.lines import LineTooLong
from claudeproxy.wire.sse import TELLING, EventReader, ServerSentEvent, is_event_stream
from tests import strategies

STREAM = (
    b"\xef\xbb\xbf: hello\r\nretry: 5\nid: 7\ndata: one\n\n"
    b"event: error\ndata:two\ndata:  three\r\r"
    b": keep-alive\n\n\n\n"
    b'data: {"t":"\xe2\x82\xac\xf0\x9f\x98\x80"}\r\n\r\n'
    b"unknown\nnonsense: x\ndata:\n\n"
    b"data: last"
)
EVENTS = [
    ServerSentEvent("", b"one"),
    ServerSentEvent("error", b"two\n three"),
    ServerSentEvent("", '{"t":"€😀"}'.encode()),
    ServerSentEvent("", b""),
    ServerSentEvent("", b"last"),
]


def read(pieces: list[bytes]) -> list[ServerSentEvent]:
    reader = EventReader()
    events = [event for piece in pieces for event in reader.receive(piece)]
    return events + reader.close()


class EventReaderTests(SynchronousTestCase):
    """`EventReader`."""

    def test_whole(self) -> None:
        """BOM, comments, any line end, no space after the colon, several data lines, other fields, no blank line."""
        self.assertEqual(read([STREAM]), EVENTS)

    def test_byte_by_byte(self) -> None:
        """The same if every byte comes alone: no character is ever cut."""
        self.assertEqual(read([bytes([each]) for each in STREAM]), EVENTS)

    def test_every_split(self) -> None:
        """The same wherever two reads meet."""
        for place in range(len(STREAM) + 1):
            self.assertEqual(read([STREAM[:place], STREAM[place:]]), EVENTS, place)

    @given(st.data())
    def test_any_split(self, data: st.DataObject) -> None:
        """The same in any split."""
        self.assertEqual(read(data.draw(strategies.splits(STREAM))), EVENTS)

    @given(
        st.lists(strategies.clean_texts(1).map(lambda text: "x".join(text.splitlines()) or "x"), max_size=5), st.data()
    )
    def test_round(self, texts: list[str], data: st.DataObject) -> None:
        """What was written as data lines is read as the same bytes, whatever the line end and the split."""
        end = data.draw(st.sampled_from(["\n", "\r\n", "\r"]))
        stream = "".join(f"data: {text}{end}{end}" for text in texts).encode()
        found = read(data.draw(strategies.splits(stream)))
        self.assertEqual([event.data.decode() for event in found], texts)

    def test_at_once(self) -> None:
        """An event is there as soon as its blank line is, and not before."""
        reader = EventReader()
        self.assertEqual(reader.receive(b"data: a\n"), [])
        self.assertEqual(reader.receive(b"\n"), [ServerSentEvent("", b"a")])
        self.assertEqual(reader.close(), [])

    def test_bom_only_first(self) -> None:
        """Only the very first bytes may be a BOM."""
        self.assertEqual(read([b"data: a\n\n\xef\xbb\xbfdata: b\n\n"]), [ServerSentEvent("", b"a")])

    @given(st.binary(max_size=200), st.data())
    def test_never_raises(self, garbage: bytes, data: st.DataObject) -> None:
        """Any bytes are read, and their split makes no difference."""
        self.assertEqual(read(data.draw(strategies.splits(garbage))), read([garbage]))

    def test_bounded(self) -> None:
        """A line above the limit is refused."""
        reader = EventReader()
        reader._lines.longest = 100
        self.assertRaises(LineTooLong, reader.receive, b"data: " + b"x" * 101)

    def test_bounded_event(self) -> None:
        """So is an event of too many lines, but not a stream of many events."""
        lines = b"data: " + b"x" * 2**20 + b"\n"
        reader = EventReader()
        for _ in range(100):
            self.assertEqual(len(reader.receive(lines + lines + b"\n")), 1)
        for _ in range(60):
            reader.receive(lines)
        with self.assertRaises(LineTooLong):
            for _ in range(10):
                reader.receive(lines)


class IsEventStreamTests(SynchronousTestCase):
    """`is_event_stream`."""

    def test_yes(self) -> None:
        """A line of an event stream tells, whichever it is, after blank lines, a BOM and other words."""
        for head in (
            *(b"data: x", b"data:{", b":", b": keep-alive", b"event: error", b"id:1", b"retry: 9", b"data\n", b"id\r"),
            *(b"\r\n \n\ndata: x", b"\xef\xbb\xbfdata: x", b"hello\ndata: x", b"x: y\rid: 1", b"\xef\xbb\xbf\n: x"),
        ):
            self.assertIs(is_event_stream(head), True, head)

    def test_no(self) -> None:
        """JSON and markup tell at once; words of any kind once there are too many of them."""
        for head in (b"{", b" \n[", b'"', b"<html>\ndata: x", b'\xef\xbb\xbf{"', b"a" * TELLING, b"a\n" * TELLING):
            self.assertIs(is_event_stream(head), False, head)

    def test_unknown(self) -> None:
        """Until then nobody knows."""
        for head in (b"", b"\n\n", b"\xef", b"\xef\xbb\xbf", b"dat", b"data", b"error: no", b"1", b"null", b"database"):
            self.assertIsNone(is_event_stream(head), head)

    @given(st.lists(st.sampled_from([b"data", b"id", b":", b"{", b"\n", b"\r", b" ", b"\xef", b"\xbb\xbf", b"x"])))
    def test_stays(self, pieces: list[bytes]) -> None:
        """An answer is the same for any more of the body."""
        body = b"".join(pieces)
        known = None
        for end in range(len(body) + 1):
            found = is_event_stream(body[:end])
            self.assertTrue(known is None or found is known, body[:end])
            known = found
