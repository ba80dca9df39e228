"""The whole proxy in memory, between careless clients and careless backends: nothing is ever left over (issue 2)."""

import gc
import json
from random import Random
from typing import Any

import pytest
from twisted.trial.unittest import SynchronousTestCase

from tests.contract.answers import BASH, READ
from tests.contract.stand import Stand
from tests.contract.stands import GenericStand, LlamaStand, OllamaStand, ResponsesStand
from tests.fakes.callers import Caller
from tests.fakes.house import BACKEND_PORT
from tests.fakes.scripts import Cut, Hang, Headers, Script, Send, Step, Wait, step_bytes
from tests.slow.chance import bent_bytes, bent_value, in_pieces, try_out
from tests.slow.test_streams import ANSWERS
from tests.stream_checker import check_error, check_message, check_stream

pytestmark = pytest.mark.slow

STANDS: tuple[type[Stand], ...] = (GenericStand, LlamaStand, OllamaStand, ResponsesStand)
STATUSES = (200, 200, 200, 200, 200, 200, 200, 204, 301, 400, 401, 404, 429, 500, 503)
TYPES = ("text/event-stream", "application/json", "application/x-ndjson", "text/html", "")
REQUESTS: tuple[dict[str, Any], ...] = (
    {},
    {"tools": [BASH, READ]},
    {"stream": False, "tools": [BASH, READ]},
    {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2048},
    {"stop_sequences": ["STOP", "o w"]},
    {"max_tokens": 0},
    {"stream": None, "system": "Be kind."},
    {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
    {"model": "none"},
    {"messages": []},
)


def careless_script(chance: Random, stand: Stand) -> Script:
    """An answer: damaged or not, slow or not, cut or not, whole or not."""
    steps: list[Step] = list(stand.script(*chance.choice(ANSWERS)).steps)
    if chance.random() < 0.2:
        steps = [*map(Send, filter(None, map(step_bytes, steps)))] * chance.choice((1, 1, 40))
    body = b"".join(map(step_bytes, steps))
    if chance.random() < 0.3 and len(body) < 10_000:
        body = bent_bytes(chance, body) if chance.random() < 0.5 else body
        steps = [*map(Send, in_pieces(chance, body))]
    for _ in range(chance.choice((0, 0, 1, 3, 8))):
        steps.insert(chance.randrange(len(steps) + 1), Wait(chance.choice((0.0, 0.5, 2.0, 3.5, 12.0, 400.0))))
    if chance.random() < 0.2:
        steps.insert(0, Headers())
    if chance.random() < 0.4:
        steps[chance.randrange(len(steps) + 1) :] = chance.choice(([Cut()], [Hang()], []))
    headers = dict(stand.headers)
    if chance.random() < 0.1:
        headers["content-type"] = chance.choice(TYPES)
    if chance.random() < 0.05:
        headers["content-encoding"] = chance.choice(("gzip", "deflate", "br"))
    return Script(chance.choice(STATUSES), headers, steps, close_delimited=chance.random() < 0.1)


class Client:
    """Asks, reads when it likes, and goes when it likes. What it gets is judged as far as it has come."""

    def __init__(self, chance: Random, stand: Stand) -> None:
        self.chance, self.stand = chance, stand
        self.caller: Caller = stand.caller()
        self.asked: dict[str, Any] | None = None
        self.path = ""
        self.is_gone = False
        self.half = b""

    def act(self) -> None:
        """Do something."""
        chance, transport = self.chance, self.caller.transport
        if self.is_gone or transport.is_lost:
            self.caller, self.asked, self.is_gone, self.half = self.stand.caller(), None, False, b""
            return
        match chance.randrange(12):
            case 0:
                self.is_gone = True
                self.caller.vanish()
            case 1:
                self.is_gone = True
                self.caller.leave()
            case 2:
                transport.pauseProducing()
            case 3 | 4 | 5:
                transport.resumeProducing()
                self.stand.network.pump()
            case 6:
                transport.advance()
            case _ if self.half:
                self.caller.transport.write(self.half)
                self.half = b""
                self.stand.network.pump()
            case _ if self.asked is None or self.whole:
                self.ask()

    def ask(self) -> None:
        self.judge()
        chance = self.chance
        fields = dict(chance.choice(REQUESTS))
        body = self.stand.request(**fields)
        if chance.random() < 0.1:
            body = bent_value(chance, body, [body])
        self.path = chance.choice(("/v1/messages",) * 8 + ("/v1/messages/count_tokens", "/v1/models"))
        self.asked = body if isinstance(body, dict) else {}
        self.stand.fake.plays(careless_script(chance, self.stand))
        method = "GET" if self.path == "/v1/models" else "POST"
        if chance.random() < 0.1:
            data = json.dumps(body).encode()
            cut = chance.randrange(len(data))
            head = f"{method} {self.path} HTTP/1.1\r\nhost: 127.0.0.1:8080\r\ncontent-length: {len(data)}\r\n\r\n"
            self.caller.send(head.encode() + data[:cut])
            self.half = data[cut:]
        else:
            self.caller.ask(method, self.path, None if method == "GET" else body)

    @property
    def whole(self) -> bool:
        return self.caller.answered and self.caller.ended

    def judge(self) -> None:
        """What has come is legal."""
        caller = self.caller
        if self.asked is None or not caller.answered:
            return
        streams = caller.headers.get("content-type", "").startswith("text/event-stream")
        if streams:
            whole = caller.ended
            data = caller.body
            try:
                check_stream(data, raw_tools=True, whole=whole)
            except ValueError:  # a chunk of the transfer coding that has not come whole
                assert not whole
        elif caller.ended and caller.status >= 400:
            check_error(caller.json, caller.status)
        elif caller.ended and self.path == "/v1/messages":
            check_message(caller.json, raw_tools=True)


class HouseTests(SynchronousTestCase):
    """Many short lives."""

    def attempt(self, chance: Random) -> None:
        stand = chance.choice(STANDS)(timeout_ms=chance.choice((5_000, 600_000)))
        clients = [Client(chance, stand) for _ in range(chance.choice((1, 1, 2, 4)))]
        for _ in range(chance.choice((3, 10, 40))):
            chance.choice(clients).act()
            match chance.randrange(8):
                case 0 | 1:
                    stand.pass_time(chance.choice((0.0, 0.125, 1.0, 2.5, 5.0, 11.0)))
                case 2 if chance.random() < 0.2:
                    stand.network.black_holes ^= {BACKEND_PORT}
                case 3 if chance.random() < 0.3 and stand.open_ends:
                    chance.choice(stand.open_ends).peer.abortConnection()
                    stand.network.pump()
        for client in clients:
            client.judge()
            client.caller.vanish()
        self.assertEqual(len(stand.proxy._exchanges), 0)
        stand.network.black_holes.clear()
        stopped = stand.proxy.stopService()
        stand.pass_time(60)
        self.successResultOf(stopped)
        self.assertEqual(stand.timers, [])
        self.assertEqual(stand.open_ends, [])
        faults = [event for event in stand.events if event["log_level"].name in ("error", "critical")]
        self.assertEqual([event["log_format"] for event in faults], [])
        if chance.random() < 0.01:
            gc.collect()
        self.assertEqual(list(map(str, self.flushLoggedErrors())), [])

    def test_left_over(self) -> None:
        """When all clients have gone, no request, no timer, no connection and no unhandled error is left over."""
        effort = try_out("a house", self.attempt)
        print(effort)
