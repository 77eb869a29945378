"""Certificate authorities and leaves for tests, as PEM bytes.

Valid from FROM to UNTIL unless a test passes other dates; no clock is read, and tests with a real proxy can use them
unchanged.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from ipaddress import ip_address
from typing import Literal, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

FROM = datetime(2020, 1, 1, tzinfo=UTC)
UNTIL = datetime(2049, 1, 1, tzinfo=UTC)

_USES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def key_usage(*uses: str) -> x509.KeyUsage:
    """Return a key usage with these uses, by the names of its constructor."""
    return x509.KeyUsage(**{name: name in uses for name in _USES})


_SIGNS_CERTIFICATES = key_usage("key_cert_sign", "crl_sign")

Algorithm = Literal["ecdsa", "rsa", "ed25519"]
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True)
class Leaf:
    """A certificate issued by an authority. `chain_pem` is the leaf and its intermediates, without the root."""

    certificate: x509.Certificate
    chain_pem: bytes
    key: PrivateKey

    @property
    def certificate_pem(self) -> bytes:
        """The leaf alone."""
        return pem(self.certificate)

    @property
    def key_pem(self) -> bytes:
        """The private key as PKCS#8."""
        return _key_pem(self.key, NoEncryption())

    def encrypted_key_pem(self, password: bytes = b"secret") -> bytes:
        """Return the private key as encrypted PKCS#8."""
        return _key_pem(self.key, BestAvailableEncryption(password))

    def traditional_key_pem(self) -> bytes:
        """Return the private key in the format of its algorithm: RSA PRIVATE KEY, EC PRIVATE KEY."""
        return _key_pem(self.key, NoEncryption(), PrivateFormat.TraditionalOpenSSL)


@dataclass(frozen=True)
class Authority:
    """A certificate authority. `issuers` are the certificates that a server sends: itself and up, without the root."""

    certificate: x509.Certificate
    key: PrivateKey
    issuers: tuple[x509.Certificate, ...] = ()

    @classmethod
    def create(
        cls, name: str, key: Algorithm | PrivateKey = "ecdsa", not_before: datetime = FROM, not_after: datetime = UNTIL
    ) -> Self:
        """Create a root."""
        private = _private(key)
        builder = _builder(_named(name), private, not_before, not_after)
        certificate = _signed(_as_authority(builder, private).issuer_name(_named(name)), private)
        return cls(certificate, private)

    @property
    def pem(self) -> bytes:
        """Its own certificate."""
        return pem(self.certificate)

    @property
    def identifier(self) -> x509.AuthorityKeyIdentifier:
        """The extension by which an issued certificate names its key; clients in Python 3.13 require it."""
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())

    def intermediate(
        self, name: str, key: Algorithm | PrivateKey = "ecdsa", not_before: datetime = FROM, not_after: datetime = UNTIL
    ) -> "Authority":
        """Create an authority below this one."""
        private = _private(key)
        builder = _builder(_named(name), private, not_before, not_after)
        builder = _as_authority(builder, private).add_extension(self.identifier, critical=False)
        certificate = _signed(builder.issuer_name(self.certificate.subject), self.key)
        return Authority(certificate, private, (certificate, *self.issuers))

    def issue(
        self,
        names: Sequence[str],
        key: Algorithm | PrivateKey = "ecdsa",
        not_before: datetime = FROM,
        not_after: datetime = UNTIL,
        serial: int | None = None,
        more: Sequence[x509.ExtensionType] = (),
    ) -> Leaf:
        """Issue a leaf for DNS names, IP addresses and URIs (`spiffe://…`), with any other extensions."""
        private = _private(key)
        builder = _builder(_named(names[0]), private, not_before, not_after, serial)
        builder = builder.add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
        for extension in (self.identifier, *more):
            builder = builder.add_extension(extension, critical=False)
        certificate = _signed(builder.issuer_name(self.certificate.subject), self.key)
        return Leaf(certificate, pem(certificate, *self.issuers), private)


def pem(*certificates: x509.Certificate) -> bytes:
    """Concatenate certificates as PEM."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def _general(name: str) -> x509.GeneralName:
    if "://" in name:
        return x509.UniformResourceIdentifier(name)
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _builder(
    subject: x509.Name, private: PrivateKey, not_before: datetime, not_after: datetime, serial: int | None = None
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).public_key(private.public_key())
    builder = builder.serial_number(serial or x509.random_serial_number())
    return builder.not_valid_before(not_before).not_valid_after(not_after)


def _as_authority(builder: x509.CertificateBuilder, private: PrivateKey) -> x509.CertificateBuilder:
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    builder = builder.add_extension(_SIGNS_CERTIFICATES, critical=True)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False)


def _signed(builder: x509.CertificateBuilder, key: PrivateKey) -> x509.Certificate:
    return builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else SHA256())


def _key_pem(
    key: PrivateKey, encryption: KeySerializationEncryption, form: PrivateFormat = PrivateFormat.PKCS8
) -> bytes:
    return key.private_bytes(Encoding.PEM, form, encryption)


def _private(key: Algorithm | PrivateKey) -> PrivateKey:
    match key:
        case "ecdsa":
            return ec.generate_private_key(ec.SECP256R1())
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        case "rsa":
            return next(_rsa_keys())
        case _:
            return key


@cache
def _rsa_keys() -> Iterator[rsa.RSAPrivateKey]:
    """Three keys, in turn: making one takes a tenth of a second, and two that follow each other differ."""
    return itertools.cycle([rsa.generate_private_key(65537, 2048) for _ in range(3)])
