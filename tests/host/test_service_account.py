"""The service account of a pod, from the directory that a kubelet mounts."""

import ssl
from collections.abc import Mapping
from pathlib import Path

import pytest

from agent.core.errors import MachineError
from agent.host.service_account import Pod, ServiceAccount
from tests.host.pods import BOUND, POD, mount, token, with_payload
from tests.pki import Authority

INSIDE = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}
CLUSTER = Authority.create("cluster")


@pytest.fixture
def mounted(tmp_path: Path) -> Path:
    return mount(tmp_path, CLUSTER)


def test_an_account_names_its_pod_and_the_server(mounted: Path) -> None:
    found = ServiceAccount.find(INSIDE, mounted)
    assert found.pod == POD
    assert (found.host, found.port, found.authority) == ("10.0.0.1", 443, "10.0.0.1:443")


@pytest.mark.parametrize(
    ("host", "port", "authority"),
    [
        ("fd00::1", "443", "[fd00::1]:443"),
        ("kubernetes.default.svc", "6443", "kubernetes.default.svc:6443"),
        ("::1", "1", "[::1]:1"),
        ("10.0.0.1", "65535", "10.0.0.1:65535"),
    ],
)
def test_the_authority_is_fit_for_a_url(mounted: Path, host: str, port: str, authority: str) -> None:
    environment = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
    assert ServiceAccount.find(environment, mounted).authority == authority


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},
        {"KUBERNETES_SERVICE_PORT": "443"},
        INSIDE | {"KUBERNETES_SERVICE_HOST": ""},
        *(INSIDE | {"KUBERNETES_SERVICE_PORT": port} for port in ("", "0", "65536", "-1", "443/tcp", "4.4", "²")),
    ],
    ids=str,
)
def test_without_the_address_of_a_server_there_is_no_account(mounted: Path, environment: Mapping[str, str]) -> None:
    with pytest.raises(MachineError, match="KUBERNETES_SERVICE_HOST"):
        ServiceAccount.find(environment, mounted)


def test_the_server_may_be_named_by_the_process_environment(mounted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in INSIDE.items():
        monkeypatch.setenv(name, value)
    assert ServiceAccount.find(directory=mounted).authority == "10.0.0.1:443"


def test_white_space_around_a_token_is_not_part_of_it(tmp_path: Path) -> None:
    mount(tmp_path, CLUSTER, f" \n{BOUND}\n\n")
    assert ServiceAccount.find(INSIDE, tmp_path).token == BOUND


def test_a_token_that_the_kubelet_has_replaced_is_read_again(mounted: Path) -> None:
    found = ServiceAccount.find(INSIDE, mounted)
    (mounted / "token").write_text("e30.bmV3.c2ln\n")
    assert found.token == "e30.bmV3.c2ln"


@pytest.mark.parametrize("content", [b"\xff\0", "tökén".encode()])
def test_a_token_that_is_no_text_in_ascii_cannot_be_read(mounted: Path, content: bytes) -> None:
    (mounted / "token").write_bytes(content)
    with pytest.raises(MachineError, match="it is not a token"):
        ServiceAccount.find(INSIDE, mounted)


def test_a_token_that_is_missing_is_named_with_the_setting_that_mounts_one(mounted: Path) -> None:
    found = ServiceAccount.find(INSIDE, mounted)
    (mounted / "token").unlink()
    with pytest.raises(MachineError, match=r"token: No such file.*automountServiceAccountToken"):
        ServiceAccount.find(INSIDE, mounted)
    with pytest.raises(MachineError, match="token: No such file"):
        _ = found.token


def claims(**changes: object) -> dict[str, object]:
    return {"namespace": "prod", "pod": {"name": "app-1", "uid": "u-1"}} | changes


@pytest.mark.parametrize(
    "text",
    [
        "",
        "e30",
        "e30.",
        "..",
        "e30.!!!.c2ln",
        "e30.A.c2ln",  # no length that base64 has
        with_payload(b"\xff\xfe"),
        with_payload(b"{"),
        with_payload(b"[" * 100_000),
        with_payload(b"null"),
        with_payload(b'"kubernetes.io"'),
        with_payload(b"[1]"),
        token({}),
        token({"kubernetes.io": None}),
        token({"kubernetes.io": {"namespace": "prod"}}),
        token({"kubernetes.io": claims(pod=None)}),
        token({"kubernetes.io": claims(pod="app-1")}),
        token({"kubernetes.io": claims(pod={"name": "app-1"})}),
        token({"kubernetes.io": claims(pod={"uid": "u-1"})}),
        token({"kubernetes.io": {"pod": {"name": "app-1", "uid": "u-1"}}}),
    ],
    ids=lambda text: text[:40] or "empty",
)
def test_a_token_that_is_not_bound_to_a_pod_is_refused_and_not_quoted(tmp_path: Path, text: str) -> None:
    mount(tmp_path, CLUSTER, text)
    with pytest.raises(MachineError, match="determine the pod") as refused:
        ServiceAccount.find(INSIDE, tmp_path)
    assert "c2ln" not in str(refused.value)


@pytest.mark.parametrize("length", range(20))
def test_the_payload_may_have_any_length(tmp_path: Path, length: int) -> None:
    """A token leaves out the padding of base64, which the length decides."""
    mount(tmp_path, CLUSTER, token({"kubernetes.io": claims(namespace="n" * length)}))
    assert ServiceAccount.find(INSIDE, tmp_path).pod == Pod("n" * length, "app-1", "u-1")


def test_the_payload_may_have_the_characters_of_the_url_alphabet(tmp_path: Path) -> None:
    text = with_payload('{"kubernetes.io": {"namespace": "ü??>>", "pod": {"name": "~", "uid": "ÿ"}}}'.encode())
    assert "_" in text
    assert "-" in text
    mount(tmp_path, CLUSTER, text)
    assert ServiceAccount.find(INSIDE, tmp_path).pod == Pod("ü??>>", "~", "ÿ")


def subjects(trust: ssl.SSLContext) -> list[object]:
    return [ca["subject"] for ca in trust.get_ca_certs()]


def test_only_the_cluster_is_trusted_and_by_name(mounted: Path) -> None:
    trust = ServiceAccount.find(INSIDE, mounted).trust()
    assert (trust.verify_mode, trust.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert subjects(trust) == [((("commonName", "cluster"),),)]


def test_an_authority_without_the_extensions_that_python_3_13_wants_is_trusted(mounted: Path) -> None:
    flags = ServiceAccount.find(INSIDE, mounted).trust().verify_flags
    assert not flags & (ssl.VERIFY_X509_STRICT | ssl.VERIFY_CRL_CHECK_LEAF)


@pytest.mark.parametrize(
    "content", [None, b"", b"nothing", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_an_authority_that_cannot_be_used_is_named(mounted: Path, content: bytes | None) -> None:
    if content is None:
        (mounted / "ca.crt").unlink()
    else:
        (mounted / "ca.crt").write_bytes(content)
    with pytest.raises(MachineError, match=rf"cannot use {mounted}/ca\.crt"):
        ServiceAccount.find(INSIDE, mounted)


def test_an_authority_that_is_replaced_is_trusted_from_then_on(mounted: Path) -> None:
    found = ServiceAccount.find(INSIDE, mounted)
    (mounted / "ca.crt").write_bytes(Authority.create("renewed").pem)
    assert subjects(found.trust()) == [((("commonName", "renewed"),),)]
