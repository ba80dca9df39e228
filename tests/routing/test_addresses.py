"""Endpoint strings, and who could reach them (issue 6)."""

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.endpoints import quoteStringArgument
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.routing.addresses import Address, simple
from claudeproxy.routing.sources import SettingsError, Settled, Sources, settle

WORDS = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF), min_size=1, max_size=20)


def settled(**environ: str) -> Settled:
    return settle(Sources(environ=environ))


class AddressTests(SynchronousTestCase):
    """`Address`."""

    @given(WORDS, WORDS)
    @example(":=", "")
    @example("\\=:", "=")
    def test_quoting(self, path: str, other: str) -> None:
        """What Twisted's own function quotes is read as it was meant, and written so that it is read again."""
        text = f"unix:{quoteStringArgument(path)}:mode={quoteStringArgument(other)}"
        address = Address.read(text)
        if "=" not in path:  # which that function does not quote
            self.assertEqual((address.get("address"), address.get("mode")), (path, other))
        self.assertEqual(Address.read(str(address)), address)

    def test_names_for_places(self) -> None:
        """Words without a name get the one that Twisted has for their place; of kinds that are not known they stay."""
        address = Address.read("tcp:80:127.0.0.1:backlog=9")
        self.assertEqual([address.get(name) for name in ("port", "interface", "backlog")], ["80", "127.0.0.1", "9"])
        self.assertEqual(str(Address.read("onion:80:a=b")), "onion:80:a=b")
        self.assertEqual(Address.read("ssl:443:k.pem").get("privateKey"), "k.pem")

    def test_paths(self) -> None:
        """Files are named by paths that do not depend on a directory; all else stays."""
        for text, absolute in (
            ("unix:a", "unix:address=/here/a"),
            ("ssl:1:k:c:interface=a", "ssl:port=1:privateKey=/here/k:certKey=/here/c:interface=a"),
            ("systemd:domain=INET:index=0", "systemd:domain=INET:index=0"),
        ):
            self.assertEqual(str(Address.read(text).with_paths(lambda path: f"/here/{path}")), absolute)

    def test_reach(self) -> None:
        """Other machines reach every address that does not say otherwise; of some only the start can tell."""
        for text, is_open in (
            ("tcp:80", True),
            ("tcp:80:interface=0.0.0.0", True),
            ("tcp:80:interface=proxy.example", True),
            ("tcp:80:interface=127.0.0.1", False),
            ("tcp:80:interface=\\:\\:1", False),
            ("tcp6:80", True),
            ("tcp6:80:interface=\\:\\:1", False),
            ("ssl:443:privateKey=k", True),
            ("ssl:443:privateKey=k:interface=127.0.0.1", False),
            ("tls:/certificates", True),
            ("unix:/s", False),
            ("haproxy:tcp:80", True),
            ("haproxy:tcp:80:127.0.0.1", False),
            ("systemd:domain=INET:index=0", None),
            ("plugin:x", None),
        ):
            self.assertEqual(Address.read(text).is_open, is_open, text)

    def test_simple(self) -> None:
        """HOST and PORT are an address like any other."""
        self.assertEqual(str(simple("::1", 80)), "tcp:port=80:interface=\\:\\:1")
        self.assertFalse(simple("localhost", 80).is_open)


class SettingsTests(SynchronousTestCase):
    """The settings that hold such strings."""

    def test_several(self) -> None:
        """In the environment blanks stand between them, in the file they are an array; commas are their own affair."""
        given = settled(LISTEN=" tcp:1:interface=127.0.0.1  unix:/a,b ").settings
        self.assertEqual(given.listen, ("tcp:1:interface=127.0.0.1", "unix:/a,b"))
        written = settle(Sources(config_text='listen = ["unix:/a b"]')).settings
        self.assertEqual(written.listen, ("unix:/a b",))

    def test_shape(self) -> None:
        """What has no kind is refused by name."""
        for wrong in ("8080", "unix", ":1", "tcp:"):
            with self.assertRaisesRegex(SettingsError, "^LISTEN: expected a list of endpoint strings"):
                settled(LISTEN=wrong)

    def test_both_forms(self) -> None:
        """What HOST or PORT would say in vain is refused."""
        for name, value in (("HOST", "::1"), ("PORT", "1")):
            with self.assertRaisesRegex(SettingsError, f"^{name}: has no effect beside listen"):
                settled(LISTEN="unix:/s", **{name: value})

    def test_keys(self) -> None:
        """Beyond loopback every address needs keys, or the one setting that says otherwise."""
        for wrong in ("tcp:80", "unix:/s ssl:443"):
            with self.assertRaisesRegex(SettingsError, "^LISTEN: .*(CLAUDEPROXY_KEYS).*OPEN_TO_ALL=true"):
                settled(LISTEN=wrong)
            settled(LISTEN=wrong, CLAUDEPROXY_KEYS="k")
            settled(LISTEN=wrong, OPEN_TO_ALL="true")
        settled(HOST="0.0.0.0", OPEN_TO_ALL="true")
        settled(LISTEN="unix:/s tcp:80:interface=127.0.0.1")

    def test_operators(self) -> None:
        """Keys do not open the operators' listener to other machines; only that setting does."""
        with self.assertRaisesRegex(SettingsError, "^ADMIN_LISTEN: .*which it must not be"):
            settled(ADMIN_LISTEN="tcp:80", CLAUDEPROXY_KEYS="k")
        settled(ADMIN_LISTEN="tcp:80", OPEN_TO_ALL="true")
        settled(ADMIN_LISTEN="tcp:80:interface=127.0.0.1 unix:/s")
