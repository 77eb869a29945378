"""Properties of a leaf, compared with those that a library reads."""

import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from agent.sidecar.leaf import Leaf, leaf_of
from tests.pki import Algorithm, Authority, key_usage
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
    assert leaf_of(Authority.create("Root One", "rsa").pem.decode()).names == ("root one",)


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


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_curves_that_clients_take(curve: ec.EllipticCurve) -> None:
    issued = authority().issue(["a.example"], ec.generate_private_key(curve), more=[key_usage("digital_signature")])
    assert leaf_of(issued.chain_pem.decode()).key == "ecdsa"


@pytest.mark.parametrize("curve", [ec.SECP256K1(), ec.BrainpoolP256R1(), ec.SECP224R1()], ids=lambda curve: curve.name)
def test_curves_that_they_refuse(curve: ec.EllipticCurve) -> None:
    issued = authority().issue(["a.example"], ec.generate_private_key(curve))
    with pytest.raises(ValueError, match="on a curve that clients do not accept"):
        leaf_of(issued.chain_pem.decode())


@pytest.mark.parametrize("uses", [("key_agreement",), ("key_encipherment", "crl_sign")])
def test_an_elliptic_key_that_may_not_sign_is_refused(uses: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="lacks digitalSignature"):
        leaf_of(authority().issue(["a.example"], more=[key_usage(*uses)]).chain_pem.decode())


def test_an_rsa_key_that_may_not_sign_is_taken() -> None:
    """Up to TLS 1.2, a secret may be encrypted with it."""
    assert leaf_of(authority().issue(["a.example"], "rsa", more=[key_usage("key_encipherment")]).chain_pem.decode())


def test_no_part_of_a_certificate_confuses_it() -> None:
    der = authority().issue(["a.example"]).certificate.public_bytes(Encoding.DER)
    for size in range(0, len(der), 7):
        with pytest.raises(ValueError, match="cannot be read"):
            leaf_of(ssl.DER_cert_to_PEM_cert(der[:size]))
