"""T10: certificates with one fault each, and the contexts to serve and to trust them.

Needs the ``cryptography`` package.
"""

from __future__ import annotations

import enum
import ipaddress
import ssl
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NAMES = ("localhost", "127.0.0.1", "::1")
"""What a good certificate is for: everything a test on loopback connects to."""

WRONG_NAME = "another-host.invalid"
"""What a wrong one is for; RFC 2606 reserves the domain, so nobody has it."""

_DAY = timedelta(days=1)


class Flaw(enum.Enum):
    """What is wrong with a server's certificate: exactly one thing, or nothing."""

    GOOD = "good"
    EXPIRED = "expired"
    WRONG_NAME = "wrong-name"
    UNKNOWN_ISSUER = "unknown-issuer"


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def certificate_pem(self) -> bytes:
        """The certificate alone."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def pem(self) -> bytes:
        """Key and certificate in one file, as OpenSSL reads them."""
        key = self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return key + self.certificate_pem


class Authority:
    """The lab's own certificate authority; another instance is an unknown issuer."""

    def __init__(self, name: str = "Holdfast lab") -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(name)
        now = datetime.now(UTC)
        builder = (
            _builder(subject, subject, key, now - _DAY, now + 30 * _DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(sign_certificates=True), critical=True)
            .add_extension(_subject_key(key), critical=False)
        )
        self._identity = Identity(builder.sign(key, hashes.SHA256()), key)

    @property
    def certificate(self) -> x509.Certificate:
        """The authority's own certificate."""
        return self._identity.certificate

    @property
    def pem(self) -> bytes:
        """The authority's certificate, for ``SSL_CERT_FILE`` or a file of trusted roots."""
        return self._identity.certificate_pem

    def issue(self, flaw: Flaw = Flaw.GOOD, *, names: tuple[str, ...] = NAMES) -> Identity:
        """A server certificate for ``names`` (host names and addresses) with the given flaw."""
        issuer = Authority("Unknown to all") if flaw is Flaw.UNKNOWN_ISSUER else self
        names = (WRONG_NAME,) if flaw is Flaw.WRONG_NAME else names
        now = datetime.now(UTC)
        end = now - _DAY if flaw is Flaw.EXPIRED else now + 7 * _DAY
        return issuer._sign(names, start=now - 7 * _DAY, end=end)

    def server_context(
        self, flaw: Flaw = Flaw.GOOD, *, names: tuple[str, ...] = NAMES
    ) -> ssl.SSLContext:
        """A context for a server that shows such a certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.certify(context, flaw, names=names)
        return context

    def certify(
        self,
        context: ssl.SSLContext,
        flaw: Flaw = Flaw.GOOD,
        *,
        names: tuple[str, ...] = NAMES,
    ) -> None:
        """Let a server show such a certificate from its next handshake on."""
        # OpenSSL loads from files only; the directory is private and gone on return.
        with tempfile.TemporaryDirectory(prefix="holdfast-tls-") as directory:
            path = Path(directory) / "server.pem"
            path.write_bytes(self.issue(flaw, names=names).pem)
            context.load_cert_chain(path)

    def client_context(self) -> ssl.SSLContext:
        """A context for a client that trusts this authority and no other."""
        context = ssl.create_default_context(cadata=self.pem.decode())
        assert context.verify_mode is ssl.CERT_REQUIRED
        return context

    def _sign(self, names: tuple[str, ...], start: datetime, end: datetime) -> Identity:
        authority = self._identity
        key = ec.generate_private_key(ec.SECP256R1())
        issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
        builder = (
            _builder(_name(names[0]), authority.certificate.subject, key, start, end)
            .add_extension(x509.SubjectAlternativeName(list(map(_general, names))), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(sign_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(_subject_key(key), critical=False)
            .add_extension(issuer_key, critical=False)
        )
        return Identity(builder.sign(authority.key, hashes.SHA256()), key)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    start: datetime,
    end: datetime,
) -> x509.CertificateBuilder:
    return x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=start.replace(tzinfo=None),
        not_valid_after=end.replace(tzinfo=None),
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _subject_key(key: ec.EllipticCurvePrivateKey) -> x509.SubjectKeyIdentifier:
    return x509.SubjectKeyIdentifier.from_public_key(key.public_key())


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    # Python 3.13 verifies strictly (RFC 5280): an authority must say that it signs certificates.
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
