"""What an answer that runs holds of its request (issue 7): found by looking at all that lives, not by a clock."""

import gc
from io import BytesIO
from typing import Any

from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.web.site import BoundedRequest, KnownChannel
from tests.fakes.callers import Caller
from tests.fakes.house import House, body
from tests.fakes.openai import text
from tests.fakes.scripts import step_bytes

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
CHAT = b"".join(map(step_bytes, text("Hello").steps[:2]))
MESSAGE = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant",'
    b'"model":"m","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":1}}}'
    b'\n\nevent: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":{"type":"text",'
    b'"text":""}}\n\nevent: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":'
    b'"text_delta","text":"Hello"}}\n\n'
)
#: Of every long text of the request.
MARK = "marked-"
SESSION = {"x-claude-code-session-id": "a-session"}


class Forgetful(Protocol):
    """A backend that answers a request with its beginning, and keeps nothing of it. The factory has the words."""

    factory: Any

    def dataReceived(self, data: bytes) -> None:
        if data.startswith(b"GET "):
            self.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        elif data.endswith(b"}"):
            self.factory.asked = self
            self.write(HEAD)
            if self.factory.says:
                self.say(self.factory.says)

    def say(self, words: bytes) -> None:
        self.write(b"%x\r\n%b\r\n" % (len(words), words))

    def write(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)


def marked() -> dict[str, Any]:
    """A request with long texts wherever one can be."""
    tool = {"name": "read", "description": MARK * 300, "input_schema": {"type": "object", "description": MARK * 300}}
    messages = [
        {"role": "user", "content": MARK * 300},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "t1", "name": "read", "input": {"a": MARK * 300}}],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": MARK * 300}]},
    ]
    return body(system=MARK * 300, tools=[tool], messages=messages, thinking={"type": "enabled", "budget_tokens": 1024})


def holders() -> list[str]:
    """Who holds a long text of the request: the type of each, and of what it holds."""
    gc.collect()
    long, found = MARK * 20, []
    for each in gc.get_objects():
        content = each.getvalue() if type(each) is BytesIO and not each.closed else b""
        for held in (*gc.get_referents(each), content):
            text = held.decode("latin-1") if isinstance(held, bytes | bytearray) else held
            if isinstance(text, str) and long in text:
                found.append(f"{type(each).__name__} of {type(held).__name__}")
    return found


class HeldTests(SynchronousTestCase):
    """A stream that runs, of a request that may have ten megabytes."""

    def running(self, says: bytes, headers: dict[str, str], **backend: Any) -> Caller:
        self.house = House(backend={"base_url": "http://127.0.0.1:9001/v1", **backend})
        self.factory: Any = Factory.forProtocol(Forgetful)
        self.factory.says = says
        self.house.network.listenTCP(9001, self.factory)
        caller = self.house.ask("POST", "/v1/messages", marked(), headers)
        self.house.pass_time(1)
        return caller

    def test_translated(self) -> None:
        """Once the model has spoken, nobody holds any of it."""
        caller = self.running(CHAT, SESSION)
        self.assertIn(b"Hello", caller.body)
        self.assertEqual(holders(), [])

    def test_waiting(self) -> None:
        """Until then it is held once, if at all: to recognise a client that comes back and asks the same."""
        caller = self.running(b"", SESSION)
        self.assertFalse(caller.answered)
        self.assertEqual(holders(), ["tuple of bytes"])
        self.factory.asked.say(CHAT)
        self.house.network.pump()
        self.assertIn(b"Hello", caller.body)
        self.assertEqual(holders(), [])

    def test_waiting_without_session(self) -> None:
        """Where no client can be recognised, there is nothing to hold it for."""
        self.assertFalse(self.running(b"", {}).answered)
        self.assertEqual(holders(), [])

    def test_passed_through(self) -> None:
        """An answer that is passed on holds nothing of what was passed on."""
        caller = self.running(MESSAGE, SESSION, provider="anthropic")
        self.assertIn(b"Hello", caller.body)
        self.assertEqual(holders(), [])

    def test_repaired(self) -> None:
        """Nor does one that is repaired on its way."""
        caller = self.running(MESSAGE, SESSION, provider="anthropic", repair=True)
        self.assertIn(b"Hello", caller.body)
        self.assertEqual(holders(), [])

    def test_attributes(self) -> None:
        """Neither end of a client's connection has more attributes than CPython shares the names of, 29; and a
        connection has all of its own from the beginning, before there are many."""
        self.running(CHAT, SESSION)
        self.house.caller()
        gc.collect()
        (request,) = [each for each in gc.get_objects() if type(each) is BoundedRequest]
        channels = [each for each in gc.get_objects() if type(each) is KnownChannel and each.site is request.site]
        self.assertEqual(len(channels), 2)
        fresh = next(vars(each).keys() for each in channels if each is not request.channel)
        self.assertEqual(vars(request.channel).keys() - fresh, set())
        self.assertLessEqual(len(fresh), 29)
        self.assertLessEqual(len(vars(request)), 29)
