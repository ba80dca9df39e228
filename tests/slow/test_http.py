"""The whole HTTP surface, between careless and hostile clients: an envelope or a close, and nothing left (issue 6)."""

import gc
import gzip
import json
from random import Random
from typing import Any

import pytest
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.routing.keys import key_of
from tests.fakes.callers import Caller
from tests.fakes.house import FRONT_PORT, House, body
from tests.fakes.openai import silent, text
from tests.slow.chance import any_value, bent_bytes, bent_value, in_pieces, try_out
from tests.stream_checker import check_error, check_message, check_stream

pytestmark = pytest.mark.slow

KEY = "sk-client-canary"
SECRETS = (KEY, "prompt-canary")
METHODS = ("POST", "POST", "POST", "GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "BREW", "post", "")
PATHS = (
    "/v1/messages",
    "/v1/messages",
    "/v1/messages?beta=true",
    "/v1/messages/count_tokens",
    "/v1/models",
    "/v1/models/claude-sonnet-4-5",
    "/v1/files",
    "/health",
    "/",
    "/api/hello",
    "/team/v1/v1/messages/",
    "//v1//messages",
    "*",
    "http://localhost/v1/messages",
    "/v1/%ff%00",
    "/v1/..;/x",
    "?",
)
VERSIONS = ("HTTP/1.1",) * 12 + ("HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "http/1.1", "")
LINE_ENDS = (b"\r\n",) * 30 + (b"\n", b"\r", b"\r\n ", b"\r\r\n", b"")
HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"x-api-key", KEY.encode()),
    (b"authorization", b"Bearer " + KEY.encode()),
    (b"authorization", b"Basic \xff"),
    (b"content-type", b"application/json"),
    (b"content-type", b"multipart/form-data; boundary=x"),
    (b"content-encoding", b"gzip"),
    (b"content-encoding", b"br"),
    (b"transfer-encoding", b"chunked"),
    (b"transfer-encoding", b"gzip, chunked"),
    (b"content-length", b"5"),
    (b"content-length", b"-1"),
    (b"content-length", b"9" * 30),
    (b"expect", b"100-continue"),
    (b"connection", b"close"),
    (b"connection", b"keep-alive, upgrade"),
    (b"upgrade", b"websocket"),
    (b"host", b"evil.example"),
    (b"host", b"127.0.0.1:8080"),
    (b"origin", b"https://evil.example"),
    (b"sec-fetch-site", b"cross-site"),
    (b"x-claude-code-session-id", b"session-1"),
    (b"x-claude-code-agent-id", b"\xff\x00"),
    (b"anthropic-version", b"2023-06-01"),
    (b"cookie", b"a=b; c"),
    (b"range", b"bytes=0-"),
    (b"if-none-match", b"*"),
    (b"x" * 300, b"y" * 3000),
    (b"bad name", b"x"),
    (b"", b""),
)
#: Where there is not just one of them, what follows may be anything.
_LENGTHS = (b"content-length", b"transfer-encoding")


def a_body(chance: Random) -> tuple[bytes, bool]:
    """A good one, or nearly, or far from it; and whether the text in it is still a prompt."""
    asked: Any = body(
        stream=chance.random() < 0.5,
        messages=[{"role": "user", "content": "prompt-canary"}],
        max_tokens=chance.choice((1, 64, 0, "64", None)),
    )
    data = json.dumps(asked).encode()
    match chance.randrange(12):
        case 0:
            return chance.randbytes(chance.randrange(300)), False
        case 1:
            return bent_bytes(chance, data), False
        case 2:
            depth = chance.choice((10, 99, 200, 2000))
            return data.replace(b'"prompt-canary"', b"[" * depth + b"]" * depth), True
        case 3:
            return b" " * chance.choice((10, 70_000, 1_100_000)) + data, True
        case 4:
            return json.dumps(any_value(chance)).encode(), False
        case 5 | 6:
            return json.dumps(bent_value(chance, asked, [asked])).encode(), False
    return data, True


def a_request(chance: Random) -> tuple[bytes, bool]:
    """The bytes of one request, in most tries a legal one; and whether what stands where is still sure."""
    data, plain = a_body(chance)
    headers = [(b"host", b"localhost")] if chance.random() < 0.95 else []
    if chance.random() < 0.9:
        headers.append(chance.choice(HEADERS[:2]))
    for _ in range(chance.choice((0, 0, 0, 1, 2, 5))):
        headers.append(chance.choice(HEADERS))
    if chance.random() < 0.01:
        headers += [(b"x-%d" % at, b"y" * 40) for at in range(chance.choice((100, 400, 600)))]
    if (b"content-encoding", b"gzip") in headers:
        data = gzip.compress(data, mtime=0)
    if (b"transfer-encoding", b"chunked") in headers and chance.random() < 0.9:
        pieces = [piece for piece in in_pieces(chance, data[:2000]) if piece]
        data = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    elif chance.random() < 0.95:
        headers.append((b"content-length", b"%d" % len(data)))
    chance.shuffle(headers)
    line = f"{chance.choice(METHODS)} {chance.choice(PATHS)} {chance.choice(VERSIONS)}".encode()
    ends = LINE_ENDS if chance.random() < 0.3 else LINE_ENDS[:1]
    parts = (line, *(b": ".join(pair) for pair in headers), b"")
    whole = b"".join(part + chance.choice(ends) for part in parts) + data
    match chance.randrange(12):
        case 0 if len(whole) < 20_000:
            return bent_bytes(chance, whole), False
        case 1:
            return whole[: chance.randrange(len(whole) + 1)], False
        case 2 if chance.random() < 0.3:
            return chance.randbytes(chance.choice((1, 50, 20_000))), False
    return whole, plain and len(ends) == 1 and sum(name in _LENGTHS for name, _ in headers) == 1


def judge(caller: Caller) -> None:
    """Every answer that came is one: no 500, an envelope with each error, streams and messages as they should be."""
    rest = caller.raw
    while rest:
        head, _, after = rest.partition(b"\r\n\r\n")
        line, *fields = head.split(b"\r\n")
        assert line.startswith((b"HTTP/1.1 ", b"HTTP/1.0 ")), rest[:200]
        status = int(line.split(b" ")[1])
        named = {name.lower(): value.strip() for name, _, value in (each.partition(b":") for each in fields)}
        if status == 100:
            rest = after
            continue
        assert status != 500, rest[:500]
        assert b"request-id" in named, head
        assert not any(name.startswith(b"access-control-") for name in named), head
        if named.get(b"transfer-encoding") == b"chunked" or b"content-length" not in named:
            return  # a stream to its end, which may be cut; `tests.slow.test_house` reads those
        length = int(named[b"content-length"])
        content, rest = after[:length], after[length:]
        if rest.startswith(b"HTTP/") and not content.startswith(b"{"):
            continue
        if content.startswith(b"HTTP/"):  # of HEAD there is a length without a body
            rest = after
        elif content:
            assert len(content) == length, head
            assert named[b"content-type"] == b"application/json", head
            if status >= 400:
                check_error(json.loads(content), status)
            else:
                json.loads(content)


class SurfaceTests(SynchronousTestCase):
    """Many short lives."""

    def attempt(self, chance: Random) -> None:
        house = House(
            keys=(key_of(KEY, "alice"),) if chance.random() < 0.7 else (),
            body_limit_mb=1,
            max_requests=chance.choice((0, 1, 3)),
            max_requests_per_key=chance.choice((0, 0, 1)),
            max_connections=chance.choice((0, 0, 2)),
            allowed_origins=("https://evil.example",) if chance.random() < 0.2 else (),
        )
        sure = True
        callers = [house.caller() for _ in range(chance.choice((1, 1, 2, 5)))]
        for _ in range(chance.choice((1, 3, 10))):
            caller = chance.choice(callers)
            house.fake.plays(chance.choice((text("a"), text("a", "b").paced(1), silent(), silent(headers=False))))
            requests = [a_request(chance) for _ in range(chance.choice((1, 1, 1, 2, 4)))]
            sent = b"".join(data for data, _ in requests)
            sure = sure and all(good for _, good in requests)
            for piece in in_pieces(chance, sent) if len(sent) < 5000 else [sent]:
                caller.transport.write(piece)
                if chance.random() < 0.1:
                    house.network.pump()
            match chance.randrange(8):
                case 0:
                    house.pass_time(chance.choice((0.1, 3.0, 31.0, 61.0)))
                case 1:
                    caller.vanish()
                case 2:
                    caller.leave()
                case 3:
                    caller.transport.pauseProducing()
                case _:
                    caller.transport.resumeProducing()
                    house.network.pump()
        for caller in callers:
            caller.transport.resumeProducing()
        house.pass_time(5)
        for caller in callers:
            judge(caller)
            caller.vanish()
        # The proxy still serves whoever is polite.
        house.reset(max_requests=0, max_requests_per_key=0)
        house.fake._queue.clear()
        house.fake.plays(text("a"))
        polite = house.ask("POST", "/v1/messages", body(), {"x-api-key": KEY})
        self.assertEqual(check_stream(polite.body).text, "a")
        house.fake.plays(text("a"))
        check_message(polite.ask("POST", "/v1/messages", body(stream=False), {"x-api-key": KEY}).json)
        polite.vanish()
        house.pass_time(120)
        self.assertEqual(len(house.proxy._exchanges), 0)
        self.assertEqual(len(house.proxy._exchanges.crowd), 0)
        left = [end for end in house.network.ends if end.port == FRONT_PORT and not end.is_lost]
        self.assertEqual(left, [])
        self.assertEqual(house.network.timers("TimedChannel"), [])
        faults = [event for event in house.events if event["log_level"].name in ("error", "critical")]
        self.assertEqual([event["log_format"] for event in faults], [])
        told = repr(house.events)
        for secret in SECRETS if sure else ():  # a client can say anything to be its session or its path
            self.assertNotIn(secret, told)
        if chance.random() < 0.01:
            gc.collect()
        self.assertEqual(list(map(str, self.flushLoggedErrors())), [])

    def test_surface(self) -> None:
        """Whatever bytes come: no 500, no unhandled error, nothing that stays, no secret told."""
        print(try_out("the HTTP surface", self.attempt))
