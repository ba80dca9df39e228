"""A stream of the Responses API, however cut, is one legal answer (PROTOCOL 4.9)."""

import json
from collections.abc import Iterable
from itertools import count
from random import Random
from typing import Any

from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.model.events import Event, Failed
from claudeproxy.model.problems import bad_gateway
from claudeproxy.translate.expected import Expected
from claudeproxy.translate.names import Names
from claudeproxy.translate.reply import Reply
from claudeproxy.translate.responses_stream import ResponsesStream
from claudeproxy.translate.signatures import read
from claudeproxy.wire.events import stream_bytes
from tests.fakes.responses import (
    call,
    events,
    failed,
    frames,
    llama_call,
    llama_text,
    message,
    reasoning,
    response,
    stream,
    whole,
)
from tests.fakes.scripts import Script, json_bytes
from tests.stream_checker import Checked, check_stream

THOUGHT = reasoning("Let me see.", "It is Paris.")
ITEMS = (
    THOUGHT,
    message("I will ", "look."),
    call("Bash", '{"command"', ':"ls"}'),
    call("Read", "{}", call_id="call_2"),
)


def machine(stops: tuple[str, ...] = (), **expected: Any) -> ResponsesStream:
    numbers = count(1)
    told = Expected("box", 10, stop_sequences=stops, names=Names.of(("Bash", "Read")), **expected)
    return ResponsesStream(Reply("msg_1", "m"), told, lambda: f"u{next(numbers)}")


def fed(stream: ResponsesStream, pieces: Iterable[bytes]) -> list[Event]:
    found = [event for piece in pieces for event in stream.receive(piece)]
    return found + stream.close()


def answer(found: list[Event]) -> Checked:
    return check_stream(stream_bytes(found, "req_1"), raw_tools=True)


def read_out(script: Script, **expected: Any) -> Checked:
    return answer(fed(machine(**expected), [script.body_bytes()]))


def reason(checked: Checked) -> Any:
    assert checked.message is not None
    return checked.message["stop_reason"]


def problem(script: Script) -> Any:
    (event,) = fed(machine(), [script.body_bytes()])
    assert isinstance(event, Failed)
    return event.problem


class ShapeTests(SynchronousTestCase):
    """The fake speaks as OpenAI does."""

    def test_types(self) -> None:
        """Every event that the fake sends is one of OpenAI's types, and so is its whole answer."""
        adapter: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
        refusal = message("No.", refusal=True)
        cut = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
        for found in (
            events(*ITEMS, refusal, reasoning(content=("hm",))),
            events(message("a"), **cut),
            failed("server_error", "no"),
        ):
            for event in found:
                adapter.validate_python(event, strict=True)
        Response.model_validate(response(ITEMS), strict=True)


class SplitTests(SynchronousTestCase):
    """Where two reads meet makes no difference."""

    def test_splits(self) -> None:
        """Whole, byte by byte and cut anywhere, a stream is the same answer."""
        dice = Random(4)
        for script in (stream(*ITEMS), llama_text("Grüße", " 🌊"), llama_call("Bash", '{"a"', ":1}")):
            body = script.body_bytes()
            expected = answer(fed(machine(), [body])).message
            for _ in range(10):
                places = sorted(dice.sample(range(len(body)), 12))
                pieces = [body[a:b] for a, b in zip([0, *places], [*places, len(body)], strict=True)]
                self.assertEqual(answer(fed(machine(), pieces)).message, expected)
            single = (body[place : place + 1] for place in range(len(body)))
            self.assertEqual(answer(fed(machine(), single)).message, expected)

    def test_truncated(self) -> None:
        """A stream that ends before its last event is a failed answer, wherever it ends."""
        steps = stream(*ITEMS).writes()
        for length in range(len(steps)):
            found = fed(machine(), steps[:length])
            self.assertTrue(isinstance(found[-1], Failed), length)

    def test_nonsense(self) -> None:
        """Events with fields of the wrong kinds, or none, raise nothing and end in a legal answer."""
        dice = Random(7)
        junk: list[Any] = [None, 3, "x", [], {}, [1], {"type": 4}, True]
        for _ in range(300):
            found = json.loads(json.dumps(events(*ITEMS)))
            for _ in range(4):
                event = dice.choice(found)
                target = dice.choice([event, *(value for value in event.values() if isinstance(value, dict))])
                if target:
                    target[dice.choice([*target])] = dice.choice(junk)
            body = b"".join(b"data: " + json_bytes(each) + b"\n\n" for each in found)
            one = machine()
            checked = answer(fed(one, [body]))
            self.assertTrue(checked.finished or checked.error)
            self.assertTrue(one.over)


class AnswerTests(SynchronousTestCase):
    """What becomes of each item."""

    def test_all(self) -> None:
        """Thoughts, text and calls come in their order; the counts are split into fresh and cached."""
        found = read_out(stream(*ITEMS))
        self.assertEqual([block["type"] for block in found.content], ["thinking", "text", "tool_use", "tool_use"])
        self.assertEqual(found.content[0]["thinking"], "Let me see.\n\nIt is Paris.")
        self.assertEqual(found.text, "I will look.")
        self.assertEqual([each["id"] for each in found.calls], ["call_1", "call_2"])
        self.assertEqual(reason(found), "tool_use")
        assert found.message is not None
        usage = found.message["usage"]
        told = [usage[name] for name in ("input_tokens", "cache_read_input_tokens", "output_tokens")]
        self.assertEqual((told, usage["output_tokens_details"]["thinking_tokens"]), ([7, 5, 7], 3))

    def test_signature(self) -> None:
        """The signature holds the reasoning item as it came, so that it can go back."""
        found = read_out(stream(THOUGHT, message("a")))
        signed = read(found.content[0]["signature"])
        assert signed is not None
        wanted = {"id": "rs_1", "summary": THOUGHT["summary"], "encrypted_content": "gAAA"}
        self.assertEqual((signed.field, signed.data), ("responses", wanted))

    def test_only_cipher(self) -> None:
        """Reasoning of which nothing is shown is an empty block with a signature; nothing at all is no block."""
        found = read_out(stream(reasoning(), message("a")))
        self.assertEqual([block["type"] for block in found.content], ["thinking", "text"])
        self.assertEqual(found.content[0]["thinking"], "")
        bare = read_out(stream(reasoning(cipher=None), message("a")))
        self.assertEqual([block["type"] for block in bare.content], ["text"])

    def test_hidden(self) -> None:
        """Hidden reasoning with a text of its own is in the signature."""
        found = read_out(stream(reasoning(content=("hm",), cipher=""), message("a")), hides_thinking=True)
        signed = read(found.content[0]["signature"])
        assert signed is not None
        self.assertEqual((found.content[0]["thinking"], signed.data["content"][0]["text"]), ("", "hm"))

    def test_whole(self) -> None:
        """One JSON text instead of a stream is the same answer."""
        found = answer(fed(machine(), [b"\n\n", whole(*ITEMS).body_bytes()]))
        assert found.message is not None
        self.assertEqual(found.message, read_out(stream(*ITEMS)).message)

    def test_only_ends(self) -> None:
        """What no delta brought is taken from the item's end, and what this did not from the response's."""
        wanted = read_out(stream(*ITEMS)).message
        ends = [each for each in events(*ITEMS) if each["type"] in ("response.output_item.done", "response.completed")]
        self.assertEqual(read_out(Script(steps=frames(ends))).message, wanted)
        self.assertEqual(read_out(Script(steps=frames(ends[-1:]))).message, wanted)
        no_ends = [each for each in events(*ITEMS[1:]) if each["type"] != "response.output_item.done"]
        kinds = [block["type"] for block in read_out(Script(steps=frames(no_ends))).content]
        self.assertEqual(kinds, ["text", "tool_use", "tool_use"])

    def test_ids_change(self) -> None:
        """An item whose id is another in every event is known by its place."""
        found = events(*ITEMS)
        for number, event in enumerate(found):
            if "item_id" in event:
                event["item_id"] = f"x{number}"
            if "item" in event:
                event["item"] = event["item"] | {"id": f"y{number}"}
        checked = read_out(Script(steps=frames(found)))
        self.assertEqual((checked.text, len(checked.calls)), ("I will look.", 2))

    def test_unknown(self) -> None:
        """Unknown events and items are ignored, also after the last one, and so is a [DONE]."""
        other = {"type": "response.web_search_call.searching", "item_id": "ws_1", "output_index": 9}
        item = {"type": "web_search_call", "id": "ws_1", "status": "completed"}
        ended = {"type": "response.output_item.done", "item": item, "output_index": 9}
        found = events(message("Hello"))
        late = {"type": "rate_limits.updated", "rate_limits": []}
        script = Script(steps=[*frames([other, *found[:3], ended, *found[3:], late])])
        body = b"data: [DONE]\n\n" + script.body_bytes() + b"data: [DONE]\n\n"
        self.assertEqual(answer(fed(machine(), [body])).text, "Hello")

    def test_refusal(self) -> None:
        """A refusal is text, and the reason of the end; a filter's cut is one, too."""
        found = read_out(stream(message("No", ".", refusal=True)))
        self.assertEqual((found.text, reason(found)), ("No.", "refusal"))
        cut = stream(message("We"), status="incomplete", incomplete_details={"reason": "content_filter"})
        self.assertEqual(reason(read_out(cut)), "refusal")

    def test_cut(self) -> None:
        """At the limit the answer is cut: a call that is not whole is dropped, and a sentence tells of it."""
        cut = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
        found = read_out(stream(message("a"), call("Bash", '{"comm', status="incomplete"), **cut))
        self.assertEqual(([*found.calls], found.text, reason(found)), ([], "a", "max_tokens"))
        alone = read_out(stream(call("Bash", '{"comm', status="incomplete"), **cut))
        self.assertIn("Bash was cut off", alone.text)

    def test_cut_unsaid(self) -> None:
        """llama.cpp never says that it cut an answer: the number of tokens does."""
        script = llama_call("Bash", '{"a":', '"b', prompt=31)
        found = read_out(script, limit=2)
        self.assertEqual(([*found.calls], reason(found)), ([], "max_tokens"))
        full = read_out(llama_text("a", "b", prompt=31), limit=2, window=33)
        self.assertEqual(reason(full), "model_context_window_exceeded")
        self.assertEqual(reason(read_out(llama_text("a", "b"), limit=3)), "end_turn")

    def test_mended(self) -> None:
        """Arguments with plain faults are put right, as in chats."""
        found = read_out(stream(call("Bash", '{"a":1,}'), call("Read", "", call_id="c2"), message("b")))
        self.assertEqual([each["input"] for each in found.calls], [{"a": 1}, {}])

    def test_stop_sequence(self) -> None:
        """A stop sequence, cut over two deltas, ends the answer, and the connection is not waited for."""
        one = machine(("STOP",))
        found = answer(fed(one, [stream(message("Hello ST", "OP more")).body_bytes()]))
        self.assertEqual((found.text, reason(found), one.heard_out), ("Hello ", "stop_sequence", False))

    def test_sign_of_life(self) -> None:
        """llama.cpp's progress opens the message with an exact count of the prompt."""
        one = machine()
        for piece in llama_text("a", prompt=77, cached=7).writes()[:3]:
            found = one.receive(piece)
        self.assertEqual((found[0].usage.input, found[0].usage.cache_read), (70, 7))  # type: ignore[union-attr]


class FailureTests(SynchronousTestCase):
    """Nothing that failed looks whole."""

    def test_overflow(self) -> None:
        """A full context in a failed response is told in the words that make Claude Code compact."""
        words = "Your input exceeds the context window of this model. Please adjust your input and try again."
        found = problem(Script(steps=frames(failed("context_length_exceeded", words))))
        self.assertEqual((found.status, found.message), (400, "prompt is too long"))

    def test_codes(self) -> None:
        """The code of an error decides its status; the shapes are OpenAI's, its gateways', llama.cpp's."""
        for code, status in (("rate_limit_exceeded", 429), ("server_error", 502), ("invalid_image", 400)):
            self.assertEqual(problem(Script(steps=frames(failed(code, "no")))).status, status)
            flat = {"type": "error", "code": code, "message": "no", "param": None, "sequence_number": 2}
            self.assertEqual(problem(Script(steps=frames([flat]))).status, status)
            nested = {"type": "error", "error": {"type": "x", "code": code, "message": "no"}}
            self.assertEqual(problem(Script(steps=frames([nested]))).status, status)
        said = {"error": {"code": 500, "message": "does not match the expected peg-native format"}}
        one = machine().receive(b"data: " + json_bytes(said) + b"\n\n")
        assert isinstance(one[0], Failed)
        self.assertEqual(one[0].problem.status, 400)

    def test_in_the_middle(self) -> None:
        """An answer that fails after some text keeps the text, and fails."""
        found = events(message("Hello"))
        broken = response(status="failed", error={"code": "server_error", "message": "oops"})
        last = {"type": "response.failed", "response": broken}
        checked = read_out(Script(steps=frames([*found[:-1], last])))
        assert checked.error is not None
        self.assertEqual((checked.text, "oops" in checked.error.message), ("Hello", True))

    def test_empty(self) -> None:
        """An answer of nothing is no success."""
        found = read_out(stream())
        self.assertTrue(found.error is not None and "empty answer" in found.error.message)

    def test_no_json(self) -> None:
        """What is no JSON is a fault of the server."""
        self.assertEqual(problem(Script(steps=[])).status, 502)
        (event,) = fed(machine(), [b"<html>Bad gateway</html>"])
        assert isinstance(event, Failed)
        self.assertEqual(event.problem.status, 502)

    def test_fail(self) -> None:
        """A connection that breaks is a failed answer, once."""
        one = machine()
        found = [event for piece in stream(message("a")).writes()[:5] for event in one.receive(piece)]
        found += one.fail(bad_gateway("broke")) + one.fail(bad_gateway("again")) + one.close()
        checked = answer(found)
        assert checked.error is not None
        self.assertEqual((checked.text, checked.error.message), ("a", "broke"))

    def test_silent(self) -> None:
        """If no answer was wanted, none is shown."""
        found = read_out(stream(*ITEMS), silent=True)
        self.assertEqual((found.content, reason(found)), ([], "max_tokens"))


class OddBodyTests(SynchronousTestCase):
    """How a body is read, and what is odd in it."""

    def test_signs_of_life(self) -> None:
        """Data that are no JSON are passed over; if nothing else comes, they are shown."""
        noise = b"data: keep-alive\n\n"
        pieces = [piece for each in stream(*ITEMS).writes() for piece in (noise, each)]
        self.assertEqual(answer(fed(machine(), pieces)).message, read_out(stream(*ITEMS)).message)
        (event,) = fed(machine(), [noise])
        assert isinstance(event, Failed)
        self.assertIn("keep-alive", event.problem.message)

    def test_error_as_text(self) -> None:
        """An event called error is one, whatever its data."""
        (event,) = fed(machine(), [b"event: error\ndata: it broke\n\n"])
        assert isinstance(event, Failed)
        self.assertIn("it broke", event.problem.message)

    def test_damaged(self) -> None:
        """A damaged event may have been a piece of the answer."""
        pieces = stream(message("Hello")).writes()
        pieces[3] = pieces[3].rstrip()[:-5] + b"\n\n"
        self.assertIsNotNone(answer(fed(machine(), pieces)).error)

    def test_broken_byte(self) -> None:
        """A broken byte costs one character (row 63)."""
        body = stream(message("Y#s")).body_bytes().replace(b"#", b"\xff")
        self.assertEqual(answer(fed(machine(), [body])).text, "Y\ufffds")

    def test_places_as_text(self) -> None:
        """An item's place counts, however it is written."""
        found = events(*ITEMS)
        for number, event in enumerate(found):
            if "output_index" in event and number % 2:
                event["output_index"] = str(event["output_index"])
        checked = read_out(Script(steps=frames(found)))
        self.assertEqual((checked.text, len(checked.calls)), ("I will look.", 2))

    def test_lines(self) -> None:
        """Events on lines of JSON are events; a whole response over many lines is one."""
        lines = b"".join(json_bytes(each) + b"\n" for each in events(*ITEMS))
        self.assertEqual(answer(fed(machine(), [lines])).message, read_out(stream(*ITEMS)).message)
        text = json.dumps(json.loads(whole(*ITEMS).body_bytes()), indent=1).encode()
        self.assertEqual(answer(fed(machine(), [text])).message, read_out(stream(*ITEMS)).message)

    def test_window(self) -> None:
        """Nothing at all from a full window is a prompt that was too long (row 39); blank text is an answer."""
        (event,) = fed(machine(window=5), [stream().body_bytes()])
        assert isinstance(event, Failed)
        self.assertTrue(event.problem.message.startswith("prompt is too long"))
        blank = read_out(stream(message(" ")))
        self.assertEqual((blank.text, reason(blank)), (" ", "end_turn"))

    def test_reasons(self) -> None:
        """Why an answer is not complete may be said in other words."""
        for word, wanted in (
            ("safety", "refusal"),
            ("model_length", "model_context_window_exceeded"),
            ("x", "max_tokens"),
        ):
            cut = stream(message("We"), status="incomplete", incomplete_details={"reason": word})
            self.assertEqual(reason(read_out(cut)), wanted)
