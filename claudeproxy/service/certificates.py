"""The certificate of an address with TLS, which can be read again while connections go on."""

import re
from typing import Any

from attrs import define, field
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

from claudeproxy.routing.addresses import Address

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

    def read(self) -> CertificateOptions:
        """What the files say just now. Raises `BadCertificate`."""
        key_file = self._address.get("privateKey", "server.pem")
        certificate_file = self._address.get("certKey", key_file)
        own, *chain = _certificates(certificate_file)
        if more := self._address.get("extraCertChain"):
            chain += _certificates(more)
        key = _content(key_file)
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
                dhParameters=self._dh_parameters(),
                raiseMinimumTo=TLSVersion.TLSv1_2,
            )
            options.getContext()  # which is made when it is needed, and then it would be too late to complain
        except (SSL.Error, crypto.Error, ValueError):
            raise strangers from None
        return options

    def take(self, options: CertificateOptions) -> None:
        """From now on new connections get this one; those that are there keep theirs."""
        self._in_force = options

    def serverConnectionForTLS(self, protocol: Any) -> Any:
        return self._in_force.serverConnectionForTLS(protocol)

    def _dh_parameters(self) -> Any:
        given = self._address.get("dhParameters")
        return DiffieHellmanParameters.fromFile(FilePath(given)) if given else None


def _certificates(path: str) -> list[bytes]:
    found = _PEM.findall(_content(path))
    if not found:
        raise BadCertificate(f"{path}: no certificate in PEM format")
    return list(found)


def _content(path: str) -> bytes:
    try:
        content: bytes = FilePath(path).getContent()
    except OSError as fault:
        raise BadCertificate(f"{path}: cannot be read: {fault.strerror}") from None
    return content
