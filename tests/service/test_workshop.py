"""What is made for which settings, and what is not even imported for them (issue 7)."""

import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

#: Makes a proxy for a backend of the provider that is told, and says which modules of backends that took.
MADE = """
import sys
from twisted.internet.task import Clock
from claudeproxy.routing.settings import BackendSettings, Settings
from claudeproxy.service.proxy import Proxy
backend = BackendSettings("b", sys.argv[1], base_url=sys.argv[2])
Proxy(Settings(backends=(backend,)), Clock(), listens=False)
print(*(name.removeprefix("claudeproxy.backends.") for name in sys.modules if name.startswith("claudeproxy.backends.")))
"""
RARE = {"ollama", "responses", "passing", "embedded"}


class ImportTests(SynchronousTestCase):
    """The ways of speaking that not every setup needs."""

    def test_only_what_is_needed(self) -> None:
        """A daemon takes no memory for a kind of backend that it does not have."""
        for provider, path, needed in (
            ("openai", "/v1", set()),
            ("ollama", "", {"ollama"}),
            ("responses", "/v1", {"responses"}),
            ("anthropic", "", {"passing"}),
        ):
            run = [sys.executable, "-c", MADE, provider, "http://127.0.0.1:9" + path]
            told = subprocess.run(run, capture_output=True, text=True, check=True, timeout=60).stdout.split()
            self.assertEqual(RARE.intersection(told), needed, provider)
