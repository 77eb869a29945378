"""One PEM file: its content, and the message if it cannot be used."""

import binascii
import subprocess
import sys
from functools import cache

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPrivateNumbers
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)
from cryptography.x509 import CertificateRevocationListBuilder
from hypothesis import given
from hypothesis import strategies as st

from agent.certificates import pem
from agent.certificates.findings import Fault, Unusable
from agent.certificates.pem import PemFile, parse
from agent.certificates.references import Role
from tests.pki import FROM, UNTIL, Algorithm, Authority, Leaf

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
    own = leaf(algorithm)
    assert parse("key.pem", own.traditional_key_pem()) == parse("key.pem", own.key_pem)


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


def revocation_list() -> bytes:
    """An empty list of revoked certificates."""
    authority = Authority.create("revoking")
    builder = CertificateRevocationListBuilder().issuer_name(authority.certificate.subject)
    builder = builder.last_update(FROM).next_update(UNTIL)
    return builder.sign(authority.key, SHA256()).public_bytes(Encoding.PEM)


def block(label: str, der: bytes) -> bytes:
    return f"-----BEGIN {label}-----\n{binascii.b2a_base64(der).decode()}-----END {label}-----\n".encode()


def test_a_revocation_list_belongs_to_a_bundle_and_must_be_one_there() -> None:
    whole, damaged = leaf().chain_pem + revocation_list(), leaf().chain_pem + block("X509 CRL", b"\x30\x00")
    assert len(parse("ca.pem", whole, Role.BUNDLE).certificates) == 2
    with pytest.raises(Unusable, match="revocation list") as caught:
        parse("ca.pem", damaged, Role.BUNDLE)
    assert caught.value.fault is Fault.UNPARSABLE
    for role in (Role.CHAIN, None):
        assert len(parse("ca.pem", damaged, role).certificates) == 2


def test_a_file_of_nothing_but_a_revocation_list_has_neither_certificate_nor_key() -> None:
    assert parse("ca.pem", revocation_list()) == PemFile((), None)


@pytest.mark.parametrize("label", ["OPENSSH PRIVATE KEY", "ANY PRIVATE KEY", "MY SECRET PRIVATE KEY"])
def test_a_key_in_a_format_that_no_proxy_takes_is_refused_by_its_known_name_alone(label: str) -> None:
    unusable = refusal(block(label, b"secret"))
    assert "is not a readable private key" in unusable.why
    assert ("MY SECRET" in str(unusable)) is False


def test_a_key_that_no_proxy_takes_does_not_matter_beside_one_that_is_taken() -> None:
    assert parse("a.pem", block("OPENSSH PRIVATE KEY", b"secret") + leaf().key_pem).key is not None


@pytest.mark.parametrize(
    ("role", "certificates", "has_key"),
    [
        (None, 2, True),
        (Role.CHAIN, 2, False),
        (Role.BUNDLE, 2, False),
        (Role.KEY, 0, True),
    ],
)
def test_a_role_takes_its_own_part_of_a_file(role: Role | None, certificates: int, has_key: bool) -> None:
    read = parse("all.pem", leaf().chain_pem + leaf().key_pem, role)
    assert (len(read.certificates), read.key is not None) == (certificates, has_key)


def test_a_damaged_key_does_not_matter_to_a_chain_nor_a_damaged_certificate_to_a_key() -> None:
    bad_key, bad_chain = block("PRIVATE KEY", b"\0\0"), block("CERTIFICATE", b"\0\0")
    assert len(parse("all.pem", leaf().chain_pem + bad_key, Role.CHAIN).certificates) == 2
    assert parse("all.pem", bad_chain + leaf().key_pem, Role.KEY).key is not None


@pytest.mark.parametrize(("most", "is_read"), [(3, True), (2, True), (1, False)])
def test_a_file_holds_so_many_certificates_at_most(most: int, is_read: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pem, "_MOST", most)
    if is_read:
        assert len(parse("a.pem", leaf().chain_pem).certificates) == 2
    else:
        assert "more than 1 certificates" in refusal(leaf().chain_pem).why


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\x30\x82\x01\x00", "binary"),
        (b"\x30\x80", "binary"),
        (b"\x30\x7f", "no PEM"),
        (b"0", "no PEM"),
        (b"\x31\x82", "no PEM"),
        (b"\0\0hello", "no PEM"),
        (b"\xef\xbb\xbfhello", "no PEM"),
        (b" hello", "no PEM"),
    ],
)
def test_what_is_no_pem_is_called_binary_only_if_it_is(content: bytes, why: str) -> None:
    assert why in refusal(content).why


@pytest.mark.parametrize("space", [b"\n", b"\n\n", b"\r\n", b"text\n "])
def test_lines_before_the_first_block_hide_nothing(space: bytes) -> None:
    assert len(parse("a.pem", space.removesuffix(b" ") + leaf().chain_pem).certificates) == 2


def test_a_line_of_253_bytes_is_cut_as_envoy_reads_it() -> None:
    """The rest of a long line is a line of its own: a BEGIN there begins a block."""
    assert len(parse("a.pem", b"x" * 253 + leaf().chain_pem).certificates) == 2
    assert len(parse("a.pem", b"x" * 506 + leaf().chain_pem).certificates) == 2
    assert len(parse("a.pem", b"x" * 252 + leaf().chain_pem).certificates) == 1, "the first BEGIN is not in its column"


def test_trailing_bytes_behind_a_certificate_are_taken_in_a_bundle_alone() -> None:
    body = binascii.a2b_base64(b"".join(leaf().certificate_pem.splitlines()[1:-1])) + b"more"
    assert parse("ca.pem", block("CERTIFICATE", body), Role.BUNDLE).certificates == (leaf().certificate,)
    with pytest.raises(Unusable, match="does not parse"):
        parse("a.pem", block("CERTIFICATE", body), Role.CHAIN)


def test_trailing_bytes_behind_a_key_are_no_matter() -> None:
    assert parse("key.pem", block("PRIVATE KEY", _der(leaf().key) + b"more")) == parse("key.pem", leaf().key_pem)


@pytest.mark.parametrize(("algorithm", "label"), [("ecdsa", "RSA PRIVATE KEY"), ("rsa", "EC PRIVATE KEY")])
def test_a_key_of_another_algorithm_than_its_label_is_refused(algorithm: Algorithm, label: str) -> None:
    own = leaf(algorithm).traditional_key_pem()
    kind = b"EC PRIVATE KEY" if algorithm == "ecdsa" else b"RSA PRIVATE KEY"
    assert label in refusal(own.replace(kind, label.encode())).why


def test_a_key_of_an_algorithms_own_format_is_not_pkcs8() -> None:
    body = b"".join(leaf("rsa").traditional_key_pem().splitlines()[1:-1])
    assert "is not a readable private key" in refusal(block("PRIVATE KEY", binascii.a2b_base64(body))).why


def test_a_header_that_is_no_encryption_makes_a_key_unreadable() -> None:
    content = leaf("rsa").traditional_key_pem().replace(b"KEY-----\n", b"KEY-----\nComment: mine\n\n", 1)
    assert "is not a readable private key" in refusal(content).why


def _numbers() -> RSAPrivateNumbers:
    key = leaf("rsa").key
    assert isinstance(key, RSAPrivateKey)
    return key.private_numbers()


def _rsa(**changed: int) -> bytes:
    """An RSA key some of whose numbers are others."""
    private = _numbers()
    names = ("p", "q", "d", "dmp1", "dmq1", "iqmp")
    numbers = {name: getattr(private, name) for name in names} | changed
    n = changed.get("n", private.public_numbers.n)
    values = [0, n, private.public_numbers.e, numbers["d"], numbers["p"], numbers["q"]]
    values += [numbers["dmp1"], numbers["dmq1"], numbers["iqmp"]]
    body = b"".join(_der_of(2, value.to_bytes(value.bit_length() // 8 + 1)) for value in values)
    return block("RSA PRIVATE KEY", _der_of(0x30, body))


def _der_of(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes([size]) if size < 128 else bytes([0x81, size]) if size < 256 else b"\x82" + size.to_bytes(2)
    return bytes([tag]) + length + content


def test_an_rsa_key_of_fitting_numbers_is_read() -> None:
    assert parse("key.pem", _rsa()) == parse("key.pem", leaf("rsa").key_pem)


@pytest.mark.parametrize("name", ["n", "d", "dmp1", "dmq1", "iqmp", "p", "q"])
def test_an_rsa_key_with_one_number_that_does_not_fit_is_refused(name: str) -> None:
    """Envoy refuses it as well, when it is already too late to keep the last good one."""
    private = _numbers()
    right = private.public_numbers.n if name == "n" else getattr(private, name)
    assert refusal(_rsa(**{name: right + 2})).fault is Fault.UNPARSABLE


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


def test_a_process_without_free_descriptors_judges_a_file_too() -> None:
    """A codec that cannot be imported then is missing for ever."""
    program = """
import resource
from agent.certificates.findings import Unusable
from agent.certificates.pem import parse
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
try:
    parse("x", b"nothing")
except Unusable:
    print("judged")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("judged\n", "")
