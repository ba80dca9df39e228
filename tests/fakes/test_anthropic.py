"""The official client talks to the fake Anthropic; what it receives and remembers is byte for byte what was said."""

from typing import Any

import httpx2
from anthropic import Anthropic, APIStatusError, NotFoundError, RateLimitError
from anthropic.types import Message, RawMessageStreamEvent
from attrs import define
from pydantic import TypeAdapter
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import Site

from tests.fakes.anthropic import (
    FakeAnthropic,
    broken_off,
    call,
    events,
    failed,
    llama_stream,
    message,
    ollama_stream,
    refused,
    server_call,
    stream,
    text,
    thinking,
    vllm_stream,
    whole,
)
from tests.fakes.callers import Caller, caller
from tests.fakes.network import Network
from tests.fakes.scripts import Cut, Headers, Script, Wait, silent
from tests.stream_checker import check_stream

PORT = 8000
FOUND = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []}
BLOCKS = (thinking("Hm", "m."), text("Y", "es."), call("Bash", '{"a"', ":1}"), server_call("web_search", "{}"), FOUND)


@define
class Wire(httpx2.BaseTransport):
    """Carries the client's requests into the network in memory."""

    network: Network

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        headers = {name: value for name, value in request.headers.items() if name != "content-length"}
        path = request.url.raw_path.decode()
        answer = caller(self.network, PORT).ask(request.method, path, request.read(), headers)
        kept = {name: value for name, value in answer.headers.items() if name != "transfer-encoding"}
        return httpx2.Response(answer.status, headers=kept, content=answer.body)


class FakeCase(SynchronousTestCase):
    """A fake on a network in memory."""

    def setUp(self) -> None:
        self.network = Network()
        self.fake = FakeAnthropic(self.network, models=["claude-a", "claude-b"])
        self.network.listenTCP(PORT, Site(self.fake, reactor=self.network))
        http = httpx2.Client(transport=Wire(self.network))
        self.client = Anthropic(api_key="k", base_url=f"http://127.0.0.1:{PORT}", max_retries=0, http_client=http)

    def request(self, **more: Any) -> dict[str, Any]:
        return {"model": "claude-a", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}], **more}

    def ask(self, method: str, path: str, body: object = None, **more: Any) -> Caller:
        return caller(self.network, PORT).ask(method, path, body, **more)


class ClientTests(FakeCase):
    """`anthropic.Anthropic`."""

    def test_types(self) -> None:
        """Every event is one of Anthropic's types, and so is a whole message."""
        adapter: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
        for event in events(*BLOCKS, stop_reason="tool_use"):
            if event["type"] != "ping":
                adapter.validate_python(event)
        Message.model_validate(message(*BLOCKS))

    def test_answers(self) -> None:
        """Streamed and whole, the client reads what was to be said."""
        self.fake.plays(stream(*BLOCKS, stop_reason="tool_use"), whole(*BLOCKS, stop_reason="tool_use"))
        with self.client.messages.stream(**self.request()) as said:
            streamed = said.get_final_message()
        answered = self.client.messages.create(**self.request())
        plain = [block.to_dict(exclude_none=True) for block in answered.content]
        self.assertEqual([block.to_dict(exclude_none=True) for block in streamed.content], plain)
        self.assertEqual((streamed.stop_reason, streamed.usage.output_tokens), ("tool_use", 7))
        self.assertEqual([block.type for block in streamed.content], [block["type"] for block in BLOCKS])

    def test_default(self) -> None:
        """Without a script a short text is answered, streamed if the request says so."""
        self.assertEqual(self.client.messages.create(**self.request()).content[0].to_dict()["text"], "Hello world")
        with self.client.messages.stream(**self.request()) as said:
            self.assertEqual(said.get_final_text(), "Hello world")
        self.assertEqual([received.json.get("stream") for received in self.fake.asked], [None, True])

    def test_counts(self) -> None:
        """It counts tokens, unless it is one that cannot."""
        asked = {"model": "claude-a", "messages": self.request()["messages"]}
        self.assertEqual(self.client.messages.count_tokens(**asked).input_tokens, 42)
        self.fake.count = None
        self.assertRaises(NotFoundError, self.client.messages.count_tokens, **asked)

    def test_models(self) -> None:
        """Its models, all and one."""
        self.assertEqual([each.id for each in self.client.models.list()], ["claude-a", "claude-b"])
        self.assertEqual(self.client.models.retrieve("claude-b").display_name, "Claude-B")
        self.assertRaises(NotFoundError, self.client.models.retrieve, "claude-c")

    def test_refusals(self) -> None:
        """Errors come with their status, their words and their headers; and within a stream."""
        self.fake.plays(refused(429, "rate_limit_error", "Slow down.", retry_after="7", x_should_retry="true"))
        with self.assertRaises(RateLimitError) as caught:
            self.client.messages.create(**self.request())
        self.assertEqual(caught.exception.response.headers["retry-after"], "7")
        self.assertEqual((caught.exception.request_id, caught.exception.type), ("req_theirs", "rate_limit_error"))
        self.fake.plays(failed("overloaded_error", "Busy.", text("a")))
        with self.client.messages.stream(**self.request()) as said, self.assertRaisesRegex(APIStatusError, "Busy."):
            said.until_done()

    def test_elsewhere(self) -> None:
        """Any other path is a 404 in the envelope, until something is put there."""
        self.assertEqual(self.ask("GET", "/v1/files").json["error"]["type"], "not_found_error")
        self.fake.others["GET", "/v1/files"] = lambda body: whole()
        self.assertEqual(self.ask("GET", "/v1/files").status, 200)


class MemoryTests(FakeCase):
    """What it remembers, and how it breaks."""

    def test_received(self) -> None:
        """Method, path, query, headers and body are kept as they came."""
        body = b'{"z": 1.0,  "model":"a", "model":"b", "t":"\\ud800"}'
        headers = {"x-api-key": "k", "anthropic-beta": "a,b", "X-New": b"\xff"}
        self.ask("POST", "/v1/messages?beta=true", body, headers=headers)
        (received,) = self.fake.received
        self.assertEqual((received.method, received.path, received.query), ("POST", "/v1/messages", "beta=true"))
        self.assertEqual(received.body, body)
        self.assertEqual((received.header("anthropic-beta"), received.header("x-api-key")), ("a,b", "k"))
        self.assertEqual(received.headers.getRawHeaders(b"x-new"), [b"\xff"])

    def test_bytes(self) -> None:
        """A stream leaves in the very pieces that it is made of, with the headers of a real one."""
        self.fake.plays(stream(*BLOCKS))
        answer = self.ask("POST", "/v1/messages", {})
        self.assertEqual(answer.body, stream(*BLOCKS).body_bytes())
        self.assertEqual((answer.headers["request-id"], answer.ended), ("req_theirs", True))

    def test_breaks(self) -> None:
        """It falls silent at once or later, and loses its connection in any place."""
        first = stream(text("a")).writes()[0]
        for script, expected, lost in (
            (silent(headers=False), b"", False),
            (silent(), b"", False),
            (broken_off(stream(text("a")), Cut(), events=1), first, True),
            (broken_off(stream(text("a")), Wait(10), Cut(), events=1), first, False),
            (Script(steps=[Headers(), Cut()]), b"", True),
        ):
            self.fake.plays(script)
            answer = self.ask("POST", "/v1/messages", {})
            self.assertEqual(answer.body if answer.answered else b"", expected)
            self.assertEqual((answer.lost is not None, answer.answered and answer.ended), (lost, False))


class MannerTests(SynchronousTestCase):
    """The streams of the compatible servers."""

    def test_legal(self) -> None:
        """Anthropic's own is legal as it is, the others are not."""
        body = stream(*BLOCKS, stop_reason="tool_use").body_bytes()
        self.assertEqual(check_stream(body).text, "Yes.")
        for make in (llama_stream, vllm_stream, ollama_stream):
            self.assertRaises(AssertionError, check_stream, make(*BLOCKS, stop_reason="tool_use").body_bytes())

    def test_faults(self) -> None:
        """Each has its own: blocks that stay open, a last word that is OpenAI's, thoughts without a signature."""
        kinds = [line for line in llama_stream(*BLOCKS[:2]).body_bytes().split(b"\n") if line.startswith(b"event")]
        self.assertEqual(kinds[-4:-2], [b"event: content_block_stop"] * 2)
        self.assertTrue(vllm_stream(text("a")).body_bytes().endswith(b"data: [DONE]\n\n"))
        self.assertNotIn(b"signature", ollama_stream(*BLOCKS[:2]).body_bytes())
