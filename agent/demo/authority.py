"""The demonstration's certificate authority, and functions to write its pairs to disk."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

NAME = "localhost"
CHAIN, KEY, ROOT = "tls.crt", "tls.key", "ca.crt"
_LIFE = timedelta(days=1)
_SLACK = timedelta(minutes=5)  # for clocks that disagree
_SIGNS_CERTIFICATES = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, as PEM. `serial` is hexadecimal."""

    serial: str
    chain: bytes
    key: bytes


class Authority:
    """Issues certificates for NAME; its private key never leaves this object."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "agent demo")])
        public = self._key.public_key()
        builder = _valid_now(self._name, public).issuer_name(self._name)
        # Python 3.13 requires these three, and the issuer's identifier in issued certificates (RFC 5280, 4.2.1).
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_SIGNS_CERTIFICATES, critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        self._own = builder.sign(self._key, SHA256())

    @property
    def pem(self) -> bytes:
        """The root certificate that clients trust."""
        return self._own.public_bytes(Encoding.PEM)

    def issue(self) -> Pair:
        """Return a new key with its certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
        names = x509.SubjectAlternativeName([x509.DNSName(NAME)])
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = _valid_now(subject, key.public_key()).issuer_name(self._name)
        builder = builder.add_extension(names, critical=False).add_extension(issuer, critical=False)
        certificate = builder.sign(self._key, SHA256())
        chain = certificate.public_bytes(Encoding.PEM)
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return Pair(f"{certificate.serial_number:x}", chain, secret)


def write_pair(directory: Path, pair: Pair) -> None:
    """Overwrite the pair on disk, certificate first: the key mismatches briefly, as in practice."""
    (directory / CHAIN).write_bytes(pair.chain)
    write_key(directory, pair)


def write_key(directory: Path, pair: Pair) -> None:
    """Write the key alone, readable by its owner only."""
    path = directory / KEY
    path.touch(mode=0o600)
    path.write_bytes(pair.key)


def _valid_now(subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(subject).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - _SLACK).not_valid_after(now + _LIFE)
