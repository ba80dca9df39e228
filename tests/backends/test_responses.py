"""A server of the Responses API behind the whole proxy, in memory (PROTOCOL 4.9, 6.2)."""

import itertools
import json
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import LogEvent
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import Site

from claudeproxy.routing.expectations import Secret
from claudeproxy.routing.settings import BackendSettings, Settings
from claudeproxy.service.observers import Logs
from claudeproxy.service.proxy import Proxy
from tests.fakes.callers import Caller, caller
from tests.fakes.house import BACKEND_KEY, BACKEND_PORT, FRONT_PORT, body
from tests.fakes.network import Network
from tests.fakes.responses import FakeResponses, call, failed, frames, message, reasoning, stream, whole
from tests.fakes.scripts import Cut, Hang, Script, error, json_body
from tests.stream_checker import check_message, check_stream

BASH = {"name": "Bash", "input_schema": {"type": "object"}}


class Home:
    """`tests.fakes.house.House` with the other kind of server behind."""

    def __init__(self, others: Any = None, **told: Any) -> None:
        self.network = Network()
        self.fake = FakeResponses(self.network, others=dict(others or {}))
        self.network.listenTCP(BACKEND_PORT, Site(self.fake, reactor=self.network))
        self.events: list[LogEvent] = []
        place = {"base_url": f"http://127.0.0.1:{BACKEND_PORT}/v1", "api_key": Secret(BACKEND_KEY)}
        backends = (BackendSettings("fake", "responses", **{**place, **told}),)
        ids = map("{:024x}".format, itertools.count(1))
        self.proxy = Proxy(
            Settings(backends=backends, log_level="debug", port=FRONT_PORT),
            self.network,
            logs=Logs(self.events.append),  # type: ignore[arg-type]
            new_id=lambda: next(ids),
        )
        self.proxy.startService()
        self.network.pump()

    def ask(self, path: str, asked: Any) -> Caller:
        return caller(self.network, FRONT_PORT).ask("POST", path, asked)

    def chat(self, script: Script, **fields: Any) -> Caller:
        self.fake.plays(script)
        return self.ask("/v1/messages", body(**fields))


class ProxyTests(SynchronousTestCase):
    """From client to server and back."""

    def setUp(self) -> None:
        self.home = Home()

    def test_stream(self) -> None:
        """A streamed answer goes through; the server is asked at its own path, with its own key."""
        client = self.home.chat(stream(reasoning("Hm."), message("Hello", " world")), tools=[BASH])
        found = check_stream(client.body)
        self.assertEqual((client.status, found.text), (200, "Hello world"))
        [asked] = self.home.fake.asked
        self.assertEqual((asked.path, asked.header("authorization")), ("/v1/responses", f"Bearer {BACKEND_KEY}"))
        self.assertEqual((asked.json["stream"], asked.json["store"]), (True, False))

    def test_whole(self) -> None:
        """A client that wants no stream gets a message, whether the server streamed or not."""
        for script in (stream(message("Hello")), whole(message("Hello"))):
            client = self.home.chat(script, stream=None)
            self.assertEqual(check_message(client.json).text, "Hello")

    def test_round_trip(self) -> None:
        """Reasoning and calls come back to the server as it gave them, with the client's results."""
        item = reasoning("Hm.", cipher="gAAAAA" * 50)
        client = self.home.chat(stream(item, call("Bash", '{"command":"ls"}')), tools=[BASH], stream=None)
        turns = [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": client.json["content"]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call_1", "content": "a"}]},
        ]
        self.home.chat(stream(message("Done.")), tools=[BASH], messages=turns)
        sent = self.home.fake.asked[-1].json["input"]
        self.assertEqual([each["type"] for each in sent][1:], ["reasoning", "function_call", "function_call_output"])
        self.assertEqual((sent[1], sent[2]["arguments"]), (item, '{"command":"ls"}'))

    def test_overflow(self) -> None:
        """A full context is a plain 400 in Anthropic's words, though the server told it inside its stream."""
        client = self.home.chat(Script(steps=frames(failed("context_length_exceeded", "Too much."))))
        self.assertEqual((client.status, client.json["error"]["message"]), (400, "prompt is too long"))

    def test_errors(self) -> None:
        """The server's statuses keep their meaning."""
        for status in (401, 404, 429):
            client = self.home.chat(error(status, {"error": {"message": "no", "type": "x", "code": None}}))
            self.assertEqual(client.status, status)

    def test_cut(self) -> None:
        """A server that breaks off in the middle is an error at the stream's end, not a short answer."""
        steps = stream(message("Hello", " world")).steps[:6]
        found = check_stream(self.home.chat(Script(steps=[*steps, Cut()])).body)
        self.assertTrue(found.error and not found.finished)

    def test_cancel(self) -> None:
        """A client that goes away, before or within the answer, frees the server."""
        for steps in ([], stream(message("Hello")).steps[:6]):
            client = self.home.chat(Script(steps=[*steps, Hang()]))
            gone: Deferred[None] = self.home.fake.asked[-1].when_gone()
            client.vanish()
            self.home.network.pump()
            self.successResultOf(gone)

    def test_count(self) -> None:
        """The server counts what would be sent; one that cannot leaves an estimate."""
        asked = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "tools": [BASH]}
        self.assertEqual(self.home.ask("/v1/messages/count_tokens", asked).json, {"input_tokens": 42})
        sent = self.home.fake.received[-1].json
        self.assertTrue({"model", "input", "tools", "truncation"} <= sent.keys())
        self.assertFalse({"stream", "store", "include", "max_output_tokens"} & sent.keys())
        self.home.fake.count = None
        estimate = self.home.ask("/v1/messages/count_tokens", asked).json["input_tokens"]
        self.assertTrue(0 < estimate < 100)

    def test_no_key_in_the_log(self) -> None:
        """The server's key is in no line of the log."""
        self.home.chat(error(500, {"error": {"message": "no"}}))
        self.assertNotIn(BACKEND_KEY, json.dumps(self.home.events, default=repr))


class RecognitionTests(SynchronousTestCase):
    """What kind of server it is."""

    def test_llama(self) -> None:
        """llama.cpp is known by its properties, and asked for progress and with its template's variables."""
        properties = {"default_generation_settings": {"n_ctx": 4096}, "modalities": {"vision": False}}
        home = Home(others={("GET", "/props"): lambda asked: json_body(properties)})
        home.chat(stream(message("Hello")))
        sent = home.fake.asked[-1].json
        self.assertEqual((sent["return_progress"], sent["chat_template_kwargs"]), (True, {"enable_thinking": False}))

    def test_unknown(self) -> None:
        """A server that does not say what it is is asked as OpenAI is."""
        home = Home()
        home.chat(stream(message("Hello")), system="Be kind.")
        self.assertEqual(home.fake.asked[-1].json["input"][0]["role"], "developer")
