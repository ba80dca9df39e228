"""
The judge of everything the proxy answers, written from PROTOCOL 2.1, 1.7 and 3.1 and from nothing else.

`check_stream` reads the whole body of a streamed answer, `check_message` the answer to a request that did not ask
for a stream, `check_error` an error's body. Each raises `IllegalStream` at the first fault. The judge imports nothing
of the product and is stricter than every client: what the SDKs forgive is still a fault here.
"""

from collections.abc import Callable, Mapping
from typing import Any

from attrs import Factory, define, field, frozen

from tests.message_rules import (
    ErrorSeen,
    Unfit,
    check_block,
    check_citation,
    check_error_envelope,
    check_fit,
    check_message_frame,
    check_neighbours,
    check_stop,
    check_usage,
    demand,
    fields,
    is_count,
    is_text,
    no_lone_surrogates,
    strict_json,
)

__all__ = ["PIECE_LIMIT", "Checked", "ErrorSeen", "IllegalStream", "check_error", "check_message", "check_stream"]

#: The longest piece of a tool's arguments in one delta, in bytes of UTF-8 (PROTOCOL 5, decision above the rows).
PIECE_LIMIT = 16 * 1024

_DELTAS: Mapping[str, frozenset[str]] = {
    "text": frozenset({"text_delta", "citations_delta"}),
    "thinking": frozenset({"thinking_delta", "signature_delta"}),
    "tool_use": frozenset({"input_json_delta"}),
    "server_tool_use": frozenset({"input_json_delta"}),
}


class IllegalStream(AssertionError):
    """
    The answer breaks the grammar. `sentence` says how, `event` is the culprit (a decoded event, or the raw text of
    what could not be decoded; None if something is missing at the end), `position` counts events from 0.
    """

    def __init__(self, sentence: str, event: object = None, position: int | None = None) -> None:
        shown = repr(event)
        super().__init__(f"{sentence}; event {position}: {shown if len(shown) <= 600 else shown[:600] + '…'}")
        self.sentence = sentence
        self.event = event
        self.position = position


@frozen
class Checked:
    """
    A legal answer, put together as a client would have it.

    `message` has content, stop_reason, stop_sequence, usage (the final one laid over the first), model, id; it is
    None if an error came before message_start. `error` is None or the terminal error; `message` then holds what came
    before it, with the raw text as `input` of a call that was not closed. `finished` tells a message_stop.
    """

    message: dict[str, Any] | None
    error: ErrorSeen | None = None
    pings: int = 0
    events: tuple[dict[str, Any], ...] = ()
    finished: bool = False

    @property
    def content(self) -> list[dict[str, Any]]:
        """The blocks of the message, none if there is no message."""
        return [] if self.message is None else list(self.message["content"])

    @property
    def text(self) -> str:
        """All text blocks in one string."""
        return "".join(block["text"] for block in self.content if block["type"] == "text")

    @property
    def thinking(self) -> str:
        """All thinking blocks in one string."""
        return "".join(block["thinking"] for block in self.content if block["type"] == "thinking")

    @property
    def calls(self) -> list[dict[str, Any]]:
        """The tool_use blocks, in order."""
        return [block for block in self.content if block["type"] == "tool_use"]


def check_stream(data: bytes, *, raw_tools: bool = False, whole: bool = True) -> Checked:
    """
    Judge the body of an SSE answer (PROTOCOL 2.1).

    With `raw_tools` the arguments of a call may be anything (rows 14 and 16: broken ones are passed on raw); a call
    whose arguments are no JSON object then has their text as `input`. With `whole` False the body may stop after any
    event: what a client has read so far.
    """
    stream = _Stream(raw_tools)
    culprit: object = data[:300]
    try:
        *frames, tail = _text(data).split("\n\n")
        for frame in frames:
            culprit = frame
            culprit = event = _decode(frame)
            stream.receive(event)
        culprit = tail or None
        demand(not tail, "the last event is not closed by an empty line")
        demand(stream.over or not whole, "the stream ends without message_stop and without an error")
    except Unfit as fault:
        raise IllegalStream(str(fault), culprit, len(stream.events)) from None
    return stream.checked()


def check_message(value: Any, *, raw_tools: bool = False) -> Checked:
    """Judge the decoded answer to a request without `stream` (PROTOCOL 1.7)."""
    try:
        no_lone_surrogates(value)
        message = check_message_frame(value)
        for block in message["content"]:
            check_block(block)
            if block["type"] in {"tool_use", "server_tool_use"}:
                demand(raw_tools or isinstance(block["input"], dict), "the input of a call is not an object")
        check_neighbours(message["content"])
        check_stop(message, message["content"])
    except Unfit as fault:
        raise IllegalStream(str(fault), value) from None
    return Checked(message=message, finished=True)


def check_error(value: Any, status: int) -> ErrorSeen:
    """Judge the decoded body of an HTTP error and that its type fits `status` (PROTOCOL 3.1)."""
    try:
        no_lone_surrogates(value)
        seen = check_error_envelope(value, request_id_required=True)
        check_fit(status, seen.type)
    except Unfit as fault:
        raise IllegalStream(str(fault), value) from None
    return seen


def _text(data: bytes) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise Unfit(f"the body is not UTF-8 ({problem})") from None
    demand("\r" not in text, "a CR in the body: only LF ends lines")
    return text


def _decode(frame: str) -> dict[str, Any]:
    """The event in a frame, which is exactly an event line and a data line."""
    lines = frame.split("\n")
    demand(
        len(lines) == 2 and lines[0].startswith("event: ") and lines[1].startswith("data: "),
        "a frame is not one event line and one data line",
    )
    name, data = lines[0].removeprefix("event: "), lines[1].removeprefix("data: ")
    event = strict_json(data)
    demand(isinstance(event, dict), "the data of an event is not an object")
    demand(event.get("type") == name, f"the event line says {name!r}, its data {event.get('type')!r}")
    no_lone_surrogates(event)
    return dict(event)


@define
class _OpenBlock:
    """The block being written: what its start said and what its deltas brought."""

    start: dict[str, Any]
    pieces: list[str] = Factory(list)
    citations: list[dict[str, Any]] = Factory(list)
    signature: str | None = None

    def assembled(self) -> dict[str, Any]:
        """The block as far as it is known; arguments as raw text."""
        block = dict(self.start)
        match block["type"]:
            case "text":
                block["text"] = "".join(self.pieces)
                if self.citations:
                    block["citations"] = self.citations
            case "thinking":
                block |= {"thinking": "".join(self.pieces), "signature": self.signature or ""}
            case "tool_use" | "server_tool_use":
                block["input"] = "".join(self.pieces)
        return block


@define
class _Stream:
    """Where a stream stands. Raises `Unfit` for an event that may not come there."""

    raw_tools: bool
    events: list[dict[str, Any]] = Factory(list)
    pings: int = 0
    message: dict[str, Any] | None = None
    content: list[dict[str, Any]] = Factory(list)
    block: _OpenBlock | None = None
    stopped: bool = False
    over: bool = False
    error: ErrorSeen | None = None
    _rules: Mapping[str, Callable[[dict[str, Any]], None]] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._rules = {
            "message_start": self._message_start,
            "content_block_start": self._block_start,
            "content_block_delta": self._block_delta,
            "content_block_stop": self._block_stop,
            "message_delta": self._message_delta,
            "message_stop": self._message_stop,
            "ping": self._ping,
            "error": self._error,
        }

    def receive(self, event: dict[str, Any]) -> None:
        """Take the next event."""
        demand(not self.over, "an event after the end")
        demand(event["type"] in self._rules, "an unknown event")
        self._rules[event["type"]](event)
        self.events.append(event)

    def checked(self) -> Checked:
        """The answer as far as it has come."""
        message = self.message
        if message is not None:
            open_blocks = [self.block.assembled()] if self.block else []
            message = message | {"content": self.content + open_blocks}
        return Checked(
            message=message,
            error=self.error,
            pings=self.pings,
            events=tuple(self.events),
            finished=self.over and self.error is None,
        )

    def _message_start(self, event: dict[str, Any]) -> None:
        demand(self.message is None, "a second message_start")
        message = check_message_frame(fields(event, "message_start", "type message")["message"])
        demand(message["content"] == [], "message_start with content")
        for name in ("stop_reason", "stop_sequence", "stop_details"):
            demand(message.get(name) is None, f"message_start with a {name}")
        self.message = message

    def _begun(self) -> dict[str, Any]:
        demand(self.message is not None, "an event before message_start")
        demand(not self.stopped, "a content event or a second message_delta after message_delta")
        assert self.message is not None
        return self.message

    def _block_start(self, event: dict[str, Any]) -> None:
        self._begun()
        found = fields(event, "content_block_start", "type index content_block")
        demand(self.block is None, "a block opens while another is open")
        index = is_count(found["index"], "index")
        demand(index == len(self.content), f"block index {index} where {len(self.content)} is due")
        block = check_block(found["content_block"])
        for name in ("text", "thinking", "signature"):
            demand(block.get(name, "") == "", f"content_block_start with a {name} that is not empty")
        demand(block.get("input", {}) == {}, "content_block_start with an input that is not empty")
        demand(not block.get("citations"), "content_block_start with citations")
        self.block = _OpenBlock(block)
        check_neighbours([*self.content, block])

    def _open_block(self, index: Any) -> _OpenBlock:
        self._begun()
        demand(self.block is not None, "no block is open")
        assert self.block is not None
        is_count(index, "index")
        demand(index == len(self.content), f"index {index} while block {len(self.content)} is open")
        return self.block

    def _block_delta(self, event: dict[str, Any]) -> None:
        found = fields(event, "content_block_delta", "type index delta")
        block = self._open_block(found["index"])
        delta = found["delta"]
        demand(isinstance(delta, dict), "a delta is not an object")
        kind, of = delta.get("type"), block.start["type"]
        demand(isinstance(kind, str) and kind in _DELTAS.get(of, ()), f"a {kind} in a block of type {of}")
        demand(block.signature is None, "a delta after the signature_delta of its block")
        match kind:
            case "text_delta":
                block.pieces.append(is_text(fields(delta, kind, "type text")["text"], "text"))
            case "citations_delta":
                block.citations.append(check_citation(fields(delta, kind, "type citation")["citation"]))
            case "thinking_delta":
                inner = fields(delta, kind, "type thinking", "estimated_tokens")
                block.pieces.append(is_text(inner["thinking"], "thinking"))
                is_count(inner.get("estimated_tokens", 0), "estimated_tokens")
            case "signature_delta":
                signature = fields(delta, kind, "type signature")["signature"]
                demand(isinstance(signature, str), "signature is not a string")
                block.signature = signature
            case "input_json_delta":
                piece = fields(delta, kind, "type partial_json")["partial_json"]
                demand(isinstance(piece, str), "partial_json is not a string")
                size = len(piece.encode("utf-8"))
                demand(size <= PIECE_LIMIT, f"a piece of arguments has {size} bytes, more than {PIECE_LIMIT}")
                block.pieces.append(piece)

    def _block_stop(self, event: dict[str, Any]) -> None:
        block = self._open_block(fields(event, "content_block_stop", "type index")["index"])
        whole = block.assembled()
        if whole["type"] == "thinking":
            demand(block.signature is not None, "a thinking block closes without its signature_delta")
        elif whole["type"] in {"tool_use", "server_tool_use"}:
            whole["input"] = self._arguments(whole["input"])
        self.content.append(whole)
        self.block = None

    def _arguments(self, text: str) -> Any:
        if not text:
            return {}
        try:
            value = strict_json(text, repeats_allowed=True)
            demand(isinstance(value, dict), "the arguments of a call are not an object")
        except Unfit as fault:
            demand(self.raw_tools, f"the pieces of a call's arguments do not make a JSON object: {fault}")
            return text
        return value

    def _message_delta(self, event: dict[str, Any]) -> None:
        message = self._begun()
        found = fields(event, "message_delta", "type delta usage")
        demand(self.block is None, "message_delta while a block is open")
        delta = fields(found["delta"], "delta", "stop_reason stop_sequence", "stop_details container")
        check_stop(delta, self.content)
        usage = message["usage"] | check_usage(found["usage"], complete=False)
        self.message = message | delta | {"usage": usage}
        self.stopped = True

    def _message_stop(self, event: dict[str, Any]) -> None:
        fields(event, "message_stop", "type")
        demand(self.stopped, "message_stop without message_delta")
        self.over = True

    def _ping(self, event: dict[str, Any]) -> None:
        fields(event, "ping", "type")
        self.pings += 1

    def _error(self, event: dict[str, Any]) -> None:
        self.error = check_error_envelope(event, request_id_required=False)
        self.over = True
