"""
A backend on real sockets that does what no server should: it plays the fault that the asked-for model is called after.

It speaks the four APIs that the proxy knows, below one address. What is said of a conversation is in its first message:
``[TAG]`` in there is the request's own name, under which `FaultyBackend` keeps what became of it. Unless it is told
otherwise no connection is used twice, so that a proxy that has nothing to do has none.
"""

import asyncio
import json
import re
import socket
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from attrs import define, field

from tests.fakes import anthropic, ollama, responses, scripts

PIECES = ("One", " two", " three", " four.")
#: What a whole answer says.
TEXT = "".join(PIECES)
#: Bytes of an endless answer after which it is given up: so much of it went nowhere but into somebody's memory.
FLOOD = 96 * 1024**2

Fault = Callable[["Peer"], Awaitable[None]]
FAULTS: dict[str, Fault] = {}


def fault(play: Fault) -> Fault:
    """What a model of this name does."""
    FAULTS[play.__name__] = play
    return play


def _frames(path: str, streams: bool) -> tuple[str, list[bytes]]:
    """The content type and the frames of a good answer at this path."""
    if path.endswith("/chat/completions"):
        script = scripts.text(*PIECES)
    elif path.endswith("/api/chat"):
        script = ollama.said(*PIECES)
    elif path.endswith("/responses"):
        script = responses.stream(responses.message(*PIECES))
    elif streams:
        script = anthropic.stream(anthropic.text(*PIECES))
    else:
        script = anthropic.whole(anthropic.text(*PIECES))
    return script.headers["content-type"], script.writes()


@define(eq=False)
class Peer:
    """One request, and the connection to answer it on."""

    backend: "FaultyBackend"
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    path: str
    body: bytes
    tag: str
    kind: str
    frames: list[bytes]
    #: The connection is to be used again.
    stays: bool = False

    @property
    def half(self) -> list[bytes]:
        """The first half of the answer; of one in a single piece, half of that."""
        count = len(self.frames) // 2
        return self.frames[:count] if count else [self.frames[0][: len(self.frames[0]) // 2]]

    async def raw(self, data: bytes) -> None:
        """These bytes, as they are."""
        self.writer.write(data)
        await self.writer.drain()

    async def head(self, *lines: str, status: str = "200 OK", chunked: bool = True) -> None:
        """Status and headers; ``lines`` are more of them."""
        framing = ["transfer-encoding: chunked"] * chunked
        kept = "keep-alive" if self.stays else "close"
        all_lines = [f"HTTP/1.1 {status}", f"content-type: {self.kind}", f"connection: {kept}", *framing, *lines]
        await self.raw("".join(f"{line}\r\n" for line in all_lines).encode() + b"\r\n")

    async def chunk(self, data: bytes) -> None:
        """One chunk."""
        await self.raw(b"%x\r\n%b\r\n" % (len(data), data))

    async def begin(self) -> None:
        """The headers and the first half of the answer, and a moment for both to arrive."""
        await self.head()
        for frame in self.half:
            await self.chunk(frame)
        await asyncio.sleep(0.03)

    async def end(self) -> None:
        """The last chunk."""
        await self.raw(b"0\r\n\r\n")

    async def answer(self, status: str, said: Any, *lines: str) -> None:
        """A JSON answer."""
        data = json.dumps(said).encode()
        self.kind = "application/json"
        await self.head(f"content-length: {len(data)}", *lines, status=status, chunked=False)
        await self.raw(data)

    async def reset(self) -> None:
        """Breaks the connection with a RST, as a kernel does for a process that is killed with bytes unread."""
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def hang(self) -> None:
        """Nothing more, until the other side hangs up."""
        while await self.reader.read(65536):
            pass


# ---- the faults


@fault
async def good(peer: Peer) -> None:
    """A whole answer."""
    await peer.head()
    for frame in peer.frames:
        await peer.chunk(frame)
    await peer.end()


@fault
async def brisk(peer: Peer) -> None:
    """A whole answer with pauses between its frames."""
    await peer.head()
    for frame in peer.frames:
        await peer.chunk(frame)
        await asyncio.sleep(0.02)
    await peer.end()


@fault
async def mute(peer: Peer) -> None:
    await peer.hang()


@fault
async def mute_after_headers(peer: Peer) -> None:
    await peer.head()
    await peer.hang()


@fault
async def mute_in_mid_stream(peer: Peer) -> None:
    await peer.begin()
    await peer.hang()


@fault
async def reset_before_headers(peer: Peer) -> None:
    await peer.reset()


@fault
async def closed_before_headers(peer: Peer) -> None:
    """It closes without a word."""


@fault
async def reset_after_headers(peer: Peer) -> None:
    await peer.head()
    await asyncio.sleep(0.03)
    await peer.reset()


@fault
async def reset_between_events(peer: Peer) -> None:
    await peer.begin()
    await peer.reset()


@fault
async def reset_within_an_event(peer: Peer) -> None:
    await peer.begin()
    await peer.chunk(peer.frames[-1][:7])
    await asyncio.sleep(0.03)
    await peer.reset()


@fault
async def closed_in_mid_stream(peer: Peer) -> None:
    """The connection ends, the chunks do not."""
    await peer.begin()


@fault
async def ended_in_mid_stream(peer: Peer) -> None:
    """Everything ends as it should, but for the answer itself."""
    await peer.begin()
    await peer.end()


@fault
async def ended_with_the_connection(peer: Peer) -> None:
    """The same where the end of the connection is that of the body."""
    await peer.head(chunked=False)
    for frame in peer.half:
        await peer.raw(frame)


@fault
async def byte_by_byte(peer: Peer) -> None:
    """The beginning a byte each 10 ms."""
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {peer.kind}\r\nconnection: close\r\n\r\n".encode()
    whole = head + b"".join(peer.frames)
    slow = len(head) + 60
    for place in range(slow):
        await peer.raw(whole[place : place + 1])
        await asyncio.sleep(0.01)
    await peer.raw(whole[slow:])


@fault
async def no_http(peer: Peer) -> None:
    await peer.raw(b"SSH-2.0-OpenSSH_9.2\r\n\x00\xff\xfe garbage \x80\r\n\r\n" * 20)


@fault
async def no_events(peer: Peer) -> None:
    """Headers as they should be, and then noise."""
    await peer.head()
    await peer.chunk(bytes(range(256)) * 40 + b"\n\n")
    await peer.end()


@fault
async def noise_in_mid_stream(peer: Peer) -> None:
    await peer.begin()
    await peer.chunk(b'data: {"choices": [\xff\xfe\n\ndata: nonsense\n\n' + bytes(range(256)) + b"\n\n")
    await peer.end()


@fault
async def a_web_page(peer: Peer) -> None:
    peer.kind = "text/html"
    await peer.head()
    await peer.chunk(b"<html><body><h1>It works!</h1></body></html>")
    await peer.end()


@fault
async def length_too_short(peer: Peer) -> None:
    """Half of the answer is beyond the length that was said."""
    length = sum(map(len, peer.half))
    await peer.head(f"content-length: {length}", chunked=False)
    await peer.raw(b"".join(peer.frames))


@fault
async def length_too_long(peer: Peer) -> None:
    """The body ends half-way to the length that was said."""
    length = sum(map(len, peer.frames))
    await peer.head(f"content-length: {length}", chunked=False)
    for frame in peer.half:
        await peer.raw(frame)


@fault
async def length_is_no_number(peer: Peer) -> None:
    await peer.head("content-length: many", chunked=False)
    await peer.raw(b"".join(peer.frames))


@fault
async def bad_chunk_size(peer: Peer) -> None:
    await peer.begin()
    await peer.raw(b"zz\r\nwhat is this?\r\n")
    await peer.hang()


@fault
async def endless_chunk_size(peer: Peer) -> None:
    await peer.begin()
    await _flood(peer, b"0" * 65536)


@fault
async def status_500(peer: Peer) -> None:
    await peer.answer("500 Internal Server Error", {"error": {"message": "it burns", "type": "api_error"}})


@fault
async def status_503(peer: Peer) -> None:
    await peer.answer("503 Service Unavailable", {"error": {"message": "later"}}, "retry-after: 7")


@fault
async def status_429(peer: Peer) -> None:
    await peer.answer("429 Too Many Requests", {"error": {"message": "slower"}}, "retry-after: 7")


@fault
async def redirect(peer: Peer) -> None:
    await peer.answer("307 Temporary Redirect", {}, "location: http://127.0.0.1:1/elsewhere")


@fault
async def error_without_end(peer: Peer) -> None:
    """The text of an error goes on for ever."""
    await peer.head(status="400 Bad Request")
    await _flood(peer, b"10000\r\n" + b"x" * 65536 + b"\r\n")


@fault
async def bad_gzip(peer: Peer) -> None:
    await peer.head("content-encoding: gzip")
    await peer.chunk(b"\x1f\x8b\x08\x00 this was never packed" * 20)
    await peer.end()


@fault
async def endless_header(peer: Peer) -> None:
    await peer.raw(b"HTTP/1.1 200 OK\r\nx-long: ")
    await _flood(peer, b"x" * 65536)


@fault
async def endless_headers(peer: Peer) -> None:
    await peer.raw(b"HTTP/1.1 200 OK\r\n")
    await _flood(peer, b"".join(b"x-%d: %b\r\n" % (number, b"y" * 50) for number in range(1000)))


@fault
async def endless_interim_answers(peer: Peer) -> None:
    await _flood(peer, b"HTTP/1.1 102 Processing\r\n\r\n" * 1000)


@fault
async def endless_line(peer: Peer) -> None:
    """An event that never ends."""
    await peer.head()
    await peer.chunk(b"data: ")
    await _flood(peer, b"10000\r\n" + b"x" * 65536 + b"\r\n")


@fault
async def endless_event(peer: Peer) -> None:
    """The same in many lines."""
    await peer.head()
    await _flood(peer, b"10000\r\n" + (b"data: " + b"x" * 249 + b"\n") * 256 + b"\r\n")


@fault
async def endless(peer: Peer) -> None:
    """An answer that never ends, as fast as it is read."""
    await peer.begin()
    frame = peer.half[-1]
    await _flood(peer, b"%x\r\n%b\r\n" % (len(frame), frame) * 100)


@fault
async def drip(peer: Peer) -> None:
    """An answer that never ends, slowly."""
    await peer.begin()
    while True:
        await peer.chunk(peer.half[-1])
        await asyncio.sleep(0.02)


async def _flood(peer: Peer, data: bytes) -> None:
    """For as long as it is taken, up to a bound."""
    for _ in range(FLOOD // len(data)):
        peer.backend.poured[peer.tag] = peer.backend.poured.get(peer.tag, 0) + len(data)
        await peer.raw(data)
    peer.backend.drowned.append(peer.tag)


async def early(peer: Peer) -> None:
    """An answer before the body of the request was read, of which nothing is read afterwards."""
    await peer.answer("413 Content Too Large", {"error": {"message": "too large for me"}})


# ---- the server


@define(eq=False)
class FaultyBackend:
    """Runs in a thread of its own; `open` is the context in which it does."""

    port: int = 0
    tls_port: int = 0
    #: Whether the connections of good answers are used again.
    keeps: bool = False
    #: Requests by their tags: those that were asked, and those of which nobody wants to hear any more.
    asked: set[str] = field(factory=set)
    left: set[str] = field(factory=set)
    #: Bytes of endless answers, and those of which the whole flood was taken.
    poured: dict[str, int] = field(factory=dict)
    drowned: list[str] = field(factory=list)
    #: Connections that are open.
    connections: set[asyncio.StreamWriter] = field(factory=set)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.add(writer)
        tag = ""
        try:
            while (peer := await self._peer(reader, writer)) is not None:
                tag = peer.tag
                self.asked.add(tag)
                await self._play(peer)
                if not peer.stays:
                    return
                self.left.add(tag)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ssl.SSLError):
            pass
        finally:
            self.left.add(tag)
            self.connections.discard(writer)
            writer.close()

    async def _peer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Peer | None:
        first = await reader.readexactly(1)
        if first == b"\x16":  # of a TLS handshake
            writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            return None
        head = (first + await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        method, path, _ = head.split("\r\n", 1)[0].split(" ", 2)
        found = re.search(r"(?im)^content-length: *(\d+)", head)
        length = int(found[1]) if found else 0
        if length > 1024**2:  # only one fault has such a request
            await early(Peer(self, reader, writer, path, b"", "", "", []))
            return None
        body = await reader.readexactly(length)
        asked = json.loads(body) if body else {}
        tag = re.search(rb"\[([^\]\"]+)\]\"", body)
        is_stream = bool(asked.get("stream"))
        answers = path.endswith(("/chat/completions", "/api/chat", "/responses", "/messages")) and method == "POST"
        kind, frames = _frames(path, is_stream) if answers else ("", [])
        stays = self.keeps and asked.get("model") in ("good", "brisk")
        return Peer(self, reader, writer, path, body, tag[1].decode() if tag else "", kind, frames, stays)

    async def _play(self, peer: Peer) -> None:
        if peer.frames:
            await FAULTS[json.loads(peer.body)["model"]](peer)
        elif peer.path.endswith("/models"):
            await peer.answer("200 OK", {"object": "list", "data": [{"id": "good", "object": "model"}]})
        else:
            await peer.answer("404 Not Found", {"error": {"message": "there is nothing"}})

    @contextmanager
    def open(self, folder: Path) -> Iterator["FaultyBackend"]:
        """Listens on two ports, one of them with TLS of a certificate that nobody trusts."""
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda _, context: None)  # a peer that is gone is what this is about
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*_certificate(folder))

        async def listen() -> list[asyncio.Server]:
            many = {"backlog": 4096, "limit": 2**20}
            return [
                await asyncio.start_server(self._serve, "127.0.0.1", 0, **many),
                await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context, **many),
            ]

        servers = asyncio.run_coroutine_threadsafe(listen(), loop).result(10)
        self.port, self.tls_port = (server.sockets[0].getsockname()[1] for server in servers)
        try:
            yield self
        finally:

            async def close() -> None:
                for server in servers:
                    server.close()
                rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
                for task in rest:
                    task.cancel()
                await asyncio.gather(*rest, return_exceptions=True)

            asyncio.run_coroutine_threadsafe(close(), loop).result(10)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)
            loop.close()


def _certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that it has signed itself, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths
