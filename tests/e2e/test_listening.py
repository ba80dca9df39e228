"""Where the daemon listens: real processes, sockets, certificates, and the part that systemd plays (issue 6)."""

import datetime
import http.client
import json
import os
import re
import signal
import socket
import ssl
import stat
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.e2e.daemon import Daemon, end, free_port, running, start
from tests.e2e.sockets import Manager, start_with
from tests.e2e.test_daemon import NOBODY, hello, said_by, slow_backend
from tests.stream_checker import check_stream

LOCAL = "tcp:0:interface=127.0.0.1"


class UNIXConnection(http.client.HTTPConnection):
    """HTTP over a socket in the file system."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=20)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(self._path)


def asked(connection: http.client.HTTPConnection, path: str = "/health", **headers: str) -> tuple[int, Any]:
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


@contextmanager
def ready(daemon: Daemon, pattern: str = "listens on") -> Iterator[Daemon]:
    """The daemon as soon as its log says so."""
    try:
        daemon.logged(pattern, 60)
        yield daemon
    finally:
        end(daemon)


# ---- several addresses, and sockets in the file system


def test_several(tmp_path: Path) -> None:
    """It listens on all its addresses at once, and says where in words that a user can use; a path is that of the
    settings file's folder. A socket's file is for the daemon's user alone, and goes with it."""
    path = tmp_path / "s.sock"
    with running(tmp_path, variables={**NOBODY, "PORT": "", "LISTEN": f"unix:s.sock {LOCAL} {LOCAL}"}) as daemon:
        ports = re.findall(r"listens on http://127\.0\.0\.1:(\d+)", daemon.log)
        assert len(set(ports)) == 2
        assert f"listens on unix:{path}\n" in daemon.log
        assert f"ANTHROPIC_BASE_URL=http://127.0.0.1:{ports[0]} " in daemon.log
        for port in ports:
            assert asked(http.client.HTTPConnection("127.0.0.1", int(port))) == (200, {"status": "ok"})
        assert asked(UNIXConnection(path)) == (200, {"status": "ok"})
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        daemon.signal(signal.SIGTERM)
        assert daemon.ended() == 143
    assert not path.exists()


def test_host_of_a_unix_socket(tmp_path: Path) -> None:
    """Over a socket in the file system no web page can come, and any Host is fine; over TCP it is not."""
    with running(tmp_path, variables={**NOBODY, "PORT": "", "LISTEN": f"unix:s.sock:mode=660 {LOCAL}"}) as daemon:
        assert stat.S_IMODE((tmp_path / "s.sock").stat().st_mode) == 0o660
        assert asked(UNIXConnection(tmp_path / "s.sock"), host="evil.example")[0] == 200
        assert asked(http.client.HTTPConnection("127.0.0.1", daemon.port), host="evil.example")[0] == 403
        daemon.logged("GET /health 403")


def test_file_of_a_killed_daemon(tmp_path: Path) -> None:
    """What a killed daemon left behind is replaced; what a living one listens on is not."""
    variables = {**NOBODY, "PORT": "", "LISTEN": f"unix:{tmp_path}/s.sock"}
    for _ in range(2):
        daemon = start(tmp_path / "d", variables=variables)
        with ready(daemon, "listens on unix:"):
            assert asked(UNIXConnection(tmp_path / "s.sock"))[0] == 200
            other = start(tmp_path / "e", variables=variables)
            assert other.ended() == 1
            assert re.search("claudeproxy: cannot listen on unix:.*; set LISTEN", other.log)
            assert "Traceback" not in other.log
            daemon.signal(signal.SIGKILL)
            daemon.ended()
        (tmp_path / "d" / "log").unlink()
        (tmp_path / "e" / "log").unlink()
        assert (tmp_path / "s.sock").exists()


@pytest.mark.parametrize(
    ("listen", "words"),
    [
        ("nobody:1", "nobody:1: Unknown endpoint type"),
        ("tcp:x:interface=127.0.0.1", "port: expected a whole number from 0 to 65535, found 'x'"),
        ("tcp:1:interface=127.0.0.1:colour=red", "colour means nothing to tcp"),
        ("unix:/s:mode=9", "mode: expected an octal number"),
        ("ssl:0:privateKey=nowhere.pem:interface=127.0.0.1", "nowhere.pem: cannot be read"),
        ("systemd:domain=INET:index=0", "no such socket was handed over"),
        ("systemd:domain=INET", "Specify exactly one of"),
    ],
)
def test_wrong_address(tmp_path: Path, listen: str, words: str) -> None:
    """An address that means nothing is refused by name, before anything listens, also beside good ones."""
    status, said = said_by(tmp_path, "-n", "--pidfile=", **NOBODY, PORT="", LISTEN=f"{LOCAL} {listen}")
    assert status == 1
    assert re.search(rf"^claudeproxy: listen: .*{re.escape(words)}", said, re.MULTILINE), said
    assert "starting on" not in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("listen", "words"),
    [
        ("unix:/nowhere/s.sock", "cannot listen on unix:/nowhere/s.sock: No such file or directory; set LISTEN"),
        ("unix:twistd.log", "twistd.log: Address already in use; set LISTEN"),
    ],
)
def test_no_place_for_a_socket(tmp_path: Path, listen: str, words: str) -> None:
    """A socket for which there is no folder, or in whose place there is a file, is refused in one line."""
    (tmp_path / "twistd.log").touch()
    status, said = said_by(tmp_path, "-n", "--pidfile=", **NOBODY, PORT="", LISTEN=f"{LOCAL} {listen}")
    assert status == 1
    assert words in said
    assert "Traceback" not in said


# ---- TLS


def certificate(path: Path, name: str) -> None:
    """A new key and its certificate for this name, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .sign(key, hashes.SHA256())
    )
    encoding, unlocked = serialization.Encoding.PEM, serialization.NoEncryption()
    path.write_bytes(
        key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, unlocked) + made.public_bytes(encoding)
    )


def over_tls(port: int, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> http.client.HTTPSConnection:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version, context.maximum_version = ssl.TLSVersion.MINIMUM_SUPPORTED, newest
    return http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=context)


def shown(connection: http.client.HTTPSConnection) -> str:
    """The name in the certificate that a connection was shown."""
    connection.connect()
    found = x509.load_der_x509_certificate(connection.sock.getpeercert(True))  # type: ignore[arg-type,union-attr]
    return str(found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


@contextmanager
def tls_daemon(folder: Path, **variables: str) -> Iterator[Daemon]:
    certificate(folder / "server.pem", "first")
    where = f"ssl:0:privateKey={folder}/server.pem:interface=127.0.0.1"
    with ready(start(folder / "d", variables={**NOBODY, **variables, "PORT": "", "LISTEN": where})) as daemon:
        daemon.port = int(daemon.logged(r"listens on https://127\.0\.0\.1:(\d+)")[1])
        yield daemon


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_tls(tmp_path: Path) -> None:
    """An address with TLS serves TLS 1.2 and 1.3, nothing older, and only HTTP/1.1."""
    with tls_daemon(tmp_path) as daemon:
        assert f"ANTHROPIC_BASE_URL=https://127.0.0.1:{daemon.port} " in daemon.log
        for newest in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            with closing(over_tls(daemon.port, newest)) as connection:
                assert asked(connection) == (200, {"status": "ok"})
                assert connection.sock.version() == newest.name.replace("_", ".")  # type: ignore[union-attr]
        with pytest.raises(OSError), closing(over_tls(daemon.port, ssl.TLSVersion.TLSv1_1)) as connection:
            asked(connection)
        assert "Traceback" not in daemon.log


def test_stream_over_tls(tmp_path: Path) -> None:
    """Every event of a stream is encrypted, and leaves when it happens; so is every other answer on the connection."""
    with slow_backend(tmp_path, 10, 0.3) as variables, tls_daemon(tmp_path, **variables) as daemon:
        for newest in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            with closing(over_tls(daemon.port, newest)) as connection:
                for stream in (True, False):
                    said = json.dumps(hello(stream=stream, max_tokens=100))
                    connection.request("POST", "/v1/messages", said, {"content-type": "application/json"})
                    answer = connection.getresponse()
                    if stream:
                        begun = time.monotonic()
                        first = b"".join(iter(answer.readline, b"event: content_block_delta\n"))
                        assert time.monotonic() - begun < 2
                        checked = check_stream(first + b"event: content_block_delta\n" + answer.read())
                        assert checked.text.split() == [f"word{number}" for number in range(10)]
                    else:
                        assert "word9" in json.loads(answer.read())["content"][0]["text"]
                assert asked(connection, "/v1/nothing")[0] == 404


def test_new_certificate(tmp_path: Path) -> None:
    """A reload brings a new certificate into force for new connections; those that are open go on. One that cannot be
    used is refused, and so is the whole reload."""
    with tls_daemon(tmp_path) as daemon:
        with closing(over_tls(daemon.port)) as old:
            assert shown(old) == "first"
            certificate(tmp_path / "server.pem", "second")
            daemon.signal(signal.SIGHUP)
            daemon.logged("settings reloaded")
            with closing(over_tls(daemon.port)) as new:
                assert shown(new) == "second"
            assert asked(old)[0] == 200

            begun = len(daemon.log)
            good = (tmp_path / "server.pem").read_text()
            key, _, mine = good.partition("-----BEGIN CERTIFICATE")
            certificate(tmp_path / "server.pem", "third")
            other = (tmp_path / "server.pem").read_text()
            for broken, words in (
                ("no certificate", "no certificate in PEM format"),
                ("-----BEGIN CERTIFICATE" + mine, "no private key in PEM format"),
                (key + "-----BEGIN CERTIFICATE" + other.partition("-----BEGIN CERTIFICATE")[2], "do not fit together"),
            ):
                (tmp_path / "server.pem").write_text(broken)
                daemon.signal(signal.SIGHUP)
                daemon.logged(f"reload refused, the old settings stay: .*server.pem: .*{words}", after=begun)
                begun = len(daemon.log)
                with closing(over_tls(daemon.port)) as new:
                    assert shown(new) == "second"
            assert asked(old)[0] == 200
        assert "Traceback" not in daemon.log


def test_no_tls_for_tls(tmp_path: Path) -> None:
    """Plain HTTP, garbage, and clients that leave in the middle of the handshake do no harm, and leave no traceback."""
    with tls_daemon(tmp_path) as daemon:
        for said in (
            b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01",
            os.urandom(300),
            b"",
        ):
            with socket.create_connection(("127.0.0.1", daemon.port), timeout=5) as client:
                client.sendall(said)
                if said[:1] == b"G":
                    assert not client.recv(100).startswith(b"HTTP")
        with closing(over_tls(daemon.port)) as connection:
            assert asked(connection)[0] == 200
        assert "Traceback" not in daemon.log
        assert "Unhandled" not in daemon.log


def test_idle_tls_client(tmp_path: Path) -> None:
    """A client that does not confirm the end of its connection does not hold the daemon up for its whole drain time."""
    with tls_daemon(tmp_path) as daemon, closing(over_tls(daemon.port)) as idle:
        assert asked(idle)[0] == 200
        daemon.signal(signal.SIGTERM)
        assert daemon.ended(15) == 143  # it may drain for 30 s
        assert "Traceback" not in daemon.log


# ---- systemd


def test_told_to_systemd(tmp_path: Path) -> None:
    """Systemd hears when it serves, when it reloads, that it lives, and when it stops."""
    manager = Manager(tmp_path / "notify")
    with closing(manager):
        more = {**NOBODY, "NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "400000"}
        with running(tmp_path / "d", variables=more) as daemon:
            assert daemon.url in manager.hears("READY")["STATUS"]
            for _ in range(3):
                manager.hears("WATCHDOG")
            before = time.clock_gettime(time.CLOCK_MONOTONIC) * 1e6
            daemon.signal(signal.SIGHUP)
            assert before < int(manager.hears("RELOADING")["MONOTONIC_USEC"])
            manager.hears("READY")
            daemon.signal(signal.SIGTERM)
            assert int(manager.hears("STOPPING")["EXTEND_TIMEOUT_USEC"]) > 30e6
            assert daemon.ended() == 143


def test_sockets_of_systemd(tmp_path: Path) -> None:
    """A socket that is handed over is served by index and by name, and goes on listening when the daemon has ended: who
    comes then waits for the next one."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        waiting = None
        for number, which in enumerate(("index=0", "name=http")):
            with ready(
                start_with(listener, tmp_path / str(number), f"systemd:domain=INET:{which}", **NOBODY)
            ) as daemon:
                assert f"listens on http://127.0.0.1:{port}\n" in daemon.log
                if waiting is not None:
                    assert waiting.getresponse().status == 200
                assert asked(http.client.HTTPConnection("127.0.0.1", port))[0] == 200
                daemon.signal(signal.SIGTERM)
                assert daemon.ended() == 143
            waiting = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            waiting.request("GET", "/health")
        waiting.close()


def test_unix_socket_of_systemd(tmp_path: Path) -> None:
    """A socket in the file system that is handed over stays as it is: its file, its mode, and listening."""
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        path.chmod(0o640)
        for number in range(2):
            daemon = start_with(listener, tmp_path / str(number), "systemd:domain=UNIX:index=0", **NOBODY)
            with ready(daemon, f"listens on unix:{path}\n"):
                assert asked(UNIXConnection(path))[0] == 200
                daemon.signal(signal.SIGTERM)
                assert daemon.ended() == 143
                assert "Traceback" not in daemon.log
            assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_open_socket_of_systemd(tmp_path: Path) -> None:
    """One that other machines can reach needs keys as any address does, which only the start can tell; a reload cannot
    take them away."""
    where = "systemd:domain=INET:index=0"
    with socket.create_server(("0.0.0.0", 0)) as listener:
        refused = start_with(listener, tmp_path / "a", where, **NOBODY)
        assert refused.ended() == 1
        assert re.search(r"^claudeproxy: listen: .*can be reached from other machines", refused.log, re.MULTILINE)
        file = tmp_path / "p.toml"
        file.write_text('keys = ["k"]\n')
        with_keys = start_with(listener, tmp_path / "b", where, [f"--config={file}"], **NOBODY)
        with ready(with_keys, "can be reached from other machines; every request needs a key") as daemon:
            daemon.port = listener.getsockname()[1]
            file.write_text("")
            daemon.signal(signal.SIGHUP)
            daemon.logged("reload refused, the old settings stay: listen: .*can be reached from other machines")
            assert daemon.asked("GET", "/v1/models").status == 401
        with ready(start_with(listener, tmp_path / "c", where, **NOBODY, OPEN_TO_ALL="true")) as daemon:
            daemon.logged("no request needs a key, as open_to_all says")
        wrong = start_with(listener, tmp_path / "d", "systemd:domain=INET6:index=0", **NOBODY, OPEN_TO_ALL="true")
        assert wrong.ended() == 1
        assert "write domain=INET\n" in wrong.log


# ---- the process


def test_privileges(tmp_path: Path) -> None:
    """Started by root, it opens a port that only root may open, and then runs as the user whom twistd was told.
    Whoever is not root is told in one line that he may not have the port, if the system keeps it for root."""
    port = next(each for each in range(1023, 600, -1) if _is_free(each))
    kept = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) > port
    (tmp_path / "root").mkdir(mode=0o700)
    listen = f"tcp:{port}:interface=127.0.0.1 unix:{tmp_path}/root/s.sock"
    variables = {**NOBODY, "PORT": "", "LISTEN": listen, "STATE_FILE": "none"}
    switch = ("--uid=65534", "--gid=65534", "--umask=077") if os.geteuid() == 0 else ()
    daemon = start(tmp_path / "d", variables=variables, twistd_options=("-n", "--pidfile=", *switch))
    if os.geteuid() and kept:
        assert daemon.ended() == 1
        assert f"cannot listen on tcp:{port}:interface=127.0.0.1: Permission denied" in daemon.log
        return
    with ready(daemon, f"listens on http://127.0.0.1:{port}"):
        status = Path(f"/proc/{daemon.pid}/status").read_text()
        found = re.findall(r"^(?:Uid|Gid):\s+(.*)$", status, re.MULTILINE)
        if switch:
            assert [each.split() for each in found] == [["65534"] * 4] * 2
            assert re.search(r"^Umask:\s+0077$", status, re.MULTILINE)
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            client.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            # Whatever the answer: the Python of who runs this test may be closed to that other user.
            assert client.recv(100).startswith(b"HTTP/1.1 ")
        daemon.signal(signal.SIGTERM)
        assert daemon.ended() == 143  # though it may not remove the file of its socket any more
        assert "unlink" not in daemon.log


def _is_free(port: int) -> bool:
    with socket.socket() as candidate:
        return candidate.connect_ex(("127.0.0.1", port)) != 0


def test_descriptors(tmp_path: Path) -> None:
    """At its start the soft limit of open files is raised to the hard one."""
    lower = ["sh", "-c", 'ulimit -Sn 200; ulimit -Hn 900; exec "$@"', "sh"]
    with running(tmp_path, variables={**NOBODY, "LOG_LEVEL": "debug"}, within=lower) as daemon:
        limits = Path(f"/proc/{daemon.pid}/limits").read_text()
        assert re.search(r"^Max open files\s+900\s+900 ", limits, re.MULTILINE), limits
        assert "it was 200" in daemon.log


def test_operators(tmp_path: Path) -> None:
    """Operators have a listener of their own, which goes on answering while the daemon drains."""
    port = free_port()
    with slow_backend(tmp_path, 20, 0.1) as variables:
        more = {**variables, "ADMIN_LISTEN": f"tcp:{port}:interface=127.0.0.1"}
        with running(tmp_path / "d", variables=more) as daemon:
            daemon.logged(f"operators find it on http://127.0.0.1:{port}")
            answer = daemon.asked("POST", "/v1/messages", hello(stream=True, max_tokens=100))
            begun = answer.readline()
            operator = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            assert asked(operator, "/health/ready") == (200, {"status": "ready"})
            daemon.signal(signal.SIGTERM)
            daemon.logged(r"Port \d+ Closed")  # it has begun to stop
            assert asked(operator, "/health/ready") == (503, {"status": "stopping"})
            assert check_stream(begun + answer.read()).error is None
            assert daemon.ended() == 143
