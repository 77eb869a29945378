"""Complete and matching pairs that a proxy refuses nevertheless."""

import subprocess
from collections.abc import Callable, Mapping

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tests.pki import Authority, key_usage
from tests.system.certificates import Files, Pair
from tests.system.eventually import PATIENCE

Make = Callable[[Authority, str], Pair]
_ENCRYPTS_ONLY = key_usage("key_encipherment")


def short_rsa(authority: Authority, name: str) -> Pair:
    """RSA with 1,024 bits."""
    return authority.issue([name], rsa.generate_private_key(65537, 1024))  # intended


def on(curve: ec.EllipticCurve) -> Make:
    """A key on an elliptic curve that clients do not accept."""
    return lambda authority, name: authority.issue([name], ec.generate_private_key(curve))


def no_signatures(authority: Authority, name: str) -> Pair:
    """An ECDSA key that may not sign."""
    return authority.issue([name], more=[_ENCRYPTS_ONLY])


def pss_key(authority: Authority, name: str) -> Pair:
    """A key of the type RSA-PSS only."""
    command = ["openssl", "genpkey", "-algorithm", "RSA-PSS", "-pkeyopt", "rsa_keygen_bits:2048"]
    key_pem = subprocess.run(command, capture_output=True, check=True, timeout=PATIENCE).stdout
    private = load_pem_private_key(key_pem, None)
    assert isinstance(private, rsa.RSAPrivateKey)
    return Files(authority.issue([name], private).chain_pem, key_pem)


REFUSED: Mapping[str, Make] = {
    "short RSA": short_rsa,
    "secp256k1": on(ec.SECP256K1()),
    "P-224": on(ec.SECP224R1()),
    "Brainpool": on(ec.BrainpoolP256R1()),
    "no signatures": no_signatures,
    "PSS key": pss_key,
}
