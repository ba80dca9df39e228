"""Who may ask at all (issue 2, item 8)."""

from ipaddress import IPv4Address, IPv6Address

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.provisional import domains
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.model.problems import Problem
from claudeproxy.routing.keys import key_of
from claudeproxy.web.guard import check_host, check_key, check_origin, own_keys

PORTS = st.sampled_from(["", ":80", ":8080", ":65535"])
KEYS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30)


def host(header: str, *allowed: str, listening_on: str = "127.0.0.1") -> Problem | None:
    return check_host(header, [listening_on], allowed)


class HostTests(SynchronousTestCase):
    """No web page reaches the proxy under a name of its own (DNS rebinding)."""

    @given(st.ip_addresses(), PORTS)
    def test_addresses(self, address: IPv4Address | IPv6Address, port: str) -> None:
        """An address is never a name that somebody made point here."""
        shown = f"[{address}]" if address.version == 6 else str(address)
        self.assertIsNone(host(shown + port))

    @given(domains().filter(lambda name: name.lower() != "localhost"), PORTS)
    def test_names(self, name: str, port: str) -> None:
        """Any other name is refused, with a port and without, also with the dot at its end."""
        for shown in (name, name.upper(), name + "."):
            refused = host(shown + port)
            assert refused is not None
            self.assertEqual((refused.status, refused.type), (403, "permission_error"))
            self.assertIn("allowed_hosts", refused.message)

    @given(domains(), PORTS)
    def test_allowed(self, name: str, port: str) -> None:
        """A name of allowed_hosts is served, in any case; and so is the name it listens on."""
        for shown in (name, name.upper(), name + "."):
            self.assertIsNone(host(shown + port, "other.example", name))
            self.assertIsNone(host(shown + port, listening_on=name))

    def test_localhost(self) -> None:
        """localhost is always this machine, and every name below it."""
        for name in ("localhost", "LOCALHOST", "localhost:8080", "localhost.", "app.localhost:80"):
            self.assertIsNone(host(name), name)

    def test_no_names(self) -> None:
        """What cannot be a name is none of this machine's, whatever it ends with or was allowed."""
        for name in (
            "a..localhost",
            "localhost..",
            ".localhost",
            "a" * 64 + ".localhost",
            "localhost?a..b",
            "\ufffd.localhost",
            "localhost:port",
            "[::1",
            "-.example",
        ):
            self.assertIsNotNone(host(name, name), name)
        self.assertIsNone(host("a" * 63 + ".localhost"))

    def test_no_host(self) -> None:
        """A client of HTTP/1.0 names no host; a browser always does."""
        self.assertIsNone(host(""))

    def test_lookalikes(self) -> None:
        """Names that only look like an address or like localhost are names."""
        for name in (
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "notlocalhost",
            "127.0.0.1evil.example:80",
            "evil.example\\@localhost",
            "evil.example@127.0.0.1",
        ):
            self.assertIsNotNone(host(name), name)

    @given(st.text(max_size=30))
    def test_garbage(self, header: str) -> None:
        """No header is too odd to be decided upon."""
        host(header, "a.example")


class OriginTests(SynchronousTestCase):
    """No web page may use the proxy, unless it is allowed by name."""

    def test_origins(self) -> None:
        """A request from a page is refused, also from a sandboxed one; a request without origin comes from no page."""
        self.assertIsNone(check_origin(None, None, ()))
        for origin in ("https://evil.example", "null", "http://127.0.0.1:8080", "http://localhost", ""):
            refused = check_origin(origin, None, ("https://app.example",))
            assert refused is not None, origin
            self.assertEqual(refused.status, 403)

    def test_allowed(self) -> None:
        """An allowed origin is served; another port, scheme or a longer name is another origin."""
        allowed = ("https://app.example", "HTTP://Other.example:81/")
        self.assertIsNone(check_origin("https://app.example", None, allowed))
        self.assertIsNone(check_origin("https://APP.example", None, allowed))
        self.assertIsNone(check_origin("http://other.example:81", None, allowed))
        for origin in ("http://app.example", "https://app.example:444", "https://app.example.evil.example"):
            self.assertIsNotNone(check_origin(origin, None, allowed), origin)

    def test_fetch_site(self) -> None:
        """A page's picture, script or form comes without an origin, but its browser says that it is one."""
        for site in ("cross-site", "same-site"):
            self.assertIsNotNone(check_origin(None, site, ("https://app.example",)), site)
        for site in ("none", "same-origin"):
            self.assertIsNone(check_origin(None, site, ()), site)


class KeyTests(SynchronousTestCase):
    """Keys by x-api-key or Bearer."""

    def test_none_set(self) -> None:
        """Without keys anybody may ask, whatever key they show, and shows none of ours."""
        self.assertIsNone(check_key([], None, None))
        self.assertIsNone(check_key([], "x", "Bearer y"))
        self.assertEqual(own_keys([], "x", "Bearer y"), [])

    @given(st.lists(KEYS, min_size=1, max_size=3, unique=True), st.data())
    def test_right(self, texts: list[str], data: st.DataObject) -> None:
        """Each key opens, in either header, whatever the other one says; and it is told which it was."""
        known = [key_of(text, f"n{at}") for at, text in enumerate(texts)]
        at = data.draw(st.integers(0, len(texts) - 1))
        key = texts[at]
        for api_key, authorization in (
            (key, None),
            (None, f"Bearer {key}"),
            (None, f"bearer  {key}"),
            ("wro ng", f"Bearer {key}"),
            (key, "Basic abc"),
        ):
            self.assertEqual(check_key(known, api_key, authorization), known[at])
            self.assertEqual(own_keys(known, api_key, authorization), [key.encode()])

    @given(st.lists(KEYS, min_size=1, max_size=3), st.text(max_size=30))
    def test_wrong(self, texts: list[str], other: str) -> None:
        """Any other text is refused with a 401 that is not to be repeated, and that shows no key."""
        if other in texts or other.strip() in texts:
            return
        known = [key_of(text) for text in texts]
        for refused in (
            check_key(known, other, None),
            check_key(known, None, f"Bearer {other}"),
            check_key(known, None, None),
        ):
            assert isinstance(refused, Problem)
            self.assertEqual((refused.status, refused.should_retry), (401, False))
            self.assertIn(
                refused.message,
                (check_key([key_of("k")], None, None).message, check_key([key_of("k")], "x", None).message),  # type: ignore[union-attr]
            )
        self.assertEqual(own_keys(known, other, f"Bearer {other}"), [])

    def test_other_schemes(self) -> None:
        """A key in another scheme is no key."""
        for header in ("Basic secret", "secret", "Bearersecret", "Bearer", ""):
            self.assertIsInstance(check_key([key_of("secret")], None, header), Problem, header)

    def test_constant_time(self) -> None:
        """By construction: every key is compared by its digest, of one length, also when one was found already."""
        from claudeproxy.routing import keys

        compared: list[tuple[bytes, bytes]] = []

        def compare(one: bytes, other: bytes) -> bool:
            compared.append((one, other))
            return one == other

        self.patch(keys, "compare_digest", compare)
        known = [key_of(text) for text in ("first", "second" * 50, "third")]
        for shown in ("first", "third", "none of them", ""):
            compared.clear()
            check_key(known, shown or "x", None)
            self.assertEqual([one for one, _ in compared], [key.digest for key in known])
            self.assertEqual({len(each) for pair in compared for each in pair}, {32})
