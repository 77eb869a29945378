import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from agent.core.errors import BadInput
from agent.host.server_context import server_context
from tests.pki import Authority


def test_a_pair_in_memory_is_loaded_and_leaves_no_descriptor() -> None:
    leaf = Authority.create("ca").issue(["a"])
    before = sorted(Path("/proc/self/fd").iterdir())
    context = server_context("tls.crt", leaf.chain_pem, leaf.key_pem)
    assert sorted(Path("/proc/self/fd").iterdir()) == before
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_a_key_that_is_too_short_is_refused_by_its_reason() -> None:
    leaf = Authority.create("ca").issue(["a"], rsa.generate_private_key(65537, 1024))
    with pytest.raises(BadInput, match=r"^cannot use tls.crt: OpenSSL rejects it \(EE_KEY_TOO_SMALL\); write"):
        server_context("tls.crt", leaf.chain_pem, leaf.key_pem)


def test_an_encrypted_key_is_refused_and_no_password_is_asked_for() -> None:
    leaf = Authority.create("ca").issue(["a"])
    with pytest.raises(BadInput, match=r"cannot use tls\.crt"):
        server_context("tls.crt", leaf.chain_pem, leaf.encrypted_key_pem())


def test_a_key_of_another_pair_is_refused() -> None:
    authority = Authority.create("ca")
    one, other = authority.issue(["a"]), authority.issue(["a"])
    with pytest.raises(BadInput, match="KEY_VALUES_MISMATCH"):
        server_context("tls.crt", one.chain_pem, other.key_pem)
