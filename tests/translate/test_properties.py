"""What holds for every backend and every client: issue 3, the two properties of its proof."""

from collections.abc import Iterable
from typing import Any

from attrs import evolve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.model.events import Event
from claudeproxy.model.problems import Refusal, bad_gateway
from claudeproxy.translate.chat_request import Policy, to_chat
from claudeproxy.translate.chat_stream import ChatStream
from claudeproxy.translate.dialects import CHAT_DIALECTS as DIALECTS
from claudeproxy.translate.expected import Expected
from claudeproxy.translate.names import Names
from claudeproxy.translate.reply import Reply
from claudeproxy.wire.events import stream_bytes
from claudeproxy.wire.json import decode, encode
from claudeproxy.wire.requests import parse_messages
from tests.short_way import shortly
from tests.strategies import IDS, chat_chunks, chat_streams, sensible_streams, splits
from tests.stream_checker import Checked, check_stream
from tests.translate.sdk_types import requests, unknown_to_openai

DONE = b"data: [DONE]\n\n"
EXPECTED = Expected("fake", 10, names=Names.of(("Bash", "Read")))

#: Where a delta may have a text.
_SAID = ("content", "reasoning_content", "reasoning", "thinking", "refusal")

_WORDS = st.sampled_from(["a", "b", " ", "ab", "Hello", "</think>"]) | st.text(max_size=3)

many = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def sse(chunks: Iterable[Any]) -> bytes:
    """The chunks as a server would send them, without a last word."""
    return b"".join(b"data: " + encode(chunk) + b"\n\n" for chunk in chunks)


def answered(pieces: Iterable[bytes], expected: Expected, ending: str = "close") -> list[Event]:
    """All events of an answer; fed further than its end, as a relay might."""
    machine = new_machine(expected)
    events = [event for piece in pieces for event in machine.receive(piece)]
    return events + rest(machine, ending)


def shown(pieces: Iterable[bytes], expected: Expected, ending: str) -> bytes:
    """The bytes of the same, where they come the short way if they can."""
    machine = new_machine(expected)
    said = b"".join([shortly(machine, piece) or stream_bytes(machine.receive(piece)) for piece in pieces])
    return said + stream_bytes(rest(machine, ending))


def new_machine(expected: Expected) -> ChatStream:
    numbers = iter(range(1, 10**6))
    return ChatStream(Reply("msg_1", "claude-x"), expected, lambda: f"u{next(numbers)}")


def rest(machine: ChatStream, ending: str) -> list[Event]:
    events = machine.close() if ending == "close" else machine.fail(bad_gateway("it broke off"))
    return events + machine.receive(DONE) + machine.close() + machine.fail(bad_gateway("too late"))


def judged(events: list[Event]) -> Checked:
    return check_stream(stream_bytes(events), raw_tools=True)


def reworded(chunk: dict[str, Any], text: str) -> dict[str, Any]:
    """The same chunk with another text."""
    match chunk:
        case {"choices": [{"delta": dict(delta)} as choice, *rest]}:
            told = {key: text if key in _SAID and isinstance(value, str) else value for key, value in delta.items()}
            return {**chunk, "choices": [{**choice, "delta": told}, *rest]}
    return chunk


@st.composite
def expectations(draw: st.DrawFn) -> Expected:
    """Any combination of what a request lets its answer be expected to be."""
    return Expected(
        "fake",
        10,
        stop_sequences=draw(st.sampled_from([(), ("a",), ("\n\n", "</think>"), ("ab", "b", "😀")])),
        silent=draw(st.booleans()) and draw(st.booleans()),
        names=draw(st.sampled_from([Names(), EXPECTED.names])),
        used_ids=draw(st.sampled_from([frozenset[str](), frozenset({"call_1"})])),
        one_call=draw(st.booleans()),
        hides_thinking=draw(st.booleans()),
        think_tags=draw(st.booleans()),
        starts_thinking=draw(st.booleans()),
        ends_without_done=draw(st.booleans()),
        begun=draw(st.sampled_from(["", "a", "{", "Hello"])),
    )


class AnswerProperties(SynchronousTestCase):
    """For any list of backend deltas, sensible or not, in any split."""

    @many
    @given(st.data())
    def test_legal(self, data: st.DataObject) -> None:
        """The answer is legal and ends exactly once, whatever the backend says and however it stops."""
        body = sse(data.draw(chat_streams())) + data.draw(st.sampled_from([b"", DONE, b"data: nonsense\n\n"]))
        pieces = data.draw(splits(body))
        judged(answered(pieces, data.draw(expectations()), data.draw(st.sampled_from(["close", "fail"]))))

    @many
    @given(chat_streams(), expectations(), st.data())
    def test_same_in_every_split(self, chunks: list[Any], expected: Expected, data: st.DataObject) -> None:
        """How the bytes are cut changes nothing of what the client gets together."""
        body = sse(chunks) + DONE
        whole, cut = (judged(answered(pieces, expected)) for pieces in ([body], data.draw(splits(body))))
        self.assertEqual((cut.message, cut.error), (whole.message, whole.error))

    @many
    @given(st.lists(st.tuples(chat_chunks(), st.lists(_WORDS, max_size=4)), max_size=8), expectations())
    def test_same_on_the_short_way(self, chunks: list[tuple[Any, list[str]]], expected: Expected) -> None:
        """Pieces that differ in nothing but their texts may go another way, and are the same bytes in the end;
        also where they are cut."""
        alike = [like for chunk, texts in chunks for like in (chunk, *(reworded(chunk, text) for text in texts))]
        frames = [sse([each]) for each in alike] + [DONE]
        halves = [half for frame in frames for half in (frame[: len(frame) // 2], frame[len(frame) // 2 :])]
        for pieces in (frames, halves, [*frames[:2], *halves]):
            for ending in ("close", "fail"):
                long = stream_bytes(answered(pieces, expected, ending))
                self.assertEqual(shown(pieces, expected, ending), long)

    @many
    @given(sensible_streams(), st.data())
    def test_sensible(self, told: tuple[list[Any], list[Any], str], data: st.DataObject) -> None:
        """A sensible answer arrives as it is: every text, every thought, every call with its id and arguments."""
        chunks, blocks, reason = told
        answer = judged(answered(data.draw(splits(sse(chunks) + DONE)), EXPECTED))
        assert answer.message is not None
        seen = [{key: value for key, value in block.items() if key != "signature"} for block in answer.content]
        for block in seen + blocks:
            block.update((key, value.lstrip("\n")) for key, value in block.items() if key == "text")
        self.assertEqual(seen, blocks)
        self.assertEqual(answer.message["stop_reason"], reason)


#: A piece of text that can be found again, with the kinds of blanks around it that models like.
_BLANKS = st.sampled_from(["", " ", "\n", "\n\n", " \t"])


@st.composite
def marked_streams(draw: st.DrawFn) -> tuple[list[dict[str, Any]], dict[str, list[str]]]:
    """
    Deltas in any order and of any oddity, each piece of which carries a mark that occurs but once; and the marks by
    what they are: text, thinking, and pieces of arguments.
    """
    marks: dict[str, list[str]] = {"text": [], "thinking": [], "arguments": []}

    def marked(kind: str, form: str = "{}") -> str:
        marks[kind].append(f"{kind[0]}{sum(map(len, marks.values()))}.")
        return form.format(marks[kind][-1])

    def words(kind: str) -> str:
        return draw(_BLANKS) + marked(kind) + draw(_BLANKS)

    def entry() -> dict[str, Any]:
        form = draw(st.sampled_from(['{{"{}": 1}}', '{{"{}": ', "{}", "[{}]", "'{}'", '{{"{}": 1,}}']))
        function = {"arguments": marked("arguments", form)}
        if draw(st.booleans()):
            function["name"] = draw(st.sampled_from(["Bash", "Read", "unknown"]))
        index, id = draw(st.sampled_from([None, 0, 0, 1, 5])), draw(st.sampled_from([*IDS, None]))
        return {key: value for key, value in (("index", index), ("id", id)) if value is not None} | {
            "function": function
        }

    chunks = []
    for _ in range(draw(st.integers(1, 8))):
        delta: dict[str, Any] = {}
        for kind in sorted(draw(st.sets(st.sampled_from(["content", "reasoning", "tool_calls"]), max_size=2))):
            match kind:
                case "content":
                    said = draw(_BLANKS) if draw(st.booleans()) else words("text")
                    delta["content"] = draw(st.sampled_from([said, [{"type": "text", "text": said}]]))
                case "reasoning":
                    delta[draw(st.sampled_from(["reasoning", "reasoning_content", "thinking"]))] = words("thinking")
                case "tool_calls":
                    delta["tool_calls"] = [entry() for _ in range(draw(st.integers(1, 3)))]
        chunks.append({"choices": [{"index": 0, "delta": delta}]})
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": draw(st.sampled_from(["stop", "length"]))}]})
    return chunks, marks


class LossProperties(SynchronousTestCase):
    """What may be left out is blank text beside other blocks; at the limit, calls that are not whole; and a second
    call where only one is allowed. Nothing else, and nothing is told twice."""

    @many
    @given(marked_streams(), st.data())
    def test_no_loss(self, told: tuple[list[Any], dict[str, list[str]]], data: st.DataObject) -> None:
        """Every piece of text, thought and arguments arrives once, and text and thought in their order."""
        chunks, marks = told
        expected = evolve(
            EXPECTED, think_tags=data.draw(st.booleans()), begun=data.draw(st.sampled_from(["", "{", "Hello"]))
        )
        answer = judged(answered(data.draw(splits(sse(chunks) + DONE)), expected))
        calls = "".join(str(call["input"]) for call in answer.calls)
        cut = chunks[-1]["choices"][0]["finish_reason"] == "length"
        for mark in marks["arguments"]:
            found = calls.count(mark) + answer.text.count(mark)
            self.assertIn(found, (0, 1) if cut else (1,), mark)
        for kind, shown in (("text", answer.text), ("thinking", answer.thinking)):
            places = [shown.find(mark) for mark in marks[kind]]
            self.assertEqual(places, sorted(places))
            self.assertEqual([shown.count(mark) for mark in marks[kind]], [1] * len(places))

    @many
    @given(marked_streams())
    def test_whole_calls_survive_the_limit(self, told: tuple[list[Any], dict[str, list[str]]]) -> None:
        """At the limit a call whose arguments are whole is kept; all that is left out were no JSON objects."""
        chunks, _ = told
        chunks[-1]["choices"][0]["finish_reason"] = "length"
        answer = judged(answered([sse(chunks) + DONE], EXPECTED))
        self.assertTrue(all(isinstance(call["input"], dict) for call in answer.calls))

    @many
    @given(marked_streams())
    def test_one_call(self, told: tuple[list[Any], dict[str, list[str]]]) -> None:
        """Where one call is allowed, it is the first of those that would come else (row 25)."""
        chunks, _ = told
        body = sse(chunks) + DONE
        first, every = (judged(answered([body], evolve(EXPECTED, one_call=one))).calls for one in (True, False))
        self.assertEqual(first, every[:1])


#: Why a valid request is refused: the R rows of PROTOCOL 4.2, and what cannot be said to any chat server.
REFUSALS = (
    "container: ",
    ".source.file_id: ",
    "tools: server tool ",
    "tools: tool type ",
    "tool_choice",
    "messages: no message has any content",
    "messages: this backend cannot continue an answer",
)
#: The presets' own fields, which OpenAI's types do not know.
PRESET_FIELDS = {
    "llama.cpp": {"chat_template_kwargs", "thinking_budget_tokens", "return_progress", "timings_per_token"},
    "vllm": {
        "chat_template_kwargs",
        "continue_final_message",
        "add_generation_prompt",
        "stream_options.continuous_usage_stats",
    },
    "openrouter": {"reasoning", "messages.reasoning_details"},
    "deepseek": {"thinking"},
    "kimi": {"thinking"},
    "glm": {"thinking"},
}


class RequestProperties(SynchronousTestCase):
    """For any request that the official SDK's types can build."""

    @settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
    @given(requests(), st.sampled_from(sorted(DIALECTS)), st.booleans(), st.booleans())
    def test_translates(self, request: dict[str, Any], name: str, drop: bool, refuse: bool) -> None:
        """It becomes a body that OpenAI's SDK could have built, the preset's own fields aside; or a 400 that names
        what cannot be had."""
        parsed = parse_messages(encode(request))
        dialect = DIALECTS[name]
        try:
            chat = to_chat(parsed.request, request["model"], dialect, Policy(drop, refuse), session="s")
        except Refusal as refusal:
            self.assertEqual(refusal.problem.status, 400)
            reasons = (*REFUSALS, "image: this backend's model cannot see") if refuse else REFUSALS
            self.assertTrue(any(each in refusal.problem.message for each in reasons), refusal.problem.message)
            return
        body = decode(encode(chat.body))
        known = (
            PRESET_FIELDS.get(name, set())
            | {f"messages.{dialect.reasoning_echo}"}
            | ({"top_k"} if dialect.top_k else set())
        )
        self.assertLessEqual(unknown_to_openai(body), known)
        self.assert_answered(body["messages"])

    def assert_answered(self, messages: list[dict[str, Any]]) -> None:
        """Every call has its result right after it, in order; users and models take turns."""
        waiting: list[str] = []
        for before, message in zip([{"role": "", "content": ""}, *messages], messages, strict=False):
            if message["role"] == "tool":
                self.assertEqual(message["tool_call_id"], waiting.pop(0))
                continue
            self.assertEqual(waiting, [])
            waiting = [call["id"] for call in message.get("tool_calls", ())]
            if message["role"] in ("user", "assistant"):
                self.assertNotEqual(message["role"], before["role"])
        self.assertEqual(waiting, [])
