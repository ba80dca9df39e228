"""The truth about the window, through the whole proxy (issue 5, part 2)."""

import json
from typing import Any
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.web import app
from tests.fakes.callers import Caller
from tests.fakes.house import House, body
from tests.fakes.openai import Hang, Script, json_body, silent, text
from tests.fakes.scripts import chunk
from tests.stream_checker import check_error, check_stream

PROPS = {
    "default_generation_settings": {"n_ctx": 8192},
    "modalities": {"vision": False},
    "chat_template_caps": {"supports_tools": True},
}


def prose(words: int) -> list[dict[str, Any]]:
    return [{"role": "user", "content": "word " * words}]


class WindowTests(SynchronousTestCase):
    """A llama.cpp with a window of 8,192 tokens that counts ``counted`` tokens."""

    counted = 3000

    def setUp(self) -> None:
        self.house = self.make()

    def make(self, **settings: Any) -> House:
        others = {
            ("GET", "/props"): lambda _: json_body(PROPS),
            ("POST", "/v1/chat/completions/input_tokens"): lambda _: json_body({"input_tokens": self.counted}),
            ("GET", "/health"): lambda _: json_body({"status": "ok"}),
        }
        house = House("llama.cpp", others=others, **settings)
        house.pass_time(2)
        return house

    def ask(self, words: int, **fields: Any) -> Caller:
        self.house.fake.plays(text("Hello"))
        return self.house.ask("POST", "/v1/messages", body(messages=prose(words), **fields))

    def sent(self) -> list[dict[str, Any]]:
        return [json.loads(each.body) for each in self.house.fake.received if each.path == "/v1/chat/completions"]

    def counts(self) -> int:
        return sum(each.path.endswith("/input_tokens") for each in self.house.fake.received)

    def test_clamped(self) -> None:
        """`max_tokens` is what is left of the window."""
        check_stream(self.ask(100, max_tokens=128_000).body)
        self.assertIn(self.sent()[0]["max_tokens"], range(7900, 8192))
        self.ask(100, max_tokens=1000)
        self.assertEqual(self.sent()[1]["max_tokens"], 1000)
        self.assertEqual(self.counts(), 0, "far from the window an estimate is good enough")

    def test_clamped_thinking(self) -> None:
        """What may be thought is less than what is left: the model would never come to its answer."""
        self.counted = 6192
        check_stream(self.ask(6000, max_tokens=64_000, thinking={"type": "enabled", "budget_tokens": 31_999}).body)
        (sent,) = self.sent()
        self.assertEqual((sent["max_tokens"], sent["thinking_budget_tokens"]), (2000, 1500))

    def test_near(self) -> None:
        """Near the window it is counted exactly."""
        self.counted = 7000
        check_stream(self.ask(6800, max_tokens=128_000).body)
        self.assertEqual(self.sent()[0]["max_tokens"], 8192 - 7000)
        self.assertEqual(self.counts(), 1)

    def test_too_long(self) -> None:
        """A prompt that cannot fit is answered at once with true numbers, and never sent."""
        self.counted = 8300
        problem = check_error(self.ask(8000).json, 400)
        self.assertEqual(problem.message, "prompt is too long: 8300 tokens > 8192 maximum")
        self.assertEqual(self.sent(), [])

    def test_unreachable_count(self) -> None:
        """Where the exact count cannot be had, what surely cannot fit is refused all the same."""
        self.house.fake.others[("POST", "/v1/chat/completions/input_tokens")] = lambda _: json_body({}, status=500)
        self.assertEqual(check_error(self.ask(30_000).json, 400).message, "prompt is too long")

    def test_settings_win(self) -> None:
        """The settings' window is the last word."""
        self.house = House("generic", {"context_window": 1000})
        self.assertEqual(check_error(self.ask(5000).json, 400).message, "prompt is too long")

    def test_counted_before(self) -> None:
        """What was counted is told again without asking the server, or even reading the request, as long as the model's
        window is the same."""
        asked = {"model": "m", "messages": prose(500)}
        told = [self.house.ask("POST", "/v1/messages/count_tokens", asked).json]
        with patch.object(app, "read_count", side_effect=AssertionError("it was read again")):
            told.append(self.house.ask("POST", "/v1/messages/count_tokens", asked).json)
        self.assertEqual(told, [{"input_tokens": 3000}] * 2)
        self.assertEqual(self.counts(), 1)
        other = {"model": "m", "messages": prose(501)}
        self.house.ask("POST", "/v1/messages/count_tokens", other)
        self.assertEqual(self.counts(), 2)

    def test_usage_learns(self) -> None:
        """What a finished answer counted makes the next estimate better; the count says where it is from."""
        house = self.house = House("generic")
        asked = {"model": "m", "messages": prose(500)}
        counted = house.ask("POST", "/v1/messages/count_tokens", asked)
        self.assertEqual(counted.headers["x-claudeproxy-count-source"], "estimate")
        usage = {"prompt_tokens": 620, "completion_tokens": 1}
        script = Script(steps=[chunk({"content": "a"}, finish="stop"), chunk(None, usage=usage)])
        house.fake.plays(script)
        check_stream(house.ask("POST", "/v1/messages", body(model="m", messages=prose(500))).body)
        again = house.ask("POST", "/v1/messages/count_tokens", asked)
        self.assertEqual(again.headers["x-claudeproxy-count-source"], "learned")
        self.assertIn(again.json["input_tokens"], range(600, 640))

    def test_near_without_counts(self) -> None:
        """Where nobody counts, what was counted in the turn before is sure, and only what was added is in doubt.

        However near the window that comes, there is room for more than a word, or the prompt is refused.
        """
        self.house = House("generic", {"context_window": 8192})
        talk, counted, limits = prose(6400), 6700, []
        for _ in range(12):
            usage = {"prompt_tokens": counted, "completion_tokens": 1}
            self.house.fake.plays(Script(steps=[chunk({"content": "a"}, finish="stop"), chunk(None, usage=usage)]))
            caller = self.house.ask("POST", "/v1/messages", body(messages=talk, max_tokens=128_000))
            if caller.status == 400:
                break
            limits.append((counted, self.sent()[-1]["max_tokens"]))
            talk, counted = [*talk, {"role": "assistant", "content": "a"}, *prose(120)], counted + 132
        else:
            self.fail("it was never refused")
        self.assertEqual(check_error(caller.json, 400).message, "prompt is too long")
        self.assertGreater(len(limits), 4)
        for tokens, limit in limits[1:]:
            self.assertIn(8192 - tokens - limit, range(120), "what is left, less a little of doubt")
            self.assertGreaterEqual(limit, 256)

    def test_believed_window(self) -> None:
        """Who believes in a larger window is told of a prompt that is as much larger; the log keeps the truth."""
        self.house = self.make(client_window=81_920)
        counted = self.house.ask("POST", "/v1/messages/count_tokens", {"model": "m", "messages": prose(9)})
        self.assertEqual(counted.json, {"input_tokens": 30_000})
        usage = {"prompt_tokens": 200, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 150}}
        for stream in (True, False):
            self.house.fake.plays(Script(steps=[chunk({"content": "a"}, finish="stop"), chunk(None, usage=usage)]))
            caller = self.house.ask("POST", "/v1/messages", body(stream=stream))
            message = check_stream(caller.body).message if stream else caller.json
            told = message["usage"]
            self.assertEqual(
                (told["input_tokens"], told["cache_read_input_tokens"], told["output_tokens"]), (500, 1500, 7)
            )
            self.assertEqual(self.house.request_lines[-1]["input_tokens"], 50)

    def test_dead_while_waiting(self) -> None:
        """A server that dies without a word while it is waited for ends the wait; one that lives does not."""
        self.house.fake.plays(silent())
        caller = self.house.ask("POST", "/v1/messages", body())
        self.house.pass_time(600)
        self.assertFalse(caller.ended)
        self.house.network.listeners.clear()
        self.house.pass_time(25)
        self.assertTrue(caller.ended)
        self.assertEqual(check_stream(caller.body).error.type, "overloaded_error")

    def test_limits(self) -> None:
        """The wait for the first token, and the whole answer, may be limited."""
        self.house = House("generic", {"first_token_ms": 30_000})
        caller = self.house.chat(silent())
        self.house.pass_time(31)
        self.assertIn("did not begin", check_stream(caller.body).error.message)
        self.house = House("generic", {"total_ms": 30_000})
        caller = self.house.chat(Script(steps=[chunk({"content": "a"}), Hang()]))
        self.house.pass_time(31)
        self.assertIn("did not finish", check_stream(caller.body).error.message)


class VLLMTests(SynchronousTestCase):
    """vLLM refuses a prompt and an answer that are longer together than its window."""

    def test_counted(self) -> None:
        """Near its window it is asked for an exact count of what it would render, and the answer takes the rest."""
        listing = {"data": [{"id": "m", "owned_by": "vllm", "max_model_len": 8192}]}
        others = {
            ("GET", "/v1/models"): lambda _: json_body(listing),
            ("POST", "/tokenize"): lambda _: json_body({"count": 7000, "max_model_len": 8192, "tokens": []}),
        }
        house = House("auto", others=others)
        house.pass_time(2)
        house.fake.plays(text("Hello"))
        tools = [{"name": "t", "input_schema": {"type": "object"}}]
        asked = body(model="m", messages=prose(6900), max_tokens=128_000, tools=tools)
        check_stream(house.ask("POST", "/v1/messages", asked).body)
        sent = {each.path: json.loads(each.body) for each in house.fake.received if each.method == "POST"}
        self.assertEqual(sent["/v1/chat/completions"]["max_tokens"], 8192 - 7000)
        self.assertEqual(sent["/tokenize"]["messages"], sent["/v1/chat/completions"]["messages"])
        self.assertEqual(sent["/tokenize"]["tools"], sent["/v1/chat/completions"]["tools"])
        self.assertTrue(sent["/tokenize"]["add_generation_prompt"])
        self.assertNotIn("max_tokens", sent["/tokenize"])
        asked.pop("max_tokens"), asked.pop("stream")
        counted = house.ask("POST", "/v1/messages/count_tokens", asked)
        self.assertEqual((counted.json["input_tokens"], counted.headers["x-claudeproxy-count-source"]), (7000, "exact"))
