"""What compatible servers stream, however cut, is one legal answer (PROTOCOL 2.1, 4.7, 4.10; rows of section 5)."""

import json
from collections.abc import Iterable
from copy import deepcopy
from itertools import count
from random import Random
from typing import Any

import httpx2
from anthropic import Anthropic
from attrs import evolve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.model.events import Event, Failed
from claudeproxy.model.problems import Problem, bad_gateway
from claudeproxy.translate.anthropic_stream import AnthropicStream
from claudeproxy.translate.expected import Expected
from claudeproxy.translate.names import Names
from claudeproxy.translate.reply import Reply
from claudeproxy.wire.events import stream_bytes
from tests import strategies
from tests.fakes.anthropic import (
    broken_off,
    call,
    events,
    failed,
    frames,
    llama_stream,
    message,
    ollama_stream,
    server_call,
    stream,
    text,
    thinking,
    vllm_stream,
    whole,
)
from tests.fakes.scripts import Script, Send, json_bytes
from tests.stream_checker import Checked, check_stream

NAMES = Names.of(["Bash", "Read"])
SEARCH = server_call("web_search", '{"query"', ':"x"}')
FOUND = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []}
REDACTED = {"type": "redacted_thinking", "data": "EmwK"}
BLOCKS = (
    thinking("Let me ", "see."),
    text("I will ", "look: Grüße 🌊."),
    call("Bash", '{"command"', ':"ls"}'),
    call("Read", id="toolu_2"),
)
#: Each server's manner of the same answer, with the signature that it gives its thoughts.
MANNERS = ((stream, "EqQBCgYI"), (vllm_stream, "EqQBCgYI"), (llama_stream, ""), (ollama_stream, ""))


def machine(**expected: Any) -> AnthropicStream:
    numbers = count(1)
    told = evolve(Expected("box", 10, names=NAMES), **expected)
    return AnthropicStream(Reply("msg_1", "m"), told, lambda: f"u{next(numbers)}")


def fed(one: AnthropicStream, pieces: Iterable[bytes], end: bool = True) -> list[Event]:
    found = [event for piece in pieces for event in one.receive(piece)]
    return found + (one.close() if end else [])


def judged(found: list[Event]) -> Checked:
    return check_stream(stream_bytes(found, "req_1"), raw_tools=True)


def answer(body: Script | bytes | list[dict[str, Any]], **expected: Any) -> Checked:
    """What the judge makes of a whole body; the same if it comes byte by byte."""
    if isinstance(body, list):
        body = Script(steps=frames(body))
    data = body if isinstance(body, bytes) else body.body_bytes()
    checked = judged(fed(machine(**expected), [data]))
    single = judged(fed(machine(**expected), (data[place : place + 1] for place in range(len(data)))))
    assert (checked.message, checked.error) == (single.message, single.error)
    return checked


def stop_of(found: Checked) -> Any:
    assert found.message is not None
    return found.message["stop_reason"]


def usage_of(found: Checked) -> Any:
    assert found.message is not None
    return found.message["usage"]


def bare(found: Checked) -> list[dict[str, Any]]:
    """The blocks as pairs of what counts."""
    shown = ("type", "text", "thinking", "signature", "id", "name", "input")
    return [{name: block[name] for name in shown if name in block} for block in found.content]


def failure(body: Script | bytes | list[dict[str, Any]]) -> Problem:
    if isinstance(body, list):
        body = Script(steps=frames(body))
    event = fed(machine(), [body if isinstance(body, bytes) else body.body_bytes()])[-1]
    assert isinstance(event, Failed), event
    return event.problem


class MannerTests(SynchronousTestCase):
    """Every server's manner of saying the same comes to the same."""

    def test_same(self) -> None:
        """Thoughts, text and calls in their order, whatever was left open and for how long; and the ids are those of
        the calls, but never that of the server's message."""
        for make, signature in MANNERS:
            found = answer(make(*BLOCKS, stop_reason="tool_use"))
            expected = [
                {"type": "thinking", "thinking": "Let me see.", "signature": signature},
                {"type": "text", "text": "I will look: Grüße 🌊."},
                {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "ls"}},
                {"type": "tool_use", "id": "toolu_2", "name": "Read", "input": {}},
            ]
            self.assertEqual(bare(found), expected, make.__name__)
            assert found.message is not None
            self.assertEqual((found.message["id"], found.message["model"]), ("msg_1", "m"))
            self.assertEqual(stop_of(found), "tool_use")

    def test_splits(self) -> None:
        """Cut anywhere a stream is the same answer."""
        dice = Random(4)
        for make, _ in MANNERS:
            body = make(*BLOCKS, SEARCH, FOUND, REDACTED, text("So.")).body_bytes()
            expected = answer(body).message
            for _ in range(10):
                places = sorted(dice.sample(range(len(body)), 12))
                pieces = [body[a:b] for a, b in zip([0, *places], [*places, len(body)], strict=True)]
                self.assertEqual(judged(fed(machine(), pieces)).message, expected)

    def test_sdk(self) -> None:
        """The official SDK puts together what the judge does, in pieces that come as they were said."""
        for make, _ in MANNERS:
            found = fed(machine(), [make(*BLOCKS, stop_reason="tool_use").body_bytes()])
            body = stream_bytes(found)
            reply = httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body)
            transport = httpx2.MockTransport(lambda request, reply=reply: reply)
            client = Anthropic(api_key="k", max_retries=0, http_client=httpx2.Client(transport=transport))
            asking = client.messages.stream(model="m", max_tokens=1, messages=[{"role": "user", "content": "a"}])
            with asking as said:
                final = said.get_final_message()
            content = [block.to_dict(mode="json", exclude_none=True) for block in final.content]
            self.assertEqual(
                [{name: each for name, each in block.items() if name != "caller"} for block in content],
                bare(judged(found)),
            )
            self.assertEqual(final.stop_reason, "tool_use")

    def test_live(self) -> None:
        """Text and thoughts leave as they come; the message begins with the first of them, so that until then a
        failure has a status."""
        one, leaves = machine(), []
        for step in stream(*BLOCKS[:2]).writes():
            leaves.append(len(one.receive(step)))
        self.assertEqual(leaves, [0, 0, 0, 3, 1, 0, 2, 0, 2, 1, 0, 0, 3])

    def test_truncated(self) -> None:
        """A stream that ends before it named its end is a failed answer, wherever it ends."""
        steps = stream(*BLOCKS).writes()
        for length in range(len(steps) - 2):
            self.assertIsInstance(fed(machine(), steps[:length])[-1], Failed, length)

    def test_ends(self) -> None:
        """message_stop, the stop reason alone, or [DONE] alone is an end; after message_stop nothing counts."""
        steps = stream(text("Hi")).writes()
        for last in (steps[:-1], [*steps[:-2], b"data: [DONE]\n\n"], steps[:-2] + steps[-1:], [*steps, steps[3]]):
            found = judged(fed(machine(), last))
            self.assertEqual((found.text, stop_of(found)), ("Hi", "end_turn"))
        one = machine()
        fed(one, steps[:-1], end=False)
        self.assertTrue(one.settled and not one.over and not one.heard_out)
        fed(one, steps[-1:], end=False)
        self.assertTrue(one.over and one.heard_out)
        self.assertEqual(answer(Script(steps=stream(text("a")).steps[:-2]), ends_without_done=True).text, "a")


class RepairTests(SynchronousTestCase):
    """What is put right."""

    def test_no_stops(self) -> None:
        """Blocks that nobody closes are closed."""
        found = [each for each in events(*BLOCKS) if each["type"] != "content_block_stop"]
        self.assertEqual(bare(answer(found)), bare(answer(stream(*BLOCKS))))

    def test_no_event_lines(self) -> None:
        """Events without an event line, events whose data have no type, and events in lines without any frame."""
        expected = bare(answer(stream(*BLOCKS)))
        found = events(*BLOCKS)
        bodies = (
            b"".join(b"data: " + json_bytes(each) + b"\n\n" for each in found),
            b"".join(
                f"event: {each.pop('type')}\n".encode() + b"data: " + json_bytes(each) + b"\n\n" for each in found
            ),
            b"".join(json_bytes(each) + b"\n" for each in events(*BLOCKS)),
        )
        for body in bodies:
            self.assertEqual(bare(answer(body)), expected)

    def test_no_start(self) -> None:
        """Deltas of blocks that nobody began are understood by what they bring."""
        found = [each for each in events(*BLOCKS[:2]) if each["type"] in ("content_block_delta", "message_delta")]
        self.assertEqual(bare(answer(found)), bare(answer(stream(*BLOCKS[:2]))))

    def test_indices(self) -> None:
        """The same index for every block, none at all, gaps, and texts instead of numbers."""
        expected = bare(answer(stream(*BLOCKS)))
        for change in (lambda n: 0, lambda n: None, lambda n: 7 * n + 3, str):
            found = [each | {"index": change(each["index"])} if "index" in each else each for each in events(*BLOCKS)]
            self.assertEqual(bare(answer(found)), expected)

    def test_whole_in_start(self) -> None:
        """Text, thoughts and arguments that the block's start holds already."""
        blocks = message(*BLOCKS)["content"]
        found = [{"type": "content_block_start", "index": n, "content_block": each} for n, each in enumerate(blocks)]
        found.append({"type": "message_delta", "delta": {"stop_reason": "tool_use"}})
        self.assertEqual(bare(answer(found)), bare(answer(stream(*BLOCKS))))

    def test_both(self) -> None:
        """Arguments that come in the start and again in deltas count once; as objects they are arguments, too."""
        found = events(call("Bash"))
        found[2]["content_block"]["input"] = {"a": 1}
        for piece in ('{"a": 1}', {"a": 1}):
            delta = {"type": "input_json_delta", "partial_json": piece}
            one = [*found[:3], {"type": "content_block_delta", "index": 0, "delta": delta}, *found[3:]]
            self.assertEqual(answer(one).calls[0]["input"], {"a": 1})

    def test_interleaved(self) -> None:
        """Two calls in turns come one after the other; text within a call comes when it is said."""
        found = events(call("Bash", '{"a"', ":1}"), call("Read", '{"b"', ":2}", id="toolu_2"))
        one, two = found[2:6], found[6:10]
        turns = [each for pair in zip(one, two, strict=True) for each in pair]
        checked = answer([*found[:2], *turns, *found[10:]])
        self.assertEqual([each["input"] for each in checked.calls], [{"a": 1}, {"b": 2}])

    def test_arguments(self) -> None:
        """Faults that have one meaning are mended, others are left for the client to judge (rows 12 to 17)."""
        for given_, expected in (
            ("", {}),
            ("null", {}),
            ('```json\n{"a": 1}\n```', {"a": 1}),
            ('{"a": 1,}', {"a": 1}),
            ('{"a": {"b": 1}', {"a": {"b": 1}}),
            ('"{\\"a\\": 1}"', {"a": 1}),
            ("[1]", "[1]"),
            ("{'a': 1}", "{'a': 1}"),
        ):
            for make, _ in MANNERS:
                found = answer(make(call("Bash", *given_), text("So."), stop_reason="tool_use"))
                self.assertEqual(found.calls[0]["input"], expected, (given_, make.__name__))

    def test_ids(self) -> None:
        """Ids are kept; one that is missing, used before, or used twice is replaced (rows 6, 7)."""
        calls = [call("Bash", "{}", id=id) for id in ("a b", "", "old", "a b")]
        ids = [each["id"] for each in answer(stream(*calls), used_ids=frozenset({"old"})).calls]
        self.assertEqual((ids[0], len(set(ids)), "old" in ids), ("a b", 4, False))

    def test_text_blocks(self) -> None:
        """The server's blocks of text stay as many as they were; those without a word are none."""
        found = answer(stream(text("a"), text(), text("b", "c")))
        self.assertEqual([block["text"] for block in found.content], ["a", "bc"])

    def test_blanks(self) -> None:
        """Blank text between other blocks is an artefact of templates (row 40)."""
        kinds = [block["type"] for block in answer(stream(thinking("a"), text("\n\n"), call("Bash", "{}"))).content]
        self.assertEqual(kinds, ["thinking", "tool_use"])

    def test_whole_json(self) -> None:
        """One message instead of a stream (row 72), under whatever name; and its error."""
        self.assertEqual(bare(answer(whole(*BLOCKS))), bare(answer(stream(*BLOCKS))))
        self.assertEqual(usage_of(answer(whole(text("a"))))["cache_read_input_tokens"], 5)
        self.assertEqual(answer(json_bytes(message() | {"content": "Hi"})).text, "Hi")
        self.assertEqual(answer([message(text("Hi"))]).text, "Hi")

    def test_stop_sequence_ours(self) -> None:
        """A stop sequence that the server does not heed is heeded here."""
        found = answer(stream(text("Go ST", "OP on")), stop_sequences=("STOP",))
        self.assertEqual((found.text, stop_of(found)), ("Go ", "stop_sequence"))

    def test_nothing_wanted(self) -> None:
        """Nothing is shown where no answer was wanted."""
        found = answer(stream(*BLOCKS, SEARCH, REDACTED), silent=True)
        self.assertEqual((found.content, stop_of(found)), ([], "max_tokens"))


class ThinkingTests(SynchronousTestCase):
    """Thoughts and what goes back with them."""

    def test_signatures(self) -> None:
        """A signature is kept as it is, an empty one or none is empty; it closes its block (PROTOCOL 4.6)."""
        for signature in ("EqQB", "x" * 200_000, '"odd\n', ""):
            found = (
                answer(stream(thinking("Hm.", signature=signature), text("a")))
                if len(signature) < 99
                else judged(fed(machine(), [stream(thinking("Hm.", signature=signature), text("a")).body_bytes()]))
            )
            self.assertEqual(found.content[0]["signature"], signature)

    def test_only_a_signature(self) -> None:
        """A block of nothing but its signature is a block; one of nothing at all is none."""
        self.assertEqual(answer(stream(thinking(), text("a"))).content[0]["signature"], "EqQBCgYI")
        self.assertEqual(len(answer(stream(thinking(signature=""), text("a"))).content), 1)

    def test_hidden(self) -> None:
        """Thoughts are shown even where the client would rather not see them: else they could not go back."""
        self.assertEqual(answer(llama_stream(thinking("Hm."), text("a")), hides_thinking=True).thinking, "Hm.")

    def test_late_signature(self) -> None:
        """A signature that comes after its block is told to be lost."""
        found = events(thinking("Hm."), text("a"))
        late = found.pop(4)
        one = machine()
        checked = judged(fed(one, [Script(steps=frames([*found[:-2], late, *found[-2:]])).body_bytes()]))
        self.assertEqual(checked.content[0]["signature"], "")
        self.assertIn("signature", one.remarks[0])

    def test_redacted(self) -> None:
        """Thoughts that nobody may read pass."""
        self.assertEqual(answer(stream(REDACTED, text("a"))).content[0], REDACTED)

    def test_again(self) -> None:
        """Thoughts that go on after text are a block of their own (row 31)."""
        found = [*events(thinking("a"), text("b"))[2:4], *events(text("b"))[2:4]]
        found[2]["index"] = found[3]["index"] = 1
        found += [events(thinking("c"))[3], *events()[-2:]]
        self.assertEqual([block["type"] for block in answer(found).content], ["thinking", "text", "thinking"])


class OtherBlockTests(SynchronousTestCase):
    """Blocks that are no text, thought or call."""

    def test_server_tools(self) -> None:
        """A server's own call and its result pass in their order."""
        for make, _ in MANNERS:
            found = answer(make(text("a"), SEARCH, FOUND, text("b")))
            expected = [{"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}}]
            self.assertEqual(found.content[1:3], [*expected, FOUND])
            self.assertEqual(found.text, "ab")

    def test_unknown(self) -> None:
        """A block of a kind that nobody knows passes whole, with what its deltas brought."""
        found = events(text("a"))
        start = {"type": "content_block_start", "index": 1, "content_block": {"type": "compaction", "content": None}}
        delta = {"type": "content_block_delta", "index": 1, "delta": {"type": "compaction_delta", "content": "short"}}
        used = {"type": "content_block_start", "index": 2, "content_block": {"type": "mcp_tool_use", "id": "m"}}
        piece = {"type": "content_block_delta", "index": 2, "delta": {"partial_json": '{"a":1}'}}
        body = Script(steps=frames([*found[:-2], start, delta, used, piece, *found[-2:]])).body_bytes()
        blocks = [each.block for each in fed(machine(), [body]) if hasattr(each, "block")]
        self.assertEqual(
            blocks[1:],
            [{"type": "compaction", "content": "short"}, {"type": "mcp_tool_use", "id": "m", "input": {"a": 1}}],
        )

    def test_citations(self) -> None:
        """Citations are left out, and told to be."""
        found = events(text("a"))
        cited = {"type": "citations_delta", "citation": {"type": "char_location"}}
        found.insert(4, {"type": "content_block_delta", "index": 0, "delta": cited})
        one = machine()
        self.assertEqual(judged(fed(one, [Script(steps=frames(found)).body_bytes()])).text, "a")
        self.assertIn("citations", one.remarks[0])

    def test_ignored(self) -> None:
        """Pings and events that nobody knows are nothing."""
        found = events(text("a", "b"))
        odd: list[dict[str, Any]] = [{"type": "ping"}, {"type": "brand_new", "index": 0, "delta": {"text": "x"}}]
        self.assertEqual(answer([part for each in found for part in (each, *odd)]).text, "ab")


class EndTests(SynchronousTestCase):
    """How an answer ends, and what it counts."""

    def test_reasons(self) -> None:
        """What the server says is said, if it fits what came; other servers' words are understood."""
        for given_, expected in (
            ("end_turn", "end_turn"),
            ("pause_turn", "pause_turn"),
            ("refusal", "refusal"),
            ("max_tokens", "max_tokens"),
            ("model_context_window_exceeded", "model_context_window_exceeded"),
            ("tool_use", "end_turn"),
            (None, "end_turn"),
            ("stop", "end_turn"),
            ("length", "max_tokens"),
            ("stop_sequence", "end_turn"),
        ):
            self.assertEqual(stop_of(answer(stream(text("a"), stop_reason=given_))), expected, given_)
        self.assertEqual(stop_of(answer(stream(call("Bash", "{}"), stop_reason="end_turn"))), "tool_use")

    def test_unknown_reason(self) -> None:
        """A reason that only newer clients know reaches them."""
        one = machine()
        found = fed(one, [stream(text("a"), stop_reason="compaction").body_bytes()])
        self.assertEqual(found[-2].stop_reason, "compaction")  # type: ignore[union-attr]
        self.assertIn("compaction", one.remarks[0])

    def test_stop_sequence(self) -> None:
        """The sequence that the server stopped at is told."""
        asked: tuple[str, ...]
        for reason, asked in (("stop_sequence", ()), ("stop_sequence", ("END",)), ("end_turn", ("END",))):
            script = stream(text("a"), stop_reason=reason, stop_sequence="END")
            found = answer(script, stop_sequences=asked)
            assert found.message is not None
            self.assertEqual((stop_of(found), found.message["stop_sequence"]), ("stop_sequence", "END"))
        theirs = answer(stream(text("a"), stop_reason="end_turn", stop_sequence="<|im_end|>"), stop_sequences=("END",))
        self.assertEqual(stop_of(theirs), "end_turn")

    def test_limit(self) -> None:
        """At the limit a call that is not whole is dropped, and one that is stays (row 15)."""
        for make, _ in MANNERS:
            cut = answer(make(call("Read", "{}"), call("Bash", '{"command', id="b"), stop_reason="max_tokens"))
            self.assertEqual(([each["name"] for each in cut.calls], stop_of(cut)), (["Read"], "max_tokens"))
            alone = answer(make(call("Bash", '{"command'), stop_reason="max_tokens"))
            self.assertEqual(alone.calls, [])
            self.assertIn("Bash", alone.text)

    def test_window(self) -> None:
        """A limit that is the window's is told as such."""
        found = answer(stream(text("a"), stop_reason="max_tokens"), window=27)
        self.assertEqual(stop_of(found), "model_context_window_exceeded")

    def test_usage(self) -> None:
        """Counts come at the start, at the end, or in parts; the later ones count, but 0 is no count."""
        counts = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
        for make, expected in ((stream, (12, 3, 5, 7)), (vllm_stream, (20, 0, 0, 7)), (ollama_stream, (20, 0, 0, 7))):
            usage = usage_of(answer(make(text("a", "b"))))
            self.assertEqual(tuple(usage[name] for name in counts), expected, make.__name__)
        found = events(text("a", "b"))
        found[-2]["usage"] = {"input_tokens": 0, "output_tokens": 9, "output_tokens_details": {"thinking_tokens": 4}}
        usage = usage_of(answer(found))
        self.assertEqual(tuple(usage[name] for name in counts), (12, 3, 5, 9))
        self.assertEqual(usage["output_tokens_details"], {"thinking_tokens": 4})

    def test_no_usage(self) -> None:
        """Where nobody counts it is estimated, and nothing is ever 0 (row 45)."""
        found = events(text("a", "b"))
        del found[-2]["usage"], found[0]["message"]["usage"]
        usage = usage_of(answer(found))
        self.assertEqual((usage["input_tokens"], usage["output_tokens"]), (10, 2))

    def test_empty(self) -> None:
        """An answer without a word is no success (row 39); at the limit, or refused, it is one."""
        self.assertEqual(failure(stream()).status, 502)
        self.assertEqual(failure(stream(text())).status, 502)
        for reason in ("max_tokens", "refusal"):
            self.assertEqual(answer(stream(stop_reason=reason)).content, [])


class FailureTests(SynchronousTestCase):
    """What goes wrong on the server's side."""

    def test_envelopes(self) -> None:
        """An error in any shape ends the answer with its words, at any place; its type is understood."""
        begun = stream(text("a")).writes()[:4]
        for error, status in (
            ({"type": "error", "error": {"type": "overloaded_error", "message": "Busy."}}, 529),
            ({"type": "error", "error": {"type": "rate_limit_error", "message": "Busy."}}, 429),
            ({"type": "error", "error": {"type": "api_error", "message": "Busy."}}, 502),
            ({"type": "error", "error": {"type": "internal_error", "message": "Busy."}}, 502),
            ({"error": {"message": "Busy.", "type": "server_error", "code": 503}}, 529),
            ({"error": "Busy."}, 502),
            ({"code": 500, "message": "Busy.", "type": "server_error"}, 500),
            ({"object": "error", "message": "Busy."}, 502),
            ({"detail": "Busy."}, 502),
        ):
            for frame in (b"event: error\ndata: %b\n\n", b"data: %b\n\n"):
                problem = failure(b"".join([*begun, frame % json_bytes(error)]))
                self.assertEqual(problem.status, status, error)
                self.assertIn("Busy.", problem.message)
            self.assertIn("Busy.", failure(json_bytes(error)).message)

    def test_words(self) -> None:
        """An error that is plain text, or a page."""
        self.assertIn("Busy.", failure(b"event: error\ndata: Busy.\n\n").message)
        self.assertIn("Busy.", failure(b"<html><body><h1>Busy.</h1></body></html>").message)
        self.assertEqual(failure(b"event: error\n\n").status, 502)

    def test_overflow(self) -> None:
        """llama.cpp's words for a prompt that is too long become those that Claude Code acts on."""
        words = "request (8889 tokens) exceeds the available context size (4096 tokens), try increasing it"
        for error in (
            {"error": {"code": 400, "message": words, "type": "exceed_context_size_error"}},
            {"type": "error", "error": {"type": "invalid_request_error", "message": words}},
        ):
            self.assertEqual(failure(json_bytes(error)).message, "prompt is too long: 8889 tokens > 4096 maximum")

    def test_after_content(self) -> None:
        """An error after content is the last event; what was open stays open."""
        found = answer(failed("overloaded_error", "Busy.", thinking("a"), text("b")))
        assert found.error is not None
        self.assertEqual((found.error.type, found.text), ("overloaded_error", "b"))
        one = machine()
        script = broken_off(stream(thinking("a")), Send(b'data: {"error":"x"}\n\n'), events=4)
        self.assertIsInstance(fed(one, script.writes())[-1], Failed)
        self.assertTrue(one.heard_out)

    def test_failed_ends(self) -> None:
        """Reasons that tell of a failure are failures."""
        self.assertEqual(failure(stream(text("a"), stop_reason="error")).status, 502)

    def test_told(self) -> None:
        """A failure that others saw ends the answer, also in the midst of a thought."""
        one = machine()
        fed(one, stream(thinking("a")).writes()[:4], end=False)
        self.assertIsInstance(one.fail(bad_gateway("gone"))[-1], Failed)
        self.assertEqual(one.receive(b"data: [DONE]\n\n") + one.close(), [])

    def test_begun_early(self) -> None:
        """The message may begin before the server said anything."""
        one = machine()
        self.assertEqual(judged(one.begin() + fed(one, stream(text("a")).writes())).text, "a")


JUNK: list[Any] = [None, 3, "x", [], {}, [1], {"type": 4}, True, 2.5, "0"]


@st.composite
def damaged(draw: st.DrawFn) -> list[dict[str, Any]]:
    """The events of some answer, of which some are lost, doubled, moved, or have fields of the wrong kind."""
    block = st.sampled_from([*BLOCKS, SEARCH, FOUND, REDACTED, text("x"), call("Bash", '{"a":', id="z"), thinking("y")])
    reason = draw(st.sampled_from(["end_turn", "tool_use", "max_tokens", "stop_sequence", None, "refusal", "error"]))
    found = json.loads(json.dumps(events(*draw(st.lists(block, max_size=4)), stop_reason=reason)))
    for _ in range(draw(st.integers(0, 5))):
        place = draw(st.integers(0, len(found) - 1))
        match draw(st.sampled_from(["lose", "double", "move", "spoil", "spoil", "insert"])):
            case "lose" if len(found) > 1:
                del found[place]
            case "double":
                found.insert(place, found[draw(st.integers(0, len(found) - 1))])
            case "move":
                found.insert(place, found.pop(draw(st.integers(0, len(found) - 1))))
            case "insert":
                found.insert(place, draw(strategies.json_objects()))
            case _:
                event = found[place]
                inner = [each for each in event.values() if isinstance(each, dict)]
                target = draw(st.sampled_from([event, *inner]))
                if target:
                    target[draw(st.sampled_from(sorted(target)))] = deepcopy(draw(st.sampled_from(JUNK)))
    return list(found)


class AnyStreamTests(SynchronousTestCase):
    """Properties."""

    @given(damaged(), st.data())
    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    def test_ends(self, found: list[dict[str, Any]], data: st.DataObject) -> None:
        """Whatever is damaged and however it is cut, nothing raises and the answer comes to one end; its events are in
        legal order, and the same for every cut."""
        expected: dict[str, Any] = {
            "stop_sequences": data.draw(st.sampled_from([(), ("look",), ("}", "a")])),
            "think_tags": data.draw(st.booleans()),
            "silent": data.draw(st.sampled_from([False, False, True])),
            "one_call": data.draw(st.booleans()),
            "names": data.draw(st.sampled_from([NAMES, Names()])),
        }
        body = b"".join(b"data: " + json_bytes(each) + b"\n\n" for each in found)
        whole = fed(machine(**expected), [body])
        cut = fed(machine(**expected), data.draw(strategies.splits(body)))
        self.assertEqual(whole, cut)
        self.assertTrue(type(whole[-1]).__name__ in ("MessageStop", "Failed"))
        late = machine(**expected)
        begun = late.begin() + fed(late, [body], end=False) + late.fail(bad_gateway("gone"))
        self.assertTrue(type(begun[-1]).__name__ in ("MessageStop", "Failed"))

    @given(st.lists(st.sampled_from([thinking("t"), text("a", "b"), *BLOCKS[:3], SEARCH]), max_size=5), st.data())
    @settings(max_examples=100, deadline=None)
    def test_order_of_stops(self, blocks: list[dict[str, Any]], data: st.DataObject) -> None:
        """When a server closes its blocks makes no difference, and neither does whether it does; but for calls without
        arguments, which may still get some as long as they are open."""
        blocks = [each | {"id": f"{each['id']}{n}"} if "id" in each else each for n, each in enumerate(blocks)]
        found = events(text("So "), *blocks)
        stops = [each for each in found if each["type"] == "content_block_stop"]
        rest = [each for each in found if each not in stops]
        kept = [stop for stop in stops if data.draw(st.booleans())]
        moved = [*rest[:-2], *data.draw(st.permutations(kept)), *rest[-2:]]
        self.assertEqual(bare(judged(fed(machine(), Script(steps=frames(moved)).writes()))), bare(answer(found)))
