"""A stream of Ollama's, however cut, is one legal answer (PROTOCOL 4.8; rows 27, 83, 84 and others of section 5)."""

from collections.abc import Iterable
from itertools import count
from typing import Any

from attrs import evolve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.model.events import Event, Failed, MessageDelta
from claudeproxy.model.problems import Problem, bad_gateway
from claudeproxy.translate.expected import Expected
from claudeproxy.translate.names import Names
from claudeproxy.translate.ollama_stream import OllamaStream
from claudeproxy.translate.reply import Reply
from claudeproxy.translate.signatures import Reasoning, read
from claudeproxy.wire.events import stream_bytes
from tests import strategies
from tests.fakes.ollama import TOO_LONG, call, last, line, said, stream
from tests.fakes.scripts import Script, json_bytes
from tests.stream_checker import Checked, check_stream

NAMES = Names.of(["Bash", "Read"])


def machine(**expected: Any) -> OllamaStream:
    numbers = count(1)
    told = Expected("box", 10, names=NAMES)
    return OllamaStream(Reply("msg_1", "m"), evolve(told, **expected), lambda: f"u{next(numbers)}")


def fed(machine: OllamaStream, pieces: Iterable[bytes], end: bool = True) -> list[Event]:
    events = [event for piece in pieces for event in machine.receive(piece)]
    return events + (machine.close() if end else [])


def answer(body: Script | bytes, **expected: Any) -> Checked:
    """What the judge makes of a whole body; the same if it comes byte by byte."""
    data = body if isinstance(body, bytes) else body.body_bytes()
    whole = fed(machine(**expected), [data])
    single = fed(machine(**expected), [bytes([byte]) for byte in data])
    assert whole == single
    return check_stream(stream_bytes(whole, "req_1"), raw_tools=True)


def stop_of(found: Checked) -> Any:
    assert found.message is not None
    return found.message["stop_reason"]


def usage_of(found: Checked) -> Any:
    assert found.message is not None
    return found.message["usage"]


def failure(body: bytes, **expected: Any) -> Problem:
    event = fed(machine(**expected), [body])[-1]
    assert isinstance(event, Failed), event
    return event.problem


def end(body: Script, **expected: Any) -> MessageDelta:
    return next(each for each in fed(machine(**expected), [body.body_bytes()]) if isinstance(each, MessageDelta))


def values() -> st.SearchStrategy[Any]:
    """Lines, sensible and senseless."""
    text = st.one_of(strategies.nasty_texts(halves=True), st.none(), st.integers())
    function = st.one_of(
        st.none(),
        st.fixed_dictionaries(
            {},
            optional={
                "name": st.one_of(st.sampled_from(["Bash", "bash", "other", ""]), st.none()),
                "arguments": strategies.json_values(),
            },
        ),
    )
    entry = st.one_of(strategies.json_scalars(), st.fixed_dictionaries({}, optional={"id": text, "function": function}))
    message = st.fixed_dictionaries(
        {}, optional={"content": text, "thinking": text, "tool_calls": st.one_of(st.lists(entry, max_size=3), text)}
    )
    known = st.fixed_dictionaries(
        {},
        optional={
            "message": st.one_of(message, strategies.json_scalars()),
            "done": st.sampled_from([False, False, False, True, None]),
            "done_reason": st.sampled_from(["stop", "length", "load", "", None, 5]),
            "prompt_eval_count": st.one_of(st.integers(-5, 10**6), text),
            "eval_count": st.one_of(st.integers(-5, 10**6), text),
        },
    )
    return st.one_of(known, known, strategies.json_values())


class AnyStreamTests(SynchronousTestCase):
    """Properties."""

    @given(st.lists(values(), max_size=8), st.sampled_from([(), ("a",), ("}", "</think>")]), st.data())
    @settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    def test_legal(self, lines: list[Any], stops: tuple[str, ...], data: st.DataObject) -> None:
        """Whatever a server streams and however it is cut, what leaves is legal and comes to an end; nothing raises."""
        body = b"\n".join(json_bytes(value) for value in lines)
        expected: dict[str, Any] = {"stop_sequences": stops, "think_tags": data.draw(st.booleans())}
        first = fed(machine(**expected), [body])
        second = fed(machine(**expected), data.draw(strategies.splits(body)))
        self.assertEqual(first, second)
        if not (len(first) == 1 and isinstance(first[0], Failed)):
            check_stream(stream_bytes(first, "req_1"), raw_tools=True)

    @given(st.binary(max_size=60))
    @settings(max_examples=60, deadline=None)
    def test_rubbish(self, body: bytes) -> None:
        """Bytes that are nothing end in an error."""
        self.assertTrue(machine().reply.over or isinstance(fed(machine(), [body])[-1], Failed))


class AnswerTests(SynchronousTestCase):
    """What the pieces become."""

    def test_text(self) -> None:
        """Pieces of content are one text; the last line's counts are the usage."""
        found = answer(said("Hello", " wörld"))
        self.assertEqual((found.text, stop_of(found)), ("Hello wörld", "end_turn"))
        self.assertEqual((usage_of(found)["input_tokens"], usage_of(found)["output_tokens"]), (26, 9))

    def test_thinking(self) -> None:
        """Thoughts are a block of their own, whose signature says where they go back."""
        found = answer(stream({"thinking": "Hm"}, {"thinking": "m."}, {"content": "Yes."}))
        self.assertEqual((found.thinking, found.text), ("Hmm.", "Yes."))
        self.assertEqual(read(found.content[0]["signature"]), Reasoning("thinking", None))

    def test_hidden_thinking(self) -> None:
        """Thoughts that the client does not want to see travel in the signature."""
        found = answer(stream({"thinking": "Hm."}, {"content": "Yes."}), hides_thinking=True)
        self.assertEqual(found.thinking, "")
        self.assertEqual(read(found.content[0]["signature"]), Reasoning("thinking", "Hm."))

    def test_calls(self) -> None:
        """Several calls in a line, in several lines and on the last one; without ids, the same name twice (row 27);
        "stop" though it called (row 46)."""
        found = answer(
            stream(
                {"content": "Go."},
                {"tool_calls": [call("Bash", {"command": "ls"}), call("Bash", {"command": "ls"})]},
                {"tool_calls": [call("Read", {"n": 1}, id="call_x", index=2)]},
                message={"tool_calls": [call("Read", {})]},
            )
        )
        self.assertEqual(found.text, "Go.")
        inputs = [(each["name"], each["input"]) for each in found.calls]
        self.assertEqual(
            inputs, [("Bash", {"command": "ls"}), ("Bash", {"command": "ls"}), ("Read", {"n": 1}), ("Read", {})]
        )
        self.assertEqual(len({each["id"] for each in found.calls}), 4)
        self.assertEqual(found.calls[2]["id"], "call_x")
        self.assertEqual(stop_of(found), "tool_use")

    def test_odd_arguments(self) -> None:
        """Arguments as a text are read, absent ones are none."""
        found = answer(stream({"tool_calls": [call("Bash", '{"a": 1}'), call("Bash", None)]}))
        self.assertEqual([each["input"] for each in found.calls], [{"a": 1}, {}])

    def test_one_call(self) -> None:
        """Only the first call counts where one is allowed (row 25)."""
        found = answer(stream({"tool_calls": [call("Bash", {}), call("Read", {})]}), one_call=True)
        self.assertEqual([each["name"] for each in found.calls], ["Bash"])

    def test_call_without_tools(self) -> None:
        """A call though no tools were sent is text (row 28)."""
        self.assertEqual(answer(stream({"tool_calls": [call("Bash", {})]}), names=Names()).text, "Bash {}")

    def test_think_tags(self) -> None:
        """A model whose thoughts Ollama does not know from its text is understood all the same."""
        found = answer(said("<thi", "nk>Hm.</think>\n\nYes."), think_tags=True)
        self.assertEqual((found.thinking, found.text), ("Hm.", "Yes."))

    def test_whole_json(self) -> None:
        """One JSON text instead of lines (row 72), over several lines or not."""
        text = b'{\n "message": {"role": "assistant", "content": "Yes."},\n "done": true, "done_reason": "stop"\n}\n'
        for body in (text, said("Y", "es.").body_bytes()):
            self.assertEqual(check_stream(stream_bytes(fed(machine(), [body]), "r")).text, "Yes.")


class EndTests(SynchronousTestCase):
    """How an answer ends."""

    def test_length(self) -> None:
        """The limit of the answer, or that of the window."""
        self.assertEqual(stop_of(answer(said("a", reason="length"))), "max_tokens")
        full = answer(said("a", reason="length", prompt=90, output=10), window=100)
        self.assertEqual(stop_of(full), "model_context_window_exceeded")

    def test_nothing_wanted(self) -> None:
        """Nothing of what had to be generated is shown where no answer was wanted."""
        found = answer(said("a"), silent=True)
        self.assertEqual((found.content, stop_of(found), usage_of(found)["output_tokens"]), ([], "max_tokens", 0))

    def test_stop_sequence(self) -> None:
        """The proxy cuts at a stop sequence, also in the midst of two pieces, and hangs up."""
        one = machine(stop_sequences=("STOP",))
        events = fed(one, [said("Go ST", "OP on").body_bytes()])
        found = check_stream(stream_bytes(events, "r"))
        self.assertEqual((found.text, stop_of(found)), ("Go ", "stop_sequence"))
        self.assertTrue(one.over)
        self.assertFalse(one.heard_out)

    def test_loaded(self) -> None:
        """A request that only loads or unloads gets an empty answer, never an error or another try (row 84)."""
        for reason in ("load", "unload", "", None):
            found = answer(stream(reason=reason, prompt=None, output=None))
            self.assertEqual((found.text, stop_of(found)), ("", "end_turn"), reason)

    def test_empty(self) -> None:
        """An answer that ends properly without a word is no success (row 39)."""
        self.assertEqual(failure(stream().body_bytes()).status, 502)

    def test_counts_left_out(self) -> None:
        """A count that Ollama leaves out is estimated, never 0 (row 45)."""
        usage = end(said("a", "b", prompt=None, output=None)).usage
        self.assertEqual((usage.prompt, usage.output), (10, 2))

    def test_reason_missing(self) -> None:
        """Older servers name no reason."""
        self.assertEqual(stop_of(answer(said("a", reason=None))), "end_turn")  # type: ignore[arg-type]

    def test_after_the_end(self) -> None:
        """What follows the last line is ignored, and the connection may serve again."""
        one = machine()
        events = fed(one, [said("a").body_bytes(), line({"content": "b"}).data, b"rubbish\n"])
        self.assertEqual(check_stream(stream_bytes(events, "r")).text, "a")
        self.assertTrue(one.heard_out and one.settled and one.over)

    def test_last_line_without_end(self) -> None:
        """CRLF, blank lines, and a last line without its end (row 83)."""
        body = b"\r\n" + said("a").body_bytes().replace(b"\n", b"\r\n\r\n").rstrip()
        self.assertEqual(answer(body).text, "a")


class FailureTests(SynchronousTestCase):
    """What goes wrong."""

    def test_error_line(self) -> None:
        """An error in the midst of the answer ends it (PROTOCOL 3.4), with the server's words."""
        body = line({"content": "a"}).data + b'{"error":"an error was encountered while running the model"}\n'
        problem = failure(body)
        self.assertEqual((problem.status, problem.type), (502, "api_error"))
        self.assertIn("encountered while running", problem.message)

    def test_overflow(self) -> None:
        """A prompt that is too long is told in the words that make Claude Code compact, with the numbers if known."""
        self.assertEqual(failure(json_bytes({"error": TOO_LONG})).message, "prompt is too long")
        inner = "request (8889 tokens) exceeds the available context size (4096 tokens), try increasing it"
        nested = json_bytes({"error": {"code": 400, "message": inner, "type": "exceed_context_size_error"}}).decode()
        self.assertEqual(
            failure(json_bytes({"error": nested})).message, "prompt is too long: 8889 tokens > 4096 maximum"
        )
        self.assertEqual(failure(b'{"error":"the input length exceeds the context length"}').status, 400)

    def test_cut(self) -> None:
        """A body that ends without its last line was cut (row 50)."""
        self.assertIn("in the middle", failure(line({"content": "a"}).data).message)
        self.assertIn("before it answered", failure(b"").message)

    def test_no_json(self) -> None:
        """A line that is no JSON is the backend's fault, told as such."""
        self.assertEqual(failure(b"<html>\n").status, 502)
        self.assertEqual(failure(b"<html>").status, 502)
        self.assertEqual(failure(line({"content": "a"}).data + b"<html>\n").status, 502)

    def test_told(self) -> None:
        """A failure that others saw ends the answer."""
        one = machine()
        fed(one, [line({"content": "a"}).data], end=False)
        self.assertIsInstance(one.fail(bad_gateway("gone"))[-1], Failed)
        self.assertEqual(one.close(), [])

    def test_begun_early(self) -> None:
        """The message may begin before the backend said anything."""
        one = machine()
        events = one.begin() + fed(one, [said("a").body_bytes()])
        self.assertEqual(check_stream(stream_bytes(events, "r")).text, "a")

    def test_last_line_is_a_failure_free_end(self) -> None:
        """The last line's own message counts."""
        self.assertEqual(answer(b"".join([line().data, last(message={"content": "end"}).data])).text, "end")


class OddBodyTests(SynchronousTestCase):
    """How a body is read, and what is odd in it."""

    def test_events(self) -> None:
        """A gateway that makes events of the lines, with signs of life between them, is understood."""
        lines = said("Y", "es.").body_bytes().split(b"\n")
        body = b": hello\n\ndata: ping\n\n" + b"".join(b"data: " + each + b"\n\n" for each in lines if each)
        self.assertEqual(answer(body + b"data: [DONE]\n\n").text, "Yes.")

    def test_broken_byte(self) -> None:
        """A broken byte costs one character (row 63)."""
        self.assertEqual(answer(said("Y#s.").body_bytes().replace(b"#", b"\xe2\x82")).text, "Y\ufffds.")

    def test_text(self) -> None:
        """A text instead of JSON is shown, a text as JSON too."""
        for body in (b"no\nluck", b'"no luck"', b"<p>no luck</p>"):
            self.assertIn("no luck", failure(body).message)

    def test_blank(self) -> None:
        """Blank text is an answer."""
        found = answer(said(" ", "\n"))
        self.assertEqual((found.text, stop_of(found)), (" \n", "end_turn"))

    def test_too_long(self) -> None:
        """Nothing at all from a full window is a prompt that was too long (row 39)."""
        body = stream(prompt=26).body_bytes()
        self.assertEqual(failure(body, window=20).message, "prompt is too long: 26 tokens > 20 maximum")
        self.assertEqual(failure(body, window=26).message, "prompt is too long")
        self.assertEqual(failure(body, window=100).status, 502)

    def test_reasons(self) -> None:
        """Other reasons mean what they mean elsewhere; an unknown one is said."""
        self.assertEqual(failure(said("a", reason="abort").body_bytes()).status, 502)
        self.assertEqual(stop_of(answer(said("a", reason="model_length"))), "model_context_window_exceeded")
        one = machine()
        fed(one, [said("a", reason="moon").body_bytes()])
        self.assertEqual(one.remarks, ["the answer ended for a reason that is not known: moon"])

    def test_forbidden_call(self) -> None:
        """A call that the caller did not want is text (row 28)."""
        found = answer(stream({"tool_calls": [call("Bash", {})]}), forbids_calls=True)
        self.assertEqual((found.text, stop_of(found)), ("Bash {}", "end_turn"))
