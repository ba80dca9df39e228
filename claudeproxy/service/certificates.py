"""The certificate of an address with TLS, which can be read again while connections go on."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attrs import field
from OpenSSL import SSL, crypto
from twisted.internet.error import VerifyError
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    DiffieHellmanParameters,
    PrivateCertificate,
    TLSVersion,
)
from twisted.python.filepath import FilePath
from zope.interface import implementer

from claudeproxy.model.kinds import define
from claudeproxy.routing.addresses import Address
from claudeproxy.service.reading import is_open

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
#: What an ``ssl:`` address may say of its certificate, as Twisted's own.
WORDS = ("privateKey", "certKey", "extraCertChain", "dhParameters")


class BadCertificate(Exception):
    """A certificate or its key cannot be used; the text names the file."""


@implementer(IOpenSSLServerConnectionCreator)
@define(eq=False)
class ServerCertificate:
    """Gives each new connection the certificate in force, and speaks TLS 1.2 and newer. ``certKey`` may hold the whole
    chain, the server's own certificate first; without it everything is in ``privateKey``."""

    _address: Address
    _in_force: CertificateOptions = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._in_force = self.read()

    @property
    def file(self) -> str:
        """Where the certificate is."""
        return self._address.get("certKey", self._key_file)

    @property
    def _key_file(self) -> str:
        return self._address.get("privateKey", "server.pem")

    def read(self) -> CertificateOptions:
        """What the files say just now. Raises `BadCertificate`."""
        key_file, certificate_file = self._key_file, self.file
        own, *chain = _certificates(certificate_file)
        if more := self._address.get("extraCertChain"):
            chain += _certificates(more)
        key = _content(key_file)
        if is_open(Path(key_file)):
            raise BadCertificate(f"{key_file}: other users of this machine can read this key: chmod 600 {key_file}")
        dh_parameters = self._dh_parameters()
        strangers = BadCertificate(f"{certificate_file}: this certificate and {key_file} do not fit together")
        try:
            pair = PrivateCertificate.loadPEM(own + b"\n" + key)
        except VerifyError:
            raise strangers from None
        except (SSL.Error, crypto.Error, ValueError, TypeError):
            raise BadCertificate(f"{key_file}: no private key in PEM format, without a passphrase") from None
        try:
            options = CertificateOptions(
                privateKey=pair.privateKey.original,
                certificate=pair.original,
                extraCertChain=[Certificate.loadPEM(each).original for each in chain],
                dhParameters=dh_parameters,
                raiseMinimumTo=TLSVersion.TLSv1_2,
            )
            options.getContext()  # which is made when it is needed, and then it would be too late to complain
        except (SSL.Error, crypto.Error, ValueError):
            raise strangers from None
        return options

    def take(self, options: CertificateOptions) -> bool:
        """From now on new connections get this one; those that are there keep theirs. True if it is another one."""
        before, self._in_force = self._in_force, options
        return _own(before).digest("sha256") != _own(options).digest("sha256")

    def out_of_date(self, now: datetime) -> str:
        """Why no client will believe the one in force, if its time is over or has not come; else nothing."""
        certificate = _own(self._in_force)
        begins, ends = _moment(certificate.get_notBefore()), _moment(certificate.get_notAfter())
        if ends is not None and ends <= now:
            return f"{self.file}: this certificate has expired, at {ends:%Y-%m-%d %H:%M} UTC"
        if begins is not None and begins > now:
            return f"{self.file}: this certificate is not valid before {begins:%Y-%m-%d %H:%M} UTC"
        return ""

    def serverConnectionForTLS(self, protocol: Any) -> Any:
        return self._in_force.serverConnectionForTLS(protocol)

    def _dh_parameters(self) -> Any:
        given = self._address.get("dhParameters")
        if not given:
            return None
        _content(given)
        try:
            SSL.Context(SSL.TLS_METHOD).load_tmp_dh(given.encode())  # else the certificate would get the blame
        except SSL.Error:
            raise BadCertificate(f"{given}: no parameters in PEM format, as `openssl dhparam` makes them") from None
        return DiffieHellmanParameters.fromFile(FilePath(given))


def _certificates(path: str) -> list[bytes]:
    found = _PEM.findall(_content(path))
    if not found:
        raise BadCertificate(f"{path}: no certificate in PEM format")
    return list(found)


def _own(options: CertificateOptions) -> crypto.X509:
    assert options.certificate is not None
    return options.certificate


def _moment(told: bytes | None) -> datetime | None:
    return None if told is None else datetime.strptime(told.decode(), "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _content(path: str) -> bytes:
    try:
        content: bytes = FilePath(path).getContent()
    except OSError as fault:
        raise BadCertificate(f"{path}: cannot be read: {fault.strerror}") from None
    return content
