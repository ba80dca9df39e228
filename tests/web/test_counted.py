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
from tests.fakes.openai import text
from tests.fakes.scripts import step_bytes
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
        """All events of one read leave in one write, however many chunks of HTTP they came in."""
        caller = self.house.ask("POST", "/v1/messages", body())
        self.assertEqual(check_stream(caller.body).text, "".join(WORDS))
        headers, events, end = caller.reads
        self.assertTrue(headers.endswith(b"\r\n\r\n"))
        self.assertEqual(events.count(b"event: content_block_delta"), len(WORDS))
        self.assertEqual(end, b"0\r\n\r\n")

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
                if each and not machine.piece(each):
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
