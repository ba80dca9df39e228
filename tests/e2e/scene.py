"""
A daemon between a backend that misbehaves and clients that do, and what can be seen of it from outside: the answers,
the open files, the memory, the log.
"""

import json
import os
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from itertools import count
from pathlib import Path

from attrs import define, field, frozen

from tests.e2e.daemon import Daemon, free_port, running, wait_until
from tests.e2e.faulty import TEXT, FaultyBackend
from tests.stream_checker import IllegalStream, check_error, check_message, check_stream

#: Seconds for anything at all on a busy machine.
PATIENCE = 30.0
#: Seconds in which all is closed that belonged to a fault; the limits that the scene sets are far below.
AFTERMATH = 20.0
#: What no log may hold, whatever happens.
ALARMS = re.compile(r"Traceback|Unhandled|Exception|raised an error|translating the answer|internal", re.IGNORECASE)
HEADERS = {"content-type": "application/json", "anthropic-version": "2023-06-01"}
#: The ways of an answer: the kind of the backend, and what it is told beside its address.
KINDS = {
    "openai": 'provider = "openai"\ndialect = "generic"',
    "ollama": 'provider = "ollama"\nnum_ctx = 10000000',
    "responses": 'provider = "responses"',
    "repaired": 'provider = "anthropic"\nrepair = true',
    "passed": 'provider = "anthropic"',
}
#: The backends of each kind: where they are, and their limits.
HASTY = "first_token_ms = 700\ntimeout_ms = 700"
PLACES = {"": "", "-hasty": HASTY, "-refused": "", "-tls": "", "-stranger": ""}
_NUMBERS = count(1)


@frozen
class Seen:
    """
    What a client has seen: "answered", "cut", "closed" without a word, an error's status and type, or the type of the
    error event that a stream ended with.
    """

    what: str
    retry_after: str | None = None
    text: str = ""


@define
class Client:
    """A connection with one request on it, written and read as it comes."""

    socket: socket.socket
    tag: str
    request: bytes

    @property
    def head(self) -> bytes:
        """The request without its body."""
        return self.request.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"

    def send(self, data: bytes | None = None) -> "Client":
        """These bytes, or the whole request."""
        self.socket.sendall(self.request if data is None else data)
        return self

    def response(self, method: str = "POST") -> HTTPResponse:
        """The answer's status and headers. Raises HTTPException or OSError."""
        response = HTTPResponse(self.socket, method=method)
        response.begin()
        return response

    def seen(self, passed: bool = False) -> Seen:
        """The whole answer, judged. Raises if it is illegal in any way, but for what is passed on as it came."""
        try:
            response = self.response()
        except (HTTPException, ConnectionError):
            return Seen("closed")
        try:
            body = response.read()
        except (HTTPException, ConnectionError):
            return Seen("cut")
        finally:
            self.socket.close()
        try:
            return judged(response, body)
        except IllegalStream as fault:
            if not passed or "ends without" in fault.sentence:
                raise
        except ValueError:
            if not passed:
                raise
        return Seen("raw")

    def until(self, words: bytes) -> bytes:
        """What came up to these words."""
        found = b""
        while words not in found:
            piece = self.socket.recv(65536)
            assert piece, f"it ended before {words!r}: {found[-500:]!r}"
            found += piece
        return found

    def vanish(self, reset: bool) -> None:
        """Goes away, with a RST or a FIN."""
        if reset:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def judged(response: HTTPResponse, body: bytes) -> Seen:
    """The verdict on an answer that came to its end. One that ended cleanly must hold all that the backend says."""
    retry_after = response.getheader("retry-after")
    if response.status != 200:
        error = check_error(json.loads(body), response.status)
        assert (response.getheader("request-id") or "").startswith("req_")
        return Seen(f"{response.status} {error.type}", retry_after, error.message)
    if (response.getheader("content-type") or "").startswith("text/event-stream"):
        checked = check_stream(body)
    else:
        checked = check_message(json.loads(body))
    if checked.error is not None:
        return Seen(f"event {checked.error.type}", text=checked.error.message)
    return Seen("answered", text=checked.text)


@frozen
class Done:
    """What an ordeal has left behind: how often it was gone through, and by how many bytes the daemon has grown."""

    times: int
    grown: int


@define
class Scene:
    """The daemon, and what it had open before anything happened."""

    daemon: Daemon
    backend: FaultyBackend
    #: Its open files when it has nothing to do.
    open_files: int = field(default=0)
    #: So many clients are a crowd.
    crowd: int = field(default=2000)

    def request(self, model: str, stream: bool = True, more: str = "", path: str = "/v1/messages") -> tuple[str, bytes]:
        """A new request in bytes, and its tag; ``more`` is said in front of it."""
        tag = f"t{next(_NUMBERS)}"
        said = [{"role": "user", "content": f"{more}[{tag}]"}]
        body = json.dumps({"model": model, "max_tokens": 100, "stream": stream, "messages": said}).encode()
        return tag, self.framed(body, path)

    def framed(self, body: bytes, path: str = "/v1/messages", *lines: str) -> bytes:
        """A POST with this body; ``lines`` are more headers, or other ones."""
        headers = {**HEADERS, "host": "127.0.0.1", "content-length": str(len(body))}
        head = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), *lines]
        return "".join(f"{line}\r\n" for line in head).encode() + b"\r\n" + body

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.daemon.port), PATIENCE)

    def client(self, model: str, stream: bool = True, more: str = "") -> Client:
        """A client that has not yet said anything."""
        return Client(self.connect(), *self.request(model, stream, more))

    def asks(self, model: str, stream: bool = True, more: str = "") -> Seen:
        """What comes of a whole request."""
        return self.client(model, stream, more).send().seen(model.startswith("passed"))

    def lives(self) -> None:
        """It answers as ever."""
        for stream in (True, False):
            seen = self.asks("openai/good", stream)
            assert (seen.what, seen.text) == ("answered", TEXT), seen

    def files(self) -> int:
        return len(os.listdir(f"/proc/{self.daemon.pid}/fd"))

    def memory(self) -> int:
        """Its resident memory, in bytes."""
        pages = Path(f"/proc/{self.daemon.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def busy(self) -> bool:
        """Whether a backend is at work for it."""
        return bool(self.backend.connections)

    def settle(self) -> None:
        """It has as many files open as at first."""
        try:
            wait_until("the open files", AFTERMATH, lambda: self.files() == self.open_files)
        except AssertionError:
            assert self.files() == self.open_files, self.listed()
            raise

    def listed(self) -> str:
        """The open files, and what the sockets among them are connected to."""
        folder = Path(f"/proc/{self.daemon.pid}/fd")
        links = {}
        for entry in os.listdir(folder):
            try:
                links[entry] = os.readlink(folder / entry)
            except OSError:
                continue
        rows = [row.split() for row in Path(f"/proc/{self.daemon.pid}/net/tcp").read_text().splitlines()[1:]]
        sockets = {f"socket:[{row[9]}]": f"{row[1]}>{row[2]} state {row[3]}" for row in rows}
        return "\n".join(f"{entry}: {link} {sockets.get(link, '')}" for entry, link in links.items())

    def quiet(self, since: int) -> None:
        """From this place in the log on there is nothing in it that should alarm anybody."""
        told = self.daemon.log[since:]
        found = ALARMS.search(told)
        assert found is None, told[max(0, found.start() - 500) : found.end() + 3000]

    def ordeal(self, deed: Callable[["Scene"], None], times: int) -> Done:
        """Does it so many times. Raises unless all is afterwards as it was before."""
        begun, memory = len(self.daemon.log), self.memory()
        for _ in range(times):
            deed(self)
        self.lives()
        self.settle()
        self.quiet(begun)
        assert not self.backend.drowned, "all of what is endless was taken"
        return Done(times, self.memory() - memory)

    def is_left(self, tag: str) -> bool:
        """Nobody wants to hear any more what the backend has to say to this request, or it was never asked."""
        return tag in self.backend.left or tag not in self.backend.asked


def settings_of(backend: FaultyBackend) -> str:
    """A settings file with every backend that the faults need."""
    nobody = free_port()
    places = {"-refused": f"http://127.0.0.1:{nobody}", "-tls": f"https://127.0.0.1:{backend.port}"}
    places["-stranger"] = f"https://127.0.0.1:{backend.tls_port}"
    lines = ["grace_ms = 5000", "ping_ms = 200", "interrupt_ms = 300", "linger_ms = 400", "drain_ms = 60000"]
    lines += ['state_file = "none"']
    for kind, told in KINDS.items():
        end = "/v1" if kind in ("openai", "responses") else ""
        for place, limits in PLACES.items():
            address = places.get(place, f"http://127.0.0.1:{backend.port}") + end
            lines += [f"[backends.{kind}{place}]", told, f'base_url = "{address}"', limits]
    return "\n".join(lines)


@contextmanager
def scene(folder: Path) -> Iterator[Scene]:
    """Up and warm. At the end the daemon must go at once: it waits for every request that it believes to be running."""
    backend = FaultyBackend()
    folder.mkdir(exist_ok=True)
    with backend.open(folder):
        (folder / "claudeproxy.toml").write_text(settings_of(backend))
        with running(folder, ["--config=claudeproxy.toml"]) as daemon:
            found = Scene(daemon, backend)
            found.lives()
            found.open_files = idle_files(found)
            yield found
            found.lives()
            found.daemon.process.terminate()
            assert found.daemon.ended(AFTERMATH) == 143, found.daemon.log[-3000:]
            assert "are cut off" not in found.daemon.log


def idle_files(scene: Scene) -> int:
    """The fewest open files within some time: what asks after backends that are away has some for moments."""
    least = scene.files()
    for _ in range(40):
        time.sleep(0.05)
        least = min(least, scene.files())
    return least
