"""The whole proxy in front of Ollama (PROTOCOL 4.8, 3.2, 3.3; issue 4)."""

import itertools
import json
from typing import Any

from twisted.logger import LogEvent
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import Site

from claudeproxy.routing.expectations import Secret
from claudeproxy.routing.settings import BackendSettings, Settings
from claudeproxy.service.observers import Logs
from claudeproxy.service.proxy import Proxy
from tests.fakes.callers import Caller
from tests.fakes.house import BACKEND_KEY, BACKEND_PORT, FRONT_PORT, House, body
from tests.fakes.network import Network
from tests.fakes.ollama import FakeOllama, Model, broken, call, last, line, lines, said, stream
from tests.fakes.scripts import Cut, Hang, Headers, Script, Send, error, json_body
from tests.stream_checker import Checked, check_error, check_message, check_stream

TOOLS = [{"name": "Bash", "description": "Runs", "input_schema": {"type": "object"}}]
MODEL = "qwen3:4b"
PLAIN = Model("plain:latest", ("completion",), 4096, "llama")
EYES = Model("eyes:latest", ("completion", "vision"), 131_072, "gemma3")
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}


def stop_of(found: Checked) -> Any:
    assert found.message is not None
    return found.message["stop_reason"]


class OllamaHouse(House):
    """A house with a fake Ollama behind; ``backend`` are settings of the backend."""

    fake: FakeOllama  # type: ignore[assignment]

    def __init__(self, *, models: tuple[Model, ...] = (Model(), PLAIN, EYES), **backend: Any) -> None:
        self.network = Network()
        self.fake = FakeOllama(self.network, list(models))
        self.network.listenTCP(BACKEND_PORT, Site(self.fake, reactor=self.network))
        self.events: list[LogEvent] = []
        told = {"base_url": f"http://127.0.0.1:{BACKEND_PORT}", "api_key": Secret(BACKEND_KEY)}
        backends = (BackendSettings("fake", "ollama", **{**told, **backend}),)
        self.settings = Settings(backends=backends, log_level="debug", port=FRONT_PORT)
        ids = map("{:024x}".format, itertools.count(1))
        logs = Logs(self.events.append)  # type: ignore[arg-type]
        self.proxy = Proxy(self.settings, self.network, logs=logs, new_id=lambda: next(ids))
        self.proxy.startService()
        self.network.pump()

    def say(self, *scripts: Script, **fields: Any) -> Caller:
        """A small request for the usual model, answered with ``scripts``, or as the fake does by itself."""
        self.fake.plays(*scripts)
        return self.ask("POST", "/v1/messages", body(**{"model": MODEL, **fields}))

    @property
    def sent(self) -> list[dict[str, Any]]:
        """What the backend was asked."""
        return [each.json for each in self.fake.chats]


class AnswerTests(SynchronousTestCase):
    """Answers."""

    def setUp(self) -> None:
        self.house = OllamaHouse()

    def test_stream(self) -> None:
        """Text comes as it is said, from the path and with the key that belong to the backend."""
        found = check_stream(self.house.say(said("Hello", " world")).body)
        self.assertEqual((found.text, stop_of(found)), ("Hello world", "end_turn"))
        received = self.house.fake.chats[0]
        self.assertEqual((received.method, received.path), ("POST", "/api/chat"))
        self.assertEqual(received.header("authorization"), f"Bearer {BACKEND_KEY}")
        self.assertEqual(received.json["model"], MODEL)

    def test_one_answer(self) -> None:
        """A client that wants no stream gets one message; Ollama is asked for a stream all the same."""
        found = check_message(self.house.say(said("Hello", " world"), stream=None).json)
        self.assertEqual(found.text, "Hello world")
        self.assertIs(self.house.sent[0]["stream"], True)

    def test_live(self) -> None:
        """Each line leaves when it comes."""
        caller = self.house.say(lines(line({"content": "Hello"}), Hang()))
        self.assertIn(b"Hello", caller.body)
        self.assertFalse(caller.ended)

    def test_round_trip(self) -> None:
        """A call, with the thoughts before it, and its result: both go back in Ollama's own terms."""
        thoughts = stream({"thinking": "Let me see."}, {"tool_calls": [call("Bash", {"command": "ls"})]})
        asked = {"tools": TOOLS, "thinking": {"type": "adaptive"}}
        first = check_stream(self.house.say(thoughts, **asked).body)
        self.assertEqual((first.calls[0]["name"], first.calls[0]["input"]), ("Bash", {"command": "ls"}))
        self.assertEqual(stop_of(first), "tool_use")
        id = first.calls[0]["id"]
        turns = [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": first.content},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": id, "content": "a.txt"}]},
        ]
        check_stream(self.house.say(said("One file."), messages=turns, **asked).body)
        _, turn, result = self.house.sent[1]["messages"]
        self.assertEqual(turn["thinking"], "Let me see.")
        self.assertEqual(turn["tool_calls"][0]["function"], {"name": "Bash", "arguments": {"command": "ls"}})
        self.assertEqual(result["tool_name"], "Bash")
        self.assertEqual(result["tool_call_id"], turn["tool_calls"][0]["id"])

    def test_stop_sequence(self) -> None:
        """A stop sequence cuts the answer and the generation."""
        found = check_stream(self.house.say(lines(line({"content": "a STOP b"}), Hang()), stop_sequences=["STOP"]).body)
        self.assertEqual((found.text, stop_of(found)), ("a ", "stop_sequence"))
        self.assertTrue(self.house.fake.chats[0].is_gone)

    def test_connection_kept(self) -> None:
        """After the last line the same connection may serve again: nothing is left open."""
        for _ in range(3):
            check_stream(self.house.say(said("Hello")).body)
        self.house.pass_time(10)
        self.assertFalse(any(each.is_gone for each in self.house.fake.received))

    def test_tool_choice(self) -> None:
        """A choice that Ollama cannot be told is asked for in words, and the header tells."""
        caller = self.house.say(said("No."), tools=TOOLS, tool_choice={"type": "any"})
        self.assertIn("tool_choice", caller.headers["x-claudeproxy-emulated"])

    def test_count(self) -> None:
        """Ollama cannot count: the count is an estimate, and the backend is not asked for an answer."""
        asked = {"model": MODEL, "messages": [{"role": "user", "content": "Hi " * 100}]}
        caller = self.house.ask("POST", "/v1/messages/count_tokens", asked)
        self.assertGreater(caller.json["input_tokens"], 50)
        self.assertEqual(self.house.fake.chats, [])


class KnownTests(SynchronousTestCase):
    """What the server tells of itself and of its models."""

    def test_models(self) -> None:
        """The list of installed models is the proxy's own."""
        house = OllamaHouse()
        listed = [each["id"] for each in house.ask("GET", "/v1/models").json["data"]]
        self.assertLessEqual({MODEL, "plain:latest", "eyes:latest"}, set(listed))

    def test_abilities(self) -> None:
        """Of each model the list says what it can, and the window that it will be asked for with."""
        house = OllamaHouse()
        listed = {each["id"]: each for each in house.ask("GET", "/v1/models").json["data"]}
        for name, window, able in (
            (MODEL, 32_768, {"tool_use", "thinking"}),
            ("plain:latest", 4096, set()),
            ("eyes:latest", 32_768, {"image_input"}),
        ):
            told = listed[name]["capabilities"]
            self.assertEqual(listed[name]["max_input_tokens"], window)
            asked = ("tool_use", "thinking", "image_input", "effort")
            self.assertEqual({each for each in asked if told[each]["supported"]}, able, name)

    def test_changed(self) -> None:
        """A model that was exchanged for another under its name is known after a while, without a request waiting."""
        house = OllamaHouse()
        house.say(model="plain")
        house.fake.models[1] = Model("plain:latest", ("completion", "tools"), 8192, "llama")
        house.pass_time(61)
        house.say(model="plain")
        house.say(model="plain", tools=TOOLS)
        self.assertEqual([each["options"]["num_ctx"] for each in house.sent], [4096, 4096, 8192])
        self.assertEqual(len([line for line in house.lines if "plain of fake has changed: window 8192" in line]), 1)

    def test_window(self) -> None:
        """The same window with every request, never above the model's own, so that nothing is loaded anew."""
        house = OllamaHouse()
        for fields in ({}, {"max_tokens": 5}, {"tools": TOOLS}, {"stream": None}):
            house.say(**fields)
        self.assertEqual({each["options"]["num_ctx"] for each in house.sent}, {32_768})
        self.assertEqual(house.fake.loads, [(MODEL, 32_768)])
        house.say(model="plain")
        self.assertEqual(house.sent[-1]["options"]["num_ctx"], 4096)
        self.assertEqual([each.path for each in house.fake.received].count("/api/show"), 2)

    def test_window_set(self) -> None:
        """The settings' window; 0 is the model's own; a cell is the last word."""
        for backend, model, window in (
            ({"num_ctx": 8192}, MODEL, 8192),
            ({"num_ctx": 8192}, "plain", 4096),
            ({"num_ctx": 0}, MODEL, 40_960),
            ({"num_ctx": 0}, "eyes", 131_072),
            ({"cells": {"num_ctx": 100}}, MODEL, 100),
        ):
            house = OllamaHouse(**backend)
            house.say(model=model)
            self.assertEqual(house.sent[0]["options"]["num_ctx"], window, backend)

    def test_window_full(self) -> None:
        """An answer that fills the window says so."""
        house = OllamaHouse(num_ctx=100)
        found = check_stream(house.say(said("a", reason="length", prompt=90, output=10)).body)
        self.assertEqual(stop_of(found), "model_context_window_exceeded")

    def test_told_nothing(self) -> None:
        """A server that tells nothing of its models is asked with the settings' window."""
        for answer in (
            error(404, {"error": "no"}),
            json_body([]),
            json_body({"model_info": []}),
            Script(steps=[Cut()]),
        ):
            house = OllamaHouse()
            house.fake.others = {("POST", "/api/show"): answer}
            self.assertEqual(check_stream(house.say(said("Yes.")).body).text, "Yes.")
            self.assertEqual(house.sent[0]["options"]["num_ctx"], 32_768)

    def test_keep_alive(self) -> None:
        """How long the model stays is sent if it is set."""
        for setting, expected in (("", None), ("30m", "30m"), ("-1", -1)):
            house = OllamaHouse(keep_alive=setting)
            house.say()
            self.assertEqual(house.sent[0].get("keep_alive"), expected)

    def test_eyes(self) -> None:
        """An image goes to a model that has eyes, and a note to one that has none."""
        house = OllamaHouse()
        turn = [{"role": "user", "content": [IMAGE]}]
        house.say(model="eyes", messages=turn)
        self.assertEqual(house.sent[-1]["messages"][0]["images"], ["iVBORw0KGgo="])
        caller = house.say(messages=turn)
        self.assertIn("cannot see", house.sent[-1]["messages"][0]["content"])
        self.assertIn("image", caller.headers["x-claudeproxy-dropped"])

    def test_cannot_think(self) -> None:
        """A model that is known not to think is not asked to."""
        house = OllamaHouse()
        found = check_stream(house.say(said("Yes."), model="plain", thinking={"type": "adaptive"}).body)
        self.assertEqual(found.text, "Yes.")
        self.assertNotIn("think", house.sent[0])


class FailureTests(SynchronousTestCase):
    """Failures, each as a plain HTTP error where nothing was said yet."""

    def setUp(self) -> None:
        self.house = OllamaHouse()

    def refused(self, status: int, *scripts: Script, **fields: Any) -> str:
        caller = self.house.say(*scripts, **fields)
        self.house.pass_time(30)
        self.assertEqual(caller.status, status, caller.raw)
        return str(check_error(caller.json, status).message)

    def test_no_model(self) -> None:
        """A model that is not installed is named."""
        self.assertTrue(self.refused(404, model="none").startswith("model: none "))

    def test_no_tools(self) -> None:
        """A model that has no place for tools is a clear error, not a silence."""
        self.assertIn("does not support tools", self.refused(400, model="plain", tools=TOOLS))

    def test_refuses_to_think(self) -> None:
        """A model of an older server that refuses to be asked to think is asked once more without, and never again."""
        self.house.fake.others = {("POST", "/api/show"): json_body({"model_info": {}})}
        refusal = error(400, {"error": '"qwen3:4b" does not support thinking'})
        self.assert_thinks(["high", None, None, False], refusal)

    def test_refuses_a_level(self) -> None:
        """One that only cannot be told how much thinks without being told; one that then refuses to think does not."""
        level = error(400, {"error": 'think value "high" is not supported for this model'})
        house = self.assert_thinks(["high", True, True, False], level)
        asked = {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}
        self.assertIn("output_config.effort", house.say(said("Yes."), **asked).headers["x-claudeproxy-dropped"])
        thinking = error(400, {"error": '"qwen3:4b" does not support thinking'})
        self.assert_thinks(["high", True, None, None, False], level, thinking)

    def assert_thinks(self, sent: list[Any], *refusals: Script) -> OllamaHouse:
        """What is sent as ``think``: by a request that is refused so, by the next one, and by one that wants none."""
        house = OllamaHouse()
        asked = {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}
        self.assertEqual(check_stream(house.say(*refusals, said("Yes."), **asked).body).text, "Yes.")
        house.say(said("Yes."), **asked)
        house.say(said("Yes."))
        self.assertEqual([each.get("think") for each in house.sent], sent)
        return house

    def test_overflow(self) -> None:
        """A prompt that does not fit is refused in the words that make Claude Code compact; nothing is cut."""
        house = self.house = OllamaHouse(num_ctx=50)
        self.assertEqual(self.refused(400, messages=[{"role": "user", "content": "a " * 1000}]), "prompt is too long")
        self.assertEqual(house.sent, [])
        house.say(said("Yes."))
        self.assertEqual((house.sent[0]["truncate"], house.sent[0]["shift"]), (False, False))

    def test_overflow_with_numbers(self) -> None:
        """Newer servers hand on their engine's own error, numbers included."""
        inner = {"code": 400, "message": "request (889 tokens) exceeds the available context size (409 tokens), try"}
        refusal = error(400, {"error": json.dumps({"error": inner})})
        self.assertEqual(self.refused(400, refusal), "prompt is too long: 889 tokens > 409 maximum")

    def test_server_errors(self) -> None:
        """Statuses keep their class, the server its words."""
        for status, expected in ((401, 401), (429, 429), (500, 500), (503, 529)):
            self.assertIn("some words", self.refused(expected, error(status, {"error": "some words"})))

    def test_error_line_first(self) -> None:
        """An error as the first line is a plain HTTP error."""
        self.assertIn("broke", self.refused(502, lines(Send(b'{"error":"broke"}\n'))))

    def test_error_line_later(self) -> None:
        """An error in the midst of the answer is an error event."""
        script = lines(line({"content": "a"}), Send(b'{"error":"broke"}\n'), last())
        found = check_stream(self.house.say(script).body)
        assert found.error is not None
        self.assertIn("broke", found.error.message)

    def test_cut(self) -> None:
        """A connection that breaks never looks like an end."""
        self.assertIsNotNone(check_stream(self.house.say(broken("a")).body).error)

    def test_unreachable(self) -> None:
        """A server that is not there may come back."""
        house = self.house = OllamaHouse(base_url="http://127.0.0.1:9001")
        self.assertIn("fake", self.refused(529))
        self.assertEqual(house.sent, [])


class CancelTests(SynchronousTestCase):
    """A client that leaves takes the request to Ollama with it, in every phase."""

    def test_every_phase(self) -> None:
        """Before the headers, before the first line, in the midst of thoughts, of text and of calls."""
        beginnings: tuple[tuple[Any, ...], ...] = (
            (),
            (Headers(),),
            (line({"thinking": "Hm"}),),
            (line({"content": "a"}),),
            (line({"tool_calls": [call("Bash", {})]}),),
        )
        for steps in beginnings:
            house = OllamaHouse()
            caller = house.say(lines(*steps, Hang()), tools=TOOLS)
            self.assertFalse(house.fake.chats[0].is_gone)
            caller.vanish()
            self.assertTrue(house.fake.chats[0].is_gone, steps)

    def test_silence(self) -> None:
        """A server that falls silent in the midst of its answer is given up after the time that is set."""
        house = OllamaHouse(timeout_ms=5000)
        caller = house.say(lines(line({"content": "a"}), Hang()))
        house.pass_time(20)
        self.assertIsNotNone(check_stream(caller.body).error)
        self.assertTrue(house.fake.chats[0].is_gone)
