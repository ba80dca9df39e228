"""The command line (issue 2, item 2)."""

from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.routing.settings import Settings
from claudeproxy.routing.sources import Sources, settle
from claudeproxy.service.options import Options


def given(*arguments: str) -> dict[str, str]:
    options = Options()
    options.parseOptions(list(arguments))
    return options.given()


class OptionsTests(SynchronousTestCase):
    """`Options`."""

    def test_none(self) -> None:
        """Nothing said is nothing given: no option has a default that would beat the environment."""
        self.assertEqual(given(), {})

    def test_given(self) -> None:
        """What was said is passed on as text, to be checked with the rest."""
        self.assertEqual(given("--port", "9", "--host=::1"), {"port": "9", "host": "::1"})
        self.assertEqual(settle(Sources(options=given("--port", "9"))).settings, Settings(port=9))

    def test_config(self) -> None:
        """The settings file is not a setting itself."""
        options = Options()
        options.parseOptions(["--config", "a.toml"])
        self.assertEqual((options["config"], options.given()), ("a.toml", {}))

    def test_unknown(self) -> None:
        """An option that nobody knows is refused."""
        self.assertRaises(UsageError, given, "--prot", "9")
        self.assertRaises(UsageError, given, "surplus")

    def test_no_secrets(self) -> None:
        """A secret has no option: every list of processes would show it."""
        help_text = str(Options())
        self.assertIn("--provider-base-url=", help_text)
        for word in ("--provider-api-key=", "--claudeproxy-keys=", "--keys", "--api-key"):
            self.assertNotIn(word, help_text)
