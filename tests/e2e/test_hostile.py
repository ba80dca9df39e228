"""Hostile clients over real sockets: what they see, and that nothing of them stays (issue 6, proof)."""

import json
import os
import re
import resource
import signal
import socket
import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from claudeproxy.routing.keys import key_of
from tests.e2e.daemon import Daemon, running, wait_until
from tests.stream_checker import check_error

HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
#: The same from a client that asks nothing else.
LAST_HEALTH = HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
CANARIES = {
    name: f"{name}-canary-{at}{at}" for at, name in enumerate(("client", "backend", "header", "prompt", "reply"))
}
#: Descriptors that a running daemon may have more than before: connections to the backend that wait to be used again.
SPARE = 20


class Backend(BaseHTTPRequestHandler):
    """Answers as the model's name says."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(404, b"{}")

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        model = asked.get("model", "")
        if model.isdigit():
            words = f"no: {self.headers['authorization']} {CANARIES['prompt']}"
            self._answer(int(model), json.dumps({"error": {"message": words}}).encode())
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            for word in ("a", CANARIES["reply"]):
                self._send({"choices": [{"index": 0, "delta": {"content": word}}]})
                if model == "slow":
                    time.sleep(1)
            if model == "garbage":
                self.wfile.write(b"data: {nonsense " + CANARIES["reply"].encode() + b"\n\n")
            if model == "good" or model == "slow":
                self._send({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
                self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            pass  # the proxy hung up

    def _send(self, event: Any) -> None:
        self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        self.wfile.flush()

    def _answer(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        """Nothing."""


@contextmanager
def backend() -> Iterator[dict[str, str]]:
    """A backend, as the settings that name it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Backend)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield {
            "PROVIDER": "openai",
            "PROVIDER_BASE_URL": f"http://127.0.0.1:{server.server_port}/v1",
            "PROVIDER_DIALECT": "generic",
            "LOG_LEVEL": "debug",
        }
    finally:
        server.shutdown()
        server.server_close()


def descriptors(daemon: Daemon) -> int:
    return len(os.listdir(f"/proc/{daemon.pid}/fd"))


def memory(daemon: Daemon) -> int:
    """What it holds of the machine's memory just now, in MiB."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{daemon.pid}/status").read_text())
    assert found
    return int(found[1]) // 1024


def asked(model: str = "good", **fields: Any) -> bytes:
    said = [{"role": "user", "content": CANARIES["prompt"]}]
    return json.dumps({"model": model, "max_tokens": 9, "messages": said, **fields}).encode()


def post(data: bytes, *headers: bytes) -> bytes:
    lines = [b"POST /v1/messages HTTP/1.1", b"Host: localhost", b"Content-Length: %d" % len(data), *headers, b"", data]
    return b"\r\n".join(lines)


def connected(daemon: Daemon, timeout: float = 20) -> socket.socket:
    return socket.create_connection(("127.0.0.1", daemon.port), timeout)


def everything(client: socket.socket) -> bytes:
    """All that comes until the daemon closes."""
    found = b""
    while True:
        try:
            piece = client.recv(1 << 16)
        except ConnectionResetError:
            return found
        if not piece:
            return found
        found += piece


def said(daemon: Daemon, data: bytes) -> bytes:
    with connected(daemon) as client:
        client.sendall(data)
        return everything(client)


def assert_well(daemon: Daemon, before: int) -> None:
    """It answers, nothing went wrong in it, and it holds no more descriptors than before."""
    answer = daemon.asked("POST", "/v1/messages", json.loads(asked()))
    assert answer.status == 200, answer.read()
    assert json.loads(answer.read())["content"][0]["text"].startswith("a")
    wait_until("descriptors", 20, lambda: descriptors(daemon) <= before + SPARE)
    assert "Traceback" not in daemon.log, daemon.log
    assert "Unhandled" not in daemon.log, daemon.log


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with backend() as variables:
        limits = {"REQUEST_TIMEOUT_MS": "2000", "IDLE_MS": "3000", "HEADER_LIMIT_KB": "16"}
        with running(tmp_path_factory.mktemp("hostile"), variables={**variables, **limits}) as proxy:
            yield proxy


def test_refused(daemon: Daemon) -> None:
    """What is no request is answered in the envelope with the right status, and the connection closes."""
    before = descriptors(daemon)
    head = b"POST /v1/messages HTTP/1.1\r\nHost: localhost\r\n"
    both = head + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HEALTH
    for data, status in (
        (b"hello\r\n\r\n" + HEALTH, 400),
        (both, 400),
        (head + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello" + HEALTH, 400),
        (head + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", 400),
        (head + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + HEALTH, 400),
        (HEALTH.replace(b"\r\n", b"\n"), 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(200) + b"\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nX: " + b"x" * 2_000_000 + b"\r\n\r\n", 431),
        (b"GET /health HTTP/1.1\r\n" + b"x: y\r\n" * 100_000 + b"\r\n", 431),
    ):
        answer = said(daemon, data)
        first, _, body = answer.partition(b"\r\n\r\n")
        assert first.startswith(b"HTTP/1.1 %d " % status), (data[:100], first)
        assert first.count(b"HTTP/1.1") == 1
        check_error(json.loads(body), status)
    assert_well(daemon, before)


@pytest.mark.slow
def test_slow(daemon: Daemon) -> None:
    """Who sends headers or a body too slowly is told so and left, and who sends nothing is left in silence."""
    before = descriptors(daemon)
    for begun, answer in (
        (b"GET /hea", b"HTTP/1.1 408 "),
        (post(asked())[:-20], b"HTTP/1.1 408 "),
        (b"", b""),
    ):
        found = said(daemon, begun)
        assert found.startswith(answer) and bool(found) == bool(answer), found
    with connected(daemon) as client:
        with pytest.raises(OSError):
            for byte in post(b"x" * 100_000):
                client.sendall(bytes([byte]))
                time.sleep(0.1)
    assert_well(daemon, before)


def test_large(daemon: Daemon) -> None:
    """A body of 100 MB is read to its end and refused, with a length and in chunks; memory does not grow by it."""
    before, held = descriptors(daemon), memory(daemon)
    size, piece = 100 << 20, b" " * (1 << 20)
    for chunked in (False, True):
        with connected(daemon, 60) as client:
            coding = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % size
            client.sendall(b"POST /v1/messages HTTP/1.1\r\nHost: localhost\r\n" + coding + b"\r\n\r\n")
            for _ in range(size // len(piece)):
                client.sendall(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            client.sendall(b"0\r\n\r\n" if chunked else b"")
            client.sendall(HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            answer = everything(client)
        assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"413", b"200"]
    assert memory(daemon) < held + 100
    assert_well(daemon, before)


def test_deep(daemon: Daemon) -> None:
    """JSON that is 100,000 levels deep is a 400 that names the place, at once, and so is what is no UTF-8."""
    before = descriptors(daemon)
    for value, words in (
        (b"[" * 100_000 + b"]" * 100_000, "messages.0.content.0.0.0: nested"),
        (b'"\xff"', "not valid JSON"),
    ):
        data = asked().replace(json.dumps(CANARIES["prompt"]).encode(), value)
        with connected(daemon) as client:
            client.sendall(post(data) + HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            answer = everything(client)
        assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"400", b"200"]
        assert words.encode() in answer
    assert_well(daemon, before)


def test_pipelined(daemon: Daemon) -> None:
    """Thousands of requests at once on one connection are answered in their order, and memory stays."""
    before, held = descriptors(daemon), memory(daemon)
    with connected(daemon, 60) as client:
        sender = threading.Thread(
            target=lambda: client.sendall(HEALTH * 20_000 + post(asked("good"), b"Connection: close"))
        )
        sender.start()
        answer = everything(client)
        sender.join()
    assert answer.count(b"HTTP/1.1 200") == 20_001
    assert answer.rindex(b'"type":"message"') > answer.rindex(b'"status":"ok"')
    assert memory(daemon) < held + 100
    assert_well(daemon, before)


def test_many(daemon: Daemon) -> None:
    """2,000 connections at once, each with a request: all are answered, and afterwards all descriptors are back."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 8192:
        pytest.skip("this machine allows fewer descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 8192), hard))
    try:
        before = descriptors(daemon)
        with ExitStack() as stack, ThreadPoolExecutor(16) as pool:
            clients = [stack.enter_context(connected(daemon, 60)) for _ in range(2000)]

            def ask(client: socket.socket) -> bytes:
                client.sendall(HEALTH)
                return client.recv(1 << 16)

            answers = list(pool.map(ask, clients))
        assert [each for each in answers if not each.startswith(b"HTTP/1.1 200")] == []
        assert_well(daemon, before)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_too_many_at_once(tmp_path: Path) -> None:
    """Above the limit of connections one whose request has come, though nobody has read it yet, is not closed for
    another: each client is told something."""
    limit = {"MAX_CONNECTIONS": "8"}
    with backend() as variables, running(tmp_path, variables={**variables, **limit}) as daemon, ExitStack() as stack:
        daemon.signal(signal.SIGSTOP)
        clients = [stack.enter_context(connected(daemon)) for _ in range(12)]
        for client in clients:
            client.sendall(HEALTH)
        daemon.signal(signal.SIGCONT)
        statuses = [client.recv(1 << 16)[9:12] for client in clients]
        assert statuses == [b"200"] * 8 + [b"529"] * 4


def test_gone(daemon: Daemon) -> None:
    """Clients that vanish in each phase leave nothing."""
    before = descriptors(daemon)
    request = post(asked("slow", stream=True))
    for cut in (0, 10, 60, len(request) - 5, len(request)):
        for wait in (0.0, 0.3):
            for _ in range(10):
                with connected(daemon) as client:
                    client.sendall(request[:cut])
                    time.sleep(wait if cut == len(request) else 0)
    assert_well(daemon, before)


def test_few_descriptors(tmp_path: Path) -> None:
    """With few descriptors it neither dies nor spins: who is there is served, idle ones make room."""
    few = ["prlimit", "--nofile=100:100"]
    with backend() as variables, running(tmp_path, variables=variables, within=few) as daemon:
        before = descriptors(daemon)
        with ExitStack() as stack:
            for _ in range(300):
                stack.enter_context(connected(daemon))
            # Those that it lets in at once may be more than it can close others for meanwhile, and are turned away.
            wait_until("an answer", 20, lambda: said(daemon, LAST_HEALTH).startswith(b"HTTP/1.1 200"))
            assert daemon.asked("POST", "/v1/messages", json.loads(asked())).status == 200
            began = cpu_time(daemon)
            time.sleep(2)
            assert cpu_time(daemon) - began < 1.0
        assert_well(daemon, before)


def test_no_descriptors(tmp_path: Path) -> None:
    """The same if more connections are allowed than there are descriptors for."""
    few = ["prlimit", "--nofile=64:64"]
    with (
        backend() as variables,
        running(tmp_path, variables={**variables, "MAX_CONNECTIONS": "1000"}, within=few) as daemon,
    ):
        before = descriptors(daemon)
        with ExitStack() as stack:
            for _ in range(200):
                stack.enter_context(connected(daemon))
            began = cpu_time(daemon)
            time.sleep(2)
            assert cpu_time(daemon) - began < 1.0
        answer = wait_until("an answer", 20, lambda: said(daemon, LAST_HEALTH))
        assert answer.startswith(b"HTTP/1.1 200")
        wait_until("descriptors", 20, lambda: descriptors(daemon) <= before + SPARE)


def cpu_time(daemon: Daemon) -> float:
    """Seconds of a processor that it has used."""
    fields = Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_canaries(tmp_path: Path) -> None:
    """At the level debug, whatever happens, the daemon's log holds no key, no header, no prompt and no answer."""
    keys = tmp_path / "keys"
    keys.write_text(key_of(CANARIES["client"], "alice").setting + "\nplain:other-client-canary\n")
    keys.chmod(0o600)
    secret = tmp_path / "backend-key"
    secret.write_text(CANARIES["backend"] + "\n")
    secret.chmod(0o600)
    with backend() as variables:
        files = {"CLAUDEPROXY_KEYS_FILE": str(keys), "PROVIDER_API_KEY_FILE": str(secret)}
        with running(tmp_path, variables={**variables, **files}) as daemon:
            shown = [b"x-api-key: " + CANARIES["client"].encode(), b"x-odd: " + CANARIES["header"].encode()]
            for model in ("good", "401", "429", "500", "418", "garbage", "broken"):
                for stream in (True, False):
                    said(daemon, post(asked(model, stream=stream), *shown, b"Connection: close"))
            for data, headers in (
                (asked()[:-1], shown),
                (asked(max_tokens=CANARIES["prompt"]), shown),
                (asked(), [b"x-api-key: " + CANARIES["client"].encode() + b"x"]),
                (asked(), [b"Authorization: Bearer other-client-canary", b"cookie: " + CANARIES["header"].encode()]),
                (asked(), [*shown, b"origin: https://evil.example"]),
            ):
                said(daemon, post(data, *headers, b"Connection: close"))
            with connected(daemon) as client:
                client.sendall(post(asked("slow", stream=True), *shown))
                client.recv(100)
            said(daemon, b"GET /v1/models?x=" + CANARIES["prompt"].encode() + b" HTTP/1.0\r\n" + shown[0] + b"\r\n\r\n")
            said(daemon, b"HEAD /v1/x?x=" + CANARIES["prompt"].encode() + b" HTTP/1.0\r\n\r\n")
            said(daemon, CANARIES["prompt"].encode() + b"\r\n\r\n")
            daemon.logged(" key=alice ")
            daemon.logged("client_gone")
        assert len(re.findall("POST /v1/messages ", daemon.log)) == 20
        for canary in (*CANARIES.values(), "other-client-canary", key_of(CANARIES["client"]).digest.hex()):
            assert canary not in daemon.log, daemon.log


def test_keys_that_change(tmp_path: Path) -> None:
    """A file of keys and a backend's key are read again at a reload; one that others can read is refused, and the old
    keys stay."""
    keys = tmp_path / "keys"
    tmp_path.chmod(0o755)

    def write(text: str, mode: int) -> None:
        keys.write_text(text)
        keys.chmod(mode)

    def status(key: str) -> int:
        return daemon.asked("GET", "/v1/models", headers={"x-api-key": key}).status

    write("alice=plain:first-key", 0o600)
    with (
        backend() as variables,
        running(tmp_path, variables={**variables, "CLAUDEPROXY_KEYS_FILE": str(keys)}) as daemon,
    ):
        assert (status("first-key"), status("second-key")) == (200, 401)
        write(key_of("second-key", "bob").setting, 0o600)
        daemon.signal(signal.SIGHUP)
        daemon.logged("settings reloaded; changed: keys")
        assert (status("first-key"), status("second-key")) == (401, 200)
        if is_open_to_others(tmp_path):
            write("plain:third-key", 0o644)
            daemon.signal(signal.SIGHUP)
            daemon.logged(f"reload refused, the old settings stay: CLAUDEPROXY_KEYS_FILE: .*chmod 600 {keys}")
            assert (status("second-key"), status("third-key")) == (200, 401)


def is_open_to_others(folder: Path) -> bool:
    """Whether other users get there at all."""
    return all(each.stat().st_mode & stat.S_IXOTH for each in (folder, *folder.resolve().parents))
