"""What a leaf says of itself, beside what a library reads."""

import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from agent.sidecar.leaf import Leaf, leaf_of
from tests.pki import Algorithm, Authority
from tests.sidecar.stand import authority


@pytest.mark.parametrize("key", ["rsa", "ecdsa"])
def test_names_and_key(key: Algorithm) -> None:
    issued = authority().issue(["A.example", "*.b.example", "127.0.0.1", "spiffe://c/d"], key)
    found = issued.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    names = tuple(name.lower() for name in found.get_values_for_type(x509.DNSName))
    assert leaf_of(issued.chain_pem.decode()) == Leaf(names, key)


def test_the_common_name_stands_in_for_missing_names() -> None:
    assert leaf_of(authority().issue(["127.0.0.1"]).chain_pem.decode()).names == ("127.0.0.1",)


def test_a_certificate_without_alternative_names() -> None:
    assert leaf_of(Authority.create("Root One").pem.decode()).names == ("root one",)


def test_other_keys() -> None:
    assert leaf_of(authority().issue(["a.example"], "ed25519").chain_pem.decode()).key == "other"


def test_text_before_it_does_not_matter() -> None:
    assert leaf_of("subject=x\n" + authority().issue(["a.example"]).chain_pem.decode()).names == ("a.example",)


@pytest.mark.parametrize(
    "text",
    ["", "nothing", "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----", "-----BEGIN CERTIFICATE-----\nMII"],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"certificate"):
        leaf_of(text)


def test_no_part_of_a_certificate_confuses_it() -> None:
    der = authority().issue(["a.example"]).certificate.public_bytes(Encoding.DER)
    for size in range(0, len(der), 7):
        with pytest.raises(ValueError, match="cannot be read"):
            leaf_of(ssl.DER_cert_to_PEM_cert(der[:size]))
