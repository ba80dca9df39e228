"""Anthropic's events as bytes (PROTOCOL 2.1, 3.1)."""

import json

from hypothesis import given
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.model.events import (
    BlockStart,
    BlockStop,
    Event,
    Failed,
    InputDelta,
    MessageDelta,
    MessageStart,
    MessageStop,
    Ping,
    SignatureDelta,
    TextDelta,
    ThinkingDelta,
    Usage,
)
from claudeproxy.model.problems import bad_gateway
from claudeproxy.wire.events import encode_event, stream_bytes
from tests import strategies
from tests.stream_checker import check_stream

USAGE = Usage(input=3, output=2, cache_read=5, cache_creation=1, thinking=1)
WHOLE: list[Event] = [
    Ping(),
    MessageStart("msg_1", "m", USAGE),
    BlockStart(0, {"type": "thinking", "thinking": "", "signature": ""}),
    ThinkingDelta(0, "t"),
    SignatureDelta(0, "s"),
    BlockStop(0),
    BlockStart(1, {"type": "text", "text": ""}),
    TextDelta(1, "a\n\nb"),
    BlockStop(1),
    BlockStart(2, {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {}}),
    InputDelta(2, '{"command":'),
    InputDelta(2, '"ls"}'),
    BlockStop(2),
    MessageDelta("tool_use", USAGE),
    MessageStop(),
]


class EventTests(SynchronousTestCase):
    """`stream_bytes`."""

    def test_whole(self) -> None:
        """Every event is a name and one line of JSON of the same type; the counts are complete."""
        found = check_stream(stream_bytes(WHOLE))
        self.assertEqual([block["type"] for block in found.content], ["thinking", "text", "tool_use"])
        self.assertEqual((found.text, found.calls[0]["input"], found.pings), ("a\n\nb", {"command": "ls"}, 1))
        assert found.message is not None
        self.assertEqual(
            found.message["usage"],
            {
                "input_tokens": 3,
                "output_tokens": 2,
                "cache_read_input_tokens": 5,
                "cache_creation_input_tokens": 1,
                "output_tokens_details": {"thinking_tokens": 1},
            },
        )

    def test_joined(self) -> None:
        """Events together are the events one by one."""
        self.assertEqual(stream_bytes(WHOLE), b"".join(map(encode_event, WHOLE)))

    @given(strategies.nasty_texts(halves=True))
    def test_any_text(self, text: str) -> None:
        """No text breaks out of its line."""
        for event in (TextDelta(0, text), ThinkingDelta(0, text), InputDelta(0, text), SignatureDelta(0, text)):
            data = encode_event(event)
            name, line, *rest = data.decode("utf-8").split("\n")
            self.assertEqual((name, rest), ("event: content_block_delta", ["", ""]))
            json.loads(line.removeprefix("data: "))

    def test_error(self) -> None:
        """An error carries the request's id, for the report of a user."""
        found = check_stream(stream_bytes([Failed(bad_gateway("gone"))], "req_7"))
        assert found.error is not None
        self.assertEqual((found.error.type, found.error.message), ("api_error", "gone"))
        self.assertEqual(found.events[0]["request_id"], "req_7")

    def test_no_event(self) -> None:
        """What is no event is a fault of ours."""
        self.assertRaises(TypeError, encode_event, object())
