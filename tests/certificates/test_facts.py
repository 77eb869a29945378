"""The facts of a certificate answer what the library's object answers, in less memory."""

import gc
import warnings
from datetime import UTC, datetime
from weakref import ref

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from agent.certificates import facts
from agent.certificates.facts import CertificateFacts, is_authority, issued_by, public_key_of
from tests.pki import Authority
from tests.pki import Leaf as Issued


def certificates() -> list[x509.Certificate]:
    """Return a chain of three, a namesake of its root, and a leaf of that."""
    top = Authority.create("top")
    middle = top.intermediate("middle", key="rsa")
    leaf = middle.issue(["a.test"], key="ed25519")
    namesake = Authority.create("top")
    return [leaf.certificate, middle.certificate, top.certificate, namesake.certificate, _leaf(namesake).certificate]


def _leaf(authority: Authority) -> Issued:
    return authority.issue(["a.test"])


ALL = certificates()


@pytest.mark.parametrize("certificate", ALL)
def test_they_are_those_of_the_certificate(certificate: x509.Certificate) -> None:
    found = CertificateFacts.of(certificate)
    assert found.serial_number == certificate.serial_number
    assert found.not_valid_before_utc == certificate.not_valid_before_utc
    assert found.not_valid_after_utc == certificate.not_valid_after_utc
    assert found.issuer == certificate.issuer.public_bytes()
    assert found.subject == certificate.subject.public_bytes()
    assert found.is_authority is is_authority(certificate)
    assert found.public_key == public_key_of(certificate)
    assert found.parsed() == certificate


@given(st.sampled_from(ALL), st.sampled_from(ALL))
def test_issuers_are_matched_as_by_the_library(one: x509.Certificate, other: x509.Certificate) -> None:
    assert CertificateFacts.of(one).issued_by(CertificateFacts.of(other)) is issued_by(one, other)


def test_equal_certificates_are_one_object_and_others_differ() -> None:
    one, again = (CertificateFacts.of(x509.load_der_x509_certificate(_der(ALL[0]))) for _ in range(2))
    assert one is again
    assert one != CertificateFacts.of(ALL[1])
    assert one != ALL[0]
    copy = CertificateFacts(ALL[0], _der(ALL[0]))
    assert (copy, hash(copy)) == (one, hash(one))


def test_what_nobody_keeps_is_freed() -> None:
    found = CertificateFacts.of(_leaf(Authority.create("short-lived")).certificate)
    freed = ref(found)
    del found
    gc.collect()
    assert freed() is None


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def test_a_certificate_of_the_first_version_has_no_version_in_front_of_its_names() -> None:
    signed = ALL[0].tbs_certificate_bytes
    start, end = facts._inside(signed, 0)
    inner = [signed[at:until] for at, until in facts._elements(signed, start, end)]
    first = b"".join(inner[1:-1])  # without version and extensions
    assert inner[0][0] == 0xA0
    assert facts._names(b"\x30\x82" + len(first).to_bytes(2) + first) == facts._names(signed)


def test_a_certificate_whose_dates_python_cannot_represent_is_never_valid() -> None:
    class Dateless:
        serial_number = 1
        tbs_certificate_bytes = ALL[0].tbs_certificate_bytes

        @property
        def not_valid_before_utc(self) -> datetime:
            raise ValueError("year 0 is out of range")

    found = CertificateFacts(Dateless(), b"")  # type: ignore[arg-type]  # no builder makes one
    now = datetime.now(UTC)
    assert found.not_valid_before_utc > now > found.not_valid_after_utc


def test_a_negative_serial_number_is_a_fact_and_no_warning() -> None:
    """A proxy accepts it (RFC 5280, 4.1.2.2, forbids it), and the library warns whenever it is read."""
    der = bytearray(Authority.create("a").issue(["a.example"]).certificate.public_bytes(Encoding.DER))
    serial = der.index(b"\xa0\x03\x02\x01\x02\x02") + 6  # behind the version and the tag of the serial number
    der[serial + 1] |= 0x80
    with warnings.catch_warnings(action="ignore"):
        damaged = x509.load_der_x509_certificate(bytes(der))
    assert CertificateFacts.of(damaged).serial_number < 0
