"""What clients do that no client should."""

import json
import resource
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from tests.e2e.daemon import wait_until
from tests.e2e.faults import Fault, at_once
from tests.e2e.faulty import TEXT
from tests.e2e.scene import AFTERMATH, PATIENCE, Client, Scene

#: Answers that a daemon may give to what it does not want to read to its end.
REFUSALS = ("400 invalid_request_error", "413 request_too_large", "closed", "cut")
#: Bytes that may be on their way for a client that never reads, most of them in the kernel's buffers.
ON_THEIR_WAY = 32 * 1024**2
#: The ways of an answer that clients leave: by kind, streamed and not.
LEFT = [(kind, stream) for kind in ("openai", "ollama", "passed") for stream in (True, False)]


def vanishing(name: str, when: Callable[[Scene, Client], None], model: str, streams: bool = True) -> Fault:
    """A client that goes away, with a RST and with a FIN; ``when`` brings it to that moment. Its backend is let go."""

    def once(scene: Scene, how: tuple[str, bool, bool]) -> None:
        kind, stream, reset = how
        client = scene.client(f"{kind}/{model}", stream, "x" * 3000)
        when(scene, client)
        client.vanish(reset)
        wait_until("the backend is let go", AFTERMATH, lambda: scene.is_left(client.tag))

    ways = [(kind, stream, reset) for kind, stream in LEFT for reset in (True, False) if stream or not streams]
    return Fault(
        f"A client {name}", "its backend is let go", lambda scene: at_once(partial(once, scene), ways), len(ways)
    )


def _in_headers(scene: Scene, client: Client) -> None:
    client.send(client.head[:-20])


def _in_body(scene: Scene, client: Client) -> None:
    client.send(client.head + client.request[len(client.head) :][:1000])


def _asked(scene: Scene, client: Client) -> None:
    client.send()
    wait_until("the backend is asked", PATIENCE, lambda: client.tag in scene.backend.asked)


def _later(scene: Scene, client: Client) -> None:
    """Late enough that it has not been given up on purpose: the generation goes on for a while."""
    _asked(scene, client)
    time.sleep(0.4)


def _in_mid_stream(scene: Scene, client: Client) -> None:
    client.send().until(b"two")


def _at_the_end(scene: Scene, client: Client) -> None:
    client.send().until(b"four.")


# ---- one who stays, and is a nuisance


def _slowly(scene: Scene) -> None:
    client = scene.client("openai/good")
    for place in range(80):
        client.send(client.request[place : place + 1])
        time.sleep(0.01)
    seen = client.send(client.request[80:]).seen()
    assert (seen.what, seen.text) == ("answered", TEXT), seen


def _stalling(scene: Scene) -> None:
    """Fifty that begin a request and do not go on; the others are served meanwhile."""
    clients = [scene.client("openai/good") for _ in range(50)]
    for number, client in enumerate(clients):
        with suppress(ConnectionError):
            client.send(client.request[: 10 + 5 * number])
    scene.lives()
    for client in clients:
        client.vanish(False)


def _large(scene: Scene, stream: bool, chunked: bool) -> None:
    client = scene.client("openai/good", stream)
    piece = b"x" * 2**20
    before = scene.memory()
    with suppress(ConnectionError):
        if chunked:
            client.send(client.head.replace(b"content-length: ", b"transfer-encoding: chunked\r\nx-length: "))
        else:
            client.send(client.head.replace(b"content-length: ", b"content-length: 104857600\r\nx-length: "))
        for _ in range(100):
            client.send(b"100000\r\n" + piece + b"\r\n" if chunked else piece)
        client.send(b"0\r\n\r\n" if chunked else b"")
    assert scene.memory() - before < 64 * 2**20
    seen = client.seen()
    assert seen.what in REFUSALS, seen


def _body(body: bytes, *lines: str) -> Callable[[Scene], None]:
    """A body that is refused; ``lines`` are headers of it."""

    def do(scene: Scene) -> None:
        seen = Client(scene.connect(), "", scene.framed(body, "/v1/messages", *lines)).send().seen()
        assert seen.what == "400 invalid_request_error", seen

    return do


def _words(*words: bytes) -> Callable[[Scene], None]:
    """These bytes for a request; the answer is a refusal, or none at all."""

    def once(scene: Scene, said: bytes) -> None:
        client = Client(scene.connect(), "", said)
        with suppress(OSError):  # it may have hung up already
            client.send()
            client.socket.shutdown(socket.SHUT_WR)
        seen = client.seen()
        assert seen.what in REFUSALS or seen.what.startswith(("408", "431")), seen

    return lambda scene: at_once(partial(once, scene), words)


def _pipelined(scene: Scene) -> None:
    """Twenty requests in one write: each is answered, in their order."""
    client = scene.client("openai/brisk")
    requests = [
        scene.request(f"openai/{'brisk' if number % 3 else 'status_429'}", number % 2 == 0) for number in range(20)
    ]
    client.send(b"".join(request for _, request in requests))
    with client.socket.makefile("rb") as file:
        for number in range(20):
            status, body = _read_answer(file)
            assert status == (200 if number % 3 else 429), (number, status)
            if status == 200:
                assert (b"message_stop" in body) == (number % 2 == 0)
                assert b"four." in body
    client.vanish(False)


def _read_answer(file: "socket.SocketIO | object") -> tuple[int, bytes]:
    """One answer of several on a connection."""
    readline, read = file.readline, file.read  # type: ignore[union-attr]
    status = int(readline().split()[1])
    headers = {}
    while line := readline().strip():
        name, _, value = line.partition(b":")
        headers[name.lower()] = value.strip()
    if b"content-length" in headers:
        return status, read(int(headers[b"content-length"]))
    body = b""
    while size := int(readline(), 16):
        body += read(size)
        readline()
    readline()
    return status, body


def _pipelined_and_gone(scene: Scene) -> None:
    client = scene.client("openai/good")
    requests = [scene.request("openai/drip") for _ in range(5)]
    client.send(b"".join(request for _, request in requests))
    client.until(b"two")
    client.vanish(True)
    wait_until("the backend is let go", AFTERMATH, lambda: all(scene.is_left(tag) for tag, _ in requests))


def _deaf(scene: Scene) -> None:
    """Two seconds of an endless answer that nobody reads: it stops flowing, and the memory with it."""

    def once(kind: str) -> None:
        client = scene.client(f"{kind}/endless")
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.send()
        client.until(b"two")
        poured = -1
        deadline = time.monotonic() + AFTERMATH
        while poured != scene.backend.poured.get(client.tag, 0) and time.monotonic() < deadline:
            poured = scene.backend.poured.get(client.tag, 0)
            time.sleep(0.7)
        assert poured < ON_THEIR_WAY, poured
        client.vanish(True)
        wait_until("the backend is let go", AFTERMATH, lambda: scene.is_left(client.tag))

    before = scene.memory()
    at_once(once, ("openai", "ollama", "passed"))
    assert scene.memory() - before < ON_THEIR_WAY


def _crowd(scene: Scene) -> None:
    """All connect, then all ask, then all are answered; fewer where the system allows fewer files."""
    size = min(scene.crowd, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 200) // 4)
    clients = [scene.client("openai/good") for _ in range(size)]
    for client in clients:
        client.send()
    for client in clients:
        seen = client.seen()
        assert (seen.what, seen.text) == ("answered", TEXT), seen


_POST = b"POST /v1/messages HTTP/1.1\r\nhost: 127.0.0.1\r\n"
_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)
_DEEP = b'{"model": "openai/good", "max_tokens": 9, "messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
_HALF = json.dumps({"model": "openai/good", "max_tokens": 9, "messages": [{"role": "user", "content": "?"}]}).encode()

FROM_CLIENTS = (
    vanishing("leaves while it sends its headers", _in_headers, "good", False),
    vanishing("leaves while it sends its body", _in_body, "good", False),
    vanishing("leaves before the backend has answered", _asked, "mute", False),
    vanishing("leaves in the prefill", _asked, "mute_after_headers", False),
    vanishing("leaves in the prefill and may come back", _later, "mute_after_headers", False),
    vanishing("leaves in mid-stream", _in_mid_stream, "drip"),
    vanishing("leaves at the last byte", _at_the_end, "good"),
    Fault("A client sends a byte each 10 ms", "the answer", _slowly, most=10),
    Fault("A client begins a request and stalls, 50 of them", "the others are served", _stalling, 50),
    Fault("A client sends 100 MB", "413", partial(_large, stream=True, chunked=False), most=10),
    Fault("A client sends 100 MB in chunks", "413", partial(_large, stream=True, chunked=True), most=10),
    Fault("A client sends JSON 100,000 levels deep", "400", _body(_DEEP)),
    Fault("A client sends bad UTF-8", "400", _body(_HALF.replace(b"?", b"\xff\xfe\xc0\x80"))),
    Fault("A client sends half a JSON", "400", _body(_HALF[:-9])),
    Fault(
        "A client sends a body that is no gzip", "400", _body(b"\x1f\x8b\x08 never packed", "content-encoding: gzip")
    ),
    Fault(
        "A client speaks no HTTP, or TLS",
        "400, or nothing",
        _words(_HELLO, b"\x00\xff" * 500, b"SSH-2.0-x\r\n", b"\r\n" * 900),
        4,
    ),
    Fault(
        "A client sends headers without end",
        "400, or nothing",
        _words(
            b"GET / HTTP/1.1\r\nx: " + b"y" * 2**20,
            b"GET /" + b"x" * 2**20 + b" HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 100_000,
        ),
        3,
    ),
    Fault(
        "A client frames its body wrongly",
        "400, or nothing",
        _words(
            _POST + b"content-length: many\r\n\r\n",
            _POST + b"content-length: -1\r\n\r\n",
            _POST + b"transfer-encoding: chunked\r\n\r\nzz\r\nx\r\n",
            _POST + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        4,
    ),
    Fault("A client sends 20 requests at once on one connection", "20 answers in their order", _pipelined, 20),
    Fault("A client does so and leaves", "its backends are let go", _pipelined_and_gone, 5),
    Fault("A client never reads its answer", "what fits into the buffers", _deaf, 3, most=5),
    Fault("A client comes with 1,999 others", "2,000 answers", _crowd, 2000, most=3),
)
