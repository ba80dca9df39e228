"""A request's body, whole and decoded (issue 2, item 3; STYLE P21)."""

import gzip
import json
import time
import tracemalloc
import zlib
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource

from claudeproxy.backends.interfaces import Letter
from claudeproxy.web.bodies import letter_of
from claudeproxy.web.site import ProxySite
from tests.fakes.callers import Caller
from tests.fakes.house import House, body
from tests.stream_checker import check_error, check_message

MB = 1024 * 1024
ASKED = json.dumps(body(stream=False)).encode()


class BodyTests(SynchronousTestCase):
    """Bodies, as they come over a connection."""

    def setUp(self) -> None:
        self.house = House(body_limit_mb=1)

    def post(self, data: bytes, encoding: str | None = None) -> Caller:
        return self.house.ask("POST", "/v1/messages", data, {"content-encoding": encoding})

    def assert_refused(self, caller: Caller, status: int) -> str:
        self.assertEqual(caller.status, status)
        self.assertEqual(self.house.fake.chats, [])
        return check_error(caller.json, status).message

    def test_plain(self) -> None:
        """A plain body is read as it is, whatever its type is said to be."""
        for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded", None):
            caller = self.house.ask("POST", "/v1/messages", ASKED, {"content-type": kind})
            check_message(caller.json)

    def test_gzip(self) -> None:
        """gzip is undone, under both of its names."""
        for name in ("gzip", "GZip", "x-gzip"):
            check_message(self.post(gzip.compress(ASKED), name).json)
        check_message(self.post(ASKED, "identity").json)

    def test_no_gzip(self) -> None:
        """What is no gzip, or only its beginning, is refused."""
        packed = gzip.compress(ASKED)
        damaged = packed[:-8] + bytes(4) + packed[-4:]
        for data in (b"", b"{}", packed[:-1], packed[:20], damaged, zlib.compress(ASKED)):
            self.assertIn("content-encoding", self.assert_refused(self.post(data, "gzip"), 400))

    def test_members_of_gzip(self) -> None:
        """A gzip body may have several members, which are one text (RFC 1952 2.2)."""
        half = len(ASKED) // 2
        packed = gzip.compress(ASKED[:half]) + gzip.compress(b"") + gzip.compress(ASKED[half:])
        check_message(self.post(packed, "gzip").json)
        for rest in (b"{}", packed[:-1], packed[:4]):
            self.house.fake.received.clear()
            self.assertIn("content-encoding", self.assert_refused(self.post(packed + rest, "gzip"), 400))

    def test_limit_of_members(self) -> None:
        """The limit holds for all members together, and a body of nothing but members is given up."""
        packed = gzip.compress(b" " * (MB // 4))
        self.assertIn("body_limit_mb", self.assert_refused(self.post(packed * 4 + gzip.compress(ASKED), "gzip"), 413))
        started = time.process_time()
        self.assertIn("members", self.assert_refused(self.post(gzip.compress(b"") * (MB // 20), "gzip"), 400))
        self.assertLess(time.process_time() - started, 2)

    def test_byte_order_mark(self) -> None:
        """A byte order mark before the JSON is ignored (RFC 8259 8.1), packed or not."""
        marked = b"\xef\xbb\xbf" + ASKED
        for data, encoding in ((marked, None), (b"\xef\xbb\xbf \n" + ASKED, None), (gzip.compress(marked), "gzip")):
            check_message(self.post(data, encoding).json)
        self.house.fake.received.clear()
        self.assert_refused(self.post(b"\xef\xbb\xbf" + marked), 400)

    def test_other_encodings(self) -> None:
        """Another encoding is refused by name."""
        for name in ("br", "deflate", "gzip, br"):
            self.assertIn(name, self.assert_refused(self.post(ASKED, name), 400))

    def test_limit(self) -> None:
        """A body above the limit is a 413 that names the limit; one of exactly the limit is read."""
        padded = ASKED + b" " * (MB - len(ASKED))
        check_message(self.post(padded).json)
        self.house.fake.received.clear()
        self.assertIn("body_limit_mb", self.assert_refused(self.post(padded + b" "), 413))

    def test_forms(self) -> None:
        """No body is taken apart as a form, which would take seconds before any check."""
        started = time.process_time()
        form = {"content-type": "application/x-www-form-urlencoded"}
        self.assert_refused(self.house.ask("POST", "/v1/messages", b"a=b&" * 200_000, form), 400)
        self.assertLess(time.process_time() - started, 0.2)
        parts = self.house.ask("POST", "/v1/messages", ASKED, {"content-type": "multipart/form-data"})
        self.assertEqual(parts.status, 200)

    def test_forms_to_pass_on(self) -> None:
        """Whoever passes a form on has it as it came, and knows what it is."""
        letters: list[Letter] = []

        class Taking(Resource):
            isLeaf = True

            def render(self, request: Any) -> bytes:
                letters.append(letter_of(request, MB))
                return b""

        channel = ProxySite(Taking(), lambda: MB, lambda client, problem: "1", Clock()).buildProtocol(
            IPv4Address("TCP", "a", 1)
        )
        channel.makeConnection(StringTransport())
        form = b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n\xef\xbb\xbfhi\r\n--x--\r\n'
        head = (
            b"POST /v1/files HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: "
        )
        channel.dataReceived(head + b"%d\r\n\r\n" % len(form) + form)
        channel.connectionLost(Failure(ConnectionDone()))
        (letter,) = letters
        self.assertEqual((letter.target, letter.body), (b"/v1/files", form))
        self.assertIn((b"Content-Type", b"multipart/form-data; boundary=x"), letter.headers)

    def test_limit_of_chunks(self) -> None:
        """The same for a body that comes in chunks and does not tell its length."""
        caller = self.house.caller()
        head = b"POST /v1/messages HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        caller.send(head + chunk * 17 + b"0\r\n\r\n")
        self.assert_refused(caller, 413)

    def test_nothing_is_kept(self) -> None:
        """Of a body above the limit nothing is kept while it comes."""
        caller = self.house.caller()
        caller.send(b"POST /v1/messages HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % (40 * MB))
        (request,) = (end.protocol for end in self.house.network.ends if end is caller.transport.peer)
        for _ in range(16):
            caller.send(b" " * MB)
        content = request.requests[0].content
        self.assertLessEqual(len(content.getvalue()), MB)

    def test_bomb(self) -> None:
        """A small body that unpacks to a huge one is refused before it is unpacked."""
        bomb = gzip.compress(b" " * 50 * MB)
        self.assertLess(len(bomb), 100_000)
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        self.assert_refused(self.post(bomb, "gzip"), 413)
        _, most = tracemalloc.get_traced_memory()
        self.assertLess(most, 10 * MB)

    def test_connection_goes_on(self) -> None:
        """After a refusal the same connection serves the next request."""
        caller = self.post(ASKED + b" " * MB)
        self.assertEqual(caller.status, 413)
        check_message(caller.ask("POST", "/v1/messages", ASKED).json)

    def test_limit_in_force(self) -> None:
        """The limit is the one of the settings in force."""
        self.house.reset(body_limit_mb=2)
        check_message(self.post(ASKED + b" " * MB).json)
