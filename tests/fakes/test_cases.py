"""The corpus is complete, every case can be met by a legal answer, and the judge of cases sees what is wrong."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes.cases import CORPUS, Case, Disagreement, load_cases
from tests.fakes.scripts import Chunk, Script, step_bytes
from tests.stream_checker import IllegalStream, check_message, check_stream

#: The rows of PROTOCOL 5 that a script can express; the others are about connections, the client or other dialects.
ROWS = {*range(1, 79), 80}

USAGE = {"input_tokens": 1, "output_tokens": 9, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
START: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [],
    "stop_reason": None,
    "stop_sequence": None,
    "usage": USAGE,
}


def block_events(index: int, block: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The events of a block that meets an expectation."""
    start: dict[str, Any]
    match block["type"]:
        case "text":
            start = {"type": "text", "text": ""}
            deltas = [{"type": "text_delta", "text": block.get("text", block.get("has"))}]
        case "thinking":
            start = {"type": "thinking", "thinking": "", "signature": ""}
            thoughts = [{"type": "thinking_delta", "thinking": block["thinking"]}] if block["thinking"] else []
            deltas = [*thoughts, {"type": "signature_delta", "signature": "sig"}]
        case _:
            number = f"toolu_{index}" if block["id"] == "*" else block["id"]
            start = {"type": "tool_use", "id": number, "name": block["name"], "input": {}}
            spelled = block["raw"] if "raw" in block else json.dumps(block["input"])
            pieces = [spelled[place : place + 8192] for place in range(0, len(spelled), 8192)]
            deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    yield {"type": "content_block_start", "index": index, "content_block": start}
    for delta in deltas:
        yield {"type": "content_block_delta", "index": index, "delta": delta}
    yield {"type": "content_block_stop", "index": index}


def told(expect: Mapping[str, Any]) -> bytes:
    """A legal stream that meets an expectation."""
    events: list[dict[str, Any]] = [{"type": "message_start", "message": START}]
    for index, block in enumerate(expect.get("content", ())):
        events += block_events(index, block)
    if (error := expect.get("error") or expect.get("http")) is not None:
        kind = error["type"] if isinstance(error["type"], str) else error["type"][0]
        events.append({"type": "error", "error": {"type": kind, "message": f"so: {error.get('says', '')}"}})
    else:
        counts = {name: 1 if count == "*" else count for name, count in expect.get("usage", {}).items()}
        stop = {"stop_reason": expect["stop_reason"], "stop_sequence": expect.get("stop_sequence")}
        events.append({"type": "message_delta", "delta": stop, "usage": {"output_tokens": 9} | counts})
        events.append({"type": "message_stop"})
    return b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events)


class CorpusTests(SynchronousTestCase):
    """tests/corpus."""

    def test_every_row(self) -> None:
        """Every row that a script can express has a case, and the file's name begins with the row."""
        cases = list(load_cases())
        self.assertEqual({case.row for case in cases}, ROWS)
        for case in cases:
            self.assertTrue(case.name.startswith(f"{case.row:02d}-"), case.name)
            self.assertTrue(case.note and case.title, case.name)
            self.assertNotIn(None, (case.request.get("model"), case.request.get("messages")))

    def test_fields(self) -> None:
        """No file has a field that nobody reads."""
        known = set("row title note status headers close_delimited steps request needs transport expect".split())
        for path in CORPUS.iterdir():
            self.assertEqual(path.suffix, ".json")
            self.assertLessEqual(set(json.loads(path.read_text("utf-8"))), known, path.name)

    def test_can_be_met(self) -> None:
        """For every alternative of every case there is a legal stream that meets it."""
        for case in load_cases():
            for choice in case.choices:
                with self.subTest(case.name):
                    case.judge_stream(told(choice))

    def test_is_missed(self) -> None:
        """No case is met by an answer of another text, by an empty one, or by another error."""
        other = {"content": [{"type": "text", "text": "something else"}], "stop_reason": "end_turn"}
        empty = {"content": [], "stop_reason": "pause_turn"}
        error = {"error": {"type": "conflict_error"}}
        for case in load_cases():
            for wrong in (other, empty, error):
                with self.subTest(case.name):
                    self.assertRaises(Disagreement, case.judge_stream, told(wrong))

    def test_scripts(self) -> None:
        """Every script has a body that comes out of its writes."""
        for case in load_cases():
            self.assertEqual(b"".join(case.script.writes()), case.script.body_bytes())
            for step in case.script.steps:
                if isinstance(step, Chunk):
                    written = step_bytes(step).removeprefix(b"data: ")
                    self.assertEqual(json.loads(written), step.value)


class CaseTests(SynchronousTestCase):
    """The judge of cases."""

    def case(self, **expect: Any) -> Case:
        return Case(
            name="00-x", row=0, title="", note="", script=Script(), request={}, needs={}, transport=False, expect=expect
        )

    def test_http(self) -> None:
        """An HTTP error is judged by status, type, text and headers; a stream by its error's type and text."""
        wanted = {"status": [502, 529], "type": ["api_error", "overloaded_error"], "says": "gone"}
        case = self.case(http={**wanted, "headers": {"retry-after": "7"}})
        body = {"type": "error", "error": {"type": "api_error", "message": "b: gone"}, "request_id": "req_1"}
        case.judge_error(502, body, {"retry-after": "7"})
        case.judge_error(502, body)
        self.assertRaises(Disagreement, case.judge_error, 502, body, {})
        self.assertRaises(Disagreement, case.judge_error, 500, body)
        self.assertRaises(IllegalStream, case.judge_error, 529, body)
        case.judge_stream(told({"error": {"type": "api_error", "says": "gone"}}))
        self.assertRaises(Disagreement, case.judge_stream, told({"error": {"type": "api_error"}}))
        with_text = {"content": [{"type": "text", "text": "a"}], "error": {"type": "api_error", "says": "gone"}}
        self.assertRaises(Disagreement, case.judge_stream, told(with_text))

    def test_error_as_status(self) -> None:
        """An error demanded in the stream may come as a status, but not if text had to come first."""
        body = {"type": "error", "error": {"type": "api_error", "message": "m"}, "request_id": "req_1"}
        self.case(error={"type": "api_error"}).judge_error(500, body)
        early = self.case(error={"type": "api_error"}, content=[{"type": "text", "text": "a"}])
        self.assertRaises(Disagreement, early.judge_error, 500, body)
        self.assertRaises(Disagreement, self.case(content=[], stop_reason="end_turn").judge_error, 500, body)

    def test_message(self) -> None:
        """An answer without a stream is judged alike."""
        expect = {
            "content": [{"type": "text", "text": "a"}],
            "stop_reason": "max_tokens",
            "usage": {"output_tokens": 9},
        }
        message = check_stream(told(expect)).message
        check_message(message)
        self.case(**expect).judge_message(message)
        other = evolve(self.case(**expect), expect=expect | {"stop_reason": "end_turn"})
        self.assertRaises(Disagreement, other.judge_message, message)

    def test_details(self) -> None:
        """Types of numbers, ids, signatures and counts are told apart."""
        call = {"type": "tool_use", "id": "a", "name": "b", "input": {"n": 1}}
        for wanted, seen in [
            (call, call | {"input": {"n": 1.0}}),
            (call, call | {"input": {"n": True}}),
            (call, call | {"id": "b"}),
            (call, call | {"name": ""}),
            (call | {"id": "*"}, call),
            ({"type": "tool_use", "id": "a", "name": "b", "raw": "{n:1}"}, call),
        ]:
            case = self.case(content=[wanted], stop_reason="tool_use")
            case.judge_stream(told(case.expect))
            self.assertRaises(Disagreement, case.judge_stream, told({"content": [seen], "stop_reason": "tool_use"}))
        signed = {"content": [{"type": "thinking", "thinking": "", "signature": "*"}], "stop_reason": "end_turn"}
        unsigned = told(signed).replace(b'"sig"', b'""')
        self.case(**signed).judge_stream(told(signed))
        self.assertRaises(Disagreement, self.case(**signed).judge_stream, unsigned)
        counted = self.case(content=[], stop_reason="end_turn", usage={"input_tokens": "*"})
        none = {"content": [], "stop_reason": "end_turn", "usage": {"input_tokens": 0}}
        self.assertRaises(Disagreement, counted.judge_stream, told(none))
