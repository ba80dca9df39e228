"""Nothing is lost: real clients ask all the time while the daemon is restarted and reloaded (issue 6)."""

import signal
import socket
import time
from pathlib import Path

import pytest

from tests.e2e.daemon import Daemon, end, running
from tests.e2e.sockets import Load, start_with
from tests.e2e.test_daemon import slow_backend

#: What one answer of the backend takes.
WORDS, PAUSE = 4, 0.05


def restarted(folder: Path, times: int, seconds: float, where: str, listener: socket.socket) -> Load:
    """The load over so many restarts, each process serving for so many seconds; the test is systemd."""
    daemons: list[Daemon] = []
    load = Load(listener.getsockname()[1], WORDS)
    with slow_backend(folder, WORDS, PAUSE) as variables:

        def another() -> None:
            daemons.append(start_with(listener, folder / str(len(daemons)), where, **variables).listening())

        try:
            another()
            with load.running(streaming=6, whole=4, fresh=2):
                for _ in range(times):
                    time.sleep(seconds)
                    daemons[-1].signal(signal.SIGTERM)
                    assert daemons[-1].ended(60) == 143
                    another()
                time.sleep(seconds)
        finally:
            for daemon in daemons:
                end(daemon)
    for daemon in daemons:
        assert "Traceback" not in daemon.log, daemon.log
        assert "cut off" not in daemon.log
    return load


def test_restart(tmp_path: Path) -> None:
    """With a socket of systemd's no connection is refused and no request lost over a restart, streams included."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        load = restarted(tmp_path, 2, 1.5, "systemd:domain=INET:index=0", listener)
    print(load.answered, "answered")
    assert load.faults == []
    assert load.answered > 100


@pytest.mark.slow
def test_restarts(tmp_path: Path) -> None:
    """The same with thousands of requests and ten restarts."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        load = restarted(tmp_path, 10, 8, "systemd:domain=INET:name=http", listener)
    print(load.answered, "answered")
    assert load.faults == []
    assert load.answered > 3000


def reloaded(folder: Path, times: int, pause: float) -> tuple[Load, Daemon]:
    """The load over so many reloads, each of which changes backends, keys, map and level."""
    file = folder / "claudeproxy.toml"
    with slow_backend(folder, WORDS, PAUSE) as variables:

        def write(number: int) -> None:
            names = ["main", f"spare{number}"]
            if number % 2:
                names.reverse()
            tables = "".join(
                f'[backends.{name}]\nprovider = "openai"\nbase_url = "{variables["PROVIDER_BASE_URL"]}"\n'
                f"timeout_ms = {600_000 + number}\n"
                for name in names
            )
            file.write_text(
                f'keys = ["k", "other-{number}"]\nlog_level = "{("info", "warn")[number % 2]}"\n'
                f'default_model = "m{number}"\ngrace_ms = {number % 3 * 1000}\n[models]\nm = "main/m{number}"\n{tables}'
            )

        write(0)
        with running(folder / "d", [f"--config={file}"]) as daemon:
            load = Load(daemon.port, WORDS)
            with load.running(streaming=6, whole=4, fresh=2):
                for number in range(1, times + 1):
                    write(number)
                    daemon.signal(signal.SIGHUP)
                    time.sleep(pause)
    return load, daemon


def check_reloads(load: Load, daemon: Daemon) -> None:
    print(load.answered, "answered")
    assert load.faults == []
    assert "Traceback" not in daemon.log, daemon.log
    assert "refused, the old" not in daemon.log


def test_reload_under_load(tmp_path: Path) -> None:
    """No request and no stream is lost over reloads that change backends, keys, map and level."""
    load, daemon = reloaded(tmp_path, 12, 0.3)
    check_reloads(load, daemon)
    assert load.answered > 50


@pytest.mark.slow
def test_many_reloads(tmp_path: Path) -> None:
    """The same with thousands of requests and hundreds of reloads."""
    load, daemon = reloaded(tmp_path, 300, 0.3)
    check_reloads(load, daemon)
    assert load.answered > 3000
