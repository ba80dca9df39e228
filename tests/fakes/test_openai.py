"""The fake backend plays what it was told, in memory and on a real port, and says how far it got."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest_twisted
from treq.client import HTTPClient
from treq.testing import StubTreq
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import Agent, ResponseDone, ResponseFailed, ResponseNeverReceived
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import IResponse
from twisted.web.server import Site

from tests.fakes.cases import load_cases
from tests.fakes.openai import (
    Chunk,
    Cut,
    Done,
    FakeOpenAI,
    Hang,
    Headers,
    Script,
    Send,
    Wait,
    error,
    json_answer,
    llama_text,
    reasoning,
    silent,
    text,
    tool_call,
)
from tests.fakes.scripts import JSON_TYPE

CHAT = "http://fake/v1/chat/completions"


class Body(Protocol):
    """All that arrives of a body, and how it ended."""

    def __init__(self) -> None:
        self.data = b""
        self.reads: list[bytes] = []
        self.ended: Failure | None = None
        self.done: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.data += data
        self.reads.append(data)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.ended = reason
        self.done.callback(None)


def chunks(data: bytes) -> list[Any]:
    """The decoded events of a stream that ends with [DONE]."""
    *events, done, empty = data.decode().split("\n\n")
    assert (done, empty) == ("data: [DONE]", ""), data
    return [json.loads(event.removeprefix("data: ")) for event in events]


class MemoryTests(SynchronousTestCase):
    """FakeOpenAI behind an agent in memory."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.fake = FakeOpenAI(self.clock)
        self.treq = StubTreq(self.fake)

    def post(self, body: Any = None, url: str = CHAT) -> Deferred[IResponse]:
        data = json.dumps({"stream": True} if body is None else body).encode()
        asked: Deferred[IResponse] = self.treq.post(url, data=data, headers={"X-Key": "k"})
        self.treq.flush()
        return asked

    def opened(self, script: Script) -> tuple[IResponse, Body]:
        """The answer to a request that gets this script, its body being read."""
        self.fake.plays(script)
        response = self.successResultOf(self.post())
        body = Body()
        response.deliverBody(body)
        self.treq.flush()
        return response, body

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.treq.flush()

    def test_default(self) -> None:
        """Without a script a short text is answered, streamed if asked for, at both addresses."""
        for url in (CHAT, "http://fake/chat/completions"):
            response = self.successResultOf(self.post(url=url))
            self.assertEqual(response.code, 200)
            self.assertEqual(response.headers.getRawHeaders("content-type"), ["text/event-stream"])
            found = chunks(self.successResultOf(self.treq.content(response)))
            said = [choice["delta"].get("content") for value in found for choice in value["choices"]]
            self.assertEqual(said, ["", "Hello", " world", None])
        whole = self.successResultOf(self.treq.json_content(self.successResultOf(self.post({"model": "m"}))))
        self.assertEqual(whole["choices"][0]["message"]["content"], "Hello world")
        self.assertEqual(len(self.fake.chats), 3)

    def test_received(self) -> None:
        """A request is remembered as it came."""
        self.post({"stream": True, "model": "m"}, CHAT + "?a=b")
        (received,) = self.fake.received
        self.assertEqual((received.method, received.path, received.query), ("POST", "/v1/chat/completions", "a=b"))
        self.assertEqual((received.body, received.json["model"]), (b'{"stream": true, "model": "m"}', "m"))
        self.assertEqual((received.header("x-key"), received.header("x-other")), ("k", None))
        self.assertEqual((received.is_finished, received.is_gone), (True, False))
        self.assertNoResult(received.when_gone())

    def test_answers(self) -> None:
        """Queued scripts are played in order, then the function of the body answers."""
        self.fake.plays(text("1"), error(500, {"error": "2"}))
        self.fake.answers = lambda body: error(body["status"], "<p>3</p>")
        statuses = [self.successResultOf(self.post({"status": 418})).code for _ in range(3)]
        self.assertEqual(statuses, [200, 500, 418])

    def test_models(self) -> None:
        """The models are listed, with and without /v1."""
        for url in ("http://fake/v1/models", "http://fake/models"):
            response = self.successResultOf(self.treq.get(url))
            listed = self.successResultOf(self.treq.json_content(response))
            self.assertEqual([entry["id"] for entry in listed["data"]], ["fake-model"])

    def test_others(self) -> None:
        """Any other path or method is a 404 until something is put there."""
        self.assertEqual(self.successResultOf(self.treq.get(CHAT)).code, 404)
        self.assertEqual(self.successResultOf(self.post(url="http://fake/tokenize")).code, 404)
        self.assertEqual(self.successResultOf(self.post(url="http://fake/v1/models")).code, 404)
        self.fake.others["POST", "/tokenize"] = lambda body: json_answer()
        self.assertEqual(self.successResultOf(self.post(url="http://fake/tokenize")).code, 200)

    def test_not_json(self) -> None:
        """A body that is not JSON is answered, too, as None."""
        self.fake.answers = lambda body: error(400 if body is None else 500, "")
        asked = self.treq.post(CHAT, data=b"\xff")
        self.assertEqual(self.successResultOf(asked).code, 400)

    def test_waits(self) -> None:
        """A wait lasts exactly its time on the clock; what was written before it has arrived."""
        _, body = self.opened(Script(steps=[Send(b"a"), Wait(1.5), Send(b"b"), Wait(1), Done()]))
        self.assertEqual(body.data, b"a")
        self.pass_time(1.4)
        self.assertEqual(body.data, b"a")
        self.pass_time(0.1)
        self.assertEqual(body.data, b"ab")
        self.assertIsNone(body.ended)
        self.pass_time(1)
        self.assertEqual(body.data, b"abdata: [DONE]\n\n")
        assert body.ended is not None
        body.ended.trap(ResponseDone)

    def test_headers_first(self) -> None:
        """Status and headers leave with the first bytes, or when the script says so."""
        self.fake.plays(Script(steps=[Wait(1), Send(b"a")]), Script(steps=[Headers(), Wait(1)]))
        late, early = self.post(), self.post()
        self.assertNoResult(late)
        self.assertEqual(self.successResultOf(early).code, 200)
        self.pass_time(1)
        self.successResultOf(late)

    def test_cut(self) -> None:
        """A cut loses the connection: what was written arrives, but not the end of the body."""
        _, body = self.opened(Script(steps=[Send(b"a"), Cut(), Send(b"b")]))
        self.assertEqual(body.data, b"a")
        assert body.ended is not None
        body.ended.trap(ResponseFailed)
        self.assertEqual((self.fake.chats[0].is_finished, self.fake.chats[0].is_gone), (True, False))

    def test_cut_at_once(self) -> None:
        """A cut before everything else leaves the client without an answer."""
        self.fake.plays(Script(steps=[Cut()]))
        self.failureResultOf(self.post(), ResponseNeverReceived)

    def test_close_delimited(self) -> None:
        """A body that only the connection's end delimits looks the same cut and whole."""
        for steps in ([Send(b"a")], [Send(b"a"), Cut()]):
            response, body = self.opened(Script(steps=steps, close_delimited=True))  # type: ignore[arg-type]
            self.assertFalse(response.headers.hasHeader("transfer-encoding"))
            self.assertEqual(body.data, b"a")
            assert body.ended is not None
            body.ended.trap(PotentialDataLoss)

    def test_length(self) -> None:
        """A script may announce a length of its own and then fall short of it."""
        _, body = self.opened(Script(headers={"content-length": "9"}, steps=[Send(b"a"), Cut()]))
        self.assertEqual(body.data, b"a")
        assert body.ended is not None
        body.ended.trap(ResponseFailed)

    def test_hang(self) -> None:
        """A script that hangs neither goes on nor ends."""
        _, body = self.opened(silent())
        self.pass_time(10**6)
        self.assertEqual((body.data, body.ended), (b"", None))
        self.fake.plays(silent(headers=False))
        self.assertNoResult(self.post())

    def test_gone(self) -> None:
        """When the client leaves, the script stops and the time is noted."""
        steps = [Send(b"a"), Wait(5), Send(b"b"), Hang()]
        _, body = self.opened(Script(steps=steps))
        received = self.fake.chats[0]
        gone = received.when_gone()
        self.clock.advance(2)
        self.assertNoResult(gone)
        assert body.transport is not None
        body.transport.stopProducing()  # type: ignore[attr-defined]
        self.treq.flush()
        self.assertIsNone(self.successResultOf(gone))
        self.assertIsNone(self.successResultOf(received.when_gone()))
        self.assertEqual((received.is_gone, received.gone_at, received.is_finished), (True, 2, False))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(received.written, 1)

    def test_corpus(self) -> None:
        """Every script of the corpus arrives as its bytes, and ends as it says."""
        for case in load_cases():
            if case.script.ending == "hang" or case.script.steps[:1] == (Cut(),):
                continue
            with self.subTest(case.name):
                self.fake.plays(case.script)
                asked = self.post()
                for _ in range(5):
                    self.pass_time(100)
                response = self.successResultOf(asked)
                body = Body()
                response.deliverBody(body)
                self.treq.flush()
                self.assertEqual(response.code, case.script.status)
                self.assertTrue(self.fake.chats[-1].is_finished)
                self.assertEqual(self.fake.chats[-1].written, len(case.script.body_bytes()))
                if "content-encoding" not in case.script.headers:
                    self.assertEqual(body.data, case.script.body_bytes())
                assert body.ended is not None
                cut = case.script.ending == "cut" and not case.script.close_delimited
                self.assertEqual(body.ended.check(ResponseFailed) is not None, cut)

    def test_back_pressure(self) -> None:
        """While the transport is full no step is played, and the pauses are counted."""
        transport = StringTransport()
        channel = Site(self.fake).buildProtocol(None)
        channel.makeConnection(transport)
        big = Send(b"x" * 10)
        self.fake.plays(Script(steps=[big, Wait(1), big, big]))
        channel.dataReceived(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}")
        (received,) = self.fake.chats
        assert transport.producer is not None
        transport.producer.pauseProducing()
        self.clock.advance(100)
        self.assertEqual((received.written, received.is_paused), (10, True))
        transport.producer.resumeProducing()
        self.assertEqual((received.written, received.is_paused, received.is_finished), (30, False, True))
        self.assertEqual((received.pauses, received.resumes), (1, 1))
        channel.connectionLost(Failure(ResponseDone()))


class ScriptTests(SynchronousTestCase):
    """Scripts as values."""

    def test_body_bytes(self) -> None:
        """The bytes of a body can be had without playing it."""
        script = Script(steps=[Headers(), Send(b"a"), Wait(1), Chunk({"ä": "😀"}), Done(), Hang(), Send(b"b")])
        self.assertEqual(script.body_bytes(), 'adata: {"ä":"😀"}\n\ndata: [DONE]\n\n'.encode())

    def test_endings(self) -> None:
        """A script knows how it ends."""
        for ending, steps in {"clean": [Done()], "cut": [Done(), Cut(), Hang()], "hang": [Hang(), Cut()]}.items():
            self.assertEqual(Script(steps=steps).ending, ending)  # type: ignore[arg-type]

    def test_half_characters(self) -> None:
        """A string that holds half a character travels as an escape."""
        self.assertEqual(Script(steps=[Chunk({"a": "ä\ud800"})]).body_bytes(), b'data: {"a":"\\u00e4\\ud800"}\n\n')

    def test_from_json(self) -> None:
        """A script can be written down as JSON; what is no step is refused."""
        steps = [
            {"chunk": {"a": 1}},
            {"send": "ä"},
            {"send_base64": "/w=="},
            {"wait": 1.5},
            *["headers", "done", "cut", "hang"],
        ]
        script = Script.from_json({"row": 1, "status": 201, "headers": JSON_TYPE, "steps": steps})
        expected = (Chunk({"a": 1}), Send("ä".encode()), Send(b"\xff"), Wait(1.5), Headers(), Done(), Cut(), Hang())
        self.assertEqual(script, Script(status=201, headers=JSON_TYPE, steps=expected))
        self.assertEqual(Script.from_json({"steps": []}), Script())
        for wrong in ("sing", {"chunk": 1}, {"send": "a", "wait": 1}, {}, None, {"wait": "1"}):
            self.assertRaises(ValueError, Script.from_json, {"steps": [wrong]})

    def test_ready_made(self) -> None:
        """Every ready-made stream has a finish reason, a usage and [DONE], and its parts in their fields."""
        makers: dict[str, tuple[Callable[[], Script], str]] = {
            "stop": (lambda: text("a", "b"), "content"),
            "length": (lambda: llama_text("a", "b", finish="length"), "content"),
            "tool_calls": (lambda: tool_call("Bash", '{"a"', ":1}", before=["a", "b"]), "content"),
        }
        for finish, (make, name) in makers.items():
            found = chunks(make().body_bytes())
            choices = [choice for value in found for choice in value["choices"]]
            self.assertEqual("".join(choice["delta"].get(name) or "" for choice in choices), "ab")
            self.assertEqual([c["finish_reason"] for c in choices if c["finish_reason"]], [finish])
            self.assertLessEqual({"prompt_tokens", "completion_tokens"}, set(found[-1]["usage"]))
        thoughts = chunks(reasoning(["x"], ["y"], "reasoning").body_bytes())
        self.assertEqual(
            [c["delta"] for v in thoughts for c in v["choices"]][1:3], [{"reasoning": "x"}, {"content": "y"}]
        )
        first, *_, last = chunks(llama_text("a", prompt=20, cached=5).body_bytes())
        self.assertEqual(first["prompt_progress"], {"total": 20, "cache": 5, "processed": 5, "time_ms": 60})
        self.assertEqual(last["usage"]["prompt_tokens_details"]["cached_tokens"], last["timings"]["cache_n"])

    def test_paced(self) -> None:
        """A script can be slowed down: a wait after every write."""
        slow = text("a").paced(0.5)
        self.assertEqual(sum(step.seconds for step in slow.steps if isinstance(step, Wait)), 2.5)
        self.assertEqual(slow.body_bytes(), text("a").body_bytes())


@pytest_twisted.ensureDeferred
async def test_real_port() -> None:
    """On a real port the same script arrives as in memory, and a client that leaves is noticed."""
    fake = FakeOpenAI(reactor).plays(text("Hello"), Script(steps=[Send(b"x" * 2**16)] * 64 + [Hang()]))
    port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(Site(fake))
    client = HTTPClient(Agent(reactor))
    try:
        url = f"http://127.0.0.1:{port.getHost().port}/v1/chat/completions"
        response = await client.post(url, json={"stream": True}, unbuffered=True)
        assert await response.content() == text("Hello").body_bytes()

        response = await client.post(url, json={"stream": True}, unbuffered=True)
        body = Body()
        response.original.deliverBody(body)
        body.transport.pauseProducing()
        await deferLater(reactor, 0.2)
        received = fake.chats[1]
        assert received.is_paused and received.written < 64 * 2**16
        body.transport.resumeProducing()
        while received.written < 64 * 2**16:
            await deferLater(reactor, 0.01)
        gone = received.when_gone()
        body.transport.stopProducing()
        await gone
    finally:
        await port.stopListening()


def test_runs_by_itself() -> None:
    """`python -m tests.fakes.openai` serves on a port of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-u", "-m", "tests.fakes.openai", "--port", str(port)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    try:
        assert child.stdout is not None
        for line in child.stdout:
            if "Starting factory" in line:
                break
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"GET /v1/models HTTP/1.0\r\n\r\n")
            assert b"fake-model" in b"".join(iter(lambda: connection.recv(4096), b""))
    finally:
        child.terminate()
        child.communicate()
