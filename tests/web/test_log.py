"""One line a request, and nothing of anybody's conversation (issue 2, item 7; STYLE P19)."""

import json
from typing import ClassVar

from twisted.logger import formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.routing.expectations import Secret
from claudeproxy.service.scribe import json_line
from claudeproxy.translate.signatures import ALIVE
from claudeproxy.web.exchange import Exchange
from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.house import BACKEND_KEY, House, body, rendered
from tests.fakes.openai import Cut, Script, Send, Wait, error, llama_text, silent, text
from tests.fakes.scripts import chunk

CLIENT_KEY = "sk-client-canary-91bd"
PROMPT = "prompt-canary-5c2e"
SYSTEM = "system-canary-0a77"
REPLY = "reply-canary-d1f4"


class LineTests(SynchronousTestCase):
    """The line."""

    def setUp(self) -> None:
        self.house = House(models={"claude-sonnet-4-5": "qwen"})

    def line(self) -> dict[str, object]:
        (event,) = self.house.request_lines
        self.house.events.clear()
        return event

    def test_stream(self) -> None:
        """Who, model and backend's model, status, first token, duration, tokens, outcome."""
        self.house = House("llama.cpp", models={"claude-sonnet-4-5": "qwen"})
        self.house.fake.plays(
            Script(
                steps=[
                    Wait(3),
                    *llama_text("a", "b", prompt=40, cached=30).steps[:4],
                    Wait(4),
                    *llama_text("b", prompt=40, cached=30).steps[3:],
                ]
            )
        )
        self.house.ask("POST", "/v1/messages", body(), {"x-claude-code-session-id": "0123456789abcdef"})
        self.house.pass_time(8)
        event = self.line()
        for name, value in {
            "client": "127.0.0.1",
            "method": "POST",
            "path": "/v1/messages",
            "status": 200,
            "outcome": "end_turn",
            "model": "claude-sonnet-4-5",
            "backend": "fake",
            "backend_model": "qwen",
            "duration": 7.0,
            "first_token": 3.0,
            "input_tokens": 10,
            "cached_tokens": 30,
        }.items():
            self.assertEqual(event[name], value, name)
        self.assertTrue(event["output_tokens"])
        self.assertTrue(str(event["request_id"]).startswith("req_"))

    def test_written(self) -> None:
        """All of it is in the text of the line, with the beginning of the session's id."""
        self.house.fake.plays(text("Hello"))
        self.house.ask("POST", "/v1/messages", body(), {"x-claude-code-session-id": "0123456789abcdef"})
        (line,) = (line for line in self.house.lines if "POST" in line)
        for part in (
            "127.0.0.1",
            "01234567",
            "/v1/messages",
            "200",
            "end_turn",
            "claude-sonnet-4-5",
            "fake/qwen",
            "req_",
        ):
            self.assertIn(part, line)
        self.assertNotIn("89abcdef", line)

    def test_outcomes(self) -> None:
        """A whole answer, a refusal, a failure in the stream, a failure before it: each has its word."""
        for script, fields, outcome, status in (
            (text("a"), {"stream": False}, "end_turn", 200),
            (text("a", finish="length"), {}, "max_tokens", 200),
            (error(429, {"error": {"message": "no"}}), {}, "backend_refused", 429),
            (Script(steps=[chunk({"content": "a"}), Cut()]), {}, "backend_error", 200),
            (None, {"max_tokens": "5"}, "invalid_request", 400),
        ):
            if script is not None:
                self.house.fake.plays(script)
            self.house.ask("POST", "/v1/messages", body(**fields))
            event = self.line()
            self.assertEqual((event["outcome"], event["status"]), (outcome, status))

    def test_vanished(self) -> None:
        """Clients that went away have their line too, in every phase."""
        for script in (silent(headers=False), silent(), Script(steps=[chunk({"content": "a"}), *silent().steps])):
            for streamed in (True, False):
                self.house.fake.plays(script)
                caller = self.house.ask("POST", "/v1/messages", body(stream=streamed))
                self.house.pass_time(3)
                caller.vanish()
                event = self.line()
                self.assertEqual((event["outcome"], event["duration"]), ("client_gone", 3.0))
                self.assertEqual(event["backend_model"], "qwen")

    def test_refused_at_the_gate(self) -> None:
        """Who was turned away at the gate has a line."""
        self.house.ask("POST", "/v1/messages", body(), {"host": "evil.example"})
        self.assertEqual(self.line()["outcome"], "forbidden")

    def test_no_request(self) -> None:
        """So has who made no whole request: the id that it was told is found."""
        for data, outcome in (
            (b"hello\r\n\r\n", "invalid_request"),
            (b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", "head_too_large"),
            (b"GET / HTTP/1.1\r\n", "too_slow"),
        ):
            caller = self.house.caller().send(data)
            self.house.pass_time(31)
            event = self.line()
            self.assertEqual((event["outcome"], event["status"]), (outcome, caller.status))
            self.assertEqual(event["request_id"], caller.headers["request-id"])
            self.assertEqual((event["client"], event["route"]), ("127.0.0.1", "unmatched"))

    def test_signs_of_life(self) -> None:
        """What monitors ask is worth a line only to who looks for it."""
        for path in ("/health", "/", "/api/hello"):
            self.house.ask("GET", path)
            self.assertEqual(self.line()["log_level"].name, "debug")  # type: ignore[attr-defined]
        self.house.ask("GET", "/v1/models")
        self.assertEqual(self.line()["log_level"].name, "info")  # type: ignore[attr-defined]

    def test_one_line(self) -> None:
        """Nothing that a client sends makes a second line, or a line without end."""
        self.house = House()
        self.house.ask(
            "POST", "/v1/messages?x=%0a", body(model="a\nb\x1b[1m" + "c" * 5000), {"x-claude-code-session-id": "a\tb"}
        )
        self.house.ask("POST", "/v1/messages/count_tokens", body(model="a\r\nb" * 500))
        self.house.ask("GET", "/%0d%0a" + "x" * 3000)
        for line in self.house.lines:
            self.assertNotRegex(line, r"[\x00-\x1f\x7f]")
            self.assertLess(len(line), 2000)


class BelongingTests(SynchronousTestCase):
    """Every line that belongs to a request says whose it is."""

    HEADERS: ClassVar[dict[str, str | bytes | None]] = {
        "x-claude-code-session-id": "session-1",
        "x-claude-code-agent-id": "agent-2",
        "x-claude-code-request-class": "main",
    }

    def check(self, house: House, words: str) -> None:
        """The line with these words, and the request's own line, have the same four fields."""
        (line,) = (event for event in house.events if words in formatEvent(event))
        (own,) = house.request_lines
        for event in (line, own):
            found = tuple(event[name] for name in ("request_id", "session", "agent", "request_class"))
            self.assertEqual(found, (own["request_id"], "session-1", "agent-2", "main"))
        self.assertRegex(str(own["request_id"]), "^req_")

    def ask(self, house: House, **fields: object) -> None:
        house.ask("POST", "/v1/messages", body(**fields), self.HEADERS)

    def test_losses(self) -> None:
        """What is not sent, or done in the backend's stead."""
        house = House()
        house.fake.plays(text("a"))
        self.ask(house, top_k=5)
        self.check(house, "not sent to")

    def test_remarks(self) -> None:
        """What was repaired in an answer."""
        house = House()
        house.fake.plays(Script(steps=[Send(b"data: nonsense\n\n"), *text("a").steps]))
        self.ask(house)
        self.check(house, "no JSON")

    def test_no_tools(self) -> None:
        """What is said of a backend while a request is made ready for it."""
        house = House(backend={"cells": (("tools", "no"),)})
        house.fake.plays(text("a"))
        self.ask(house, tools=[{"name": "t", "input_schema": {"type": "object"}}])
        self.check(house, "gets no tools")

    def test_faults_in_the_answer(self) -> None:
        """A fault of ours while an answer is translated."""
        from claudeproxy.translate import chat_stream

        def broken(self: object, delta: object) -> None:
            raise KeyError("index")

        self.patch(chat_stream.ChatStream, "_delta", broken)
        house = House()
        house.fake.plays(text("a"))
        self.ask(house)
        self.check(house, "translating the answer of fake failed")

    def test_faults(self) -> None:
        """A fault of ours anywhere else, also once the client has gone."""
        from claudeproxy.web import app

        def broken(*args: object) -> None:
            raise KeyError("index")

        house = House()
        self.patch(app, "read_messages", broken)
        self.ask(house)
        self.check(house, " failed")

    def test_faults_after_the_client(self) -> None:
        """The same, once the client has gone."""
        house = House()
        house.fake.plays(silent())
        caller = house.ask("POST", "/v1/messages", body(), self.HEADERS)
        (request,) = house.proxy._exchanges._running
        caller.vanish()
        house.proxy._api.faults.broken(request, Failure(KeyError("index")))
        self.check(house, "failed after its client had gone")

    def test_thoughts_left_out(self) -> None:
        """What is left out of a request that is passed through."""
        house = House(backend={"provider": "anthropic"}, make_fake=FakeAnthropic)
        thought = {"type": "thinking", "thinking": "x", "signature": ALIVE}
        messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": [thought]}]
        self.ask(house, messages=[*messages, {"role": "user", "content": "b"}])
        self.check(house, "left out")

    def test_key(self) -> None:
        """The name of the key, where it has one."""
        exchange = Exchange("req_1", "GET", "/", "local", "s", "", "", "/", 0.0)
        self.assertNotIn("key", exchange.told)
        exchange.key = "anna"
        self.assertEqual(exchange.told["key"], "anna")

    def test_flat(self) -> None:
        """As JSON the request's line is flat: figures are numbers, and nothing is there twice."""
        house = House(models={"claude-sonnet-4-5": "qwen"})
        house.fake.plays(text("Hello"))
        self.ask(house)
        (event,) = house.request_lines
        said = json.loads(json_line(event) or b"")
        self.assertEqual(
            (said["status"], said["outcome"], said["model"], said["backend"], said["backend_model"], said["route"]),
            (200, "end_turn", "claude-sonnet-4-5", "fake", "qwen", "/v1/messages"),
        )
        self.assertIsInstance(said["duration"], float)
        self.assertIs(said["joined"], False)
        self.assertFalse([name for name in said if name.startswith("_")])
        self.assertTrue(all(value is None or isinstance(value, str | int | float) for value in said.values()))


class CanaryTests(SynchronousTestCase):
    """No prompt text, no answer, no key: in no field of any event, at any level."""

    def test_canaries(self) -> None:
        """Whatever happens to a request, the log knows nothing of its content."""
        house = House(keys=(Secret(CLIENT_KEY),))
        messages = [
            {"role": "user", "content": [{"type": "text", "text": PROMPT}, {"type": "hologram", "data": PROMPT}]}
        ]
        asked = body(system=SYSTEM, messages=messages, stop_sequences=["stop-canary"], metadata={"user_id": PROMPT})
        said = {"content": REPLY}
        scripts = [
            text(REPLY),
            Script(steps=[chunk(said), Cut()]),
            Script(steps=[chunk(said), Send(b"data: nonsense " + REPLY.encode() + b"\n\n")]),
            Script(steps=[chunk({"content": [{"type": "text", "text": {"x": REPLY}}]}), *text(REPLY).steps]),
            silent(headers=False),
            Script(steps=[chunk(said), *silent().steps]),
        ]
        for script in scripts:
            for streamed in (True, False):
                house.fake.plays(script)
                caller = house.ask("POST", "/v1/messages", {**asked, "stream": streamed}, {"x-api-key": CLIENT_KEY})
                house.pass_time(3)
                caller.vanish()
        house.ask("POST", "/v1/messages/count_tokens", asked, {"authorization": f"Bearer {CLIENT_KEY}"})
        house.ask("POST", "/v1/messages", json.dumps(asked).encode()[:-5], {"x-api-key": CLIENT_KEY})
        house.ask("POST", "/v1/messages", {**asked, "max_tokens": PROMPT}, {"x-api-key": CLIENT_KEY})
        house.ask(
            "POST", "/v1/messages", {**asked, "system": [{"type": "text", "text": [PROMPT]}]}, {"x-api-key": CLIENT_KEY}
        )
        house.ask("POST", "/v1/messages", asked, {"x-api-key": CLIENT_KEY + "x"})
        house.ask("GET", f"/v1/models?limit={PROMPT}", None, {"x-api-key": CLIENT_KEY})
        house.reset(keys=(Secret(CLIENT_KEY), Secret("another")))
        self.assertGreater(len(house.request_lines), 10)
        written = rendered(house.events)
        for canary in (PROMPT, SYSTEM, REPLY, "stop-canary", CLIENT_KEY, BACKEND_KEY):
            self.assertNotIn(canary, written)

    def test_faults_of_ours(self) -> None:
        """The same for a fault of ours: the traceback tells where, not what."""
        from claudeproxy.translate import chat_stream

        def broken(self: object, delta: object) -> None:
            raise KeyError("index")

        self.patch(chat_stream.ChatStream, "_delta", broken)
        house = House()
        house.fake.plays(text(REPLY))
        caller = house.ask("POST", "/v1/messages", body(messages=[{"role": "user", "content": PROMPT}]))
        self.assertIn(b"Internal error", caller.raw)
        (failed,) = (event for event in house.events if "log_failure" in event)
        self.assertIn("KeyError", rendered([failed]))
        self.assertIn("fake", str(failed["backend"]))
        written = rendered(house.events)
        for canary in (PROMPT, REPLY, BACKEND_KEY):
            self.assertNotIn(canary, written)
        self.assertEqual([event["outcome"] for event in house.request_lines], ["internal"])
