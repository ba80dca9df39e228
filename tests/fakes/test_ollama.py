"""The official client talks to the fake Ollama: what it cannot read, no real one would send."""

from typing import Any

import httpx
import ollama
from attrs import define
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import Site

from tests.fakes.callers import caller
from tests.fakes.network import Network
from tests.fakes.ollama import FakeOllama, Model, call, last, line, lines, said, stream
from tests.fakes.scripts import Send

PORT = 11434


@define
class Wire(httpx.BaseTransport):
    """Carries the client's requests into the network in memory."""

    network: Network

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        headers = {name: value for name, value in request.headers.items() if name != "content-length"}
        path = request.url.raw_path.decode()
        answer = caller(self.network, PORT).ask(request.method, path, request.read(), headers)
        kept = {name: value for name, value in answer.headers.items() if name != "transfer-encoding"}
        return httpx.Response(answer.status, headers=kept, content=answer.body)


class OfficialClientTests(SynchronousTestCase):
    """`ollama.Client`."""

    def setUp(self) -> None:
        network = Network()
        blind = Model("old:latest", ("completion",), 4096, "llama")
        self.fake = FakeOllama(network, [Model(), blind])
        network.listenTCP(PORT, Site(self.fake, reactor=network))
        self.client = ollama.Client(f"http://127.0.0.1:{PORT}", transport=Wire(network), trust_env=False)

    def chat(self, **more: Any) -> list[ollama.ChatResponse]:
        said = [{"role": "user", "content": "Hi"}]
        return list(self.client.chat(**{"model": "qwen3:4b", "messages": said, "stream": True, **more}))

    def test_models(self) -> None:
        """The lists of models, and what is told of one."""
        self.assertEqual([each.model for each in self.client.list().models], ["qwen3:4b", "old:latest"])
        shown = self.client.show("qwen3:4b")
        self.assertEqual(shown.capabilities, ["completion", "tools", "thinking"])
        self.assertEqual((shown.modelinfo or {})["qwen3.context_length"], 40_960)
        self.assertEqual(list(self.client.ps().models), [])
        self.chat(options={"num_ctx": 8192})
        self.assertEqual([each.context_length for each in self.client.ps().models], [8192])

    def test_stream(self) -> None:
        """Text and thoughts in pieces, the counts at the end."""
        self.fake.plays(stream({"thinking": "Hm."}, {"content": "Y"}, {"content": "es."}))
        *pieces, end = self.chat(think=True)
        self.assertEqual(
            [(each.message.thinking, each.message.content) for each in pieces[:2]], [("Hm.", ""), (None, "Y")]
        )
        self.assertEqual((end.done, end.done_reason, end.prompt_eval_count, end.eval_count), (True, "stop", 26, 9))

    def test_calls(self) -> None:
        """Calls with object arguments, several in a line."""
        self.fake.plays(stream({"tool_calls": [call("a", {"x": 1}), call("b", {}, id="call_1", index=1)]}))
        first = self.chat()[0].message.tool_calls or ()
        self.assertEqual(
            [(each.function.name, each.function.arguments) for each in first], [("a", {"x": 1}), ("b", {})]
        )

    def test_one_answer(self) -> None:
        """Without a stream the same in one."""
        self.fake.plays(said("Hello", " world"))
        whole = self.client.chat(model="qwen3:4b", messages=[{"role": "user", "content": "Hi"}])
        self.assertEqual((whole.message.content, whole.done), ("Hello world", True))

    def test_refusals(self) -> None:
        """A model that is not there, and abilities that a model has not."""
        for more, status, words in (
            ({"model": "none"}, 404, "model 'none' not found"),
            ({"model": "old", "think": True}, 400, "does not support thinking"),
            ({"model": "old", "tools": [{"function": {"name": "a"}}]}, 400, "does not support tools"),
        ):
            with self.assertRaises(ollama.ResponseError) as caught:
                self.chat(**more)
            self.assertEqual(caught.exception.status_code, status)
            self.assertIn(words, caught.exception.error)

    def test_error_line(self) -> None:
        """An error in the midst of a stream."""
        self.fake.plays(lines(line({"content": "a"}), Send(b'{"error":"broke"}\n'), last()))
        with self.assertRaisesRegex(ollama.ResponseError, "broke"):
            self.chat()

    def test_loading(self) -> None:
        """A request without messages only loads the model, or unloads it."""
        self.assertEqual(self.chat(messages=[])[-1].done_reason, "load")
        self.assertEqual(self.chat(messages=[], keep_alive=0)[-1].done_reason, "unload")
