"""One PEM file: its content, and the message if it cannot be used."""

import binascii
from functools import cache

import pytest
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)
from hypothesis import given
from hypothesis import strategies as st

from agent.certificates.findings import Fault, Unusable
from agent.certificates.pem import PemFile, parse
from agent.certificates.references import Role
from tests.pki import Algorithm, Authority, Leaf

ALGORITHMS: tuple[Algorithm, ...] = ("ecdsa", "rsa", "ed25519")


@cache
def leaf(algorithm: Algorithm = "ecdsa") -> Leaf:
    return Authority.create("root").intermediate("middle").issue(["a.example"], algorithm)


def public(of: Leaf) -> bytes:
    return of.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def refusal(content: bytes) -> Unusable:
    with pytest.raises(Unusable) as caught:
        parse("/etc/certs/a.pem", content)
    return caught.value


def test_certificates_come_in_the_order_of_the_file() -> None:
    assert parse("a.pem", leaf().chain_pem).certificates[0] == leaf().certificate
    assert len(parse("a.pem", leaf().chain_pem).certificates) == 2
    assert parse("a.pem", leaf().chain_pem).key is None


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_key_is_known_by_its_public_half(algorithm: Algorithm) -> None:
    key = parse("key.pem", leaf(algorithm).key_pem).key
    assert key is not None
    assert key.public == public(leaf(algorithm))


@pytest.mark.parametrize("algorithm", ["rsa", "ecdsa"])
def test_a_key_in_the_format_of_its_algorithm_is_the_same_key(algorithm: Algorithm) -> None:
    pem = leaf(algorithm)
    assert parse("key.pem", pem.traditional_key_pem()) == parse("key.pem", pem.key_pem)


def test_everything_may_be_in_one_file() -> None:
    both = parse("all.pem", leaf().key_pem + leaf().chain_pem)
    assert len(both.certificates) == 2
    assert both.key is not None


def test_text_and_parameters_between_blocks_are_passed_over() -> None:
    parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    content = b"Bag Attributes\n  name: a\n" + parameters + leaf().key_pem + b"\n# the end\n"
    assert parse("key.pem", content) == parse("key.pem", leaf().key_pem)


def test_line_ends_of_another_system_do_not_matter() -> None:
    assert parse("a.pem", leaf().chain_pem.replace(b"\n", b"\r\n")) == parse("a.pem", leaf().chain_pem)


def test_an_encrypted_key_is_there_but_unknown() -> None:
    key = parse("key.pem", leaf().encrypted_key_pem()).key
    assert key is not None
    assert key.encrypted
    assert key.public is None


def test_a_key_encrypted_in_the_old_way_is_there_but_unknown() -> None:
    headers = b"KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n"
    key = parse("key.pem", leaf("rsa").traditional_key_pem().replace(b"KEY-----\n", headers, 1)).key
    assert key is not None
    assert key.encrypted


@pytest.mark.parametrize(
    ("content", "fault", "why"),
    [
        (b"", Fault.EMPTY, "empty"),
        (b" \n\n", Fault.EMPTY, "empty"),
        (b"hello\n", Fault.UNPARSABLE, "no PEM"),
        (b"  -----BEGIN CERTIFICATE-----\n", Fault.UNPARSABLE, "first column"),
        (b"-----BEGIN CERTIFICATE-----\nAA\0A\n-----END CERTIFICATE-----\n", Fault.UNPARSABLE, "NUL bytes"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n\nAAAA\n-----END CERTIFICATE-----\n", Fault.UNPARSABLE, "empty line"),
        (b"-----BEGIN CERTIFICATE-----\rAAAA\r-----END CERTIFICATE-----\r", Fault.UNPARSABLE, "carriage returns"),
        (b"-----BEGIN CERTIFICATE-----\nA: b\n\nAAAA\n-----END CERTIFICATE-----\n", Fault.UNPARSABLE, "header"),
        (b"\xef\xbb\xbf-----BEGIN CERTIFICATE-----\nAAAA\n", Fault.UNPARSABLE, "byte order mark"),
        (b"-----BEGIN CERTIFI", Fault.INCOMPLETE, "BEGIN line"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n", Fault.INCOMPLETE, "too early"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----BEGIN X-----\n-----END X-----\n", Fault.INCOMPLETE, "too early"),
        (b"-----BEGIN CERTIFICATE-----\nA!\n-----END CERTIFICATE-----\n", Fault.UNPARSABLE, "base64"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", Fault.UNPARSABLE, "does not parse"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END X-----\n", Fault.UNPARSABLE, "another kind"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", Fault.UNPARSABLE, "a readable private key"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_reason(content: bytes, fault: Fault, why: str) -> None:
    unusable = refusal(content)
    assert unusable.fault is fault
    assert why in unusable.why
    assert str(unusable).startswith("cannot use /etc/certs/a.pem: ")


def test_der_is_called_by_its_name() -> None:
    assert "DER" in refusal(leaf().certificate.public_bytes(Encoding.DER)).why


def test_of_several_keys_the_first_one_counts_and_nothing_after_it_matters() -> None:
    """As for Envoy."""
    for rest in (leaf("rsa").key_pem, leaf().encrypted_key_pem(), b"-----BEGIN PRIVATE KEY-----\nAAAA\n"):
        assert parse("key.pem", leaf().key_pem + rest, Role.KEY).key == parse("key.pem", leaf().key_pem).key


def test_a_trusted_certificate_is_one_where_envoy_takes_it() -> None:
    """OpenSSL's own format, with trust settings after the certificate."""
    body = b"".join(leaf().certificate_pem.splitlines()[1:-1])
    more = binascii.b2a_base64(binascii.a2b_base64(body) + b"\x30\x00", newline=False)
    trusted = b"-----BEGIN TRUSTED CERTIFICATE-----\n" + more + b"\n-----END TRUSTED CERTIFICATE-----\n"
    for role in (Role.CHAIN, Role.BUNDLE, None):
        assert parse("a.pem", trusted, role).certificates == (leaf().certificate,)
    assert len(parse("a.pem", leaf().chain_pem + trusted, Role.CHAIN).certificates) == 2
    assert len(parse("a.pem", leaf().chain_pem + trusted, Role.BUNDLE).certificates) == 3


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_wide_letters_are_called_by_their_name(encoding: str) -> None:
    assert "UTF-16" in refusal(leaf().chain_pem.decode().encode(encoding)).why


@pytest.mark.parametrize(
    ("hides", "why"), [(b"\xef\xbb\xbf", "byte order mark"), (b"\0", "NUL bytes"), (b" ", "first column")]
)
def test_what_hides_the_first_block_is_named_and_the_second_not_taken_for_it(hides: bytes, why: str) -> None:
    assert why in refusal(hides + leaf().chain_pem).why


@given(st.binary() | st.binary().map(lambda noise: b"-----BEGIN CERTIFICATE-----\n" + noise))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    _read_or_refused(content)


@given(st.sampled_from(["CERTIFICATE", "PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"]), st.binary(max_size=80))
def test_any_bytes_in_a_block_are_read_or_refused(label: str, der: bytes) -> None:
    body = binascii.b2a_base64(der).decode()
    _read_or_refused(f"-----BEGIN {label}-----\n{body}-----END {label}-----\n".encode())


@given(st.sampled_from(ALGORITHMS), st.data())
def test_a_truncated_file_loses_whole_certificates_or_is_refused(algorithm: Algorithm, data: st.DataObject) -> None:
    content = leaf(algorithm).chain_pem
    whole = parse("a.pem", content)
    cut = _read_or_refused(content[: data.draw(st.integers(0, len(content) - 2))])
    assert cut is None or cut.certificates == whole.certificates[:1]


@given(st.sampled_from(ALGORITHMS), st.data())
def test_a_damaged_key_never_passes_for_the_whole_one(algorithm: Algorithm, data: st.DataObject) -> None:
    der = _der(leaf(algorithm).key)
    position, bits = data.draw(st.integers(0, len(der) - 1)), data.draw(st.integers(1, 255))
    damaged = der[:position] + bytes([der[position] ^ bits]) + der[position + 1 :]
    body = binascii.b2a_base64(damaged)
    read = _read_or_refused(b"-----BEGIN PRIVATE KEY-----\n" + body + b"-----END PRIVATE KEY-----\n")
    if read and read.key and read.key.public == public(leaf(algorithm)):
        assert _der(load_der_private_key(damaged, None)) == der, "only another spelling of the same key may pass"


def test_an_ed25519_key_of_an_odd_length_is_refused() -> None:
    der = bytearray(_der(leaf("ed25519").key))
    der[1], der[13], der[15] = der[1] - 1, der[13] - 1, der[15] - 1
    body = binascii.b2a_base64(bytes(der[:-1]))
    assert refusal(b"-----BEGIN PRIVATE KEY-----\n" + body + b"-----END PRIVATE KEY-----\n").fault is Fault.UNPARSABLE


def _der(key: PrivateKeyTypes) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def _read_or_refused(content: bytes) -> PemFile | None:
    try:
        return parse("a.pem", content)
    except Unusable:
        return None
