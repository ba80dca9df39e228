"""The judge itself: it passes every legal stream and names the fault of every illegal one."""

import json
from typing import Any

import httpx2
from anthropic import Anthropic, APIError
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.stream_checker import PIECE_LIMIT, ErrorSeen, IllegalStream, check_error, check_message, check_stream

Event = dict[str, Any]

USAGE = {"input_tokens": 12, "output_tokens": 1, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}


def body(*events: Event) -> bytes:
    """The bytes of a stream of these events."""
    return b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events)


def start(**changes: Any) -> Event:
    message: dict[str, Any] = {
        "id": "msg_01",
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": USAGE,
    }
    return {"type": "message_start", "message": {k: v for k, v in (message | changes).items() if v is not ...}}


def opened(index: Any, **block: Any) -> Event:
    return {"type": "content_block_start", "index": index, "content_block": block}


def delta(index: Any, kind: str, **fields: Any) -> Event:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **fields}}


def closed(index: Any) -> Event:
    return {"type": "content_block_stop", "index": index}


def ended(reason: Any = "end_turn", sequence: Any = None, usage: Any = None, **more: Any) -> Event:
    inner = {"stop_reason": reason, "stop_sequence": sequence, **more}
    return {"type": "message_delta", "delta": inner, "usage": {"output_tokens": 3} if usage is None else usage}


def text(index: int, *pieces: str) -> list[Event]:
    deltas = [delta(index, "text_delta", text=piece) for piece in pieces]
    return [opened(index, type="text", text=""), *deltas, closed(index)]


def thinking(index: int, *pieces: str, signature: str = "sig") -> list[Event]:
    deltas = [delta(index, "thinking_delta", thinking=piece) for piece in pieces]
    first = opened(index, type="thinking", thinking="", signature="")
    return [first, *deltas, delta(index, "signature_delta", signature=signature), closed(index)]


def call(index: int, *pieces: str, id: Any = "toolu_1", name: Any = "Bash") -> list[Event]:
    deltas = [delta(index, "input_json_delta", partial_json=piece) for piece in pieces]
    return [opened(index, type="tool_use", id=id, name=name, input={}), *deltas, closed(index)]


def failure(kind: Any = "api_error", message: Any = "backend b: gone") -> Event:
    return {"type": "error", "error": {"type": kind, "message": message}}


PING: Event = {"type": "ping"}
STOP: Event = {"type": "message_stop"}

GOOD: dict[str, list[Event]] = {
    "the smallest": [start(), *text(0, "Hello"), ended(), STOP],
    "no block at all": [start(), ended(), STOP],
    "pings everywhere": [PING, start(), PING, *text(0, "a")[:2], PING, closed(0), PING, ended(), PING, STOP],
    "thinking, text, two calls": [
        start(),
        *thinking(0, "Let", " me"),
        *text(1, "Hi"),
        *call(2, "", '{"command"', ':"ls"}'),
        *call(3, "{}", id="x y", name="Read"),
        ended("tool_use"),
        STOP,
    ],
    "thinking omitted": [start(), *thinking(0), *text(1, "x"), ended(), STOP],
    "thinking after text": [start(), *text(0, "x"), *thinking(1, "y"), ended(), STOP],
    "a call without arguments": [start(), *call(0), ended("tool_use"), STOP],
    "a finished call, then too long": [start(), *call(0, "{}"), ended("max_tokens"), STOP],
    "empty deltas": [start(), *text(0, "", "a", ""), ended(), STOP],
    "redacted thinking": [start(), opened(0, type="redacted_thinking", data="x"), closed(0), ended(), STOP],
    "a stop sequence": [start(), *text(0, "a"), ended("stop_sequence", "END"), STOP],
    "a refusal": [
        start(),
        *text(0, "No."),
        ended("refusal", stop_details={"type": "refusal", "category": None, "explanation": None}),
        STOP,
    ],
    "a citation": [
        start(),
        opened(0, type="text", text="", citations=[]),
        delta(0, "text_delta", text="a"),
        delta(0, "citations_delta", citation={"type": "char_location", "cited_text": "b"}),
        closed(0),
        ended(),
        STOP,
    ],
    "a server tool": [
        start(),
        opened(0, type="server_tool_use", id="srvtoolu_1", name="web_search", input={}),
        delta(0, "input_json_delta", partial_json='{"query":"x"}'),
        closed(0),
        opened(1, type="web_search_tool_result", tool_use_id="srvtoolu_1", content=[]),
        closed(1),
        *text(2, "none"),
        ended(),
        STOP,
    ],
    "a full usage at the end": [
        start(),
        *text(0, "a"),
        ended(usage={**USAGE, "output_tokens": 9, "output_tokens_details": {"thinking_tokens": 4}}),
        STOP,
    ],
    "only an error": [failure("overloaded_error")],
    "an error after pings": [PING, failure()],
    "an error in an open block": [start(), *text(0, "a")[:2], failure()],
    "an error with an id": [start(), failure() | {"request_id": "req_1"}],
    "the largest piece": [start(), *call(0, json.dumps({"a": "x" * (PIECE_LIMIT - 9)})), ended("tool_use"), STOP],
}

A = text(0, "a")
CITED = {"type": "char_location", "cited_text": "b"}
THOUGHT = thinking(0)[0]
SEARCH = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}}
FOUND = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []}
REST = [ended(), STOP]
CALLED = [ended("tool_use"), STOP]

#: What is said of the fault, and a stream that has this one fault.
BAD: list[tuple[str, list[Event]]] = [
    ("before message_start", [*A, *REST]),
    ("before message_start", [*REST]),
    ("a second message_start", [start(), start(), *A, *REST]),
    ("a second message_start", [start(), *A, start(), *REST]),
    ("ends without message_stop", []),
    ("ends without message_stop", [start(), *A]),
    ("ends without message_stop", [start(), *A, ended()]),
    ("ends without message_stop", [PING]),
    ("message_stop without message_delta", [start(), *A, STOP]),
    ("second message_delta", [start(), *A, ended(), ended(), STOP]),
    ("after the end", [start(), *A, *REST, STOP]),
    ("after the end", [start(), *A, *REST, PING]),
    ("after the end", [start(), *A, *REST, failure()]),
    ("after the end", [start(), failure(), *REST]),
    ("after the end", [start(), failure(), failure()]),
    ("content event", [start(), *A, ended(), *text(1, "b"), STOP]),
    ("while a block is open", [start(), *A[:2], *REST]),
    ("while another is open", [start(), *A[:2], opened(1, type="text", text=""), closed(1), closed(0), *REST]),
    ("block index 1 where 0", [start(), *text(1, "a"), *REST]),
    ("block index 2 where 1", [start(), *A, *text(2, "a"), *REST]),
    ("block index 0 where 1", [start(), *A, *A, *REST]),
    ("index is not", [start(), *text(True, "a"), *REST]),
    ("index is not", [start(), *text(0.0, "a"), *REST]),  # type: ignore[arg-type]
    ("index is not", [start(), *text("0", "a"), *REST]),  # type: ignore[arg-type]
    ("index 1 while block 0", [start(), A[0], delta(1, "text_delta", text="a"), A[2], *REST]),
    ("index 1 while block 0", [start(), *A[:2], closed(1), *REST]),
    ("no block is open", [start(), A[1], *REST]),
    ("no block is open", [start(), *A, A[2], *REST]),
    ("no block is open", [start(), *A, A[1], *REST]),
    ("of type text", [start(), A[0], delta(0, "thinking_delta", thinking="a"), A[2], *REST]),
    ("of type text", [start(), A[0], delta(0, "input_json_delta", partial_json="{}"), A[2], *REST]),
    ("of type tool_use", [start(), call(0)[0], A[1], closed(0), *CALLED]),
    ("of type redacted", [start(), opened(0, type="redacted_thinking", data="x"), A[1], A[2], *REST]),
    ("of type text", [start(), A[0], {"type": "content_block_delta", "index": 0, "delta": {}}, A[2], *REST]),
    ("delta is not an object", [start(), A[0], {"type": "content_block_delta", "index": 0, "delta": "a"}, A[2]]),
    ("without its signature", [start(), *thinking(0, "a")[:2], closed(0), *REST]),
    ("after the signature", [start(), *thinking(0, "a")[:3], thinking(0, "a")[2], closed(0), *REST]),
    ("after the signature", [start(), *thinking(0, "a")[:3], thinking(0, "a")[1], closed(0), *REST]),
    ("not make a JSON object", [start(), *call(0, '{"a":'), *CALLED]),
    ("not make a JSON object", [start(), *call(0, "{}", "{}"), *CALLED]),
    ("not make a JSON object", [start(), *call(0, "[]"), *CALLED]),
    ("not make a JSON object", [start(), *call(0, '"{}"'), *CALLED]),
    ("not make a JSON object", [start(), *call(0, '{"a":NaN}'), *CALLED]),
    ("not make a JSON object", [start(), *call(0, "{'a':1}"), *CALLED]),
    ("not make a JSON object", [start(), *call(0, " "), *CALLED]),
    ("more than 16384", [start(), *call(0, json.dumps({"a": "x" * PIECE_LIMIT})), *CALLED]),
    ("more than 16384", [start(), *call(0, '{"a":"', "ä" * (PIECE_LIMIT // 2 + 1), '"}'), *CALLED]),
    ("partial_json is not", [start(), *call(0, {"a": 1}), *CALLED]),  # type: ignore[arg-type]
    ("is used twice", [start(), *call(0, "{}"), *call(1, "{}"), *CALLED]),
    ("id of a tool_use", [start(), *call(0, "{}", id=""), *CALLED]),
    ("id of a tool_use", [start(), *call(0, "{}", id=None), *CALLED]),
    ("lacks id", [start(), opened(0, type="tool_use", name="a", input={}), closed(0), *CALLED]),
    ("name of a tool_use", [start(), *call(0, "{}", name=None), *CALLED]),
    ("an input that is", [start(), opened(0, type="tool_use", id="a", name="b", input={"a": 1}), closed(0), *CALLED]),
    ("a text that is", [start(), opened(0, type="text", text="a"), closed(0), *REST]),
    ("lacks text", [start(), opened(0, type="text"), closed(0), *REST]),
    ("a thinking that is", [start(), opened(0, type="thinking", thinking="a", signature=""), closed(0), *REST]),
    ("a signature that is", [start(), opened(0, type="thinking", thinking="", signature="a"), closed(0), *REST]),
    ("lacks signature", [start(), opened(0, type="thinking", thinking=""), closed(0), *REST]),
    ("unknown type 'image'", [start(), opened(0, type="image"), closed(0), *REST]),
    ("unknown type None", [start(), opened(0), closed(0), *REST]),
    ("unknown fields: extra", [start(), opened(0, type="text", text="", extra=1), closed(0), *REST]),
    ("srvtoolu_", [start(), opened(0, type="server_tool_use", id="a", name="web_search", input={}), closed(0), *REST]),
    (
        "without its call",
        [start(), opened(0, type="web_search_tool_result", tool_use_id="a", content=[]), closed(0), *REST],
    ),
    ("without a tool_use block", [start(), *A, *CALLED]),
    ("end_turn after a tool_use", [start(), *call(0, "{}"), *REST]),
    ("'stop' is unknown", [start(), *A, ended("stop"), STOP]),
    ("None is unknown", [start(), *A, ended(None), STOP]),
    ("stop_sequence, with", [start(), *A, ended("stop_sequence"), STOP]),
    ("a stop_sequence with", [start(), *A, ended("end_turn", "x"), STOP]),
    ("stop_details with", [start(), *A, ended(stop_details={"type": "refusal"}), STOP]),
    ("category is unknown", [start(), *A, ended("refusal", stop_details={"type": "refusal", "category": "x"}), STOP]),
    ("lacks usage", [start(), *A, {"type": "message_delta", "delta": ended()["delta"]}, STOP]),
    ("lacks stop_sequence", [start(), *A, ended() | {"delta": {"stop_reason": "end_turn"}}, STOP]),
    ("usage lacks output_tokens", [start(), *A, ended(usage={"input_tokens": 1}), STOP]),
    ("usage.output_tokens is not", [start(), *A, ended(usage={"output_tokens": 1.0}), STOP]),
    ("usage.output_tokens is not", [start(), *A, ended(usage={"output_tokens": -1}), STOP]),
    ("usage.output_tokens is not", [start(), *A, ended(usage={"output_tokens": True}), STOP]),
    ("usage.input_tokens is not", [start(), *A, ended(usage={"output_tokens": 1, "input_tokens": None}), STOP]),
    ("unknown fields: total", [start(), *A, ended(usage={"output_tokens": 1, "total": 2}), STOP]),
    (
        "more thinking tokens",
        [start(), *A, ended(usage={"output_tokens": 1, "output_tokens_details": {"thinking_tokens": 2}}), STOP],
    ),
    ("lacks usage", [start(usage=...), *A, *REST]),
    ("usage is not an object", [start(usage=None), *A, *REST]),
    ("lacks cache_read", [start(usage={k: v for k, v in USAGE.items() if k[6] != "r"}), *A, *REST]),
    ("usage.input_tokens is not", [start(usage=USAGE | {"input_tokens": "12"}), *A, *REST]),
    ("usage.cache_read_input_tokens", [start(usage=USAGE | {"cache_read_input_tokens": None}), *A, *REST]),
    ("message's id", [start(id="chatcmpl-1"), *A, *REST]),
    ("message's id", [start(id="msg_"), *A, *REST]),
    ("message's id", [start(id="msg_1\n"), *A, *REST]),
    ("message's id", [start(id=None), *A, *REST]),
    ("lacks id", [start(id=...), *A, *REST]),
    ("lacks stop_reason", [start(stop_reason=...), *A, *REST]),
    ("with a stop_reason", [start(stop_reason="end_turn"), *A, *REST]),
    ("with content", [start(content=[{"type": "text", "text": "a"}]), *A, *REST]),
    ("content is not a list", [start(content=None), *A, *REST]),
    ("role is not", [start(role="user"), *A, *REST]),
    ("type is not", [start(type="msg"), *A, *REST]),
    ("model", [start(model=""), *A, *REST]),
    ("holds a NUL", [start(), *text(0, "a\0b"), *REST]),
    ("holds a NUL", [start(), *thinking(0, "\0"), *REST]),
    ("lone surrogate", [start(), *text(0, "\ud800"), *REST]),
    ("lone surrogate", [start(), *call(0, '{"a":"\udc00"}'), *CALLED]),
    ("lone surrogate", [start(), *text(0, "\ud83d", "\ude00"), *REST]),
    ("text is not a string", [start(), *text(0, None), *REST]),  # type: ignore[arg-type]
    ("unknown event", [start(), {"type": "content_block"}, *A, *REST]),
    ("unknown fields: x", [start(), PING | {"x": 1}, *A, *REST]),
    ("unknown fields: x", [start(), *A, ended(), STOP | {"x": 1}]),
    ("error type 'oops'", [start(), failure("oops")]),
    ("error type None", [start(), failure(None)]),
    ("error's message", [start(), failure(message="")]),
    ("message is blank", [start(), failure(message=" \n")]),
    ("holds HTML", [start(), failure(message="<html><body>502</body></html>")]),
    ("error is not an object", [start(), {"type": "error", "error": "text"}]),
    ("request_id", [start(), failure() | {"request_id": "1"}]),
    ("details is not", [start(), {"type": "error", "error": failure()["error"] | {"details": "x"}}]),
    ("service_tier", [start(usage=USAGE | {"service_tier": "gold"}), *A, *REST]),
    ("speed", [start(usage=USAGE | {"speed": 1}), *A, *REST]),
    ("inference_geo", [start(usage=USAGE | {"inference_geo": 1}), *A, *REST]),
    ("web_search_requests", [start(usage=USAGE | {"server_tool_use": {"web_search_requests": "1"}}), *A, *REST]),
    ("details.type", [start(), *A, ended("refusal", stop_details={"type": "x"}), STOP]),
    ("explanation is not", [start(), *A, ended("refusal", stop_details={"type": "refusal", "explanation": 1}), STOP]),
    ("with citations", [start(), opened(0, type="text", text="", citations=[CITED]), closed(0), *REST]),
    ("citations is not", [start(), opened(0, type="text", text="", citations="x"), closed(0), *REST]),
    ("citation of an", [start(), A[0], delta(0, "citations_delta", citation={"type": "x"}), closed(0), *REST]),
    ("signature is not", [start(), *thinking(0, signature=None), *REST]),  # type: ignore[arg-type]
    ("estimated_tokens", [start(), THOUGHT, delta(0, "thinking_delta", thinking="", estimated_tokens=0.5)]),
    ("data is not", [start(), opened(0, type="redacted_thinking", data=""), closed(0), *REST]),
    ("unknown server tool", [start(), opened(0, **SEARCH | {"name": "Bash"}), closed(0), *REST]),
    ("tool_use_id is not", [start(), opened(0, **SEARCH), closed(0), opened(1, **FOUND | {"tool_use_id": ""})]),
    ("no list and no", [start(), opened(0, **SEARCH), closed(0), opened(1, **FOUND | {"content": "x"}), closed(1)]),
    (
        "server tool's result",
        [start(), opened(0, **SEARCH), closed(0), opened(1, **FOUND | {"content": {}}), closed(1)],
    ),
    ("file_id is not", [start(), opened(0, type="container_upload", file_id=None), closed(0), *REST]),
    ("block is not an object", [start(), {"type": "content_block_start", "index": 0, "content_block": "text"}]),
    ("index is not", [start(), *A, *text(1, "a")[:2], closed(True), *REST]),
    ("index is not", [start(), A[0], delta(0.0, "text_delta", text="a"), A[2], *REST]),
]

WHOLE = body(*GOOD["the smallest"])

#: The same on the level of bytes.
BAD_BYTES: list[tuple[str, bytes]] = [
    ("event line and one data line", WHOLE.replace(b"event: message_stop\n", b"")),
    ("event line and one data line", WHOLE.replace(b"event: ", b"event:")),
    ("event line and one data line", WHOLE.replace(b"data: ", b"data:")),
    ("event line and one data line", b": comment\n\n" + WHOLE),
    ("event line and one data line", WHOLE.replace(b"event: message_stop", b": c\nevent: message_stop")),
    ("event line and one data line", b"\n" + WHOLE),
    ("event line and one data line", b"\xef\xbb\xbf" + WHOLE),
    ("event line and one data line", WHOLE + b"data: [DONE]\n\n"),
    ("event line and one data line", WHOLE + b"\n\n"),
    ("event line and one data line", WHOLE.replace(b', "stop_sequence"', b',\ndata: "stop_sequence"')),
    ("event line and one data line", WHOLE.replace(b"event: ping", b"id: 1\nevent: ping").replace(b"data", b"x", 1)),
    ("not JSON", WHOLE + b"event: done\ndata: [DONE]\n\n"),
    ("not closed", WHOLE[:-1]),
    ("not closed", WHOLE + b"event: ping\n"),
    ("not closed", WHOLE + b"\n"),
    ("a CR", WHOLE.replace(b"\n", b"\r\n")),
    ("a CR", WHOLE.replace(b"Hello", b"He\rllo")),
    ("not UTF-8", WHOLE.replace(b"Hello", b"\xff")),
    ("not UTF-8", WHOLE.replace(b"Hello", b"\xed\xa0\x80")),
    ("line says 'ping'", WHOLE.replace(b"event: message_stop", b"event: ping")),
    ("line says 'message_stop '", WHOLE.replace(b"event: message_stop", b"event: message_stop ")),
    ("not JSON", WHOLE.replace(b'"Hello"', b"'Hello'")),
    ("not JSON", WHOLE.replace(b'"Hello"', b'"He\tllo"')),
    ("NaN is not JSON", WHOLE.replace(b'"output_tokens": 3', b'"output_tokens": NaN')),
    ("twice in a JSON", WHOLE.replace(b'"text": "Hello"', b'"text": "x", "text": "Hello"')),
    ("not an object", b"event: ping\ndata: []\n\n" + WHOLE),
    ("line says 'ping', its data None", b"event: ping\ndata: {}\n\n" + WHOLE),
]


def _plain(value: Any) -> Any:
    """`value` without what is null, which the SDK adds."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items() if inner is not None and name != "parsed_output"}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


class StreamTests(SynchronousTestCase):
    """check_stream (PROTOCOL 2.1)."""

    def refuse(self, said: str, data: bytes, **how: Any) -> IllegalStream:
        refusal = self.assertRaises(IllegalStream, check_stream, data, **how)
        self.assertIn(said, refusal.sentence)
        return refusal  # type: ignore[no-any-return]

    def test_good(self) -> None:
        """Every legal stream passes, and all its events are handed back."""
        for name, events in GOOD.items():
            with self.subTest(name):
                self.assertEqual(check_stream(body(*events)).events, tuple(events))

    def test_bad(self) -> None:
        """Every illegal stream is refused with a sentence about its fault."""
        for said, events in BAD:
            with self.subTest(said, events=events):
                self.refuse(said, body(*events))

    def test_bad_bytes(self) -> None:
        """Bytes that are no proper frames are refused."""
        for said, data in BAD_BYTES:
            with self.subTest(said, data=data):
                self.assertNotEqual(data, WHOLE)
                self.refuse(said, data)

    def test_culprit(self) -> None:
        """The refusal shows the offending event and where it stands; nothing if something is missing."""
        refusal = self.refuse("index 2", body(start(), PING, *text(2, "a"), *REST))
        self.assertEqual((refusal.event, refusal.position), (opened(2, type="text", text=""), 2))
        refusal = self.refuse("ends without", body(start()))
        self.assertEqual((refusal.event, refusal.position), (None, 1))
        refusal = self.refuse("before message_start", body(*A) + b"\xc3\xa4rger")
        self.assertEqual((refusal.event, refusal.position), (A[0], 0))

    def test_assembled(self) -> None:
        """The message is put together as a client would have it."""
        checked = check_stream(body(*GOOD["thinking, text, two calls"]))
        self.assertEqual(
            checked.message,
            {
                "id": "msg_01",
                "type": "message",
                "role": "assistant",
                "model": "claude-x",
                "content": [
                    {"type": "thinking", "thinking": "Let me", "signature": "sig"},
                    {"type": "text", "text": "Hi"},
                    {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "ls"}},
                    {"type": "tool_use", "id": "x y", "name": "Read", "input": {}},
                ],
                "stop_reason": "tool_use",
                "stop_sequence": None,
                "usage": USAGE | {"output_tokens": 3},
            },
        )
        self.assertEqual((checked.text, checked.thinking, len(checked.calls)), ("Hi", "Let me", 2))
        self.assertTrue(checked.finished)
        self.assertIsNone(checked.error)

    def test_same_as_the_sdk(self) -> None:
        """The official SDK puts the same message together, and raises for a stream that ends as an error."""
        for name, events in GOOD.items():
            with self.subTest(name):
                answer = httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body(*events))
                transport = httpx2.MockTransport(lambda request, answer=answer: answer)  # type: ignore[misc]
                client = Anthropic(api_key="k", max_retries=0, http_client=httpx2.Client(transport=transport))
                asking = client.messages.stream(model="m", max_tokens=1, messages=[{"role": "user", "content": "a"}])
                checked = check_stream(body(*events))
                if checked.error is not None:
                    with asking as stream, self.assertRaises(APIError):
                        stream.get_final_message()
                else:
                    with asking as stream:
                        said = stream.get_final_message().to_dict(mode="json", exclude_unset=False)
                    assert checked.message is not None
                    self.assertEqual(said["stop_reason"], checked.message["stop_reason"])
                    self.assertEqual(_plain(said["usage"]), _plain(checked.message["usage"]))
                    self.assertEqual(_plain(said["content"]), _plain(checked.message["content"]))

    def test_error(self) -> None:
        """A terminal error is handed back beside what came before it."""
        checked = check_stream(body(PING, start(), *text(0, "a")[:2], failure()))
        self.assertEqual(checked.error, ErrorSeen("api_error", "backend b: gone"))
        self.assertEqual((checked.text, checked.pings, checked.finished), ("a", 1, False))
        self.assertIsNone(check_stream(body(failure())).message)

    def test_raw_tools(self) -> None:
        """Broken arguments are legal only where the test says so, and are then kept as text."""
        for raw in ('{"a":', "[]", '"x"', "ls -l", "{'a':1}"):
            data = body(start(), *call(0, raw[:1], raw[1:]), *CALLED)
            self.refuse("not make a JSON object", data)
            self.assertEqual(check_stream(data, raw_tools=True).calls[0]["input"], raw)
        same = check_stream(body(start(), *call(0, '{"a":1}'), *CALLED), raw_tools=True)
        self.assertEqual(same.calls[0]["input"], {"a": 1})

    def test_part(self) -> None:
        """What a client has read so far may stop after any event, but not within one."""
        checked = check_stream(WHOLE[: WHOLE.index(b"event: content_block_stop")], whole=False)
        self.assertEqual((checked.text, checked.finished), ("Hello", False))
        self.assertEqual(check_stream(b"", whole=False).content, [])
        self.refuse("not closed", WHOLE[:-3], whole=False)

    def test_every_cut(self) -> None:
        """No proper beginning of a stream passes for the whole."""
        for length in range(len(WHOLE)):
            self.assertRaises(IllegalStream, check_stream, WHOLE[:length])

    def test_every_missing_event(self) -> None:
        """A stream that lacks an event, repeats one or exchanges two is refused (those apart that may repeat)."""
        events = [*GOOD["thinking, text, two calls"]]
        for place, event in enumerate(events):
            if event["type"] == "content_block_delta" and event["delta"]["type"] != "signature_delta":
                continue
            with self.subTest(event=event):
                self.assertRaises(IllegalStream, check_stream, body(*events[:place], *events[place + 1 :]))
                self.assertRaises(IllegalStream, check_stream, body(*events[: place + 1], *events[place:]))
                exchanged = [*events[:place], *events[place + 1 : place + 2], event, *events[place + 2 :]]
                if exchanged != events:
                    self.assertRaises(IllegalStream, check_stream, body(*exchanged))

    @given(st.lists(st.sampled_from([start(), *A, *thinking(0, "t"), *call(0, "{}"), PING, ended(), STOP, failure()])))
    def test_random_orders(self, events: list[Event]) -> None:
        """Whatever the order, what passes has one message_start and one end, in their places."""
        try:
            check_stream(body(*events))
        except IllegalStream:
            return
        kinds = [event["type"] for event in events if event["type"] != "ping"]
        self.assertEqual(kinds[-1] == "error", "message_stop" not in kinds)
        self.assertEqual(kinds.count("error") + kinds.count("message_stop"), 1)
        self.assertTrue(kinds == ["error"] or kinds[0] == "message_start")
        self.assertLessEqual(kinds.count("message_start"), 1)
        if kinds[-1] == "message_stop":
            self.assertEqual(kinds[-2], "message_delta")
            self.assertEqual(kinds.count("content_block_start"), kinds.count("content_block_stop"))


def whole_message(**changes: Any) -> dict[str, Any]:
    return check_stream(body(*GOOD["thinking, text, two calls"])).message | changes  # type: ignore[operator]


class MessageTests(SynchronousTestCase):
    """check_message (PROTOCOL 1.7)."""

    def test_good(self) -> None:
        """A message that a stream would assemble is a legal answer by itself."""
        checked = check_message(whole_message())
        self.assertEqual(checked.message, whole_message())
        self.assertTrue(checked.finished)

    def test_bad(self) -> None:
        """One fault, one refusal."""
        block = {"type": "tool_use", "id": "a", "name": "b", "input": {}}
        cases: list[tuple[str, dict[str, Any]]] = [
            ("None is unknown", {"stop_reason": None}),
            ("content is not a list", {"content": None}),
            ("without a tool_use", {"content": []}),
            ("used twice", {"content": [block, block]}),
            ("input of a call", {"content": [block | {"input": "{}"}]}),
            ("input of a call", {"content": [block | {"input": None}]}),
            ("unknown fields: object", {"object": "chat.completion"}),
            ("id is not", {"id": "x"}),
            ("lacks output_tokens", {"usage": {k: v for k, v in USAGE.items() if k[0] != "o"}}),
            ("unknown type 'x'", {"content": [{"type": "x"}, block]}),
            ("text is not a string", {"content": [{"type": "text", "text": None}, block]}),
            ("thinking holds a NUL", {"content": [{"type": "thinking", "thinking": "\0", "signature": ""}, block]}),
            ("signature is not", {"content": [{"type": "thinking", "thinking": "", "signature": None}, block]}),
            ("citation of an", {"content": [{"type": "text", "text": "", "citations": [{}]}, block]}),
            ("lone surrogate", {"content": [{"type": "text", "text": "\ud800"}, block]}),
        ]
        for said, changes in cases:
            with self.subTest(said):
                refusal = self.assertRaises(IllegalStream, check_message, whole_message(**changes))
                self.assertIn(said, refusal.sentence)
        self.assertRaises(IllegalStream, check_message, [])
        raw = whole_message(content=[block | {"input": "ls"}])
        self.assertEqual(check_message(raw, raw_tools=True).calls[0]["input"], "ls")


class ErrorTests(SynchronousTestCase):
    """check_error (PROTOCOL 3.1)."""

    def test_good(self) -> None:
        """Status and type go together as the table says."""
        for status, kind in [
            (400, "invalid_request_error"),
            (401, "authentication_error"),
            (402, "billing_error"),
            (403, "permission_error"),
            (404, "not_found_error"),
            (405, "invalid_request_error"),
            (408, "timeout_error"),
            (413, "request_too_large"),
            (422, "invalid_request_error"),
            (429, "rate_limit_error"),
            (500, "api_error"),
            (502, "api_error"),
            (503, "overloaded_error"),
            (504, "timeout_error"),
            (529, "overloaded_error"),
        ]:
            seen = check_error(failure(kind, "m") | {"request_id": "req_1"}, status)
            self.assertEqual(seen, ErrorSeen(kind, "m"))

    def test_bad(self) -> None:
        """One fault, one refusal."""
        good = failure("api_error", "m") | {"request_id": "req_1"}
        for said, value, status in [
            ("does not fit status 400", good, 400),
            ("does not fit status 529", good, 529),
            ("status 200 is not", good, 200),
            ("lacks request_id", failure(), 500),
            ("request_id is not", good | {"request_id": "r"}, 500),
            ("holds HTML", good | {"error": {"type": "api_error", "message": "<!DOCTYPE html>x"}}, 500),
            ("lacks message", good | {"error": {"type": "api_error"}}, 500),
            ("unknown fields: code", good | {"error": {"type": "api_error", "message": "m", "code": 1}}, 500),
            ("type is not error", good | {"type": "err"}, 500),
            ("not an object", "text", 500),
            ("lone surrogate", failure("api_error", "\ud800") | {"request_id": "req_1"}, 500),
        ]:
            with self.subTest(said):
                refusal = self.assertRaises(IllegalStream, check_error, value, status)
                self.assertIn(said, refusal.sentence)
