"""What tests of listening share: the part that systemd plays, and clients that take no loss."""

import http.client
import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import Factory, define, field

from tests.e2e.daemon import Daemon, start, wait_until
from tests.stream_checker import check_stream

#: What systemd does between fork and exec: the socket becomes descriptor 3, and the process is told so.
_HAND_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="http")
os.execvp(sys.argv[2], sys.argv[2:])
"""


def start_with(
    listener: socket.socket, folder: Path, where: str, arguments: Sequence[str] = (), **variables: str
) -> Daemon:
    """A daemon that was handed this socket, told of it as ``where``."""
    hand_over = [sys.executable, "-c", _HAND_OVER, str(listener.fileno())]
    given = {"PORT": "", "LISTEN": where, **variables}
    return start(folder, arguments, variables=given, within=hand_over, pass_fds=[listener.fileno()])


@define
class Manager:
    """Systemd's end of the notification socket."""

    path: Path
    _socket: socket.socket = field(init=False)
    told: list[dict[str, str]] = Factory(list)

    def __attrs_post_init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._socket.setblocking(False)

    def hears(self, word: str, seconds: float = 10.0) -> dict[str, str]:
        """The next message with this word, waited for; those before it are forgotten."""

        def look() -> dict[str, str] | None:
            while True:
                try:
                    message = self._socket.recv(4096).decode()
                except BlockingIOError:
                    return None
                said = dict(line.split("=", 1) for line in message.splitlines())
                self.told.append(said)
                if word in said:
                    return said

        found: dict[str, str] = wait_until(f"{word} for systemd", seconds, look)
        return found

    def close(self) -> None:
        self._socket.close()


@define
class Load:
    """Clients that ask all the time. ``faults`` are those requests that were not answered whole, each in a sentence."""

    port: int
    words: int
    answered: int = 0
    faults: list[str] = Factory(list)
    _stop: threading.Event = Factory(threading.Event)
    _lock: Any = Factory(threading.Lock)

    @contextmanager
    def running(self, streaming: int, whole: int, fresh: int) -> Iterator["Load"]:
        """So many clients of each kind, while the block lasts: with streams and with whole answers on a connection that
        is kept, and with a new connection for each request."""
        kinds = [self._stream] * streaming + [self._whole] * whole + [self._fresh] * fresh
        threads = [threading.Thread(target=self._loop, args=(kind,)) for kind in kinds]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(120)

    def _loop(self, ask: Callable[[http.client.HTTPConnection], None]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=90)
        while not self._stop.is_set():
            fault = ""
            try:
                if connection.sock is not None and _is_closed(connection.sock):
                    connection.close()  # as every pool of connections does before it uses one
                ask(connection)
            except (OSError, http.client.HTTPException, AssertionError) as error:
                fault = f"{ask.__name__}: {error!r}"
                connection.close()
            with self._lock:
                self.answered += not fault
                self.faults += [fault] if fault else []
        connection.close()

    def _stream(self, connection: http.client.HTTPConnection) -> None:
        found = check_stream(self._post(connection, stream=True))
        assert found.error is None, found.error
        assert len(found.text.split()) == self.words, found.text

    def _whole(self, connection: http.client.HTTPConnection) -> None:
        text = json.loads(self._post(connection))["content"][0]["text"]
        assert len(text.split()) == self.words, text

    def _fresh(self, connection: http.client.HTTPConnection) -> None:
        connection.request("GET", "/v1/models", headers={"x-api-key": "k"})
        self._read(connection)
        connection.close()

    def _post(self, connection: http.client.HTTPConnection, **more: Any) -> bytes:
        body = {"model": "m", "max_tokens": 64, "messages": [{"role": "user", "content": "Count."}], **more}
        connection.request("POST", "/v1/messages", json.dumps(body), {"x-api-key": "k"})
        return self._read(connection)

    @staticmethod
    def _read(connection: http.client.HTTPConnection) -> bytes:
        response = connection.getresponse()
        said = response.read()
        assert response.status == 200, said
        return said


def _is_closed(connected: socket.socket) -> bool:
    connected.setblocking(False)
    try:
        return connected.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        connected.settimeout(90)
