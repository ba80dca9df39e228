"""Which real parts are here; a test whose part is missing is skipped, with CI=true it fails."""

import pytest

from tests.e2e.parts import PARTS, required


def pytest_configure(config: pytest.Config) -> None:
    """Each part is a marker too; those that pyproject.toml does not name are named here."""
    for name in ("old_sdk", "tmux", "haproxy"):
        config.addinivalue_line("markers", f"{name}: needs the real {name}")


def pytest_report_header() -> list[str]:
    return [f"real part {part.name}: {part.place or f'not here ({part.remedy})'}" for part in PARTS.values()]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A quiet run has no header: it says at its end what it could not try."""
    for part in PARTS.values():
        if part.place is None:
            terminalreporter.write_line(f"not tried, {part.name} is not on this machine: {part.remedy}")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for part in PARTS.values():
        if item.get_closest_marker(part.name) is not None and part.place is None:
            missing = f"{part.name} is not on this machine: {part.remedy}"
            if required():
                pytest.fail(f"{missing} (CI is set, so that this is a failure)", pytrace=False)
            pytest.skip(missing)
