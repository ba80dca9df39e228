"""A Chat Completions stream, however senseless and however cut, is one legal answer (PROTOCOL 5)."""

import json
from collections.abc import Iterable
from itertools import count
from typing import Any
from unittest.mock import patch

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.model.events import Event, Failed, MessageDelta
from claudeproxy.model.problems import bad_gateway
from claudeproxy.translate import chat_stream
from claudeproxy.translate.chat_request import to_chat
from claudeproxy.translate.chat_stream import ChatStream
from claudeproxy.translate.dialects import DIALECTS
from claudeproxy.translate.expected import Expected
from claudeproxy.translate.reply import Reply
from claudeproxy.translate.stream_machine import MOST_NOISE
from claudeproxy.wire.events import stream_bytes
from claudeproxy.wire.requests import parse_messages
from claudeproxy.wire.stencil import cut
from tests import strategies
from tests.fakes.scripts import json_bytes, llama_text, step_bytes, text, usage_chunk
from tests.short_way import shortly
from tests.stream_checker import Checked, check_stream

TOOLS = [{"name": name, "input_schema": {"type": "object"}} for name in ("Bash", "Read", "get_weather")]


def machine(stops: tuple[str, ...] = (), tools: bool = True, **expected: Any) -> ChatStream:
    asked = {
        "model": "m",
        "max_tokens": 9,
        "messages": [{"role": "user", "content": "Hi"}],
        "tools": TOOLS if tools else [],
    }
    chat = to_chat(parse_messages(json.dumps(asked).encode()).request, "m", DIALECTS["generic"])
    numbers = count(1)
    told = Expected("box", 10, stop_sequences=stops, names=chat.names, **expected)
    return ChatStream(Reply("msg_1", "m"), told, lambda: f"u{next(numbers)}")


def fed(stream: ChatStream, pieces: Iterable[bytes], end: bool = True) -> list[Event]:
    events = [event for piece in pieces for event in stream.receive(piece)]
    return events + (stream.close() if end else [])


def answer(events: list[Event]) -> Checked:
    """What the judge makes of it; a failure before anything else is a status, and no stream."""
    return check_stream(stream_bytes(events, "req_1"), raw_tools=True)


def sse(chunks: Iterable[Any], done: bool = True) -> bytes:
    frames = [b"data: " + json_bytes(chunk) + b"\n\n" for chunk in chunks]
    return b"".join([*frames, b"data: [DONE]\n\n" if done else b""])


def whole_characters(text: str) -> str:
    """Without NUL and what stands for halves of characters; halves side by side are a character."""
    joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return joined.replace("\0", "").replace("\ufffd", "")


class AnyStreamTests(SynchronousTestCase):
    """Properties."""

    @given(strategies.chat_streams(), st.booleans(), st.data())
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    def test_legal(self, chunks: list[Any], done: bool, data: st.DataObject) -> None:
        """Whatever a server streams, what leaves is legal and comes to an end; nothing raises."""
        body = sse(chunks, done)
        stops = data.draw(st.sampled_from([(), ("a", "}"), ("</think>",)]))
        stream = machine(stops, tools=data.draw(st.booleans()), think_tags=data.draw(st.booleans()))
        found = answer(fed(stream, data.draw(strategies.splits(body))))
        self.assertTrue(found.finished or found.error)
        self.assertTrue(stream.over)

    @given(strategies.chat_streams(), st.data())
    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    def test_split(self, chunks: list[Any], data: st.DataObject) -> None:
        """Where two reads meet makes no difference."""
        body = sse(chunks, data.draw(st.booleans()))
        whole, cut = fed(machine(), [body]), fed(machine(), data.draw(strategies.splits(body)))
        self.assertEqual(whole, cut)

    @given(strategies.sensible_streams(), st.data())
    @settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    def test_sensible(self, made: Any, data: st.DataObject) -> None:
        """A well-behaved answer arrives unchanged: its thoughts, its text, its calls with their ids and arguments."""
        chunks, blocks, reason = made
        found = answer(fed(machine(), data.draw(strategies.splits(sse(chunks)))))
        content = [{name: value for name, value in block.items() if name != "signature"} for block in found.content]
        self.assertEqual(json.dumps(content), json.dumps(blocks))
        assert found.message is not None
        self.assertEqual(found.message["stop_reason"], reason)

    @given(strategies.sensible_streams(), st.data())
    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    def test_cut_anywhere(self, made: Any, data: st.DataObject) -> None:
        """A stream that ends before its finish reason never looks whole, and what was said before is not lost."""
        chunks, _, _ = made
        body = sse(chunks[:-1], done=False)
        found = answer(fed(machine(), [body[: data.draw(st.integers(0, len(body)))]]))
        self.assertIsNotNone(found.error)
        self.assertFalse(found.finished)

    @given(st.binary(max_size=200), st.data())
    def test_garbage(self, garbage: bytes, data: st.DataObject) -> None:
        """Bytes that are no event stream at all are a failed answer."""
        found = answer(fed(machine(), data.draw(strategies.splits(garbage))))
        self.assertIsNotNone(found.error)

    @given(strategies.json_values(), st.booleans())
    def test_any_json(self, value: Any, whole: bool) -> None:
        """Nor does any JSON raise, as a chunk or as the whole answer."""
        body = json.dumps(value).encode()
        answer(fed(machine(), [body if whole else b"data: " + body + b"\n\n"]))

    @given(st.lists(strategies.nasty_texts(halves=True, min_size=1), min_size=1, max_size=4), st.data())
    def test_nasty_text(self, texts: list[str], data: st.DataObject) -> None:
        """Text of any kind leaves as text that every client can read: no NUL, no half a character (row 63)."""
        body = b"".join(map(step_bytes, text("w", *texts).steps))
        found = answer(fed(machine(), data.draw(strategies.splits(body))))
        found.text.encode("utf-8")
        self.assertNotIn("\0", found.text)
        self.assertEqual(found.text.replace("\ufffd", ""), "w" + "".join(map(whole_characters, texts)))


class ChatStreamTests(SynchronousTestCase):
    """Examples that are about the machine, not about a row."""

    def test_states(self) -> None:
        """It tells whether the model has spoken, whether the end was named, and whether it is over."""
        stream = machine()
        seen = []
        for step in text("a").steps:
            stream.receive(step_bytes(step))
            seen.append((stream.spoken, stream.settled, stream.over))
        self.assertEqual(seen[0], (False, False, False))
        self.assertEqual(seen[1], (True, False, False))
        self.assertEqual(seen[2][:2], (True, True))
        self.assertEqual(seen[-1], (True, True, True))
        self.assertTrue(stream.heard_out)
        self.assertEqual(stream.receive(b"data: more\n\n") + stream.close(), [])

    def test_begin(self) -> None:
        """The message can be opened before the backend said anything; it is opened once, with the best count known."""
        stream = machine()
        events = stream.begin() + stream.begin()
        events += fed(stream, [text("a").body_bytes()])
        found = answer(events)
        assert found.message is not None
        self.assertEqual(found.events[0]["message"]["usage"]["input_tokens"], 10)
        self.assertEqual(found.message["usage"]["input_tokens"], 12)

    def test_progress(self) -> None:
        """llama.cpp's progress gives exact counts, long before the first token."""
        stream = machine()
        events = stream.receive(step_bytes(llama_text("a", prompt=40, cached=30).steps[0])) + stream.begin()
        found = check_stream(stream_bytes(events), whole=False)
        usage = found.events[0]["message"]["usage"]
        self.assertEqual((usage["input_tokens"], usage["cache_read_input_tokens"]), (10, 30))
        self.assertFalse(stream.spoken)

    def test_usage_never(self) -> None:
        """A backend that counts nothing gets estimates, never 0 (row 45)."""
        body = b"".join(step_bytes(step) for step in text("a", "b").steps if step != usage_chunk())
        found = answer(fed(machine(), [body])).message
        assert found is not None
        self.assertEqual((found["usage"]["input_tokens"], found["usage"]["output_tokens"]), (10, 2))

    def test_no_number(self) -> None:
        """A number that is none costs itself, and words that look like one stay (row 65: signs of life, too)."""
        chunk = b'data: {"choices":[{"delta":{"content":"NaN 1e999 \\" -Infinity"}}],"rate":%s}\n\n'
        for number in (b"1e999", b"-1.5E+999", b"NaN", b"-Infinity", b"1e5"):
            body = chunk % number + b'data: Infinity\n\ndata: {"choices":[{"finish_reason":"stop"}]}\n\n'
            self.assertEqual(answer(fed(machine(), [body])).text, 'NaN 1e999 " -Infinity')

    def test_stop_sequence(self) -> None:
        """A hit ends the answer at once, in every split, and nothing of the sequence is shown."""
        body = text("Hello ST", "OP more", " and more").body_bytes()
        for place in range(0, len(body), 7):
            stream = machine(("STOP",))
            found = answer(fed(stream, [body[:place], body[place:]]))
            assert found.message is not None
            self.assertEqual((found.text, found.message["stop_sequence"]), ("Hello ", "STOP"))
            self.assertEqual(found.message["stop_reason"], "stop_sequence")
            self.assertFalse(stream.heard_out)

    def test_held_text(self) -> None:
        """What was held back for a stop sequence that never came is shown at the end."""
        self.assertEqual(answer(fed(machine(("STOP",)), [text("Hello ST").body_bytes()])).text, "Hello ST")

    def test_silent(self) -> None:
        """If no answer was wanted, none is shown, whatever the backend says."""
        found = answer(fed(machine(silent=True), [text("Hello").body_bytes()]))
        assert found.message is not None
        self.assertEqual((found.content, found.message["stop_reason"]), ([], "max_tokens"))
        self.assertEqual(found.message["usage"]["output_tokens"], 0)

    def test_fail(self) -> None:
        """A connection that breaks is a failed answer, once."""
        stream = machine()
        events = stream.receive(sse([{"choices": [{"index": 0, "delta": {"content": "a"}}]}], done=False))
        events += stream.fail(bad_gateway("broke")) + stream.fail(bad_gateway("again")) + stream.close()
        found = answer(events)
        assert found.error is not None
        self.assertEqual((found.text, found.error.message), ("a", "broke"))

    def test_before_anything(self) -> None:
        """A failure before anything was said is the only event, so that it can still be a status."""
        (event,) = machine().receive(b'event: error\ndata: {"error":{"code":429,"message":"no"}}\n\n')
        assert isinstance(event, Failed)
        self.assertEqual(event.problem.status, 429)

    def test_one_ending(self) -> None:
        """A second [DONE], a second finish reason, text after the end: all is over after the first end."""
        body = text("a").body_bytes()
        events = fed(machine(), [body + body])
        self.assertEqual(len([event for event in events if isinstance(event, MessageDelta)]), 1)
        self.assertEqual(answer(events).text, "a")

    def test_work(self) -> None:
        """A megabyte of text in one byte reads is no more work than its bytes (row 71)."""
        stream = machine()
        body = b'data: {"choices":[{"delta":{"content":"' + b"x" * 300_000 + b'"},"finish_reason":"stop"}]}\n\n'
        events = fed(stream, (body[place : place + 10] for place in range(0, len(body), 10)))
        self.assertEqual(len(answer(events).text), 300_000)

    def test_remarks(self) -> None:
        """What was passed over, repaired or not understood is said once, and never in the backend's own words unless
        these are a finish reason."""
        noise = b"data: secret-canary\n\n"
        broken = b'data: {"choices":[{"delta":{"content":"a\xff"}}]}\n\n'
        last = b'data: {"choices":[{"delta":{},"finish_reason":"repe\\ntition"}]}\n\n'
        stream = machine()
        found = answer(fed(stream, [noise * 3, broken * 3, noise, last]))
        assert found.message is not None
        self.assertEqual((found.text, found.message["stop_reason"]), ("a\ufffd" * 3, "end_turn"))
        self.assertEqual(
            stream.remarks,
            [
                "data that are no JSON were passed over",
                "bytes that are no UTF-8 were replaced",
                "the answer ended for a reason that is not known: repe?tition",
            ],
        )

    def test_noise_is_bounded(self) -> None:
        """No backend can go on saying nothing for ever."""
        stream = machine()
        for _ in range(MOST_NOISE):
            self.assertEqual(stream.receive(b"data: ping\n\n"), [])
        self.assertIsInstance(stream.receive(b"data: ping\n\n")[0], Failed)

    def test_forbidden_call(self) -> None:
        """A call that the caller did not want is text, under the name that the caller knows; this is said (row 28)."""
        stream = machine(forbids_calls=True)
        call = {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "bash", "arguments": '{"a":1}'}}]}
        found = answer(fed(stream, [sse([{"choices": [{"delta": call, "finish_reason": "tool_calls"}]}])]))
        assert found.message is not None
        self.assertEqual((found.text, found.message["stop_reason"]), ('Bash {"a":1}', "end_turn"))
        self.assertEqual(stream.remarks, ["a tool call was left as text: the caller wanted none"])

    def test_empty_is_a_status(self) -> None:
        """An answer without anything fails before its first event, so that it can still be a status (row 39)."""
        for window, status in ((0, 502), (100, 502), (10, 400)):
            (event,) = fed(machine(window=window), [sse([{"choices": [{"delta": {}, "finish_reason": "stop"}]}])])
            assert isinstance(event, Failed)
            self.assertEqual(event.problem.status, status)

    def test_empty_after_the_start(self) -> None:
        """Nor does it pass for a good one if the message was opened before."""
        stream = machine(window=10)
        found = answer(stream.begin() + fed(stream, [b"data: [DONE]\n\n"]))
        assert found.error is not None
        self.assertEqual((found.error.type, found.error.message), ("invalid_request_error", "prompt is too long"))

    @given(st.sampled_from(["{", "[", '"', "<", "data: ", ":", "id", "x", "\n", "\r\n", " ", "\ufeff"]), st.data())
    @settings(max_examples=60, deadline=None)
    def test_any_beginning(self, head: str, data: st.DataObject) -> None:
        """However a body begins, where two reads meet makes no difference."""
        body = (head + data.draw(st.sampled_from(["", "\n", "\n\n", "x\n"]))).encode() + text("a").body_bytes()
        self.assertEqual(fed(machine(), [body]), fed(machine(), data.draw(strategies.splits(body))))
        self.assertEqual(fed(machine(), [body]), fed(machine(), [body[at : at + 1] for at in range(len(body))]))


class ShortWayTests(SynchronousTestCase):
    """`stencil`: events that look like the last one."""

    def both(self, deltas: list[dict[str, Any]], taken: int, **expected: Any) -> None:
        """Both ways say the same, and so many pieces went the short one."""
        pieces = [sse([{"choices": [{"index": 0, "delta": each}]}], done=False) for each in deltas]
        short, long = machine(**expected), machine(**expected)
        said, copied = b"", 0
        for piece in pieces:
            event = shortly(short, piece)
            copied += bool(event)
            said += event or stream_bytes(short.receive(piece))
        self.assertEqual(said + stream_bytes(short.close()), stream_bytes(fed(long, pieces)))
        self.assertEqual((copied, short.spoken, short.remarks), (taken, long.spoken, long.remarks))

    def test_taken(self) -> None:
        """Text and thinking, each from its third piece on; what a server may spell otherwise changes nothing."""
        self.both([{"content": each} for each in ("one", " two", " three", "\n", " four", "\x1b", " five")], 4)
        self.both([{"reasoning": each} for each in ("one", " two", " three")], 1, think_tags=True)
        thoughts = [{"content": None, "reasoning_content": each} for each in ("one", " two", " three")]
        self.both([*thoughts, *({"content": each} for each in ("one", " two", " three"))], 2)

    def test_counted(self) -> None:
        """They count where the backend itself does not."""
        for kinds in (["content"], ["reasoning", "content"]):
            deltas = [{kind: each} for kind in kinds for each in ("one", " two", " three", " four")]
            stream = machine()
            for each in deltas:
                piece = sse([{"choices": [{"index": 0, "delta": each}]}], done=False)
                if not shortly(stream, piece):
                    stream.receive(piece)
            said = fed(stream, [sse([{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}])])
            self.assertEqual([e.usage.output for e in said if isinstance(e, MessageDelta)], [len(deltas)])

    def test_not_taken(self) -> None:
        """Where more than one piece may come of it, or none."""
        words = [{"content": each} for each in ("x", "y", "ab", "c")]
        for expected in ({"stops": ("ab",)}, {"silent": True}, {"begun": "xyabcd"}):
            self.both(words, 0, **expected)
        self.both([{"content": each} for each in ("<thi", "nk>", "y", "y", "</think>", "z")], 0, think_tags=True)
        self.both([{"reasoning": each["content"]} for each in words], 0, hides_thinking=True)

    def test_calls(self) -> None:
        """Text after a call ends it, unless it is blank."""
        call = {"tool_calls": [{"index": 0, "id": "call_1", "function": {"name": "Bash", "arguments": "{}"}}]}
        said = [{"content": each} for each in ("one", " two", " three")]
        self.both([*said, call, {"content": " "}, {"content": "four"}, {"content": "five"}], 1)

    def test_details(self) -> None:
        """What goes back with the thinking is collected from every piece."""
        details = [{"type": "reasoning.encrypted", "data": "cipher"}]
        self.both([{"reasoning": each, "reasoning_details": details} for each in ("one", " two", " three")], 0)

    def test_over(self) -> None:
        """After the end nothing is said."""
        pieces = [
            sse([{"choices": [{"index": 0, "delta": {"content": each}}]}], done=False) for each in ("a", "b", "c")
        ]
        stream = machine()
        fed(stream, pieces)
        self.assertEqual(shortly(stream, pieces[2]), b"")

    def test_ever_new(self) -> None:
        """A server that puts something new into each event is not looked at again and again."""
        with patch.object(chat_stream, "cut", wraps=cut) as looked:
            stream = machine()
            for number in range(100):
                chunk = {"id": number, "choices": [{"index": 0, "delta": {"content": f"word {number}"}}]}
                stream.receive(sse([chunk], done=False))
        self.assertLess(looked.call_count, 10)
