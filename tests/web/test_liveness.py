"""What keeps every client waiting through any prefill, and what becomes of an answer whose client left (issue 5)."""

import json
import re
from collections.abc import Mapping
from typing import Any
from unittest.mock import patch

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.web import tape
from tests.fakes.callers import Caller
from tests.fakes.house import BACKEND_PORT, House, body
from tests.fakes.openai import Cut, Done, Hang, Script, Send, Wait, silent, text
from tests.fakes.scripts import chunk
from tests.stream_checker import check_message, check_stream

SESSION = {"x-claude-code-session-id": "11111111-2222"}
THINKS: Mapping[str, Any] = {"thinking": {"type": "adaptive"}, "max_tokens": 4096}


def late(*steps: Any, after: float = 100.0) -> Script:
    """A backend that is mute for a while."""
    return Script(steps=[Wait(after), *steps])


def events(caller: Caller) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in caller.body.decode().splitlines() if line.startswith("data: ")]


def deltas(caller: Caller) -> list[str]:
    """The kinds of the empty deltas, in order."""
    found = [each["delta"] for each in events(caller) if each["type"] == "content_block_delta"]
    return [each["type"] for each in found if not each.get("text", each.get("thinking", "x"))]


class LivenessTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.house = House()

    def chat(self, script: Script, **fields: Any) -> Caller:
        return self.house.chat(script, **fields)

    def test_short_waits(self) -> None:
        """In the first minute there are pings and nothing else."""
        caller = self.chat(silent())
        self.house.pass_time(59)
        self.assertEqual({each["type"] for each in events(caller)}, {"message_start", "ping"})

    def test_long_waits(self) -> None:
        """From a minute of silence on an open block of text gets an empty piece every ten seconds, and no ping."""
        caller = self.chat(silent())
        self.house.pass_time(62)
        before = len(events(caller))
        self.house.pass_time(900)
        self.assertIn(len(deltas(caller)), (90, 91, 92))
        self.assertEqual(deltas(caller)[0], "text_delta")
        self.assertNotIn("ping", [each["type"] for each in events(caller)[before:]])
        check_stream(caller.body, whole=False)

    def test_text_goes_on(self) -> None:
        """Text goes on in the block that the signs of life opened."""
        caller = self.chat(late(*text("Hello").steps))
        self.house.pass_time(110)
        checked = check_stream(caller.body)
        self.assertEqual([each["type"] for each in checked.content], ["text"])
        self.assertEqual(checked.text, "Hello")

    def test_thinking_goes_on(self) -> None:
        """A request that thinks waits in a block of thinking, which the model's thinking goes on in."""
        caller = self.chat(late(chunk({"reasoning_content": "hm"}), *text("Hello").steps), **THINKS)
        self.house.pass_time(110)
        self.assertEqual(set(deltas(caller)), {"thinking_delta"})
        checked = check_stream(caller.body)
        self.assertEqual([each["type"] for each in checked.content], ["thinking", "text"])

    def test_other_content(self) -> None:
        """Content of another kind closes the block cleanly first."""
        caller = self.chat(late(*text("Hello").steps), **THINKS)
        self.house.pass_time(110)
        checked = check_stream(caller.body)
        self.assertEqual([each["type"] for each in checked.content], ["thinking", "text"])
        self.assertEqual(checked.content[0]["thinking"], "")

    def test_within_the_answer(self) -> None:
        """Silence in the middle of a text is filled in that text's block."""
        caller = self.chat(Script(steps=[chunk({"content": "Hel"}), Wait(100), *text("lo").steps]))
        self.house.pass_time(110)
        checked = check_stream(caller.body)
        self.assertEqual([each["type"] for each in checked.content], ["text"])
        self.assertEqual(checked.text, "Hello")

    def test_after_alike_pieces(self) -> None:
        """Pieces that only say more of the text are no silence, whichever way they go."""
        said = [step for number in range(20) for step in (chunk({"content": f" {number}"}), Wait(7))]
        caller = self.chat(Script(steps=[*said, Wait(20), *text(" end").steps]))
        self.house.pass_time(20 * 7)
        self.assertEqual(len(re.findall(rb'"text_delta"', caller.body)), 20)
        self.assertNotIn(b"event: ping", caller.body)
        self.house.pass_time(15)
        self.assertEqual(caller.body.count(b"event: ping"), 2)
        self.assertEqual(deltas(caller), [])
        self.house.pass_time(10)
        check_stream(caller.body)

    def test_setting(self) -> None:
        """How long the silence may be is a setting."""
        self.house.reset(liveness_ms=20_000)
        caller = self.chat(silent())
        self.house.pass_time(33)
        self.assertTrue(deltas(caller))

    def test_failure(self) -> None:
        """A failure after signs of life is an error event."""
        caller = self.chat(late(Cut()))
        self.house.pass_time(110)
        self.assertIsNotNone(check_stream(caller.body).error)

    def test_whole_answer(self) -> None:
        """A client that does not stream is kept by blanks before the JSON, which is none the worse for them."""
        caller = self.chat(late(*text("Hello").steps), stream=False)
        self.house.pass_time(59)
        self.assertFalse(caller.answered)
        self.house.pass_time(60)
        self.assertTrue(caller.ended)
        self.assertTrue(caller.body.startswith(b"\n\n"))
        self.assertEqual(check_message(caller.json).text, "Hello")

    def test_whole_failure(self) -> None:
        """A failure after such blanks cuts the connection: there is no status any more, and no clean end."""
        caller = self.chat(late(Cut()), stream=False)
        self.house.pass_time(110)
        self.assertFalse(caller.ended)
        self.assertEqual(caller.body.strip(), b"")


class JoiningTests(SynchronousTestCase):
    """A retry finds the generation that its client lost."""

    def setUp(self) -> None:
        self.house = House()

    def ask(self, headers: Mapping[str, str | bytes | None] | None = SESSION, **fields: Any) -> Caller:
        return self.house.ask("POST", "/v1/messages", body(**fields), headers)

    def begin(self, wait: float, script: Script | None = None, **fields: Any) -> Caller:
        """A first client that leaves after ``wait`` seconds."""
        self.house.fake.plays(script or late(*text("Hello").steps, after=90))
        first = self.ask(**fields)
        self.house.pass_time(wait)
        first.vanish()
        self.house.pass_time(0)
        return first

    @property
    def asked(self) -> int:
        return sum(received.method == "POST" for received in self.house.fake.received)

    @property
    def backend_ends(self) -> list[Any]:
        return [end for end in self.house.network.ends[::2] if end.port == BACKEND_PORT and not end.is_lost]

    def assert_idle(self) -> None:
        self.house.pass_time(40)
        for part in ("Answer", "Generation", "Orphanage"):
            self.assertEqual(self.house.network.timers(part), [])
        self.assertEqual(len(self.house.proxy._api.orphanage), 0)
        self.assertEqual(len(self.house.proxy._exchanges), 0)

    def test_retry_joins(self) -> None:
        """The retry gets the whole answer, under an id of its own; the backend is asked once."""
        first = self.begin(70)
        retry = self.ask()
        self.house.pass_time(30)
        self.assertEqual(self.asked, 1)
        checked = check_stream(retry.body)
        self.assertEqual(checked.text, "Hello")
        self.assertNotEqual(events(first)[0]["message"]["id"], events(retry)[0]["message"]["id"])
        self.assertTrue(self.house.request_lines[-1]["joined"])
        self.assert_idle()

    def test_told_as_the_first(self) -> None:
        """Who joins is told of the prompt's cache and of losses what the first one was, and its line of the log has it,
        too, with the backend that makes the answer, whatever the settings say by now."""
        asked: dict[str, Any] = {"top_k": 5, "stop_sequences": ["zz"], "model": "m"}
        first = self.begin(70, **asked)
        told = {name: value for name, value in first.headers.items() if name.startswith("x-claudeproxy-")}
        names = {"x-claudeproxy-cache", "x-claudeproxy-dropped", "x-claudeproxy-emulated"}
        self.assertEqual(set(told), names)
        (backend,) = self.house.settings.backends
        self.house.reset(backends=(evolve(backend, name="another"),), models={"m": "n"})
        retry = self.ask(**asked)
        self.house.pass_time(30)
        self.assertEqual(check_stream(retry.body).text, "Hello")
        self.assertEqual({name: retry.headers.get(name) for name in names}, told)
        left, joined = self.house.request_lines[-2:]
        self.assertTrue(joined["cache"])
        self.assertEqual((joined["backend"], joined["backend_model"]), (left["backend"], left["backend_model"]))

    def test_repairs_of_a_finished_answer(self) -> None:
        """What was repaired in an answer that ended while nobody listened is known of who joins it."""
        self.begin(85, late(Send(b"data: no JSON\n\n"), *text("Hello").steps, after=90))
        self.house.pass_time(10)
        self.ask()
        metrics = self.house.ask("GET", "/metrics").body.decode()
        self.assertIn(
            'claudeproxy_repairs_total{backend="fake",kind="data that are no JSON were passed over"} 1.0', metrics
        )

    def test_other_forms(self) -> None:
        """Neither `stream` nor `max_tokens` makes it another request: Claude Code's retry has neither."""
        self.begin(70)
        retry = self.ask(stream=None, max_tokens=9)
        self.house.pass_time(30)
        self.assertEqual(self.asked, 1)
        self.assertEqual(check_message(retry.json).text, "Hello")

    def test_other_budget(self) -> None:
        """Nor does the budget for thinking, which follows from `max_tokens`; whether to think at all does."""
        for thinking, asked in (
            ({"type": "enabled", "budget_tokens": 63_999}, 1),
            ({"type": "enabled", "budget_tokens": 63_999, "display": "omitted"}, 2),
            ({"type": "adaptive"}, 2),
            (None, 2),
        ):
            self.setUp()
            self.begin(70, max_tokens=128_000, thinking={"type": "enabled", "budget_tokens": 127_999})
            self.ask(stream=None, max_tokens=64_000, thinking=thinking)
            self.assertEqual(self.asked, asked, thinking)

    def test_finished_meanwhile(self) -> None:
        """An answer that was finished while nobody listened is there for the retry."""
        self.begin(85)
        self.house.pass_time(10)
        retry = self.ask()
        self.assertEqual(check_stream(retry.body).text, "Hello")
        self.assertEqual(self.asked, 1)
        self.assert_idle()

    def test_too_late(self) -> None:
        """After 15 s the generation is given up."""
        self.begin(70)
        self.house.pass_time(14)
        self.assertEqual(len(self.backend_ends), 1)
        self.house.pass_time(1.1)
        self.assertEqual(self.backend_ends, [])
        self.ask()
        self.assertEqual(self.asked, 2)

    def test_interrupt(self) -> None:
        """Who leaves within a minute has given up on purpose: cancelled at once."""
        self.begin(59)
        self.assertEqual(self.backend_ends, [])
        self.assert_idle()

    def test_after_delivery(self) -> None:
        """Once something was delivered, a close cancels at once."""
        self.begin(95, late(chunk({"content": "Hel"}), Hang(), after=90))
        self.assertEqual(self.backend_ends, [])
        self.assert_idle()

    def test_whole_after_words(self) -> None:
        """Who wants the answer whole was given nothing of it but blanks, however much the model has said: the retry
        gets all of it, whole or as a stream."""
        for stream in (None, True):
            self.setUp()
            halves = Script(steps=[Wait(30), chunk({"content": "Hel"}), Wait(60), *text("lo").steps])
            first = self.begin(70, halves, stream=None)
            self.assertEqual(first.body.strip(), b"")
            self.assertEqual(len(self.house.proxy._api.orphanage), 1)
            retry = self.ask(stream=stream)
            self.house.pass_time(30)
            self.assertEqual(self.asked, 1)
            checked = check_stream(retry.body) if stream else check_message(retry.json)
            self.assertEqual(checked.text, "Hello")
            self.assert_idle()

    def test_whole_lost_again(self) -> None:
        """The same of a whole answer that was joined and lost: nothing was delivered still."""
        self.begin(70, Script(steps=[Wait(30), chunk({"content": "Hel"}), Wait(120), *text("lo").steps]), stream=None)
        retry = self.ask(stream=None)
        self.house.pass_time(61)
        retry.vanish()
        self.house.pass_time(0)
        third = self.ask(stream=None)
        self.house.pass_time(30)
        self.assertEqual(self.asked, 1)
        self.assertEqual(check_message(third.json).text, "Hello")
        self.assert_idle()

    def test_whole_and_delivered(self) -> None:
        """Once it was written, a whole answer is kept for nobody."""
        self.house.fake.answers = lambda _: late(*text("Hello").steps, after=70)
        first = self.ask(stream=None)
        self.house.pass_time(75)
        self.assertTrue(first.ended)
        first.vanish()
        self.house.pass_time(0)
        self.assertEqual(len(self.house.proxy._api.orphanage), 0)
        self.ask(stream=None)
        self.assertEqual(self.asked, 2)

    def test_other_requests(self) -> None:
        """Another content, another session, another key or no session at all is another request."""
        for headers, fields in (
            (SESSION, {"messages": [{"role": "user", "content": "Ho"}]}),
            ({"x-claude-code-session-id": "other"}, {}),
            ({**SESSION, "x-api-key": "other"}, {}),
            (None, {}),
        ):
            self.setUp()
            self.begin(70)
            self.house.fake.plays(text("New"))
            caller = self.ask(headers, **fields)
            self.assertEqual(check_stream(caller.body).text, "New")

    def test_without_a_session(self) -> None:
        """A request without a session is joined by nobody, and does not linger."""
        self.house.fake.plays(silent())
        first = self.ask(None)
        self.house.pass_time(70)
        first.vanish()
        self.house.pass_time(0)
        self.assertEqual(self.backend_ends, [])

    def test_twins(self) -> None:
        """Who asks the same several times at once gets several answers; a retry joins only what was lost."""
        self.house.fake.answers = lambda _: late(*text("Hello").steps, after=90)
        first, second = self.ask(), self.ask()
        self.house.pass_time(70)
        self.assertEqual(self.asked, 2)
        first.vanish()
        retry = self.ask()
        self.house.pass_time(30)
        self.assertEqual(self.asked, 2)
        for caller in (second, retry):
            self.assertEqual(check_stream(caller.body).text, "Hello")
        self.assert_idle()

    def test_lost_twins(self) -> None:
        """Twins that are lost are found by as many retries, and by no more."""
        self.house.fake.answers = lambda _: late(*text("Hello").steps, after=90)
        twins = [self.ask(), self.ask()]
        self.house.pass_time(70)
        for lost in twins:
            lost.vanish()
        self.house.pass_time(0)
        self.assertEqual(len(self.house.proxy._api.orphanage), 2)
        retries = [self.ask(), self.ask()]
        self.assertEqual(self.asked, 2)
        self.ask().vanish()
        self.assertEqual(self.asked, 3)
        self.house.pass_time(30)
        for caller in retries:
            self.assertEqual(check_stream(caller.body).text, "Hello")
        self.assert_idle()

    def test_too_many(self) -> None:
        """How many answers may wait is bounded; the one that was lost first makes room."""
        with patch.object(tape, "MOST", 2):
            self.house.fake.answers = lambda _: late(*text("Hello").steps, after=90)
            asked = [{"messages": [{"role": "user", "content": content}]} for content in ("a", "b", "c")]
            lost = [self.ask(**each) for each in asked]
            self.house.pass_time(70)
            for each in lost:
                each.vanish()
            self.house.pass_time(0)
        self.assertEqual(len(self.house.proxy._api.orphanage), 2)
        self.assertEqual(len(self.backend_ends), 2)
        retries = [self.ask(**each) for each in reversed(asked)]
        self.assertEqual(self.asked, 4)
        self.house.pass_time(30)
        self.assertEqual([check_stream(each.body, whole=False).text for each in retries], ["Hello", "Hello", ""])

    def test_lost_again(self) -> None:
        """A retry that is lost as well, after its own time, leaves the generation to the next."""
        self.begin(70, late(*text("Hello").steps, after=200))
        retry = self.ask()
        self.house.pass_time(61)
        retry.vanish()
        self.house.pass_time(0)
        third = self.ask()
        self.house.pass_time(80)
        self.assertEqual(self.asked, 1)
        self.assertEqual(check_stream(third.body).text, "Hello")
        self.assert_idle()

    def test_interrupted_retry(self) -> None:
        """Who leaves within a minute of the retry has given up on purpose, however old the answer is."""
        self.begin(70, late(*text("Hello").steps, after=200))
        retry = self.ask()
        self.house.pass_time(59)
        retry.vanish()
        self.house.pass_time(0)
        self.assertEqual(self.backend_ends, [])
        self.assert_idle()

    def test_reload(self) -> None:
        """A backend that a reload retires stays until the answers are there that may still find their clients."""
        closed: list[float] = []
        for comes_back in (False, True):
            self.setUp()
            (backend,) = self.house.proxy._live.backends.values()
            closing = self.house.proxy._close

            async def close(each: Any, backend: Any = backend, closing: Any = closing) -> None:
                if each is backend:
                    closed.append(self.house.network.seconds())
                await closing(each)

            self.house.proxy._close = close  # type: ignore[method-assign]
            self.begin(70)
            began = self.house.network.seconds()
            self.house.reset(backends=(evolve(self.house.settings.backends[0], total_ms=999_000),))
            self.house.pass_time(5)
            self.assertEqual(closed, [])
            retry = self.ask() if comes_back else None
            self.house.pass_time(30)
            if retry is not None:
                self.assertEqual(check_stream(retry.body).text, "Hello")
            self.assertEqual(len(closed), 1)
            self.assertGreaterEqual(closed.pop() - began, 15)
            self.assert_idle()

    def test_failed_meanwhile(self) -> None:
        """A generation that failed while nobody listened is not handed on: the retry is asked anew."""
        self.begin(80, late(Cut(), after=85))
        self.house.pass_time(6)
        self.house.fake.plays(text("New"))
        self.assertEqual(check_stream(self.ask().body).text, "New")
        self.assert_idle()

    def test_drain(self) -> None:
        """A daemon that stops takes its orphans with it."""
        self.begin(70)
        stopped = self.house.proxy.stopService()
        self.house.pass_time(1)
        self.successResultOf(stopped)
        self.assertEqual(self.backend_ends, [])

    def test_switched_off(self) -> None:
        """With 0 nothing lingers."""
        self.house.reset(linger_ms=0)
        self.begin(70)
        self.assertEqual(self.backend_ends, [])

    def test_too_large(self) -> None:
        """What an orphan may hold is bounded."""
        piece = Send(b"data: " + json.dumps({"choices": [{"delta": {"content": "x" * 1_000_000}}]}).encode() + b"\n\n")
        self.begin(89, late(*[piece] * 20, Hang(), after=90))
        self.house.pass_time(5)
        self.assertEqual(self.backend_ends, [])
        self.assertEqual(len(self.house.proxy._api.orphanage), 0)

    def test_too_large_whole(self) -> None:
        """And so is what is kept beside a whole answer in the making, which is answered all the same."""
        piece = Send(b"data: " + json.dumps({"choices": [{"delta": {"content": "x" * 1_000_000}}]}).encode() + b"\n\n")
        self.begin(95, late(*[piece] * 20, Hang(), after=90), stream=None)
        self.assertEqual(self.backend_ends, [])
        caller = self.house.chat(Script(steps=[*[piece] * 20, *text("end").steps]), stream=None)
        self.assertEqual(len(check_message(caller.json).text), 20_000_003)

    def test_joined_whole(self) -> None:
        """Who joins without a stream gets a message without the block in which a stream had waited."""
        call = {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "t", "arguments": "{}"}}]}
        tools = [{"name": "t", "input_schema": {"type": "object"}}]
        for fields in ({}, THINKS):
            self.setUp()
            self.begin(75, late(chunk(call, finish="tool_calls"), Done(), after=90), tools=tools, **fields)
            retry = self.ask(stream=None, tools=tools, **fields)
            self.house.pass_time(30)
            self.assertEqual([each["type"] for each in retry.json["content"]], ["tool_use"])
            self.assertEqual(self.asked, 1)
