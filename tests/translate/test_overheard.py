"""What is overheard of an answer that is passed on untouched."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.translate import overheard
from claudeproxy.translate.overheard import Overheard
from tests.fakes import anthropic
from tests.fakes.scripts import json_bytes


def heard(data: bytes, size: int = 0, streams: bool = True) -> Overheard:
    """All of an answer, in pieces of this size."""
    listens = Overheard(streams)
    size = size or len(data) or 1
    for start in range(0, len(data), size):
        listens.receive(data[start : start + size])
    listens.close()
    return listens


def events(*found: dict[str, Any]) -> bytes:
    return b"".join(b"event: " + each["type"].encode() + b"\ndata: " + json_bytes(each) + b"\n\n" for each in found)


WHOLE = events(*anthropic.events(anthropic.text("Hello", " world")))


class StreamTests(SynchronousTestCase):
    def test_counts_and_outcome(self) -> None:
        """Counts and the reason of the end are heard in any split: those of the end over those of the beginning."""
        for size in (1, 7, 100, 0):
            found = heard(WHOLE, size)
            assert found.usage is not None
            self.assertEqual((found.usage.input, found.usage.cache_read, found.usage.output), (12, 5, 7))
            self.assertEqual((found.outcome, found.begun, found.over), ("end_turn", True, True))

    def test_line_ends(self) -> None:
        """So they are with any line ends, and without a blank line after the last event."""
        for end in (b"\r\n", b"\r"):
            self.assertEqual(heard(WHOLE.replace(b"\n", end), 3).outcome, "end_turn")
        last = {"type": "message_delta", "delta": {"stop_reason": "refusal"}, "usage": {"output_tokens": 3}}
        self.assertEqual(heard(events(last).rstrip()).outcome, "refusal")

    def test_without_names(self) -> None:
        """And from servers that leave the names of their events to the data."""
        lines = [line for line in WHOLE.splitlines(keepends=True) if not line.startswith(b"event: ")]
        found = heard(b"".join(lines))
        self.assertEqual((found.outcome, found.begun, found.over), ("end_turn", True, True))

    def test_content(self) -> None:
        """A block of content is told from what comes before it."""
        listens = Overheard(streams=True)
        first, second, *_ = anthropic.events(anthropic.text("Hello"))
        self.assertFalse(listens.receive(events(first, second)))
        [start, *_] = anthropic.block_events(0, anthropic.text("Hello"))
        self.assertFalse(listens.receive(events(start)[:-1]))
        self.assertTrue(listens.receive(b"\n"))
        self.assertFalse(listens.over)

    def test_error(self) -> None:
        """An error is an end, by its type."""
        found = heard(events({"type": "error", "error": {"type": "overloaded_error", "message": "m"}}))
        self.assertEqual((found.outcome, found.over), ("overloaded_error", True))

    def test_never_fails(self) -> None:
        """Whatever comes, nothing is raised, and what is not said is not known."""
        for data in (
            b"\xff\xfe\0",
            b"event: message_start\ndata: {no json\n\n",
            b"event: message_start\ndata: [1]\n\n",
            b'event: message_delta\ndata: {"usage": 7, "delta": [], "message": null}\n\n',
            b'event: message_delta\ndata: {"usage": {"input_tokens": "many", "output_tokens": {"a": 1}}}\n\n',
            b'event: message_delta\ndata: {"usage": {"input_tokens": -3, "output_tokens": 1e308}}\n\n',
            b'event: error\ndata: {"type": "error", "error": "text"}\n\n',
            b'data: {"type": 7}\n\n',
            b'data: {"type": "message_delta", "delta": {"stop_reason": 7}}\n\n',
            b"event: message_start\ndata: " + b"[" * 100_000 + b"\n\n",
        ):
            for size in (1 if len(data) < 1000 else 1000, 0):
                self.assertIn(heard(data, size).outcome, ("", "error"))

    def test_endless_line(self) -> None:
        """A line that does not end is no reason to fail, nor to keep all of it."""
        listens = Overheard(streams=True)
        for _ in range(70):
            listens.receive(b"x" * 1024 * 1024)
        self.assertFalse(listens.receive(WHOLE))
        listens.close()
        self.assertEqual(listens.outcome, "")


class WholeTests(SynchronousTestCase):
    def test_message(self) -> None:
        """A message without a stream tells the same."""
        found = heard(json_bytes(anthropic.message(anthropic.text("Hello"))), 10, streams=False)
        self.assertEqual((found.outcome, found.usage and found.usage.input), ("end_turn", 12))

    def test_error(self) -> None:
        """So does an error."""
        said = {"type": "error", "error": {"type": "rate_limit_error", "message": "m"}, "request_id": "req_1"}
        self.assertEqual(heard(json_bytes(said), streams=False).outcome, "rate_limit_error")

    def test_anything_else(self) -> None:
        """Anything else tells nothing."""
        for data in (b"", b"%PDF-1.7 \xff", b"null", b'{"data": []}', b'"text"', b"{" * 10_000):
            found = heard(data, streams=False)
            self.assertEqual((found.outcome, found.usage), ("", None))

    def test_large(self) -> None:
        """What is too large to be a message is not kept."""
        listens = Overheard()
        for _ in range(40):
            self.assertTrue(listens.receive(b"x" * (overheard._LONGEST // 16)))
        self.assertEqual(listens._text, [])
        listens.close()
        self.assertEqual(listens.outcome, "")
