"""The kept facts of a certificate, and the questions that need the cryptography library's object for a moment.

The library's object takes several kilobytes once its extensions have been read; a thousand pairs are a thousand of
them and their issuers. Issuers are matched by signature, never by name alone.
"""

import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from weakref import WeakValueDictionary

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import (
    BasicConstraints,
    Certificate,
    DuplicateExtension,
    ExtensionNotFound,
    Extensions,
    UnsupportedGeneralNameType,
    load_der_x509_certificate,
)

from agent.certificates.pem import public_half

_NEVER = datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC)
_UNKNOWN = object()
_VERSION = 0xA0  # the tag of the version in TBSCertificate, which certificates of version 1 lack
_ISSUER, _SUBJECT = 2, 4  # elements of TBSCertificate after the version (RFC 5280, 4.1)


def serial_number_of(certificate: Certificate) -> int:
    """Return the serial number, which may be zero or negative: proxies accept such certificates."""
    # cryptography issues a Python warning for these; a supervisor has no use for it.
    with warnings.catch_warnings(action="ignore"):
        return certificate.serial_number


class CertificateFacts:
    """The facts of one certificate: equal certificates are one object for as long as one of them is kept.

    `issuer` and `subject` are names in DER. Dates are aware, UTC; a certificate whose dates Python cannot represent is
    never valid.
    """

    __slots__ = (
        "__weakref__",
        "_is_authority",
        "_public_key",
        "der",
        "issuer",
        "not_valid_after_utc",
        "not_valid_before_utc",
        "serial_number",
        "subject",
    )

    def __init__(self, certificate: Certificate, der: bytes) -> None:
        self.der = der
        self.serial_number = serial_number_of(certificate)
        self.issuer, self.subject = _names(certificate.tbs_certificate_bytes)
        try:
            self.not_valid_before_utc = certificate.not_valid_before_utc
            self.not_valid_after_utc = certificate.not_valid_after_utc
        except ValueError:
            self.not_valid_before_utc, self.not_valid_after_utc = _NEVER
        self._is_authority: bool | None = None
        self._public_key: object = _UNKNOWN

    @classmethod
    def of(cls, certificate: Certificate) -> "CertificateFacts":
        """Return the facts of a certificate."""
        der = certificate.public_bytes(Encoding.DER)
        known = _kept.get(der)
        return known if known is not None else _kept.setdefault(der, cls(certificate, der))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CertificateFacts) and self.der == other.der

    def __hash__(self) -> int:
        return hash(self.der)

    def parsed(self) -> Certificate:
        """Return the library's object."""
        # cryptography issues a Python warning for an odd serial number; a supervisor has no use for it.
        with warnings.catch_warnings(action="ignore"):
            return load_der_x509_certificate(self.der)

    @property
    def public_key(self) -> bytes | None:
        """The public key as `public_half` encodes it; None if its type is unsupported or damaged."""
        if self._public_key is _UNKNOWN:
            self._public_key = public_key_of(self.parsed())
        assert self._public_key is None or isinstance(self._public_key, bytes)
        return self._public_key

    @property
    def is_authority(self) -> bool:
        """Whether it is a CA, see `is_authority`."""
        if self._is_authority is None:
            self._is_authority = is_authority(self.parsed())
        return self._is_authority

    def issued_by(self, authority: "CertificateFacts") -> bool:
        """Whether `authority` signed this certificate; False if the algorithm is not supported."""
        return self.issuer == authority.subject and issued_by(self.parsed(), authority.parsed())


_kept: WeakValueDictionary[bytes, CertificateFacts] = WeakValueDictionary()


def issued_by(certificate: Certificate, authority: Certificate) -> bool:
    """Whether `authority` signed `certificate`; False if the algorithm is not supported."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def is_authority(certificate: Certificate) -> bool:
    """Whether a certificate is a CA by its basic constraints, or, without them, is self-signed."""
    extensions = extensions_of(certificate)
    if extensions is None:
        return False
    try:
        return extensions.get_extension_for_class(BasicConstraints).value.ca
    except ExtensionNotFound:
        return issued_by(certificate, certificate)


def public_key_of(certificate: Certificate) -> bytes | None:
    """Return the key as `public_half` encodes it; None if its type is unsupported or damaged."""
    try:
        return public_half(certificate.public_key())
    except (UnsupportedAlgorithm, ValueError):
        return None


def extensions_of(certificate: Certificate) -> Extensions | None:
    """Return the extensions; None if one of them cannot be parsed."""
    try:
        return certificate.extensions
    # KeyError: cryptography before 50 maps each string's ASN.1 tag through an enumeration.
    except (ValueError, KeyError, DuplicateExtension, UnsupportedGeneralNameType):
        return None


def _names(certificate: bytes) -> tuple[bytes, bytes]:
    """Return issuer and subject of a TBSCertificate, which the library has parsed, in DER."""
    start, end = _inside(certificate, 0)
    elements = [certificate[at:until] for at, until in _elements(certificate, start, end)]
    if elements[0][0] == _VERSION:
        del elements[0]
    return elements[_ISSUER], elements[_SUBJECT]


def _elements(der: bytes, at: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the start and end of each element between two positions."""
    while at < end:
        _, until = _inside(der, at)
        yield at, until
        at = until


def _inside(der: bytes, at: int) -> tuple[int, int]:
    """Return the start and end of the contents of the element at `at` (X.690, 8.1.3)."""
    size, start = der[at + 1], at + 2
    if size & 0x80:
        start += size & 0x7F
        size = int.from_bytes(der[at + 2 : start])
    return start, start + size
