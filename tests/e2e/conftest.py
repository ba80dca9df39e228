"""What several files of this folder share: one daemon with the embedded model, for as long as all of them run."""

from collections.abc import Iterator

import pytest

from tests.e2e.daemon import Daemon, running


@pytest.fixture(scope="session")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """`twistd -n claudeproxy` with nothing configured but its port."""
    with running(tmp_path_factory.mktemp("proxy")) as daemon:
        daemon.logged("embedded model .* serves on", 60)
        yield daemon
