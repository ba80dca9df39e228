"""What hostile or broken clients send: the right answer in the envelope, or a closed connection (issue 6, proof)."""

import json
import re
import time
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.routing.keys import key_of
from tests.fakes.callers import Caller
from tests.fakes.house import BACKEND_PORT, FRONT_PORT, House, body
from tests.fakes.network import End
from tests.fakes.openai import Script, silent, text
from tests.fakes.responses import FakeResponses
from tests.fakes.scripts import Send
from tests.stream_checker import check_error, check_message, check_stream

ASKED = json.dumps(body(stream=False)).encode()
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(ASKED), ASKED)
#: Of heads, good ones and bad ones.
FIRST_LINES = [b"POST /v1/messages HTTP/1.1", b"GET /health HTTP/1.1", b"", b"\r\nGET / HTTP/1.1", b"GET /", b"A B C D"]
LINES = [
    *(b"content-length: %d" % len(ASKED), b"Content-Length: 3", b"Transfer-Encoding: chunked", b"connection: close"),
    *(b"X-Claude-Code-Session-Id: abc", b"x-claude-code-session-id:\td ", b" folded", b"\tfolded", b"X-A: a\0b"),
    *(b"X-A:", b"no colon", b"X-A: a\rb", b"X-A: a\nX-B: b", b"x y: z", b": z", b"Expect: 100-continue"),
    b"X-A: " + b"a" * 6_000,
]
ENDS = [b"\r\n", b"\n"]
HEALTH = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"


def post(*headers: bytes, data: bytes = ASKED, version: bytes = b"1.1") -> bytes:
    """A request by hand; without a length of its own unless one is among the headers."""
    return b"\r\n".join([b"POST /v1/messages HTTP/" + version, b"host: localhost", *headers, b"", data])


def length(data: bytes = ASKED) -> bytes:
    return b"content-length: %d" % len(data)


class HostileCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.house = House()

    def tearDown(self) -> None:
        faults = [event for event in self.house.events if event["log_level"].name in ("error", "critical")]
        self.assertEqual([event["log_format"] for event in faults], [])
        self.assertEqual(len(self.house.proxy._exchanges), 0)
        self.assertEqual(len(self.house.proxy._exchanges.crowd), 0)
        self.house.pass_time(100)
        left = [end.port for end in self.house.network.ends[::2] if not end.is_lost and end.port == FRONT_PORT]
        self.assertEqual(left, [])

    def assert_closed(self, data: bytes, status: int, *words: str) -> None:
        """Such bytes are answered so, and then the connection closes: what follows on it is no request."""
        caller = self.house.caller().send(data)
        said = check_error(caller.json, status)
        self.assertEqual(caller.status, status, data[:200])
        self.assertEqual(caller.headers["content-type"], "application/json")
        self.assertRegex(caller.headers["request-id"], r"\Areq_\w+\Z")
        for word in words:
            self.assertIn(word, said.message)
        before, chats = caller.raw, len(self.house.fake.chats)
        caller.transport.write(HEALTH + post(length()))
        self.house.pass_time(1.5)
        self.assertEqual((caller.raw, len(self.house.fake.chats)), (before, chats))
        self.assertIsNotNone(caller.lost)

    def assert_goes_on(self, caller: Caller) -> None:
        """The same connection serves the next request."""
        check_message(caller.ask("POST", "/v1/messages", ASKED).json)


class SmugglingTests(HostileCase):
    """One request that two servers would take for different ones."""

    def test_ambiguous(self) -> None:
        """Lengths that contradict each other, or can be read in two ways, are a 400 and the end of the connection."""
        for headers in (
            [length(), b"transfer-encoding: chunked"],
            [b"transfer-encoding: chunked", length()],
            [length(), b"content-length: 5"],
            [length(), length()],
            [b"content-length: 5, 5"],
            [b"content-length: +5"],
            [b"content-length: -5"],
            [b"content-length: 0x5"],
            [b"content-length: 5 5"],
            [b"content-length:"],
            [b"content-length: " + b"9" * 19],
            [b"content-length: " + b"9" * 5000],
            [b"content-length: \xb2"],
            [b"transfer-encoding: chunked, chunked"],
            [b"transfer-encoding: chunked", b"transfer-encoding: chunked"],
            [b"transfer-encoding: gzip, chunked"],
            [b"transfer-encoding: identity", length()],
            [b"transfer-encoding: chunked", b"transfer-encoding: identity"],
            [b"transfer-encoding: identity", b"transfer-encoding: chunked"],
            [b"transfer-encoding: xchunked"],
            [b"transfer-encoding: \x0bchunked"],
            [b"transfer-encoding : chunked"],
            [b"content-length : 5"],
            [b"\x00content-length: 5"],
        ):
            self.assert_closed(post(*headers), 400)
        self.assertEqual(self.house.fake.chats, [])

    def test_chunks(self) -> None:
        """Chunks that are none are a 400, and nothing of them is a request."""
        head = [b"transfer-encoding: chunked"]
        for data in (
            b"zz\r\n",
            b"-5\r\nhello\r\n0\r\n\r\n",
            b"0x5\r\nhello\r\n0\r\n\r\n",
            b" 5\r\nhello\r\n0\r\n\r\n",
            b"5 \r\nhello\r\n0\r\n\r\n",
            b"5\r\nhelloworld\r\n0\r\n\r\n",
            b"5;\x00=1\r\nhello\r\n0\r\n\r\n",
            b"\r\nhello\r\n0\r\n\r\n",
            b"1" * 2000 + b"\r\n",
            b"0\r\n" + b"x: y\r\n" * 20_000 + b"\r\n",
        ):
            self.assert_closed(post(*head, data=data), 400)
        self.assertEqual(self.house.fake.chats, [])

    def test_good_chunks(self) -> None:
        """Chunks as they should be are none of that, extensions, trailers and all."""
        for data in (CHUNKED, CHUNKED.replace(b"\r\n{", b";a=b\r\n{", 1), CHUNKED[:-2] + b"x-sum: 1\r\n\r\n"):
            caller = self.house.caller().send(post(b"transfer-encoding: chunked", data=data))
            check_message(caller.json)
            self.assert_goes_on(caller)

    def test_line_ends(self) -> None:
        """A line without its CR is a 400 at once, wherever it is; a header that is folded is one header."""
        for data in (
            HEALTH.replace(b"\r\n", b"\n"),
            HEALTH.replace(b"\r\n", b"\r"),
            HEALTH.replace(b"localhost\r\n", b"localhost\nx: y\r\n"),
            HEALTH.replace(b"localhost\r\n", b"localhost\rx: y\r\n"),
            HEALTH.replace(b"localhost\r\n", b"localhost\x00\r\n"),
            b"GET /health HTTP/1.1\r\n folded\r\n\r\n",
            b"GET /health\nHost: x HTTP/1.1\r\nhost: localhost\r\n\r\n",
        ):
            if b"\n" not in data:
                continue
            self.assert_closed(data, 400)
        caller = self.house.caller().send(HEALTH.replace(b"\r\n\r\n", b"\r\nx: a\r\n  b\r\n\r\n"))
        self.assertEqual(caller.status, 200)

    def test_request_lines(self) -> None:
        """What is no request line is a 400."""
        for line in (
            b"hello",
            b"GET  /health HTTP/1.1",
            b"GET /health",
            b"GET /health HTTP/2.0",
            b"GET /health HTTP/1.1 x",
            b"G\x00T /health HTTP/1.1",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"PRI * HTTP/2.0",
            b"\xff\xfe /health HTTP/1.1",
        ):
            self.assert_closed(line + b"\r\nhost: localhost\r\n\r\n", 400)


class HeadTests(HostileCase):
    """Headers."""

    def test_too_large(self) -> None:
        """More than header_limit_kb, in one line or in many, or too many of them, are a 431."""
        for head in (
            b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n",
            b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: " + b"x" * 20_000 + b"\r\n\r\n",
            b"GET /health HTTP/1.1\r\nhost: localhost\r\n" + b"x: " + b"x" * 20_000,
            b"GET /health HTTP/1.1\r\nhost: localhost\r\n" + b"x: 0123456789\r\n" * 2_000 + b"\r\n",
            b"GET /health HTTP/1.1\r\nhost: localhost\r\n" + b"x: y\r\n" * 600 + b"\r\n",
            b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: y\r\n" + b" folded\r\n" * 3_000 + b"\r\n",
        ):
            self.assert_closed(head, 431, "header_limit_kb")
            said = self.house.caller().send(head).raw
            self.assertTrue(said.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n"))

    def test_limit(self) -> None:
        """The limit is what it is set to."""
        head = b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: " + b"x" * 40_000 + b"\r\n\r\n"
        self.house.reset(header_limit_kb=64)
        self.assertEqual(self.house.caller().send(head).status, 200)
        self.house.reset(header_limit_kb=1)
        self.assert_closed(head, 431, "1 KB")
        self.assertEqual(self.house.caller().send(HEALTH).status, 200)

    def test_odd_bytes(self) -> None:
        """Bytes that are no UTF-8, in any header that is read, break nothing."""
        for name in (
            b"host",
            b"origin",
            b"sec-fetch-site",
            b"x-api-key",
            b"authorization",
            b"content-type",
            b"content-encoding",
            b"x-claude-code-session-id",
            b"x-claude-code-agent-id",
            b"anthropic-beta",
            b"cookie",
            b"expect",
            b"connection",
            b"if-modified-since",
            b"if-none-match",
            b"range",
        ):
            for value in (b"\xff\xfe", b"\x80" * 500, "\u2603".encode(), b"a\x7fb"):
                caller = self.house.caller().send(post(length(), name + b": " + value))
                self.assertIn(caller.status, (200, 400, 403), (name, value))
                if caller.status != 200:
                    check_error(caller.json, caller.status)
                caller.leave()

    def test_known_names(self) -> None:
        """A header whose name came before, in the same spelling, is read as strictly as the first of its name."""
        for name in (b"X-Known", b"x-known"):
            good = self.house.caller().send(post(length(), name + b": a", name + b":\tb \t", name + b":"))
            check_message(good.json)
            for value in (b"a\0b", b"a\rb", b"a\r"):
                self.assert_closed(post(length(), name + b": " + value), 400)
            self.assert_closed(post(length(), name), 400)
        self.assert_closed(post(length(), *[b"x-known: a"] * 600), 431)
        self.house.caller().send(post(length()))
        self.assert_closed(post(length(), length()), 400)

    @settings(max_examples=100, deadline=None)
    @given(
        st.sampled_from(FIRST_LINES), st.lists(st.sampled_from(LINES), max_size=8), st.sampled_from([b"\r\n", b"\n"])
    )
    def test_whole_or_in_pieces(self, first: bytes, lines: list[bytes], end: bytes) -> None:
        """A head that comes in one read is taken as one that comes in many, good or bad."""
        head = b"\r\n".join([first, b"host: localhost", *lines, b""]) + end
        told = []
        for pieces in ([head + ASKED], [head[at : at + 1] for at in range(len(head))] + [ASKED]):
            self.setUp()
            caller = self.house.caller()
            for piece in pieces:
                caller.transport.write(piece)
                self.house.network.pump()
            self.house.pass_time(100)
            answers = re.sub(rb"(req|msg)_\w+|Date: [^\r]*", b"", caller.raw)
            lines_told = [(each["status"], each["session"], each["path"]) for each in self.house.request_lines]
            told.append((answers, caller.lost is None, lines_told))
        self.assertEqual(*told)

    def test_no_injection(self) -> None:
        """Nothing that a client sends becomes a header of ours."""
        for path in ("/v1/messages%0d%0ax-evil:%20yes", "/%0d%0ax-evil:yes", "/v1/models/a%0d%0ax-evil: yes", "//x"):
            caller = self.house.ask("POST", path.replace(" ", "%20"), body(model="a\r\nx-evil: yes"))
            self.assertNotIn("x-evil", caller.headers)
        caller = self.house.ask("POST", "/v1/messages", body(model="a\r\nx-evil: yes", **{"b\r\nx-evil: yes": 1}))
        self.assertNotIn("x-evil", caller.headers)


class FormTests(HostileCase):
    """Requests that are legal, and odd."""

    def test_methods(self) -> None:
        """Methods that nobody knows are a 404 or 405; the connection goes on."""
        for method in ("BREW", "TRACE", "CONNECT", "OPTIONS", "PROPFIND", "A" * 200, "__class__", "render"):
            for path in ("/v1/messages", "/health", "/nowhere"):
                caller = self.house.ask(method, path)
                self.assertIn(caller.status, (404, 405), (method, path))
                check_error(caller.json, caller.status)
                self.assert_goes_on(caller)

    def test_targets(self) -> None:
        """Whole addresses, a lone star, and paths that climb: there is nothing but our routes."""
        for target, status in (
            ("*", 404),
            ("/../../etc/passwd", 404),
            ("/v1/../../etc/passwd", 404),
            ("/%2e%2e/%2e%2e/etc/passwd", 404),
            ("http://localhost/health", 200),
            ("http://evil.example/health", 403),
            ("http://[::1", 403),
            ("evil.example:443", 404),
            ("/" + "a/" * 4000, 404),
            ("/health?" + "a=b&" * 3000, 200),
            ("/health#x", 404),
            ("/%", 404),
            ("/%00", 404),
            ("?x", 200),
        ):
            caller = self.house.ask("GET", target)
            self.assertEqual(caller.status, status, target[:60])
            if status != 200:
                check_error(caller.json, status)

    def test_hosts(self) -> None:
        """A Host that cannot be one is refused in the envelope, also where any name would do: on a unix socket."""
        hosts = [b"a..localhost", b"localhost..", b".localhost", b"a" * 64 + b".localhost", b"localhost?a..b"]
        hosts += [b"\xff.localhost", b"[::1", b"x@localhost", b"localhost:a"]
        for kind in (IPv4Address("TCP", "127.0.0.1", FRONT_PORT), UNIXAddress(b"/run/claudeproxy.sock")):
            self.patch(End, "getHost", lambda end, kind=kind: kind)
            for host in hosts:
                caller = self.house.ask("GET", "/health", None, {"host": host})
                self.assertEqual(check_error(caller.json, 403).type, "permission_error", host)
                caller = self.house.caller().send(b"GET http://%b/health HTTP/1.1\r\nhost: localhost\r\n\r\n" % host)
                if b"?" not in host:  # which ends the name there
                    check_error(caller.json, 403 if host.isascii() else 400)
        self.assertEqual(self.house.ask("GET", "/health", None, {"host": "any.name"}).status, 200)

    def test_whole_address(self) -> None:
        """A whole address does not hide that the request names no Host, or two."""
        for hosts in (b"", b"host: localhost\r\nhost: evil.example\r\n", b"host: localhost\r\n" * 2):
            caller = self.house.caller().send(b"GET http://localhost/health HTTP/1.1\r\n%b\r\n" % hosts)
            check_error(caller.json, 400)
        for name, status in ((b"localhost", 200), (b"evil.example", 403)):
            caller = self.house.caller().send(b"GET http://%b/health HTTP/1.0\r\n\r\n" % name)
            self.assertEqual(caller.status, status)

    def test_head(self) -> None:
        """HEAD has the length and no body, whatever the answer; and nothing is logged about it."""
        house = House(keys=(key_of("k"),))
        for path, status in (("/health", 200), ("/v1/messages", 401), ("/", 200), ("/nowhere", 401)):
            caller = house.ask("HEAD", path)
            self.assertEqual((caller.status, caller.raw.partition(b"\r\n\r\n")[2]), (status, b""))
            self.assertGreater(int(caller.headers["content-length"]), 0)
            self.assertEqual(caller.send(HEALTH).status, 200)
        self.assertEqual(house.ask("HEAD", "/v1/messages", headers={"x-api-key": "k"}).status, 405)

    def test_old_version(self) -> None:
        """HTTP/1.0 is answered, streams too, and its connection closes."""
        caller = self.house.caller().send(post(length(), version=b"1.0"))
        check_message(caller.json)
        self.house.network.pump()
        self.assertIsNotNone(caller.lost)
        self.house.fake.plays(text("a"))
        asked = json.dumps(body()).encode()
        caller = self.house.caller().send(post(length(asked), data=asked, version=b"1.0"))
        self.assertEqual(check_stream(caller.raw.partition(b"\r\n\r\n")[2]).text, "a")
        self.assertNotIn("transfer-encoding", caller.headers)
        self.assertIsNotNone(caller.lost)

    def test_expect(self) -> None:
        """A client that asks before it sends is told to go on, or at once why not."""
        caller = self.house.caller().send(post(length(), b"expect: 100-continue", data=b""))
        self.assertEqual(caller.raw, b"HTTP/1.1 100 Continue\r\n\r\n")
        check_message(caller.send(ASKED).json)
        for house, status, size in (
            (House(body_limit_mb=1), 413, 2_000_000),
            (House(keys=(key_of("k"),)), 401, 200),
            (House(), 403, 200),
        ):
            head = [b"content-length: %d" % size, b"expect: 100-continue"]
            caller = house.caller().send(post(*head, *[b"origin: https://evil.example"] * (status == 403), data=b""))
            check_error(caller.json, status)
            self.assertEqual(caller.headers["connection"], "close")
            self.assertIsNotNone(caller.lost)

    def test_pipelined(self) -> None:
        """Requests one after the other without waiting: answered in their order, each once, and not in parallel."""
        self.house.fake.plays(text("a").paced(1), text("b"), text("c"))
        asked = json.dumps(body()).encode()
        caller = self.house.caller()
        caller.send(post(length(asked), data=asked) + HEALTH + post(length(asked), data=asked) + HEALTH)
        self.assertEqual(len(self.house.fake.chats), 1)
        self.house.pass_time(20)
        self.assertEqual(len(self.house.fake.chats), 2)
        self.assertEqual(caller.raw.count(b"HTTP/1.1 200"), 4)
        answers = [caller.raw.index(word) for word in (b'"text":"a"', b'{"status":"ok"}', b'"text":"b"')]
        self.assertEqual(answers, sorted(answers))

    def test_pipelined_behind_a_stream(self) -> None:
        """What is said of a request that follows a stream comes behind all of that."""
        for nonsense, said in (
            (b"NONSENSE\r\n\r\n", b"HTTP/1.1 400 "),
            (post(length(), b"expect: 100-continue"), b"HTTP/1.1 100 Continue"),
        ):
            asked = json.dumps(body()).encode()
            raw = self.house.caller().send(post(length(asked), data=asked) + nonsense).raw
            self.assertIn(b"\r\n0\r\n\r\n" + said, raw)
            self.assertLess(raw.index(b"event: message_stop"), raw.index(said))

    def test_pipelined_without_end(self) -> None:
        """What waits behind a running request is held in small measure; then it is not read any more."""
        self.house.fake.plays(silent())
        caller = self.house.ask("POST", "/v1/messages", body())
        for _ in range(100):
            caller.transport.write(HEALTH * 200)
        self.house.network.pump()
        self.assertGreater(caller.transport.peer.waiting, 400_000)
        self.assertEqual(len(self.house.proxy._exchanges), 1)
        caller.vanish()

    def test_after_each_error(self) -> None:
        """After every error that is one of the request alone the connection serves the next."""
        for path, data, headers, status in (
            ("/v1/messages", b"{", {}, 400),
            ("/v1/messages", ASKED, {"content-encoding": "br"}, 400),
            ("/v1/messages", ASKED[:-1] + b',"max_tokens":"x"}', {}, 400),
            ("/nowhere", ASKED, {}, 404),
            ("/health", ASKED, {}, 405),
            ("/v1/messages", ASKED, {"origin": "https://evil.example"}, 403),
            ("/v1/messages", b" " * (33 << 20), {}, 413),
        ):
            caller = self.house.ask("POST", path, data, headers)
            check_error(caller.json, status)
            self.assert_goes_on(caller)


class JsonTests(HostileCase):
    """Bodies."""

    def test_no_utf8(self) -> None:
        """Bytes that are no UTF-8 are a 400, in names, in texts and instead of all."""
        for data in (
            b"\xff\xfe{}",
            ASKED.replace(b"Hi", b"\xff"),
            ASKED.replace(b"Hi", b"\xc0\x80"),
            ASKED.replace(b"Hi", b"\xed\xa0\x80"),
            ASKED.replace(b'"model"', b'"mod\xffel"'),
            json.dumps(body(stream=False)).encode("utf-16"),
            b"\x00" * 1000,
        ):
            caller = self.house.ask("POST", "/v1/messages", data)
            check_error(caller.json, 400)
            self.assert_goes_on(caller)

    def test_deep(self) -> None:
        """JSON nested without end is a 400 that names the place, whatever it is made of, and takes no time."""
        for opening, closing in ((b"[", b"]"), (b'{"a":', b"}"), (b'[{"a":', b"}]")):
            for depth in (101, 500, 990, 100_000):
                value = opening * depth + b"1" + closing * depth
                for data, place in (
                    (ASKED.replace(b'"Hi"', value), "messages.0.content"),
                    (ASKED[:-1] + b', "tools": [{"input_schema": ' + value + b"}]}", "tools.0.input_schema"),
                    (value, "") if opening == b"[" else (b'{"x": ' + value + b"}", "x"),
                    (ASKED.replace(b'"Hi"', b'"' + b'\\"' * 200_000 + b'"')[:-1] + b', "y": ' + value + b"}", ""),
                ):
                    began = time.monotonic()
                    for path in ("/v1/messages", "/v1/messages/count_tokens"):
                        caller = self.house.ask("POST", path, data)
                        said = check_error(caller.json, 400).message
                        self.assertTrue(said.startswith(place), said)
                        if place:
                            self.assertIn("nested more than 100 levels", said)
                            self.assertLess(len(said), 300)
                    self.assertLess(time.monotonic() - began, 5)
        self.assertEqual(self.house.fake.chats, [])

    def test_as_deep_as_may_be(self) -> None:
        """What is just not too deep is translated for every backend, in schemas, in calls and in results."""
        for house in (
            House(),
            House("llama.cpp"),
            House("openai"),
            House("auto", backend={"provider": "responses"}, make_fake=FakeResponses),
        ):
            self.house = house
            for depth, most in ((95, 100), (140, 150)):
                self.house.reset(nesting_limit=most)
                schema: dict[str, Any] = {"type": "string"}
                for _ in range((depth - 4) // 2):
                    schema = {"type": "object", "properties": {"a": schema}}
                value: Any = 1
                for _ in range(depth - 5):
                    value = [value]
                tool = {"name": "T", "description": "d", "input_schema": schema}
                call = {"type": "tool_use", "id": "toolu_1", "name": "T", "input": {"a": value}}
                result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "x"}
                said = [
                    {"role": "user", "content": "Hi"},
                    {"role": "assistant", "content": [call]},
                    {"role": "user", "content": [result]},
                ]
                self.house.fake.plays(text("a"))
                caller = self.house.ask("POST", "/v1/messages", body(tools=[tool], messages=said, stream=False))
                self.assertIn(caller.status, (200, 502), caller.raw[:300])  # what is faked may not fit; ours does

    def test_setting(self) -> None:
        """How deep it may be is a setting."""
        self.house.reset(nesting_limit=16)
        deep = ASKED[:-1] + b', "metadata": ' + b"[" * 16 + b"]" * 16 + b"}"
        self.assertIn("16 levels", check_error(self.house.ask("POST", "/v1/messages", deep).json, 400).message)
        self.house.reset(nesting_limit=17)
        self.assertNotIn("levels", self.house.ask("POST", "/v1/messages", deep).raw.decode())

    def test_large_numbers(self) -> None:
        """Numbers with no end, names by the million, the same name twice: a 400 or an answer, no fault."""
        for data in (
            ASKED.replace(b"64", b"9" * 10_000),
            ASKED.replace(b"64", b"1e999"),
            ASKED.replace(b"64", b"-0"),
            ASKED.replace(b"64", b"NaN"),
            ASKED[:-1] + b', "temperature": 1e400}',
            ASKED[:-1] + b', "max_tokens": 5, "max_tokens": 6}',
            b"{" + b",".join(b'"k%d":1' % at for at in range(100_000)) + b"}",
            b'"text"',
            b"null",
            b"[]",
            b"",
        ):
            caller = self.house.ask("POST", "/v1/messages", data)
            self.assertIn(caller.status, (200, 400), data[:80])

    def test_strangers_bodies(self) -> None:
        """A long body of somebody without a key is not kept while it comes."""
        house = House(keys=(key_of("right"),))
        for key, kept in ((None, False), ("wrong", False), ("right", True)):
            shown = b"x-api-key: %b" % key.encode() if key else b"x-a: b"
            caller = house.caller().send(post(b"content-length: 8000000", shown, data=b" " * 4_000_000))
            (request,) = caller.transport.peer.protocol.requests
            self.assertEqual(request.content.tell() > 3_000_000, kept, key)
            caller.send(b" " * 4_000_000)
            check_error(caller.json, 400 if kept else 401)


class PageTests(HostileCase):
    """Web pages that would use the proxy of their reader (issue 2, item 8)."""

    def test_pages(self) -> None:
        """What a page can make a browser send is refused, and no answer says that it may be read."""
        plain = {"content-type": "text/plain"}
        for method, headers in (
            ("POST", {"origin": "https://evil.example", **plain}),
            ("POST", {"origin": "null", **plain}),
            ("POST", {"origin": "http://localhost:3000", **plain}),
            ("POST", {"sec-fetch-site": "cross-site", **plain}),
            ("POST", {"sec-fetch-site": "same-site", "content-type": "application/x-www-form-urlencoded"}),
            ("POST", {"host": "evil.example", **plain}),
            ("POST", {"host": "evil.example:8080", "origin": "http://evil.example:8080", **plain}),
            ("POST", {"host": "127.0.0.1.evil.example", **plain}),
            ("GET", {"origin": "https://evil.example"}),
            ("OPTIONS", {"origin": "https://evil.example", "access-control-request-method": "POST"}),
            (
                "OPTIONS",
                {
                    "origin": "https://evil.example",
                    "access-control-request-method": "POST",
                    "access-control-request-headers": "x-api-key",
                    "access-control-request-private-network": "true",
                },
            ),
        ):
            for path in ("/v1/messages", "/v1/models", "/health"):
                caller = self.house.ask(method, path, ASKED if method == "POST" else None, headers)
                check_error(caller.json, 403)
                self.assertFalse([name for name in caller.headers if name.startswith("access-control-")], headers)
        self.assertEqual(self.house.fake.chats, [])

    def test_even_allowed_ones(self) -> None:
        """An origin that is allowed is served, and still not told that a page may read it."""
        self.house.reset(allowed_origins=("https://app.example",))
        for method in ("POST", "OPTIONS"):
            caller = self.house.ask(method, "/v1/messages", ASKED, {"origin": "https://app.example"})
            self.assertEqual(caller.status, 200 if method == "POST" else 405)
            self.assertFalse([name for name in caller.headers if name.startswith("access-control-")])


class OutwardTests(HostileCase):
    """Where a request can make the proxy go."""

    def test_nothing_is_fetched(self) -> None:
        """Addresses in a request are the model's affair: the proxy asks nobody but its backend."""
        address = "http://169.254.169.254/latest/meta-data"
        blocks = [
            {"type": "image", "source": {"type": "url", "url": address}},
            {"type": "document", "source": {"type": "url", "url": "http://127.0.0.1:9/secret.pdf"}},
            {"type": "document", "source": {"type": "url", "url": "file:///etc/passwd"}},
            {"type": "text", "text": address},
        ]
        for backend in ({}, {"dialect": "openai"}, {"provider": "anthropic", "dialect": "auto"}):
            house = House(backend=backend)
            asked: list[tuple[str, int]] = []
            connect = house.network.connectTCP

            def watch(host: str, port: int, *rest: Any, **named: Any) -> Any:
                asked.append((host, port))  # noqa: B023
                return connect(host, port, *rest, **named)  # noqa: B023

            self.patch(house.network, "connectTCP", watch)
            for block in blocks:
                for path in ("/v1/messages", "/v1/messages/count_tokens"):
                    house.ask("POST", path, body(messages=[{"role": "user", "content": [block]}]))
                    house.pass_time(5)
            self.assertEqual({port for _, port in asked} | {BACKEND_PORT}, {BACKEND_PORT})

    def test_no_redirect_takes_the_key(self) -> None:
        """A backend that sends us elsewhere gets nothing there: no request, no key."""
        for status in (301, 302, 303, 307, 308):
            for provider in ("openai", "anthropic", "ollama", "responses"):
                root = f"http://127.0.0.1:{BACKEND_PORT}"
                base = root if provider in ("anthropic", "ollama") else f"{root}/v1"
                house = House("auto", backend={"provider": provider, "base_url": base})
                elsewhere = {"location": "http://127.0.0.1:9001/v1/messages"}
                house.fake.plays(Script(status=status, headers=elsewhere, steps=[Send(b"")]))
                visits: list[Any] = []

                class Elsewhere:
                    def buildProtocol(self, address: object) -> None:
                        visits.append(address)  # noqa: B023

                house.network.listenTCP(9001, Elsewhere())
                caller = house.ask("POST", "/v1/messages", body())
                house.pass_time(30)
                self.assertEqual(visits, [])
                self.assertEqual([each.port for each in house.network.connecting if each.port == 9001], [])
                self.assertNotEqual(caller.status, status)
