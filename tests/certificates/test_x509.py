"""Chains, leaves, keys and bundles, and whether they match."""

import base64
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509 import load_der_x509_certificate
from hypothesis import given
from hypothesis import strategies as st

from agent.certificates.facts import CertificateFacts, is_authority, issued_by
from agent.certificates.findings import Fault, Unusable
from agent.certificates.pem import parse
from agent.certificates.x509 import (
    Bundle,
    Chain,
    Key,
    Leaf,
    leaf_of_chain,
    require_fit,
    require_valid,
)
from tests import pki
from tests.pki import FROM, UNTIL, Algorithm, Authority

DAY = timedelta(days=1)


@cache
def root() -> Authority:
    return Authority.create("root")


@cache
def middle() -> Authority:
    return root().intermediate("middle")


def chain(content: bytes) -> Chain:
    return Chain.of("/etc/certs/cert-chain.pem", parse("/etc/certs/cert-chain.pem", content))


def key(content: bytes) -> Key:
    return Key.of("/etc/certs/key.pem", parse("/etc/certs/key.pem", content))


def bundle(content: bytes) -> Bundle:
    return Bundle.of("/etc/certs/root-cert.pem", parse("/etc/certs/root-cert.pem", content))


def mismatch(of: bytes, with_key: bytes) -> Unusable:
    with pytest.raises(Unusable) as caught:
        require_fit(chain(of), key(with_key))
    return caught.value


def test_the_facts_of_a_leaf() -> None:
    issued = middle().issue(["a.example", "192.0.2.1", "spiffe://cluster.local/ns/a"], serial=0xABC)
    leaf = chain(issued.chain_pem).leaf
    assert (leaf.subject, leaf.issuer) == ("CN=a.example", "CN=middle")
    assert leaf.names == ("DNS:a.example", "IP:192.0.2.1", "URI:spiffe://cluster.local/ns/a")
    assert leaf.spiffe_id == "spiffe://cluster.local/ns/a"
    assert (leaf.serial, leaf.serial_hex) == (0xABC, "0abc")
    assert (leaf.not_before, leaf.not_after) == (FROM, UNTIL)
    assert len(leaf.fingerprint) == 64


def test_a_leaf_without_names_has_none() -> None:
    leaf = Leaf.of(root().certificate)
    assert (leaf.names, leaf.spiffe_id) == ((), None)


@pytest.mark.parametrize(
    ("algorithm", "told"),
    [("ecdsa", "ECDSA P-256"), ("rsa", "RSA 2048"), ("ed25519", "Ed25519"), (ec.SECP384R1(), "ECDSA P-384")],
)
def test_the_kind_of_key(algorithm: Algorithm | ec.SECP384R1, told: str) -> None:
    private = ec.generate_private_key(algorithm) if isinstance(algorithm, ec.SECP384R1) else algorithm
    assert chain(root().issue(["a.example"], private).chain_pem).leaf.key_type == told


@pytest.mark.parametrize("algorithm", ["ecdsa", "rsa", "ed25519"])
def test_a_leaf_fits_its_own_key_and_no_other(algorithm: Algorithm) -> None:
    mine, other = root().issue(["a.example"], algorithm), root().issue(["a.example"], algorithm)
    require_fit(chain(mine.chain_pem), key(mine.key_pem))
    assert mismatch(mine.chain_pem, other.key_pem).fault is Fault.MISMATCH


def test_a_key_that_does_not_fit_is_named_with_the_leaf() -> None:
    unusable = mismatch(root().issue(["a.example"], serial=0xABC).chain_pem, root().issue(["a.example"]).key_pem)
    assert str(unusable) == (
        "cannot use /etc/certs/key.pem: it does not fit the leaf in /etc/certs/cert-chain.pem (serial 0abc);"
        " write the key that belongs to it"
    )


def test_a_leaf_that_is_not_first_is_called_out_of_order() -> None:
    leaf = middle().issue(["a.example"])
    unusable = mismatch(pki.pem(middle().certificate, leaf.certificate), leaf.key_pem)
    assert unusable.path == "/etc/certs/cert-chain.pem"
    assert "out of order" in unusable.why


def test_an_encrypted_key_may_fit_anything() -> None:
    require_fit(chain(root().issue(["a.example"]).chain_pem), key(root().issue(["b.example"]).encrypted_key_pem()))


def test_a_curve_that_the_library_does_not_know_is_left_to_the_proxy() -> None:
    leaf = root().issue(["a.example"])
    strange = chain(armour("CERTIFICATE", on_strange_curve(leaf.certificate.public_bytes(Encoding.DER))))
    private = leaf.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    assert strange.leaf.key_type == "unknown"
    require_fit(strange, key(armour("PRIVATE KEY", on_strange_curve(private))))
    with pytest.raises(Unusable):
        require_fit(strange, key(leaf.key_pem))


def on_strange_curve(der: bytes) -> bytes:
    """Replace P-256 by 1.2.840.10045.3.1.120, which is not a defined curve."""
    return der.replace(b"\x2a\x86\x48\xce\x3d\x03\x01\x07", b"\x2a\x86\x48\xce\x3d\x03\x01\x78")


def armour(label: str, der: bytes) -> bytes:
    return f"-----BEGIN {label}-----\n{base64.b64encode(der).decode()}\n-----END {label}-----\n".encode()


def test_a_chain_is_in_order_when_each_next_one_issued_the_one_before() -> None:
    leaf = root().intermediate("upper").intermediate("lower").issue(["a.example"])
    lower, upper = parse("chain.pem", leaf.chain_pem).certificates[1:]
    assert chain(leaf.chain_pem).in_order
    assert not chain(pki.pem(leaf.certificate, upper, lower)).in_order


def test_a_namesake_did_not_issue_it() -> None:
    namesake = Authority.create("root")
    leaf = root().issue(["a.example"])
    assert issued_by(leaf.certificate, root().certificate)
    assert not issued_by(leaf.certificate, namesake.certificate)


def test_both_dates_are_valid_moments_and_a_second_beyond_is_not() -> None:
    leaf = chain(root().issue(["a.example"]).chain_pem).leaf
    moments = (FROM - timedelta(seconds=1), FROM, UNTIL, UNTIL + timedelta(seconds=1))
    assert [leaf.valid_at(moment) for moment in moments] == [False, True, True, False]


def test_an_expired_leaf_is_refused() -> None:
    with pytest.raises(Unusable, match="expired at 2049-01-01") as caught:
        require_valid(chain(root().issue(["a.example"]).chain_pem), UNTIL + DAY)
    assert (caught.value.fault, caught.value.usable_from) == (Fault.EXPIRED, None)


def test_a_leaf_of_tomorrow_is_refused_until_then() -> None:
    with pytest.raises(Unusable, match="not valid before 2020-01-01") as caught:
        require_valid(chain(root().issue(["a.example"]).chain_pem), FROM - DAY)
    assert (caught.value.fault, caught.value.usable_from) == (Fault.NOT_YET_VALID, FROM)


def test_a_leaf_expires_soon_in_the_last_tenth_of_its_life() -> None:
    leaf = chain(root().issue(["a.example"], not_before=FROM, not_after=FROM + 10 * DAY).chain_pem).leaf
    assert not leaf.soon_to_expire(FROM + 9 * DAY)
    assert leaf.soon_to_expire(FROM + 9 * DAY + timedelta(seconds=1))


def facts(**changed: object) -> Leaf:
    """A leaf's facts, as they are told or others."""
    usual = Leaf("CN=a", ("DNS:a.example", "DNS:b.example"), "CN=root", 1, FROM, UNTIL, "ECDSA P-256", "00" * 32)
    return replace(usual, **changed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("other", "stands_in"),
    [
        (facts(), True),
        (facts(names=("DNS:b.example",)), True),
        (facts(names=("DNS:b.example", "DNS:c.example")), False),
        (facts(key_type="ECDSA P-384"), True),
        (facts(key_type="RSA 2048"), False),
        (facts(subject="CN=other"), True),
        (facts(names=()), True),
        (facts(names=(), subject="CN=other"), False),
    ],
    ids=["itself", "fewer names", "a name more", "another curve", "another key type", "another subject",
         "no names", "no names and another subject"],
)  # fmt: skip
def test_a_leaf_stands_in_for_another_with_its_names_and_its_kind_of_key(other: Leaf, stands_in: bool) -> None:
    assert facts().stands_in_for(other) is stands_in


@pytest.mark.parametrize(
    ("serial", "shown"), [(0, "00"), (1, "01"), (0xAB, "ab"), (0xABC, "0abc"), (2**159, "80" + "00" * 19)]
)
def test_a_serial_number_is_shown_in_whole_bytes(serial: int, shown: str) -> None:
    assert facts(serial=serial).serial_hex == shown


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ((), None),
        (("URI:https://a/", "URI:spiffe://a/b", "URI:spiffe://c/d"), "spiffe://a/b"),
        (("DNS:spiffe.example",), None),
        (("DNS:spiffe://a/b",), None),
    ],
)
def test_a_spiffe_id_is_a_uri(names: tuple[str, ...], found: str | None) -> None:
    assert facts(names=names).spiffe_id == found


def test_a_mail_address_is_a_name_and_other_kinds_are_left_out() -> None:
    names = [x509.RFC822Name("a@b.example"), x509.RegisteredID(x509.ObjectIdentifier("1.2.3")), x509.DNSName("a")]
    subject = x509.Name([])
    builder = x509.CertificateBuilder(subject, subject, root().key.public_key(), 1, FROM, UNTIL)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    assert Leaf.of(builder.sign(root().key, SHA256())).names == ("email:a@b.example", "DNS:a")


def test_a_self_signed_certificate_without_constraints_is_its_own_authority() -> None:
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "own")])
    own = x509.CertificateBuilder(subject, subject, root().key.public_key(), 1, FROM, UNTIL).sign(root().key, SHA256())
    assert is_authority(own)
    constrained = x509.CertificateBuilder(subject, subject, root().key.public_key(), 1, FROM, UNTIL)
    constrained = constrained.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    assert not is_authority(constrained.sign(root().key, SHA256()))


@pytest.mark.parametrize("moment", [FROM, UNTIL])
def test_an_authority_anchors_and_a_leaf_is_accepted_at_the_very_ends_of_their_lives(moment: datetime) -> None:
    leaf = chain(root().issue(["a.example"]).chain_pem)
    require_valid(leaf, moment)
    assert bundle(root().pem).anchors(leaf, moment)
    assert bundle(root().pem).expired(moment) == ()
    beyond = timedelta(seconds=-1 if moment == FROM else 1)
    assert not bundle(root().pem).anchors(leaf, moment + beyond)


def test_an_issuer_with_the_same_dates_does_not_bound_a_chain() -> None:
    leaf = chain(middle().issue(["a.example"]).chain_pem).leaf
    assert (leaf.begins_by, leaf.ends_by) == ("", "")


def test_a_bundle_anchors_what_its_authorities_issued_or_are_part_of() -> None:
    leaf = middle().issue(["a.example"])
    assert bundle(root().pem).anchors(chain(leaf.chain_pem), FROM)
    assert bundle(middle().pem).anchors(chain(leaf.chain_pem), FROM)
    assert bundle(root().pem).anchors(chain(leaf.chain_pem + root().pem), FROM)
    assert not bundle(root().pem).anchors(chain(leaf.certificate_pem), FROM)
    assert not bundle(Authority.create("root").pem).anchors(chain(leaf.chain_pem), FROM)


def test_an_authority_past_its_date_anchors_nothing() -> None:
    leaf = root().issue(["a.example"])
    assert not bundle(root().pem).anchors(chain(leaf.chain_pem), UNTIL + DAY)
    assert bundle(root().pem).expired(UNTIL + DAY) == (CertificateFacts.of(root().certificate),)


def test_a_renewed_authority_with_the_same_key_anchors_as_before() -> None:
    renewed = Authority.create("root", root().key, not_after=UNTIL + DAY)
    assert bundle(renewed.pem).anchors(chain(root().issue(["a.example"]).chain_pem), FROM)


def test_authorities_are_distinguished_from_leaves() -> None:
    assert is_authority(root().certificate)
    assert is_authority(middle().certificate)
    assert not is_authority(root().issue(["a.example"]).certificate)


def test_a_file_that_lacks_its_part_is_incomplete() -> None:
    leaf = root().issue(["a.example"])
    for make, content in ((chain, leaf.key_pem), (bundle, leaf.key_pem), (key, leaf.chain_pem)):
        with pytest.raises(Unusable, match="it holds no") as caught:
            make(content)
        assert caught.value.fault is Fault.INCOMPLETE


@cache
def example() -> bytes:
    names = ["a.example", "192.0.2.1", "spiffe://cluster.local/ns/a"]
    return root().issue(names).certificate.public_bytes(Encoding.DER)


def test_a_name_of_an_unknown_string_type_is_refused() -> None:
    der = root().issue(["a.example"]).certificate.public_bytes(Encoding.DER)
    with pytest.raises(Unusable, match="its first certificate, or one that issued it, does not parse"):
        chain(armour("CERTIFICATE", der.replace(b"\x0c\x04root", b"\x0d\x04root")))


def test_an_alternative_name_of_an_unknown_string_type_makes_no_authority() -> None:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "directory")])
    builder = x509.CertificateBuilder(name, name, root().key.public_key(), 1, pki.FROM, pki.UNTIL)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DirectoryName(name)]), critical=False)
    head, within, tail = builder.sign(root().key, SHA256()).public_bytes(Encoding.DER).rpartition(b"\x0c\x09directory")
    assert is_authority(load_der_x509_certificate(head + within + tail))
    assert not is_authority(load_der_x509_certificate(head + b"\x0d" + within[1:] + tail))


@given(st.data())
def test_a_damaged_certificate_is_read_or_refused(data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(example()) - 1))
    damaged = bytearray(example())
    damaged[position] ^= data.draw(st.integers(1, 255))
    try:
        read = chain(armour("CERTIFICATE", bytes(damaged)) + root().pem)
    except Unusable:
        return
    signed = load_der_x509_certificate(example()).tbs_certificate_bytes
    assert not read.in_order or read.certificates[0].parsed().tbs_certificate_bytes == signed, (
        "the signature no longer holds"
    )


# The whole chain


def chained(issuer: Authority) -> Chain:
    return Chain.of("/c/tls.crt", parse("/c/tls.crt", issuer.issue(["a.example"]).chain_pem))


def test_a_chain_is_as_old_as_the_first_of_it_to_end() -> None:
    """Clients refuse a leaf of ninety days whose issuer expired yesterday."""
    until = datetime(2026, 5, 1, tzinfo=UTC)
    chain = chained(Authority.create("root").intermediate("short", not_after=until).intermediate("long"))
    assert chain.leaf.not_after == until
    assert chain.leaf.ends_by.startswith("CN=short, serial ")
    with pytest.raises(
        Unusable, match=r"the issuer of its leaf \(CN=short, serial [0-9a-f]+\) expired at 2026-05-01"
    ) as why:
        require_valid(chain, until + timedelta(days=1))
    assert why.value.fault is Fault.EXPIRED


def test_a_chain_is_not_valid_before_the_last_of_it_is() -> None:
    begin = datetime(2040, 5, 1, tzinfo=UTC)
    chain = chained(Authority.create("root").intermediate("coming", not_before=begin))
    with pytest.raises(Unusable, match=r"the issuer of its leaf \(CN=coming, ") as why:
        require_valid(chain, begin - timedelta(days=1))
    assert why.value.usable_from == begin


def test_a_root_that_is_sent_along_does_not_bound_it() -> None:
    """Clients have the root already or not; they do not examine the one that is sent."""
    root = Authority.create("root", not_after=datetime(2026, 5, 1, tzinfo=UTC))
    leaf = root.intermediate("middle").issue(["a.example"])
    chain = Chain.of("/c/tls.crt", parse("/c/tls.crt", leaf.chain_pem + root.pem))
    assert (chain.leaf.ends_by, chain.in_order) == ("", True)


def test_what_did_not_issue_it_does_not_bound_it() -> None:
    short = Authority.create("other").intermediate("short", not_after=datetime(2026, 5, 1, tzinfo=UTC))
    leaf = Authority.create("root").intermediate("middle").issue(["a.example"])
    chain = Chain.of("/c/tls.crt", parse("/c/tls.crt", leaf.chain_pem + short.pem))
    assert (chain.leaf.ends_by, chain.in_order) == ("", False)


def test_the_leaf_of_a_chain_names_the_issuers_that_are_sent_after_it() -> None:
    below = root().intermediate("below")
    certificates = tuple(x509.load_pem_x509_certificates(below.issue(["a.example"]).chain_pem))
    leaf = leaf_of_chain(certificates)
    assert leaf.issuers == (below.certificate.fingerprint(SHA256()).hex(),)
    assert leaf_of_chain(certificates[:1]).issuers == ()
