"""Certificates of addresses with TLS: which files can be used, and what is said of those that cannot (issue 6)."""

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogEvent, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.routing.addresses import Address
from claudeproxy.service.certificates import BadCertificate
from claudeproxy.service.listening import BadAddress, Listening
from claudeproxy.service.observers import Logs

#: What Twisted does.
pytestmark = pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")
HOUR = timedelta(hours=1)


def pair(begins: timedelta = -HOUR, ends: timedelta = HOUR) -> bytes:
    """A new key and its certificate, valid from and until so long from now."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    made = builder.not_valid_before(now + begins).not_valid_after(now + ends).sign(key, hashes.SHA256())
    pem, unlocked = serialization.Encoding.PEM, serialization.NoEncryption()
    return key.private_bytes(pem, serialization.PrivateFormat.PKCS8, unlocked) + made.public_bytes(pem)


class CertificateTests(SynchronousTestCase):
    """Files, as an ``ssl:`` address names them."""

    def setUp(self) -> None:
        # Not below a folder of this user alone, whose files nobody else can read whatever their modes are.
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.folder.chmod(0o755)
        self.file = self.folder / "server.pem"
        self.events: list[LogEvent] = []

    def write(self, content: bytes, mode: int = 0o600) -> None:
        self.file.write_bytes(content)
        self.file.chmod(mode)

    def listening(self, more: str = "") -> Listening:
        written = f"ssl:0:interface=127.0.0.1:privateKey={self.file}{more}"
        log = Logs(self.events.append).logger("service")  # type: ignore[arg-type]
        reactor: Any = MemoryReactorClock()
        return Listening.at("listen", [written], [Address.read(written)], reactor, log)

    def said(self) -> list[str]:
        lines = [formatEvent(event) for event in self.events]
        self.events.clear()
        return lines

    def test_open_to_others(self) -> None:
        """A private key that other users can read is refused as any secret is, at the start and at a reload."""
        self.write(pair(), 0o644)
        with self.assertRaises(BadAddress) as caught:
            self.listening()
        self.assertIn(f"chmod 600 {self.file}", str(caught.exception))
        self.write(pair(), 0o640)
        listening = self.listening()
        self.file.chmod(0o644)
        self.assertRaises(BadCertificate, listening.renewed)

    def test_out_of_date(self) -> None:
        """One whose time is over, or has not come, is served all the same: the log warns of it, also at a reload."""
        for begins, ends, words in ((-2 * HOUR, -HOUR, "has expired"), (HOUR, 2 * HOUR, "is not valid before")):
            self.write(pair(begins, ends))
            listening = self.listening()
            listening._look_at_certificates()
            (line,) = self.said()
            self.assertIn(f"server.pem: this certificate {words}", line)
            self.write(pair())
            listening.renewed()()
            self.assertEqual(self.said(), [f"new connections get the new certificate in {self.file}"])
            listening.renewed()()
            self.assertEqual(self.said(), [])

    def test_parameters(self) -> None:
        """What is wrong with the Diffie-Hellman parameters is not blamed on the certificate."""
        self.write(pair())
        odd = self.folder / "dh.pem"
        for content, words in (
            (None, "cannot be read"),
            (b"", "no parameters in PEM format"),
            (b"-----BEGIN DH PARAMETERS-----\nMA==\n-----END DH PARAMETERS-----\n", "no parameters in PEM format"),
        ):
            if content is not None:
                odd.write_bytes(content)
            with self.assertRaises(BadAddress) as caught:
                self.listening(f":dhParameters={odd}")
            self.assertIn(f": {odd}: {words}", str(caught.exception))
