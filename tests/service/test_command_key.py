"""`python -m claudeproxy key` (issue 6)."""

import json
import re
from io import StringIO

from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.routing.keys import Key, key_of
from claudeproxy.routing.sources import Sources, settle
from claudeproxy.service.commands import DONE, MISUSED, main


class KeyCommandTests(SynchronousTestCase):
    def run_command(self, *arguments: str) -> tuple[int, list[str], str]:
        out, err = StringIO(), StringIO()
        status = main(["key", *arguments], out, err)
        return status, out.getvalue().splitlines(), err.getvalue()

    def test_made(self) -> None:
        """It prints a key, which is new each time, and the line that lets it in, which does not hold it."""
        made = set()
        for arguments, name in (((), ""), (("--name", "alice"), "alice"), (("--name=a.b-c_1",), "a.b-c_1")):
            status, (key, line), told = self.run_command(*arguments)
            self.assertEqual(status, DONE)
            self.assertRegex(key, r"\Acp-[A-Za-z0-9_-]{43}\Z")
            self.assertNotIn(key, line + told)
            self.assertTrue(re.fullmatch(rf"({name}=)?sha256:[0-9a-f]{{64}}", line), line)
            (known,) = settle(Sources(environ={"CLAUDEPROXY_KEYS": line})).settings.keys
            self.assertEqual(known, key_of(key, name))
            self.assertEqual(known.setting, line)
            made.add(key)
        self.assertEqual(len(made), 3)

    def test_json(self) -> None:
        """The same for programs."""
        status, (line,), told = self.run_command("--name", "bob", "--json")
        said = json.loads(line)
        self.assertEqual((status, told, said["name"]), (DONE, "", "bob"))
        self.assertEqual(Key("bob", key_of(said["key"]).digest).setting, said["setting"])

    def test_names(self) -> None:
        """A name that the settings could not hold is refused."""
        for name in ("a b", "a=b", "a,b", "-", "sha256:x", "ä", "x" * 65):
            status, said, told = self.run_command("--name", name)
            self.assertEqual((status, said), (MISUSED, []), name)
            self.assertIn("--name", told)
