"""The real child with the real model: closed to everybody else, and gone when its parent is."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest
from attrs import define

from claudeproxy.backends.embedded_child import Orders
from claudeproxy.backends.gguf import find_gguf

pytestmark = pytest.mark.model

COMMAND = [sys.executable, "-m", "claudeproxy.backends.embedded_child"]
ROOT = Path(__file__).parents[2]
#: Seconds that a child may outlive its parent (issue 2, item 1).
PATIENCE = 2.0
#: A parent that starts a child, hands it its orders, lets it speak for itself and never closes its stdin.
PARENT = """
import subprocess, sys, time
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE)
print(child.pid, flush=True)
child.stdin.write(sys.stdin.buffer.readline()); child.stdin.flush()
time.sleep(600)
"""


@define
class Child:
    """A serving child, as its parent sees it."""

    pid: int
    host: str
    port: int
    window: int
    key: str

    def asked(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None, key: str | None = None
    ) -> HTTPResponse:
        connection = HTTPConnection(self.host, self.port, timeout=30)
        given = {"Authorization": f"Bearer {self.key if key is None else key}", **(headers or {})}
        connection.request(method, path, None if body is None else json.dumps(body), given)
        return connection.getresponse()

    def json(self, method: str, path: str, body: object = None) -> Any:
        response = self.asked(method, path, body)
        assert response.status == 200
        return json.loads(response.read())


def orders(**changes: Any) -> bytes:
    chosen: dict[str, Any] = {"gguf": str(find_gguf()), "alias": "tiny", "key": "secret"}
    return Orders(**{**chosen, **changes}).to_line()


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    process = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(orders())
    process.stdin.flush()
    yield Child(process.pid, key="secret", **json.loads(process.stdout.readline()))
    process.stdin.close()
    started = time.monotonic()
    assert process.wait(PATIENCE) == 0
    assert time.monotonic() - started < 1
    process.stdout.close()


@contextmanager
def parent() -> Iterator[tuple[subprocess.Popen[bytes], Child]]:
    """A parent process with a child of its own, to be killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, *COMMAND], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    with process:
        assert process.stdin is not None and process.stdout is not None
        try:
            pid = int(process.stdout.readline())
            process.stdin.write(orders())
            process.stdin.flush()
            yield process, Child(pid, key="secret", **json.loads(process.stdout.readline()))
        finally:
            process.kill()


def seconds_until_gone(pid: int) -> float:
    """How long the process, a grandchild that nobody may reap, goes on living."""
    started = time.monotonic()
    while time.monotonic() - started < PATIENCE + 5:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            break
        if state in "ZX":
            break
        time.sleep(0.01)
    return time.monotonic() - started


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/props"),
        ("GET", "/slots"),
        ("GET", "/v1/models"),
        ("GET", "/metrics"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/chat/completions/input_tokens"),
        ("POST", "/v1/completions"),
        ("POST", "/v1/responses"),
        ("POST", "/v1/messages"),
        ("POST", "/v1/embeddings"),
        ("POST", "/completion"),
        ("POST", "/infill"),
        ("POST", "/tokenize"),
        ("POST", "/detokenize"),
        ("POST", "/apply-template"),
        ("POST", "/slots/0?action=erase"),
    ],
)
def test_needs_the_key(child: Child, method: str, path: str) -> None:
    """Whoever does not know the key gets 401 on every route that says or does anything."""
    for wrong in ("", "Secret", "secre", "secretx"):
        assert child.asked(method, path, {} if method == "POST" else None, key=wrong).status == 401


@pytest.mark.parametrize("origin", ["http://evil.example", "http://localhost:3000", "http://127.0.0.1", "null"])
def test_no_cors(child: Child, origin: str) -> None:
    """No web page is let in: no origin is named or reflected, neither in an answer nor in a preflight's."""
    answers = [
        child.asked("GET", "/health", headers={"Origin": origin}),
        child.asked("GET", "/props", headers={"Origin": origin}, key="wrong"),
        child.asked(
            "OPTIONS",
            "/v1/chat/completions",
            headers={
                "Origin": origin,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization",
                "Access-Control-Request-Private-Network": "true",
            },
        ),
    ]
    for answer in answers:
        assert not answer.getheader("Access-Control-Allow-Origin")
        assert not answer.getheader("Access-Control-Allow-Methods")
        assert not answer.getheader("Access-Control-Allow-Headers")
        assert answer.getheader("Access-Control-Allow-Credentials") != "true"
        assert not answer.getheader("Access-Control-Allow-Private-Network")


def test_no_web_page_of_its_own(child: Child) -> None:
    """llama.cpp's own user interface is off."""
    assert child.asked("GET", "/").status == 404


def test_loopback_only(child: Child) -> None:
    """It listens on 127.0.0.1 and nowhere else."""
    inodes = {os.readlink(fd) for fd in Path(f"/proc/{child.pid}/fd").iterdir() if fd.is_symlink()}
    listening = []
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for row in Path(f"/proc/{child.pid}/net/{table}").read_text().splitlines()[1:]:
            fields = row.split()
            if f"socket:[{fields[9]}]" in inodes and (fields[3] == "0A" or table.startswith("udp")):
                listening.append(fields[1])
    assert listening == [f"0100007F:{child.port:04X}"]


def test_secret_is_not_in_sight(child: Child) -> None:
    """Neither the arguments nor the variables of the process hold the key."""
    for place in ("cmdline", "environ"):
        assert b"secret" not in Path(f"/proc/{child.pid}/{place}").read_bytes()


def test_alias_and_window(child: Child) -> None:
    """The model's id is the alias, and the one slot has the model's whole window."""
    assert [model["id"] for model in child.json("GET", "/v1/models")["data"]] == ["tiny"]
    props = child.json("GET", "/props")
    assert (props["model_alias"], props["total_slots"]) == ("tiny", 1)
    assert props["default_generation_settings"]["n_ctx"] == child.window == 8192
    assert [slot["n_ctx"] for slot in child.json("GET", "/slots")] == [8192]


def test_answers_and_counts(child: Child) -> None:
    """It answers, and its count of a request is what the request then costs."""
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hello! How can I help?"},
        {"role": "user", "content": "Say yes. <|im_end|> ünïcödé 🎉"},
    ]
    counted = child.json("POST", "/v1/chat/completions/input_tokens", {"messages": messages})["input_tokens"]
    reply = child.json("POST", "/v1/chat/completions", {"messages": messages, "max_tokens": 4})
    assert reply["choices"][0]["message"]["content"]
    assert reply["usage"]["prompt_tokens"] == counted


def test_overflow_is_an_error(child: Child) -> None:
    """A prompt above the window is refused with both numbers, not cut."""
    too_long = {"messages": [{"role": "user", "content": "word " * 9000}]}
    answer = child.asked("POST", "/v1/chat/completions", too_long)
    error = json.loads(answer.read())["error"]
    assert (answer.status, error["type"], error["n_ctx"]) == (400, "exceed_context_size_error", 8192)
    assert error["n_prompt_tokens"] > 9000


def test_signals_of_the_group(child: Child) -> None:
    """Ctrl-C, a closed terminal and a service manager's SIGTERM do not end it: the parent decides."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        os.kill(child.pid, number)
    time.sleep(0.1)
    assert child.asked("GET", "/health").status == 200


@pytest.mark.parametrize("prompt", ["Write a very long story.", "alpha beta " * 3500], ids=["generating", "in prefill"])
def test_gone_with_its_parent(prompt: str) -> None:
    """After kill -9 of the parent it is gone within 2 s, however busy."""
    with parent() as (process, child):
        busy = {"messages": [{"role": "user", "content": prompt}], "stream": True, "return_progress": True}
        stream = child.asked("POST", "/v1/chat/completions", {**busy, "max_tokens": 8000, "ignore_eos": True})
        stream.readline()
        time.sleep(1)
        assert child.json("GET", "/slots")[0]["is_processing"]
        process.kill()
        assert seconds_until_gone(child.pid) < PATIENCE


def test_gone_while_no_python_runs() -> None:
    """It is gone at once even while a library holds the interpreter's lock, as llama.cpp does when it loads a model."""
    blocked = "from claudeproxy.backends.embedded_child import end_with_stdin as e; e(True)"
    code = f"import ctypes; {blocked}; print(flush=True); ctypes.PyDLL(None).sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    with process:
        assert process.stdin is not None and process.stdout is not None
        process.stdout.readline()
        process.stdin.close()
        assert process.wait(PATIENCE) == -signal.SIGIO


def test_gone_before_it_began() -> None:
    """A parent that is gone before the model is loaded leaves nothing behind."""
    process = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    with process:
        process.communicate(orders(), timeout=PATIENCE)
        assert process.returncode in (0, -signal.SIGIO)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (orders(gguf="/nowhere.gguf"), "No such file"),
        (orders(gguf=sys.executable), "expected a GGUF file"),
        (orders(window=100_000), "at most 8192"),
        (orders(chat_template="{% if %}"), "cannot serve"),
        (b"hello\n", "orders cannot be understood"),
        (b'{"gguf": "x"}\n', "orders cannot be understood"),
    ],
    ids=["no file", "not a GGUF", "window", "template", "no JSON", "incomplete"],
)
def test_says_why_not(line: bytes, reason: str) -> None:
    """What cannot be served is one line of JSON with the reason, and exit status 1."""
    process = subprocess.Popen(
        COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT
    )
    with process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(line)
        process.stdin.flush()
        said = process.stdout.read()
        assert process.wait(30) == 1
    assert said.count(b"\n") == 1
    assert reason in json.loads(said)["error"]
    assert b"secret" not in said
