"""What an event costs, counted instead of timed (issue 7): writes, decodings, connections."""

import json
from typing import Any
from unittest.mock import patch

from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.translate import stream_machine
from claudeproxy.translate.chat_stream import ChatStream
from claudeproxy.translate.expected import Expected
from claudeproxy.translate.reply import Reply
from claudeproxy.wire.json import decode
from tests.fakes.house import BACKEND_PORT, House, body
from tests.fakes.openai import Script, Wait, text
from tests.fakes.scripts import step_bytes
from tests.short_way import shortly
from tests.stream_checker import check_stream

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
WORDS = [f"word {number} " for number in range(200)]


class InOneRead(Protocol):
    """A backend whose whole answer, many chunks of HTTP, comes in one read."""

    def dataReceived(self, data: bytes) -> None:
        if data.endswith(b"}"):
            events = [step_bytes(step) for step in text(*WORDS).steps]
            chunks = [b"%x\r\n%b\r\n" % (len(each), each) for each in events if each]
            assert self.transport is not None
            self.transport.write(HEAD + b"".join(chunks) + b"0\r\n\r\n")


class CountedTests(SynchronousTestCase):
    """A streamed answer."""

    def setUp(self) -> None:
        self.house = House(backend={"base_url": "http://127.0.0.1:9001/v1"})
        self.house.network.listenTCP(9001, Factory.forProtocol(InOneRead))

    def test_writes(self) -> None:
        """All that follows from one read leaves in one write, however many chunks of HTTP it came in: the headers, the
        events and the end, also if the connection ends with them."""
        for headers in ({}, {"Connection": "close"}):
            caller = self.house.ask("POST", "/v1/messages", body(), headers)
            self.assertEqual(check_stream(caller.body).text, "".join(WORDS))
            (written,) = caller.reads
            self.assertTrue(written.startswith(b"HTTP/1.1 200 OK\r\n"))
            self.assertEqual(written.count(b"event: content_block_delta"), len(WORDS))
            self.assertTrue(written.endswith(b"\r\n0\r\n\r\n"))

    def test_writes_by_and_by(self) -> None:
        """Of an answer that comes by and by there is a write for each read: the first with the headers, the last with
        the end."""
        house = House()
        caller = house.chat(Script(steps=[each for step in text("one ", "two").steps for each in (step, Wait(1))]))
        house.pass_time(20)
        self.assertEqual(check_stream(caller.body).text, "one two")
        first, *others = caller.reads
        self.assertTrue(first.startswith(b"HTTP/1.1 200 OK\r\n"))
        self.assertIn(b"event: message_start", first)
        self.assertIn(b"event: message_stop", others[-1])
        self.assertTrue(others[-1].endswith(b"\r\n0\r\n\r\n"))
        self.assertEqual([each.count(b"event: content_block_delta") for each in (first, *others)], [1, 1, 0])

    def test_whole(self) -> None:
        """An answer that is no stream, and a refusal, are one write each."""
        house = House()
        self.assertEqual(len(house.ask("POST", "/v1/messages", body(stream=False)).reads), 1)
        self.assertEqual(len(house.ask("POST", "/v1/messages", {}).reads), 1)

    def test_decodings(self) -> None:
        """Each event's JSON is decoded once."""
        decoded: list[bytes] = []

        def counted(data: Any) -> Any:
            decoded.append(data)
            return decode(data)

        with patch.object(stream_machine, "decode", counted):
            self.house.ask("POST", "/v1/messages", body())
        told = [json.loads(each)["choices"][0]["delta"].get("content") for each in decoded if b'"content"' in each]
        self.assertEqual([each for each in told if each], WORDS)

    def test_alike(self) -> None:
        """Of events that come one by one and are the same but for their texts, few are taken apart."""
        events = [step_bytes(step) for step in text(*WORDS).steps]
        machine = ChatStream(Reply("msg_1", "m"), Expected("box", 1), lambda: "u")
        decoded: list[bytes] = []

        def counted(data: Any) -> Any:
            decoded.append(data)
            return decode(data)

        with patch.object(stream_machine, "decode", counted):
            for each in events:
                if each and not shortly(machine, each):
                    machine.receive(each)
        self.assertEqual(machine.reply.kinds, ["text"])
        self.assertLess(len(decoded), 8)

    def test_connections(self) -> None:
        """Requests that follow each other share one connection to the backend."""
        house = House()
        caller = house.caller()
        for _ in range(5):
            caller.ask("POST", "/v1/messages", body())
            self.assertTrue(check_stream(caller.body).text)
        self.assertEqual(len([end for end in house.network.ends[::2] if end.port == BACKEND_PORT]), 1)
