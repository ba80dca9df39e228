"""What is made for which settings, and what is not even imported for them (issue 7)."""

import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

#: Makes a proxy for a backend of the provider that is told, and says which modules that took, of ours and for files.
MADE = """
import sys
from twisted.internet.task import Clock
from claudeproxy.routing.settings import BackendSettings, Settings
from claudeproxy.service.proxy import Proxy
backend = BackendSettings("b", sys.argv[1], base_url=sys.argv[2])
Proxy(Settings(backends=(backend,)), Clock(), listens=False)
ours = (name.removeprefix("claudeproxy.") for name in sys.modules if name.startswith("claudeproxy."))
print(*ours, *{"tomllib"}.intersection(sys.modules))
"""
RARE = {"backends.ollama", "backends.responses", "backends.passing", "backends.embedded"}
#: What comes with what is sent, or with what settings name.
LATER = {"backends.gguf", "backends.tokenizer", "wire.pdf", "web.relay", "tomllib"}


class ImportTests(SynchronousTestCase):
    """The ways of speaking that not every setup needs."""

    def test_only_what_is_needed(self) -> None:
        """A daemon takes no memory for a kind of backend that it does not have."""
        for provider, path, needed in (
            ("openai", "/v1", set()),
            ("ollama", "", {"backends.ollama"}),
            ("responses", "/v1", {"backends.responses"}),
            ("anthropic", "", {"backends.passing"}),
        ):
            run = [sys.executable, "-c", MADE, provider, "http://127.0.0.1:9" + path]
            told = subprocess.run(run, capture_output=True, text=True, check=True, timeout=60).stdout.split()
            self.assertEqual((RARE | LATER).intersection(told), needed, provider)
