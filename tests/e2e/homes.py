"""What happens to a daemon where it lives: full disks, and a model that is killed. And the list of all faults."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from tests.e2e.daemon import Daemon, alive, children, end, free_port, running, start, wait_until
from tests.e2e.faults import FROM_BACKENDS, Fault
from tests.e2e.faulty import TEXT
from tests.e2e.scene import AFTERMATH, PATIENCE, Done, Scene
from tests.e2e.strangers import FROM_CLIENTS

_NUMBERS = count(1)
#: Mounts a file system of 16 KB on the folder $0, fills it, and becomes the rest of the command.
_FULL = 'mount -t tmpfs -o size=16k none "$0" && { head -c 100000 /dev/zero > "$0/zeros" 2>/dev/null; exec "$@"; }'


def _folder(scene: Scene) -> Path:
    folder = scene.daemon.log_file.parent / f"home{next(_NUMBERS)}"
    folder.mkdir()
    return folder


def _backend(scene: Scene) -> dict[str, str]:
    address = f"http://127.0.0.1:{scene.backend.port}/v1"
    return {"PROVIDER": "openai", "PROVIDER_BASE_URL": address, "PROVIDER_DIALECT": "generic", "DEFAULT_MODEL": "good"}


@contextmanager
def _elsewhere(scene: Scene, daemon: Daemon) -> Iterator[None]:
    """Another daemon before the same backend; it answers before and afterwards, and goes when it is told to."""
    other = Scene(daemon, scene.backend)
    for _ in range(3):
        seen = other.asks("good")
        assert (seen.what, seen.text) == ("answered", TEXT), seen
    yield
    seen = other.asks("good", stream=False)
    assert (seen.what, seen.text) == ("answered", TEXT), seen
    daemon.signal(signal.SIGTERM)
    assert daemon.ended() == 143


def _full_log(scene: Scene) -> None:
    """Every line that it writes into its log fails."""
    folder = _folder(scene)
    (folder / "full.log").symlink_to("/dev/full")
    port = free_port()
    variables = {**_backend(scene), "PORT": str(port), "LOG_LEVEL": "debug"}
    options = ("-n", "--pidfile=", f"--logfile={folder / 'full.log'}")
    daemon = start(folder, variables=variables, twistd_options=options)
    daemon.port = port
    try:
        wait_until("listening", PATIENCE, lambda: _listens(daemon))
        with _elsewhere(scene, daemon):
            daemon.signal(signal.SIGHUP)
    finally:
        end(daemon)


def _listens(daemon: Daemon) -> bool:
    assert daemon.process is not None and daemon.process.poll() is None, daemon.log
    try:
        return daemon.asked("GET", "/health").status == 200
    except OSError:
        return False


def _full_state(scene: Scene) -> None:
    """What it has learned cannot be kept: it says so once, and goes as ever."""
    folder = _folder(scene)
    (folder / "full").mkdir()
    within = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", _FULL, str(folder / "full")]
    if shutil.which("unshare") is None or subprocess.run([*within, "true"]).returncode:
        within = ["prlimit", "--fsize=0"]  # where there are no such namespaces: nothing at all can be written
    variables = {**_backend(scene), "STATE_FILE": str(folder / "full" / "counts.json")}
    with running(folder, variables=variables, within=within) as daemon:
        with _elsewhere(scene, daemon):
            pass
        assert daemon.log.count("counts.json cannot be written: No space left on device") == 1, daemon.log
        assert not list((folder / "full").iterdir())


def _model_killed(scene: Scene) -> None:
    """The embedded model dies while it has nothing to do, and in the middle of an answer."""
    folder = _folder(scene)
    with running(folder) as daemon:
        other = Scene(daemon, scene.backend)
        daemon.logged("embedded model .* serves on", PATIENCE)
        assert other.asks("tiny").what == "answered"
        for stream in (None, True, False):
            begun = len(daemon.log)
            (child,) = children(daemon.pid)
            client = other.client("tiny", bool(stream), "Tell a very long story. ")
            if stream is not None:
                client.request = client.request.replace(b'"max_tokens": 100,', b'"max_tokens":7000,')
                client.send()
                if stream:
                    client.until(b"content_block_delta")
                else:
                    _computing(child)
            os.kill(child, signal.SIGKILL)
            if stream:
                rest = client.until(b"event: error")
                assert b"message_stop" not in rest
            elif stream is False:
                seen = client.seen()
                assert seen.what in ("502 api_error", "529 overloaded_error"), seen
            wait_until("its end", AFTERMATH, lambda pid=child: not alive(pid))
            daemon.logged("embedded model .* serves on", PATIENCE, begun)
            assert other.asks("tiny").what == "answered"
            other.quiet(begun)
        daemon.signal(signal.SIGTERM)
        assert daemon.ended() == 143


def _computing(pid: int) -> None:
    """Until the process has used some of its processor's time."""

    def used() -> int:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    before = used()
    wait_until("the model works", PATIENCE, lambda: used() > before + 20)


AT_HOME = (
    Fault("The disk is full for the log", "its answer", _full_log, most=3),
    Fault("The disk is full for `state_file`", "its answer", _full_state, most=3),
    Fault(
        "The embedded model is killed, idle or in mid-answer",
        "an `error` event or 502; then a new one answers",
        _model_killed,
        3,
        most=2,
        model=True,
    ),
)

FAULTS: tuple[Fault, ...] = FROM_BACKENDS + FROM_CLIENTS + AT_HOME
#: Bytes that may be in use more than before: pieces that the allocator keeps. What leaks grows with every go.
MARGIN = 24 * 1024**2
GOES = 4


def many(scene: Scene, times: int) -> Iterator[tuple[Fault, Done]]:
    """Each fault once, so that everything is warm, and then each so many times. Raises if anything stays behind."""
    for fault in FAULTS:
        scene.ordeal(fault.do, 1)
    warm = scene.memory()
    for fault in FAULTS:
        for _ in range(GOES):
            done = scene.ordeal(fault.do, fault.rounds(times))
            if done.grown < MARGIN:
                break
        assert done.grown < MARGIN, (fault.name, done)
        yield fault, done
    grown = scene.memory() - warm
    assert grown < GOES * MARGIN, grown
