import errno
import os
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from agent.cli.certs_files import BundleFile, ChainFile, Files, KeyFile, Level, read_files
from agent.status.model import Authorities, CertificateSet
from tests.pki import Authority

ROOT = Authority.create("the root")
BELOW = ROOT.intermediate("the one below")
LEAF = BELOW.issue(["a.test", "192.0.2.7", "spiffe://a/b"], serial=0x1F)
OTHER = BELOW.issue(["a.test"])


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a good pair and a bundle."""
    put(tmp_path)
    return tmp_path


def put(place: Path) -> None:
    (place / "tls.crt").write_bytes(LEAF.chain_pem)
    (place / "tls.key").write_bytes(LEAF.key_pem)
    (place / "ca.crt").write_bytes(ROOT.pem + BELOW.pem)


def read(place: Path) -> tuple[ChainFile, KeyFile, BundleFile]:
    bundles = (Authorities(str(place / "ca.crt"), 2, None),)
    found = read_files(CertificateSet("a", str(place / "tls.crt"), str(place / "tls.key"), None, None, bundles))
    assert found.chain is not None
    assert found.key is not None
    return found.chain, found.key, found.bundles[0]


def test_the_levels_are_the_exit_codes_of_monitoring_plugins() -> None:
    assert [int(level) for level in (Level.OK, Level.WARNING, Level.CRITICAL)] == [0, 1, 2]


def test_a_set_without_files_has_none() -> None:
    assert read_files(CertificateSet("a", None, None, None, None)) == Files(None, None, ())


def test_every_file_of_a_good_set_is_described(place: Path) -> None:
    chain, key, bundle = read(place)
    assert [each.path for each in (chain, key, bundle)] == [
        f"{place}/{name}" for name in ("tls.crt", "tls.key", "ca.crt")
    ]
    assert [(each.problem, each.readable, each.unusable) for each in (chain, key, bundle)] == [("", True, False)] * 3
    assert (chain.certificates, chain.in_order, key.fits) == (2, True, True)
    assert chain.leaf is not None
    assert (chain.leaf.serial, chain.leaf.spiffe_id) == ("1f", "spiffe://a/b")
    assert set(chain.leaf.names) == {"DNS:a.test", "IP:192.0.2.7", "URI:spiffe://a/b"}
    assert [each.subject for each in bundle.certificates] == ["CN=the root", "CN=the one below"]


def test_several_bundles_stay_in_their_order(place: Path) -> None:
    paths = [str(place / name) for name in ("ca.crt", "tls.crt", "none.crt")]
    bundles = tuple(Authorities(path, 1, None) for path in paths)
    found = read_files(CertificateSet("a", None, None, None, None, bundles))
    assert [each.path for each in found.bundles] == paths
    assert [each.unusable for each in found.bundles] == [False, False, True]


def test_a_key_alone_fits_nothing_that_is_known(place: Path) -> None:
    key = read_files(CertificateSet("a", None, str(place / "tls.key"), None, None)).key
    assert key == KeyFile(str(place / "tls.key"), fits=None)


def test_whether_an_encrypted_key_fits_cannot_be_told(place: Path) -> None:
    (place / "tls.key").write_bytes(LEAF.encrypted_key_pem())
    _, key, _ = read(place)
    assert (key.fits, key.problem) == (None, "")


def test_a_key_beside_a_chain_that_cannot_be_read_is_not_blamed(place: Path) -> None:
    (place / "tls.crt").write_bytes(b"garbage")
    chain, key, _ = read(place)
    assert (chain.unusable, chain.leaf, chain.certificates) == (True, None, 0)
    assert (key.fits, key.problem) == (None, "")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tls.crt", b""),
        ("tls.crt", b"garbage"),
        ("tls.crt", LEAF.key_pem),
        ("tls.crt", LEAF.chain_pem[:300]),
        ("tls.key", b""),
        ("tls.key", LEAF.chain_pem),
        ("tls.key", LEAF.key_pem[:60]),
        ("tls.key", OTHER.key_pem),
        ("ca.crt", b" \n"),
        ("ca.crt", b"\0" * 1000),
        ("ca.crt", LEAF.key_pem),
    ],
    ids=lambda each: each if isinstance(each, str) else str(each[:12]),
)
def test_a_damaged_file_is_unusable_and_named_and_the_others_are_not(name: str, content: bytes, place: Path) -> None:
    (place / name).write_bytes(content)
    for file in read(place):
        is_it = file.path.endswith(name)
        assert (file.unusable, str(place / name) in file.problem) == (is_it, is_it)
    assert read(place)[1].fits is {"tls.crt": None, "tls.key": False, "ca.crt": True}[name]


def test_a_chain_out_of_order_is_usable(place: Path) -> None:
    (place / "tls.crt").write_bytes(LEAF.certificate_pem + ROOT.pem + BELOW.pem)
    chain, _, _ = read(place)
    assert (chain.certificates, chain.in_order, chain.unusable) == (3, False, False)


@pytest.mark.parametrize("name", ["tls.crt", "tls.key", "ca.crt"])
def test_a_missing_file_is_unusable(name: str, place: Path) -> None:
    (place / name).unlink()
    assert [file.unusable for file in read(place)] == [file.path.endswith(name) for file in read(place)]


def test_a_file_that_only_this_process_may_not_read_is_not_at_fault(ordinary: Path) -> None:
    put(ordinary)
    for name in ("tls.crt", "tls.key", "ca.crt"):
        (ordinary / name).chmod(0)
    files = read(ordinary)
    assert [(file.readable, file.unusable) for file in files] == [(False, False)] * 3
    assert ["root" in file.problem and file.path in file.problem for file in files] == [True] * 3
    assert files[1].fits is None


def test_a_file_that_nobody_can_read_is_at_fault(place: Path) -> None:
    (place / "tls.crt").unlink()
    (place / "tls.crt").mkdir()
    chain, _, _ = read(place)
    assert (chain.readable, chain.unusable) == (True, True)


def test_a_machine_that_cannot_read_for_a_moment_is_asked_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., int] = os.open

    def out_of_descriptors(path: str, *rest: object, **more: object) -> int:
        if str(path).startswith(str(place)):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(path, *rest, **more)

    monkeypatch.setattr("agent.host.files.os.open", out_of_descriptors)
    files = read(place)
    assert [(file.readable, file.unusable, "again" in file.problem) for file in files] == [(False, False, True)] * 3


def test_a_certificate_in_a_bundle_whose_name_cannot_be_read_makes_it_unusable(place: Path) -> None:
    damaged = ROOT.certificate.public_bytes(Encoding.DER).replace(b"the root", b"\xff" * 8)
    (place / "ca.crt").write_text(ssl.DER_cert_to_PEM_cert(damaged))
    bundle = read(place)[2]
    assert (bundle.unusable, str(place / "ca.crt") in bundle.problem, bundle.certificates) == (True, True, ())


def test_a_bundle_may_hold_a_certificate_that_has_expired(place: Path) -> None:
    old = Authority.create("old", not_after=datetime(2021, 1, 1, tzinfo=UTC))
    (place / "ca.crt").write_bytes(old.pem)
    bundle = read(place)[2]
    assert (bundle.unusable, [each.not_after.year for each in bundle.certificates]) == (False, [2021])
