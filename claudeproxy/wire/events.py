"""Anthropic's events to the bytes of a stream (PROTOCOL 2.1), and to the JSON of a whole message (1.7)."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from claudeproxy.model.events import (
    BlockStart,
    BlockStop,
    Event,
    Failed,
    InputDelta,
    MessageDelta,
    MessageStart,
    MessageStop,
    Piece,
    Ping,
    SignatureDelta,
    TextDelta,
    ThinkingDelta,
    Usage,
)
from claudeproxy.model.problems import Problem
from claudeproxy.wire.json import encode

_DELTA = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%%d,"delta":{"type":"%b","%b":%%b}}\n\n'
)
_TEXT = _DELTA % (b"text_delta", b"text")
_THINKING = _DELTA % (b"thinking_delta", b"thinking")
_INPUT = _DELTA % (b"input_json_delta", b"partial_json")
_SIGNATURE = _DELTA % (b"signature_delta", b"signature")


def around_delta(event: Piece) -> tuple[bytes, bytes]:
    """What stands before and behind the inside of the text of such an event, in each one of its block."""
    template = _TEXT if type(event) is TextDelta else _THINKING
    head, _, tail = (template % (event.index, b'"|"')).partition(b"|")
    return head, tail


def stream_bytes(events: Iterable[Event], request_id: str = "") -> bytes:
    """The events as server-sent events, joined, so that one read of the backend is one write to the client."""
    return b"".join([encode_event(event, request_id) for event in events])


def encode_event(event: Event, request_id: str = "") -> bytes:
    """One event. ``request_id`` only shows in errors, where a user's report needs it."""
    if type(event) is TextDelta:  # the most frequent ones are spared the look into the table
        return _TEXT % (event.index, encode(event.text))
    if type(event) is ThinkingDelta:
        return _THINKING % (event.index, encode(event.thinking))
    if type(event) is Failed:
        return _named(b"error", problem_json(event.problem, request_id))
    encoder = _ENCODERS.get(type(event))
    if encoder is None:
        raise TypeError(f"not an event: {event!r}")
    return encoder(event)


def _input_delta(event: InputDelta) -> bytes:
    return _INPUT % (event.index, encode(event.partial_json))


def _signature_delta(event: SignatureDelta) -> bytes:
    return _SIGNATURE % (event.index, encode(event.signature))


def _block_start(event: BlockStart) -> bytes:
    return _typed(b"content_block_start", {"index": event.index, "content_block": event.block})


def _block_stop(event: BlockStop) -> bytes:
    return b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n' % event.index


def _ping(event: Ping) -> bytes:
    return b'event: ping\ndata: {"type":"ping"}\n\n'


def _message_start(event: MessageStart) -> bytes:
    return _typed(b"message_start", {"message": message_json(event)})


def _message_delta(event: MessageDelta) -> bytes:
    return _typed(b"message_delta", {"delta": ending_json(event), "usage": usage_json(event.usage)})


def _message_stop(event: MessageStop) -> bytes:
    return b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


_ENCODERS: Mapping[type, Callable[[Any], bytes]] = {
    InputDelta: _input_delta,
    SignatureDelta: _signature_delta,
    BlockStart: _block_start,
    BlockStop: _block_stop,
    Ping: _ping,
    MessageStart: _message_start,
    MessageDelta: _message_delta,
    MessageStop: _message_stop,
}


def message_json(start: MessageStart) -> dict[str, Any]:
    """The message as it stands before its first block."""
    return {
        "id": start.id,
        "type": "message",
        "role": "assistant",
        "model": start.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage_json(start.usage),
    }


def ending_json(end: MessageDelta) -> dict[str, Any]:
    """How a message ended; ``stop_details`` only where there are some."""
    ending: dict[str, Any] = {"stop_reason": end.stop_reason, "stop_sequence": end.stop_sequence}
    if end.stop_details is not None:
        ending["stop_details"] = end.stop_details
    return ending


def usage_json(usage: Usage) -> dict[str, Any]:
    """Complete in every answer: Claude Code's compaction and the SDKs' accumulators read it (PROTOCOL 2.2, 6.5)."""
    counts: dict[str, Any] = {
        "input_tokens": usage.input,
        "cache_creation_input_tokens": usage.cache_creation,
        "cache_read_input_tokens": usage.cache_read,
        "output_tokens": usage.output,
    }
    if usage.thinking is not None:
        counts["output_tokens_details"] = {"thinking_tokens": usage.thinking}
    return counts


def problem_json(problem: Problem, request_id: str) -> dict[str, Any]:
    """The error envelope (PROTOCOL 3.1), the same in a body and in a stream."""
    envelope: dict[str, Any] = {"type": "error", "error": {"type": problem.type, "message": problem.message}}
    if request_id:
        envelope["request_id"] = request_id
    return envelope


def _typed(name: bytes, fields: dict[str, Any]) -> bytes:
    return _named(name, {"type": name.decode(), **fields})


def _named(name: bytes, payload: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name, encode(payload))
