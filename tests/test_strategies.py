"""The strategies give what they promise."""

import json
from typing import Any

from anthropic.types import MessageParam
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes.scripts import json_bytes
from tests.strategies import chat_streams, json_objects, nasty_texts, sensible_streams, splits, text_requests

QUICK = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
MESSAGES = TypeAdapter(list[MessageParam])


class StrategyTests(SynchronousTestCase):
    """tests.strategies."""

    @QUICK
    @given(st.binary(max_size=50), st.data())
    def test_splits(self, data: bytes, source: st.DataObject) -> None:
        """The pieces are the data again, and none is empty."""
        pieces = source.draw(splits(data))
        self.assertEqual(b"".join(pieces), data)
        self.assertNotIn(b"", pieces)

    def test_every_kind_of_split(self) -> None:
        """There is the whole, the single bytes, and uneven pieces."""
        for wanted in ([b"abcd"], [b"a", b"b", b"c", b"d"], [b"a", b"bcd"], [b"ab", b"cd"], [b"ab", b"c", b"d"]):
            self.assertEqual(find(splits(b"abcd"), lambda pieces, w=wanted: pieces == w), wanted)  # type: ignore[misc]

    @QUICK
    @given(json_objects())
    def test_json(self, value: dict[str, Any]) -> None:
        """JSON objects survive being written and read."""
        self.assertEqual(json.loads(json_bytes(value)), value)

    def test_halves(self) -> None:
        """Lone surrogates come only when asked for."""
        find(nasty_texts(halves=True), lambda text: any("\ud800" <= char <= "\udfff" for char in text))
        self.assertIn("\0", find(nasty_texts(), lambda text: "\0" in text))

    @QUICK
    @given(text_requests())
    def test_requests(self, request: dict[str, Any]) -> None:
        """Requests of text are valid by the official SDK's types, save the mid-conversation system role it may lack."""
        known = [message for message in request["messages"] if message["role"] != "system"]
        MESSAGES.validate_python(known, strict=True)
        self.assertEqual(request["messages"][0]["role"], "user")
        json.dumps(request).encode()

    @QUICK
    @given(chat_streams())
    def test_chunks(self, chunks: list[dict[str, Any]]) -> None:
        """Every chunk can travel as JSON."""
        for chunk in chunks:
            self.assertEqual(json.loads(json_bytes(chunk)), chunk)

    @QUICK
    @given(sensible_streams())
    def test_sensible(self, answer: tuple[list[dict[str, Any]], list[dict[str, Any]], str]) -> None:
        """The blocks promised are those that the deltas spell."""
        chunks, blocks, reason = answer
        deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
        said = "".join(delta.get("content", "") for delta in deltas)
        self.assertEqual(said, "".join(block.get("text", "") for block in blocks))
        calls = [entry for delta in deltas for entry in delta.get("tool_calls", ())]
        for block in blocks:
            if block["type"] == "tool_use":
                mine = [call for call in calls if f"call_{call['index']}" == block["id"]]
                self.assertEqual(json.loads("".join(call["function"]["arguments"] for call in mine)), block["input"])
        self.assertEqual(reason == "tool_use", bool(calls))
