"""The log of the real daemon: its form, its file, its rotation, and what becomes of it when nothing can be written."""

import json
import os
import signal
import stat
import subprocess
from pathlib import Path
from typing import Any

from tests.e2e.daemon import Daemon, as_if_installed, clean_environment, end, free_port, start, twistd, wait_until
from tests.e2e.test_daemon import NOBODY, in_background

BACKEND = '[backends.main]\nprovider = "openai"\nbase_url = "http://127.0.0.1:1/v1"\n'


def objects(text: str) -> list[dict[str, Any]]:
    """Every line of a log, each of which must be an object."""
    return [json.loads(line) for line in text.splitlines()]


def ask(daemon: Daemon) -> dict[str, Any]:
    """One request, and its line."""
    begun = len(daemon.log)
    with daemon.asked("GET", "/v1/nothing", headers={"x-claude-code-session-id": "session-1"}) as response:
        response.read()
    daemon.logged("session-1", after=begun)
    return objects(daemon.log[begun:])[-1]


def test_json_in_front(tmp_path: Path) -> None:
    """In front every line of standard output is an object, from the first to the last, Twisted's own ones too."""
    port = free_port()
    daemon = start(tmp_path, variables={**NOBODY, "LOG_FORMAT": "json", "PORT": str(port)})
    try:
        daemon.logged("claudeproxy listens on", 60)
        daemon.port = port
        line = ask(daemon)
        assert (line["level"], line["logger"], line["status"]) == ("info", "claudeproxy.requests", 404)
        assert (line["session"], line["request_id"][:4]) == ("session-1", "req_")
        daemon.signal(signal.SIGTERM)
        assert daemon.ended() == 143
    finally:
        end(daemon)
    lines = objects(daemon.log)
    assert "starting up" in lines[0]["message"]
    assert "Server Shut Down" in lines[-1]["message"]
    assert len({line["logger"] for line in lines}) > 2


def test_file_in_background(tmp_path: Path) -> None:
    """In the background the file is its owner's alone; SIGUSR1 begins another, also after logrotate moved it."""
    with in_background(tmp_path, **NOBODY, LOG_FORMAT="json") as daemon:
        own = daemon.log_file
        assert stat.S_IMODE(own.stat().st_mode) == 0o600
        ask(daemon)
        daemon.signal(signal.SIGUSR1)
        wait_until("another file", 10, lambda: (tmp_path / "own.log.1").exists() and own.exists())
        ask(daemon)
        assert "listens on" in (tmp_path / "own.log.1").read_text()
        assert "listens on" not in own.read_text()
        assert stat.S_IMODE(own.stat().st_mode) == 0o600

        own.rename(tmp_path / "taken")
        daemon.signal(signal.SIGUSR1)
        wait_until("another file", 10, own.exists)
        ask(daemon)
        assert not (tmp_path / "own.log.2").exists()
        for path in (own, tmp_path / "own.log.1", tmp_path / "taken"):
            assert objects(path.read_text()), path


def test_default_file(tmp_path: Path) -> None:
    """Without --logfile the file is twistd.log where it was started, as twistd's own is."""
    run = tmp_path / "run"
    run.mkdir()
    parent = start(tmp_path, variables=NOBODY, twistd_options=(f"--pidfile={tmp_path / 'pid'}", f"--rundir={run}"))
    assert parent.ended() == 0, parent.log
    daemon = Daemon(int((tmp_path / "pid").read_text()), tmp_path / "twistd.log")
    try:
        daemon.logged("claudeproxy listens on", 60)
        assert stat.S_IMODE(daemon.log_file.stat().st_mode) == 0o600
    finally:
        os.kill(daemon.pid, signal.SIGKILL)


def test_reload(tmp_path: Path) -> None:
    """SIGHUP changes the form and the level."""
    file = tmp_path / "claudeproxy.toml"
    file.write_text(BACKEND)
    daemon = start(tmp_path, [f"--config={file}"])
    try:
        daemon.listening()
        file.write_text(f'log_format = "json"\nlog_level = "debug"\n{BACKEND}')
        begun = len(daemon.log)
        daemon.signal(signal.SIGHUP)
        daemon.logged("settings reloaded; changed: log_level, log_format|settings reloaded; .*log_format", after=begun)
        assert ask(daemon)["status"] == 404
        begun = len(daemon.log)
        assert daemon.json("GET", "/health") == {"status": "ok"}
        daemon.logged('"path":"/health"', after=begun)
        file.write_text(BACKEND)
        daemon.signal(signal.SIGHUP)
        daemon.logged(r"\[claudeproxy.reload#info\] settings reloaded")
    finally:
        end(daemon)


def test_full_disk(tmp_path: Path) -> None:
    """A disk without room costs lines, not the daemon."""
    port = free_port()
    daemon = start(
        tmp_path,
        variables={**NOBODY, "PORT": str(port)},
        twistd_options=("-n", "--pidfile=", "--logfile=/dev/full"),
    )
    try:
        daemon.port = port
        wait_until("answers", 60, lambda: _answers(daemon))
        metrics = daemon.asked("GET", "/metrics").read().decode()
        (lost,) = (line for line in metrics.splitlines() if line.startswith("claudeproxy_log_lines_lost_total "))
        assert float(lost.split()[1]) >= 5
        daemon.signal(signal.SIGTERM)
        assert daemon.ended() == 143
    finally:
        end(daemon)
    assert daemon.log == ""


def test_closed_output(tmp_path: Path) -> None:
    """Standard output that nobody reads any more costs lines, not the daemon."""
    port = free_port()
    environment = clean_environment(tmp_path, PYTHONPATH=str(as_if_installed(tmp_path)), PORT=str(port), **NOBODY)
    process = subprocess.Popen(
        [twistd(), "-n", "--pidfile=", "claudeproxy"],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    daemon = Daemon(process.pid, tmp_path / "none", process, port)
    try:
        wait_until("answers", 60, lambda: _answers(daemon))
        assert process.stdout is not None
        process.stdout.close()
        for _ in range(5):
            assert daemon.asked("GET", "/v1/nothing").status == 404
        daemon.signal(signal.SIGTERM)
        assert daemon.ended() == 143
    finally:
        end(daemon)


def test_unopenable(tmp_path: Path) -> None:
    """A log file that cannot be opened is one plain sentence, and nothing listens."""
    daemon = start(tmp_path, variables=NOBODY, twistd_options=("-n", "--pidfile=", "--logfile=nowhere/own.log"))
    assert daemon.ended() == 1
    assert "claudeproxy: the log file cannot be opened: " in daemon.log
    assert "nowhere/own.log: No such file" in daemon.log
    assert "Traceback" not in daemon.log


TERSE = """
from twisted.logger import formatEvent
from twisted.logger import ILogObserver
from zope.interface import provider
import sys

def terse():
    out = sys.stdout

    @provider(ILogObserver)
    def write(event):
        out.write(f"terse: {formatEvent(event)}\\n")
        out.flush()

    return write
"""


def test_other_logs(tmp_path: Path) -> None:
    """twistd's own --logger keeps the word."""
    (tmp_path / "terse.py").write_text(TERSE)
    daemon = start(
        tmp_path,
        variables={**NOBODY, "LOG_FORMAT": "json", "PYTHONPATH": f"{as_if_installed(tmp_path)}:{tmp_path}"},
        twistd_options=("-n", "--pidfile=", "--logger=terse.terse"),
    )
    try:
        daemon.logged("(?m)^terse: claudeproxy listens on", 60)
    finally:
        end(daemon)


def _answers(daemon: Daemon) -> bool:
    try:
        return daemon.asked("GET", "/health").status == 200
    except ConnectionRefusedError:
        return False
