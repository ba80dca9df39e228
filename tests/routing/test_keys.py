"""How keys are written (issue 6): one grammar for list, table, environment and file."""

from __future__ import annotations

import string
from hashlib import sha256

from hypothesis import assume, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.routing.expectations import Secret, Unfit
from claudeproxy.routing.keys import Key, client_keys, key_of, keys_in, shows_keys
from claudeproxy.routing.sources import SettingsError, Sources, settle

HASH = sha256(b"canary").hexdigest()
VISIBLE = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)


def read(*entries: object) -> tuple[Key, ...]:
    found: tuple[Key, ...] = client_keys().read(entries)
    return found


class GrammarTests(SynchronousTestCase):
    def assert_refused(self, *entries: object) -> str:
        with self.assertRaises(Unfit, msg=repr(entries)) as caught:
            read(*entries)
        self.assertTrue(caught.exception.hidden)
        return str(caught.exception)

    @given(VISIBLE, NAMES)
    def test_every_key(self, text: str, name: str) -> None:
        """Every key of visible ASCII can be written plainly and by its hash, with a name and without."""
        for entry, owner in (
            (f"plain:{text}", ""),
            (f"{name}=plain:{text}", name),
            (key_of(text).setting, ""),
            (key_of(text, name).setting, name),
        ):
            self.assertEqual(read(entry), (key_of(text, owner),), entry)

    @given(VISIBLE)
    def test_bare(self, text: str) -> None:
        """A key may stand as it is if nothing in it could be meant otherwise; else the refusal tells how, and shows
        nothing of it."""
        if set("=:").isdisjoint(text):
            self.assertEqual(read(text), (key_of(text),))
        else:
            assume(not text.startswith("plain:") and "=plain:" not in text)
            said = self.assert_refused(text)
            self.assertIn("plain:KEY", said)
            if len(text) > 12:
                self.assertNotIn(text, said)

    def test_wrong(self) -> None:
        """Half a hash, a name without a key, odd names, other types: refused."""
        for entry in (
            "sha256:",
            f"sha256:{HASH[:-1]}",
            f"sha256:{HASH}0",
            f"sha256:{HASH[:-1]}g",
            "plain:",
            "alice=",
            "alice=secret",
            f"=sha256:{HASH}",
            f"a b=sha256:{HASH}",
            f"-a=sha256:{HASH}",
            "a b",
            "\u00e4",
            "",
            5,
            None,
        ):
            self.assert_refused(entry)

    def test_capitals(self) -> None:
        """The digits of a hash may be capitals."""
        self.assertEqual(read(f"sha256:{HASH.upper()}"), (key_of("canary"),))

    def test_programs(self) -> None:
        """A program gives secrets, or keys that it has already."""
        self.assertEqual(
            read(Secret("a"), Secret("b=c".replace("=", "-")), key_of("d", "me")), read("a", "b-c", "me=plain:d")
        )

    def test_once(self) -> None:
        """The same key twice is one key, but not under two names; one name may have two keys, an old and a new one."""
        self.assertEqual(read("a", "plain:a", key_of("a").setting), (key_of("a"),))
        self.assertIn("one name", self.assert_refused("x=plain:a", "y=plain:a"))
        self.assertEqual(len(read("x=plain:a", "x=plain:b")), 2)

    def test_never_shown(self) -> None:
        """A key keeps no text of itself, and shows not even its hash."""
        shown = repr(key_of("canary", "alice"))
        self.assertNotIn("canary", shown)
        self.assertNotIn(HASH[:8], shown)
        self.assertEqual((key_of("canary").label, key_of("canary", "alice").label), ("unnamed", "alice"))


class SourceTests(SynchronousTestCase):
    def test_everywhere(self) -> None:
        """List, table and environment mean the same."""
        expected = (key_of("one", "alice"), key_of("canary", "bob"))
        for sources in (
            Sources(f'keys = ["alice=plain:one", "bob=sha256:{HASH}"]'),
            Sources(f'[keys]\nalice = "one"\nbob = "sha256:{HASH}"'),
            Sources(environ={"CLAUDEPROXY_KEYS": f"alice=plain:one, bob=sha256:{HASH}"}),
        ):
            self.assertEqual(settle(sources).settings.keys, expected)

    def test_tables(self) -> None:
        """In a table the name stands in front already."""
        for table in ('alice = "bob=plain:x"', '"a b" = "x"', "alice = 5", 'alice = ["x"]'):
            self.assertRaises(SettingsError, settle, Sources(f"[keys]\n{table}"))

    def test_file(self) -> None:
        """A file has one key a line; # begins a comment; what is wrong is told by its line, and not shown."""
        text = f"# who may come in\n\nalice=sha256:{HASH}  # until March\n\tplain:a#b\r\n   \nbare\n"
        self.assertEqual(keys_in(text), (key_of("canary", "alice"), key_of("a#b"), key_of("bare")))
        self.assertEqual(keys_in("# nobody\n"), ())
        with self.assertRaises(Unfit) as caught:
            keys_in("good\nalice=secretkey\n")
        self.assertIn("in line 2", str(caught.exception))
        self.assertNotIn("secretkey", str(caught.exception))

    def test_plain(self) -> None:
        """A settings file with hashes alone may be read by others; one with keys may not."""
        for value in ([], {}, [f"sha256:{HASH}"], {"a": f"sha256:{HASH}"}, [f"a=sha256:{HASH}"], "x", None):
            self.assertFalse(shows_keys(value), value)
        for value in (["x"], [f"sha256:{HASH}", "x"], {"a": "x"}, [f"plain:sha256:{HASH}"], [f"plain:a=sha256:{HASH}"]):
            self.assertTrue(shows_keys(value), value)

    def test_letters(self) -> None:
        """What a name may consist of is what a log line and a label bear."""
        for letter in set(string.printable) - set(string.ascii_letters + string.digits + "._-"):
            self.assertRaises(Unfit, read, f"a{letter}b=plain:x") if letter != "=" else None
