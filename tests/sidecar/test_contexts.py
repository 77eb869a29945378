"""Certificates from files: which one a client gets, and the reasons for a refusal."""

import os
import ssl
from pathlib import Path

import pytest

from agent.core.errors import BadInput
from agent.sidecar.contexts import (
    check_authority,
    check_certificate,
    check_files,
    client_context,
    server_context,
)
from agent.sidecar.model import Certificate, DownstreamTls, LoadedCertificate, LoadedPem, UpstreamTls
from tests.pki import Algorithm, Leaf
from tests.sidecar.stand import authority, visitor, written, written_ca


def shown(context: ssl.SSLContext, client: ssl.SSLContext, name: str | None) -> str:
    """Shake hands in memory; return the first name of the certificate that the client received."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client.check_hostname = False
    left = client.wrap_bio(to_client, to_server, server_hostname=name)
    right = context.wrap_bio(to_server, to_client, server_side=True)
    for side in (left, right, left, right, left):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    certificate = left.getpeercert()
    assert certificate is not None
    return str(certificate["subjectAltName"][0][1])


def several(directory: Path, *names: tuple[str, Algorithm]) -> ssl.SSLContext:
    pairs = [authority().issue([name, f"{key}.kind"], key) for name, key in names]
    certificates = tuple(written(directory, pair, str(number)) for number, pair in enumerate(pairs))
    return server_context(DownstreamTls(certificates))


def test_the_client_s_name_chooses(tmp_path: Path) -> None:
    context = several(tmp_path, ("a.example", "ecdsa"), ("*.b.example", "ecdsa"), ("x.b.example", "ecdsa"))
    for name, expected in {
        "a.example": "a.example",
        "A.EXAMPLE": "a.example",
        "y.b.example": "*.b.example",
        "x.b.example": "x.b.example",
        "z.y.b.example": "a.example",
        "other.example": "a.example",
        None: "a.example",
    }.items():
        assert shown(context, visitor(), name) == expected, name


def test_rsa_and_ecdsa_for_the_same_name(tmp_path: Path) -> None:
    kinds: tuple[Algorithm, ...] = ("rsa", "ecdsa")
    pairs = [authority().issue([f"{kind}.kind", "a.example"], kind) for kind in kinds]
    context = server_context(DownstreamTls(tuple(written(tmp_path, each, str(at)) for at, each in enumerate(pairs))))
    for name in ("a.example", None):
        for kind in kinds:
            client = visitor()
            client.maximum_version = ssl.TLSVersion.TLSv1_2
            client.set_ciphers(f"ECDHE-{kind.upper()}-AES128-GCM-SHA256")
            assert shown(context, client, name) == f"{kind}.kind"
        assert shown(context, visitor(), name) == "ecdsa.kind"


def test_sealed_memory_is_a_file(tmp_path: Path) -> None:
    pair = authority().issue(["a.example"])
    descriptors = [os.memfd_create(name, os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC) for name in ("chain", "key")]
    try:
        for descriptor, content in zip(descriptors, (pair.chain_pem, pair.key_pem), strict=True):
            os.write(descriptor, content)
        certificate = Certificate(*(f"/dev/fd/{descriptor}" for descriptor in descriptors))
        context = server_context(DownstreamTls((certificate,)))
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    assert shown(context, visitor(), "a.example") == "a.example"


def refusal(tls: DownstreamTls) -> str:
    with pytest.raises(BadInput) as caught:
        server_context(tls)
    return str(caught.value)


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    good, other = (written(tmp_path, authority().issue(["a.example"]), name) for name in ("good", "other"))
    empty = tmp_path / "empty.pem"
    empty.write_bytes(b"")
    nowhere = str(tmp_path / "nowhere")
    assert "no such file" in refusal(DownstreamTls((Certificate(nowhere, good.key),)))
    assert "no such file" in refusal(DownstreamTls((Certificate(good.chain, nowhere),)))
    expected = f"cannot load the certificate chain {empty}: no certificate in it"
    assert refusal(DownstreamTls((Certificate(str(empty), good.key),))) == expected
    assert f"it does not match {good.chain}" in refusal(DownstreamTls((Certificate(good.chain, other.key),)))
    assert str(empty) in refusal(DownstreamTls((Certificate(good.chain, str(empty)),)))
    assert f"cannot load the trusted CA {empty}" in refusal(DownstreamTls((good,), str(empty)))
    assert "no trusted_ca" in refusal(DownstreamTls((good,), require_client_certificate=True))
    assert "no certificate is named" in refusal(DownstreamTls(()))


def test_an_encrypted_key_is_refused_without_asking(tmp_path: Path) -> None:
    pair = authority().issue(["a.example"])
    certificate = written(tmp_path, pair, "a")
    Path(certificate.key).write_bytes(pair.encrypted_key_pem())
    assert "the key is encrypted" in refusal(DownstreamTls((certificate,)))


def test_a_cluster_s_host_is_verified_only_with_a_ca(tmp_path: Path) -> None:
    assert client_context(UpstreamTls()).verify_mode is ssl.CERT_NONE
    context = client_context(UpstreamTls(trusted_ca=written_ca(tmp_path, authority())))
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert not context.check_hostname


def test_a_server_name_that_is_none_is_refused() -> None:
    with pytest.raises(BadInput, match=r"cannot use the server name \.example"):
        client_context(UpstreamTls(sni=".example"))


def loaded(leaf: Leaf, key: bytes | None = None) -> LoadedCertificate:
    parts = {"chain": leaf.chain_pem, "key": key or leaf.key_pem}
    return LoadedCertificate(*(LoadedPem(name, "<inline>", content) for name, content in parts.items()))


def test_a_certificate_in_memory_is_served(no_descriptor_leaks: None) -> None:
    authorities = LoadedPem("authorities", "<inline>", authority().pem)
    context = server_context(DownstreamTls((loaded(authority().issue(["a.example"])),), authorities))
    assert shown(context, visitor(), "a.example") == "a.example"
    assert context.verify_mode is ssl.CERT_OPTIONAL


def test_what_cannot_be_used_in_memory_is_named_without_its_content(no_descriptor_leaks: None) -> None:
    good, other = authority().issue(["a.example"]), authority().issue(["b.example"])
    for certificate, said in (
        (loaded(good, other.key_pem), "cannot use the private key key: it does not match chain"),
        (loaded(good, b"x"), "cannot load chain with the key key: "),
        (loaded(good, good.encrypted_key_pem()), "the key is encrypted"),
    ):
        with pytest.raises(BadInput, match=said):
            check_certificate(certificate)
    check_certificate(loaded(good))
    with pytest.raises(BadInput, match="cannot load the trusted CA authorities: "):
        check_authority(LoadedPem("authorities", "<inline>", b"x"))
    check_authority(LoadedPem("authorities", "<inline>", authority().pem))


def test_files_beside_secrets_are_checked(tmp_path: Path) -> None:
    good, other = (written(tmp_path, authority().issue(["a.example"]), name) for name in ("good", "other"))
    check_files(DownstreamTls((good,), written_ca(tmp_path, authority())))
    check_files(UpstreamTls((), None, "a.example"))
    for tls in (DownstreamTls((Certificate(good.chain, other.key),)), UpstreamTls(sni=".x"), UpstreamTls((), "/none")):
        with pytest.raises(BadInput):
            check_files(tls)
