"""The contract, first half: what comes of an answer (issue 4; PROTOCOL 2.1, 4.3)."""

import json
from typing import Any, ClassVar

from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.backends.vigil import PAUSE
from tests.contract.parts import Call, End, Opened, Part, Text, Thought
from tests.contract.stand import Stand
from tests.fakes.callers import Caller
from tests.fakes.scripts import Hang, Script, Wait
from tests.stream_checker import Checked, check_message, check_stream

BASH = {"name": "Bash", "description": "Runs", "input_schema": {"type": "object"}}
READ = {"name": "Read", "description": "Reads", "input_schema": {"type": "object"}}
TOOLS: dict[str, Any] = {"tools": [BASH, READ]}
THINKING: dict[str, Any] = {"max_tokens": 2048, "thinking": {"type": "enabled", "budget_tokens": 1024}}
LS = Call("Bash", ('{"comm', 'and":', '"ls"}'), id="call_ls")
CAT = Call("Read", ('{"path":"a.txt"}',), id="call_cat")


def told(checked: Checked) -> dict[str, Any]:
    """What of an answer is the same, however it was asked for: all but its id."""
    assert checked.message is not None
    return {name: value for name, value in checked.message.items() if name != "id"}


class ContractCase(SynchronousTestCase):
    """A stand of the kind that is tried."""

    kind: ClassVar[type[Stand]]

    def setUp(self) -> None:
        self.stand = self.kind()

    def answer(self, *parts: Part, **fields: Any) -> Checked:
        """The judged answer to a small request that these parts answer."""
        caller = self.stand.say(*parts, **fields)
        return self.judged(caller) if fields.get("stream", True) else check_message(caller.json)

    def judged(self, caller: Caller) -> Checked:
        self.assertEqual(caller.status, 200, caller.raw)
        self.assertTrue(caller.ended)
        return check_stream(caller.body)

    def assert_as_it_came(self, caller: Caller, script: Script) -> None:
        """What the backend said is what the client got, to the byte, and it ends as that did."""
        self.assertEqual((caller.status, caller.body), (script.status, script.body_bytes()))
        self.assertEqual(caller.ended, script.ending == "clean")

    def so_far(self, caller: Caller) -> Checked:
        return check_stream(caller.body if caller.answered else b"", whole=False)


class Opening(ContractCase):
    """How an answer opens."""

    def test_opens(self) -> None:
        """The first event is message_start, of the model that was asked for, with a count of the prompt."""
        checked = self.answer(Text("Hello"), End())
        first = checked.events[0]
        self.assertEqual(first["type"], "message_start")
        self.assertEqual(first["message"]["model"], self.stand.model)
        self.assertGreater(first["message"]["usage"]["input_tokens"], 0)

    def test_headers(self) -> None:
        """A stream is told to be one, is not kept by anybody, and carries its request's number."""
        headers = self.stand.say(Text("Hello"), End()).headers
        self.assertTrue(headers["content-type"].startswith("text/event-stream"))
        self.assertEqual(headers["cache-control"], "no-cache")
        self.assertTrue(headers["request-id"].startswith("req_"))

    def test_own_id(self) -> None:
        """Each answer has an id of its own."""
        ids = {(self.answer(Text("Hello"), End()).message or {})["id"] for _ in range(5)}
        self.assertEqual(len(ids), 5)
        self.assertTrue(all(id.startswith("msg_") for id in ids))

    def test_key(self) -> None:
        """The backend gets its own key and model, and never the client's key."""
        self.stand.fake.plays(self.stand.script(Text("Hello"), End()))
        self.stand.ask("POST", "/v1/messages", self.stand.request(), {"x-api-key": "sk-client-canary"})
        [received] = self.stand.asked
        shown = repr(list(received.headers.getAllRawHeaders()))
        self.assertIn("sk-backend-canary", shown)
        self.assertNotIn("sk-client-canary", shown)
        self.assertEqual(received.json["model"], self.stand.model)


class Streaming(ContractCase):
    """Pieces arrive as they come."""

    def test_piece_by_piece(self) -> None:
        """Each piece of a thought and of the text is there before the next one is said."""
        pieces: list[Part] = [Thought("Let"), Thought(" me see."), Text("one"), Text("two"), Text("three")]
        paced = [step for piece in pieces for step in (piece, Wait(1))]
        caller = self.stand.say(*paced, End(), **THINKING)
        seen = []
        for _ in pieces:
            checked = self.so_far(caller)
            seen.append((checked.thinking, checked.text))
            self.stand.pass_time(1)
        thought = "Let me see."
        self.assertEqual(
            seen, [("Let", ""), (thought, ""), (thought, "one"), (thought, "onetwo"), (thought, "onetwothree")]
        )
        self.assertEqual(self.judged(caller).text, "onetwothree")

    def test_blocks(self) -> None:
        """A thought, text and calls are blocks of their own, in the order in which they came."""
        checked = self.answer(Thought("Hm."), Text("I look."), LS, CAT, End("tool"), **THINKING, **TOOLS)
        kinds = [block["type"] for block in checked.content]
        self.assertEqual(kinds, ["thinking", "text", "tool_use", "tool_use"])

    def test_no_text_is_lost(self) -> None:
        """Whatever the text is made of, it arrives as it is."""
        words = ["Grüße ", "漢字 ", "😀", "\n\n", '"quoted" \\ ', "\u2028", "<b>&amp;", "data: [DONE]", "\x7f", "."]
        self.assertEqual(self.answer(*map(Text, words), End()).text, "".join(words))

    def test_wait(self) -> None:
        """A long wait for the first piece is no error: again and again the client is told that it goes on."""
        caller = self.stand.say(Opened(), Wait(600), Text("Hello"), End())
        heard = [len(caller.raw)]
        for _ in range(19):
            self.stand.pass_time(30)
            heard.append(len(caller.raw))
        self.assertEqual(heard, sorted(set(heard)))
        self.assertEqual(self.so_far(caller).text, "")
        self.stand.pass_time(40)
        self.assertEqual(self.judged(caller).text, "Hello")

    def test_first_token_while_it_is_asked(self) -> None:
        """The first token may come while the backend has not yet answered whether it lives."""
        self.stand.leaves_unanswered(self.stand.alive_path)
        caller = self.stand.say(Wait(PAUSE + 1), Text("Hello"), Wait(1), End())
        self.stand.pass_time(PAUSE + 3)
        checked = self.judged(caller)
        self.assertEqual((checked.text, checked.finished), ("Hello", True))
        questions = [each for each in self.stand.fake.received if each.path == self.stand.alive_path]
        self.assertEqual([each.is_gone for each in questions], [True] * bool(self.stand.alive_path))


class Tools(ContractCase):
    """Calls."""

    def test_whole(self) -> None:
        """A call whose arguments come in one piece keeps its id, its name and its arguments."""
        [call] = self.answer(CAT, End("tool"), **TOOLS).calls
        self.assertEqual((call["id"], call["name"], call["input"]), ("call_cat", "Read", {"path": "a.txt"}))

    def test_in_pieces(self) -> None:
        """So does one whose arguments come in pieces."""
        [call] = self.answer(LS, End("tool"), **TOOLS).calls
        self.assertEqual((call["id"], call["name"], call["input"]), ("call_ls", "Bash", {"command": "ls"}))

    def test_several(self) -> None:
        """Several calls come in order, each with its own."""
        calls = self.answer(LS, CAT, End("tool"), **TOOLS).calls
        self.assertEqual([call["id"] for call in calls], ["call_ls", "call_cat"])

    def test_no_arguments(self) -> None:
        """A call without arguments is a call with none."""
        [call] = self.answer(Call("Bash", ("{}",)), End("tool"), **TOOLS).calls
        self.assertEqual(call["input"], {})

    def test_long_arguments(self) -> None:
        """Arguments of a hundred kilobytes arrive whole."""
        content = "漢" * 50_000
        [call] = self.answer(Call("Bash", (json.dumps({"content": content}),)), End("tool"), **TOOLS).calls
        self.assertEqual(call["input"]["content"], content)

    def test_long_name(self) -> None:
        """A name that the backend may not take is mapped, and mapped back in the answer."""
        name = "mcp__a_server__" + "very_" * 19 + "long"
        tool = {**BASH, "name": name}
        self.answer(Text("Hm."), End(), tools=[tool])
        [sent] = self.stand.tool_names(self.stand.asked[0])
        [call] = self.answer(Call(sent, ("{}",)), End("tool"), tools=[tool]).calls
        self.assertEqual(call["name"], name)

    def test_next_turn(self) -> None:
        """The next turn takes the call, with the thoughts before it, and its result back to the backend."""
        first = self.answer(Thought("Hm."), LS, End("tool"), **THINKING, **TOOLS)
        result = {"type": "tool_result", "tool_use_id": "call_ls", "content": "a-file-of-yours.txt"}
        turns = [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": first.content},
            {"role": "user", "content": [result]},
        ]
        self.assertEqual(self.answer(Text("One file."), End(), messages=turns, **THINKING, **TOOLS).text, "One file.")
        sent = self.stand.asked[1].body
        for word in (b"call_ls", b"command", b"a-file-of-yours.txt"):
            self.assertIn(word, sent)


class Ends(ContractCase):
    """Counts and reasons at the end."""

    def test_usage(self) -> None:
        """The last counts are the backend's own: prompt without what came from the cache, that, and the answer."""
        for stream in (True, False):
            usage = told(self.answer(Text("Hello"), End(prompt=120, cached=100, output=7), stream=stream))["usage"]
            counts = (usage["input_tokens"], usage["cache_read_input_tokens"], usage["output_tokens"])
            self.assertEqual(counts, (20, 100, 7) if self.stand.tells_cached else (120, 0, 7))

    def test_usage_in_the_last_delta(self) -> None:
        """They are in message_delta, whatever message_start had guessed."""
        checked = self.answer(Text("Hello"), End(prompt=120, cached=0, output=7))
        [last] = [event for event in checked.events if event["type"] == "message_delta"]
        self.assertEqual((last["usage"]["input_tokens"], last["usage"]["output_tokens"]), (120, 7))

    def test_reasons(self) -> None:
        """Ended by itself, at its limit, with a call: the reason says so."""
        cases: list[tuple[list[Part], str]] = [
            ([Text("a"), End("stop")], "end_turn"),
            ([Text("a"), End("length")], "max_tokens"),
            ([LS, End("tool")], "tool_use"),
            ([Text("a"), LS, End("tool")], "tool_use"),
        ]
        for parts, reason in cases:
            for stream in (True, False):
                message = told(self.answer(*parts, stream=stream, **TOOLS))
                self.assertEqual((message["stop_reason"], message["stop_sequence"]), (reason, None))

    def test_stop_sequence(self) -> None:
        """A stop sequence ends the answer before it, is named, and ends the backend's work."""
        pieces: list[Part] = [Text("Hello ST"), Text("OP and"), Text(" more"), Hang()]
        if not self.stand.stops_in_proxy:
            pieces = [Text("Hello "), End(sequence="STOP")]
        message = told(self.answer(*pieces, stop_sequences=["STOP"]))
        self.assertEqual((message["stop_reason"], message["stop_sequence"]), ("stop_sequence", "STOP"))
        self.assertEqual(message["content"][0]["text"], "Hello ")
        self.assertEqual([each.is_gone for each in self.stand.asked], [self.stand.stops_in_proxy])

    def test_same_without_a_stream(self) -> None:
        """A client that wants no stream gets, in one message, just what the stream brings."""
        cases: list[list[Part]] = [
            [Text("Hello"), Text(" world"), End()],
            [Thought("Let me"), Thought(" see."), Text("Hello"), End("length")],
            [Thought("Hm."), Text("I look."), LS, CAT, End("tool")],
        ]
        for parts in cases:
            streamed, whole = (self.answer(*parts, stream=each, **THINKING, **TOOLS) for each in (True, False))
            self.assertEqual(told(streamed), told(whole))

    def test_connection_kept(self) -> None:
        """After a whole answer the connection to the backend serves the next request."""
        self.stand.pass_time(10)
        before = len(self.stand.network.ends)
        clients = 5
        for _ in range(clients):
            self.answer(Text("Hello"), End())
        self.assertEqual(len(self.stand.network.ends) - before, 2 * (clients + 1))
        self.assertFalse(any(each.is_gone for each in self.stand.asked))


class Beside(ContractCase):
    """More than one request, and other requests."""

    def test_parallel(self) -> None:
        """Answers that are made at the same time do not mix."""
        callers = [
            self.stand.say(*(part for n in range(5) for part in (Text(f"{who}{n} "), Wait(1))), End(output=who + 1))
            for who in range(8)
        ]
        self.stand.pass_time(10)
        for who, caller in enumerate(callers):
            checked = self.judged(caller)
            self.assertEqual(checked.text, "".join(f"{who}{n} " for n in range(5)))
            self.assertEqual(told(checked)["usage"]["output_tokens"], who + 1)
        self.assertEqual(len({(self.judged(caller).message or {})["id"] for caller in callers}), 8)

    def test_count(self) -> None:
        """A prompt is counted, and says how; no answer is made for it, and a longer prompt counts more."""
        counts = []
        for words in ("Hi", "Hi " * 500):
            asked = {"model": self.stand.model, "messages": [{"role": "user", "content": words}], **TOOLS}
            caller = self.stand.ask("POST", "/v1/messages/count_tokens", asked)
            self.assertEqual(caller.status, 200, caller.raw)
            self.assertEqual(list(caller.json), ["input_tokens"])
            counts.append(caller.json["input_tokens"])
        self.assertGreater(counts[0], 0)
        self.assertGreaterEqual(counts[1], counts[0])
        self.assertEqual(self.stand.asked, [])

    def test_models(self) -> None:
        """The backend's models are listed, and each can be looked at."""
        page = self.stand.ask("GET", "/v1/models").json
        self.assertIn(self.stand.model, [each["id"] for each in page["data"]])
        self.assertEqual(page["first_id"], page["data"][0]["id"])
        one = self.stand.ask("GET", f"/v1/models/{self.stand.model}")
        self.assertEqual((one.status, one.json["id"], one.json["type"]), (200, self.stand.model, "model"))
