"""Headers that are passed on: open lists, both ways (PROTOCOL 1.2, 1.3, 4.4, 4.10)."""

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.translate.forwarding import OUR_ID, Header, credentials, headers_back, headers_on

JSON: Header = (b"content-type", b"application/json")

#: What Claude Code 2.1.330 sends, and a browser and two proxies in front of us could add.
CLAUDE_CODE: list[Header] = [
    (b"Accept", b"application/json"),
    (b"Content-Type", b"application/json"),
    (b"User-Agent", b"claude-cli/2.1.330 (external, cli)"),
    (b"X-Claude-Code-Session-Id", b"0b0c"),
    (b"X-Stainless-Retry-Count", b"0"),
    (b"anthropic-beta", b"a-2025-01-01,b-2026-02-02"),
    (b"anthropic-beta", b"c-2026-03-03"),
    (b"anthropic-dangerous-direct-browser-access", b"true"),
    (b"anthropic-version", b"2023-06-01"),
    (b"x-app", b"cli"),
    (b"X-Brand-New", b"\xff odd, but theirs"),
]
OURS_ALONE: list[Header] = [
    (b"Host", b"proxy:8080"),
    (b"Connection", b"keep-alive, X-Hop"),
    (b"X-Hop", b"1"),
    (b"Keep-Alive", b"timeout=5"),
    (b"Transfer-Encoding", b"chunked"),
    (b"TE", b"trailers"),
    (b"Upgrade", b"h2c"),
    (b"Expect", b"100-continue"),
    (b"Content-Length", b"12"),
    (b"Content-Encoding", b"gzip"),
    (b"Accept-Encoding", b"gzip, br, zstd"),
    (b"X-Api-Key", b"the-client's"),
    (b"Authorization", b"Bearer the-client's"),
    (b"Proxy-Authorization", b"Basic the-client's"),
    (b"Cookie", b"a=the-client's"),
    (b"X-Forwarded-For", b"10.0.0.7"),
    (b"X-Forwarded-Anything", b"x"),
    (b"Forwarded", b"for=10.0.0.7"),
    (b"Via", b"1.1 corp"),
    (b"Origin", b"https://evil.example"),
    (b"Referer", b"https://evil.example/a"),
    (b"Sec-Fetch-Mode", b"cors"),
    (b"sec-ch-ua", b"x"),
]

FROM_ANTHROPIC: list[Header] = [
    (b"Content-Type", b"text/event-stream; charset=utf-8"),
    (b"Cache-Control", b"no-cache"),
    (b"request-id", b"req_theirs"),
    (b"Retry-After", b"3"),
    (b"x-should-retry", b"true"),
    (b"anthropic-ratelimit-unified-status", b"allowed"),
    (b"anthropic-ratelimit-requests-remaining", b"49"),
    (b"anthropic-organization-id", b"org"),
    (b"cf-ray", b"8a"),
    (b"X-Brand-New", b"1"),
]
OF_THEIR_SERVER: list[Header] = [
    (b"Date", b"Thu, 01 Jan 2026 00:00:00 GMT"),
    (b"Server", b"cloudflare"),
    (b"Transfer-Encoding", b"chunked"),
    (b"Connection", b"close, X-Hop"),
    (b"X-Hop", b"1"),
    (b"Content-Length", b"9"),
    (b"Set-Cookie", b"__cf=1"),
    (b"Set-Cookie", b"b=2"),
    (b"Alt-Svc", b"h3"),
]


def mixed(*lists: list[Header]) -> list[Header]:
    """The same headers, their order by their values."""
    return sorted((header for each in lists for header in each), key=lambda header: header[1])


class RequestTests(SynchronousTestCase):
    """`headers_on`."""

    def test_open(self) -> None:
        """All that a client says goes on, unknown and repeated headers too, as it was spelt and in its order; what is
        between the client and us does not."""
        self.assertEqual(headers_on(mixed(CLAUDE_CODE, OURS_ALONE), ""), mixed(CLAUDE_CODE))

    def test_credentials(self) -> None:
        """The backend's key takes the place of the client's, which never goes on, not even if the backend has none."""
        for key in ("", "sk-ant-api03-x", "sk-ant-oat01-x", "other"):
            found = headers_on(mixed(CLAUDE_CODE, OURS_ALONE), key)
            self.assertEqual(found, mixed(CLAUDE_CODE) + credentials(key))
            self.assertNotIn(b"the-client's", b"".join(value for _, value in found))

    def test_where_keys_go(self) -> None:
        """A login's token is a bearer's, an API key of Anthropic's has its own header; other servers get both."""
        own, bearer = (b"x-api-key", b"sk-ant-api03-x"), (b"authorization", b"Bearer sk-ant-oat01-x")
        self.assertEqual(credentials("sk-ant-api03-x"), [own])
        self.assertEqual(credentials("sk-ant-oat01-x"), [bearer])
        self.assertEqual(credentials("k"), [(b"x-api-key", b"k"), (b"authorization", b"Bearer k")])
        self.assertEqual(credentials(""), [])

    def test_content_type(self) -> None:
        """A body whose type got lost is JSON; a type that is told is kept, whatever a connection says of it."""
        self.assertEqual(headers_on([], ""), [JSON])
        told = (b"Content-Type", b"multipart/form-data; boundary=x")
        self.assertEqual(headers_on([told, (b"connection", b"content-type")], ""), [told])


class AnswerTests(SynchronousTestCase):
    """`headers_back`."""

    def test_open(self) -> None:
        """What the server tells comes back, its request-id and its limits among it; what is of its connection, its
        clock and its cookies does not."""
        self.assertEqual(headers_back(mixed(FROM_ANTHROPIC, OF_THEIR_SERVER)), mixed(FROM_ANTHROPIC))

    def test_our_id(self) -> None:
        """Our own id stands beside the server's, and once only, though the server be a claudeproxy, too."""
        found = headers_back([*FROM_ANTHROPIC, (b"X-Claudeproxy-Request-Id", b"req_behind")], "req_ours")
        self.assertEqual(found, [*FROM_ANTHROPIC, (OUR_ID, b"req_ours")])

    def test_packed(self) -> None:
        """An encoding that was left as it is is told."""
        packed = (b"Content-Encoding", b"br")
        self.assertEqual(headers_back([packed]), [packed])

    def test_rewritten(self) -> None:
        """Of an answer that is written anew only what does not tell of its body comes back."""
        of_body: list[Header] = [(b"content-encoding", b"br"), (b"Content-MD5", b"x"), (b"ETag", b"x")]
        self.assertEqual(headers_back(FROM_ANTHROPIC + of_body, rewritten=True), FROM_ANTHROPIC[1:])


class AnyHeadersTests(SynchronousTestCase):
    """Properties."""

    @settings(max_examples=60, deadline=None)
    @given(st.permutations(CLAUDE_CODE + OURS_ALONE + FROM_ANTHROPIC + OF_THEIR_SERVER))
    def test_subsequence(self, headers: list[Header]) -> None:
        """In any order and in any letters: what is left is in its order, and left out is the same as ever."""
        loud = [(name.upper(), value) for name, value in headers]
        for sift in (lambda given_: headers_on(given_, ""), headers_back):
            left = sift(headers)
            self.assertEqual(left, [header for header in headers if header in left])
            self.assertEqual([(name.upper(), value) for name, value in left], sift(loud))
