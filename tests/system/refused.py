"""Pairs that are whole and fit, and that a proxy refuses all the same."""

import subprocess
from collections.abc import Callable, Mapping

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tests.pki import Authority
from tests.system.certificates import Files, Pair
from tests.system.eventually import PATIENCE

Make = Callable[[Authority, str], Pair]
_ENCRYPTS_ONLY = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=True,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


def short_rsa(authority: Authority, name: str) -> Pair:
    """RSA with 1,024 bits."""
    return authority.issue([name], rsa.generate_private_key(65537, 1024))  # that is the point


def other_curve(authority: Authority, name: str) -> Pair:
    """An elliptic curve that TLS does not know."""
    return authority.issue([name], ec.generate_private_key(ec.SECP256K1()))


def no_signatures(authority: Authority, name: str) -> Pair:
    """An ECDSA key that may not sign."""
    return authority.issue([name], more=[_ENCRYPTS_ONLY])


def carriage_returns(authority: Authority, name: str) -> Pair:
    """Lines that end as on a very old Macintosh."""
    leaf = authority.issue([name])
    return Files(leaf.chain_pem.replace(b"\n", b"\r"), leaf.key_pem.replace(b"\n", b"\r"))


def headers(authority: Authority, name: str) -> Pair:
    """A header of RFC 1421 within the certificate's block."""
    leaf = authority.issue([name])
    begin = b"-----BEGIN CERTIFICATE-----\n"
    return Files(leaf.chain_pem.replace(begin, begin + b"X-Origin: the tests\n\n", 1), leaf.key_pem)


def pss_key(authority: Authority, name: str) -> Pair:
    """A key that says of itself that it is for RSA-PSS only."""
    command = ["openssl", "genpkey", "-algorithm", "RSA-PSS", "-pkeyopt", "rsa_keygen_bits:2048"]
    key_pem = subprocess.run(command, capture_output=True, check=True, timeout=PATIENCE).stdout
    private = load_pem_private_key(key_pem, None)
    assert isinstance(private, rsa.RSAPrivateKey)
    return Files(authority.issue([name], private).chain_pem, key_pem)


REFUSED: Mapping[str, Make] = {
    "short RSA": short_rsa,
    "other curve": other_curve,
    "no signatures": no_signatures,
    "carriage returns": carriage_returns,
    "headers": headers,
    "PSS key": pss_key,
}
