"""The options of an injection: sources of certificates, resources, versions."""

import pytest

from agent.core.errors import UsageError
from agent.injection.options import Certificates, InjectionOptions, Mode, Native, Profile, Resources, quantity, version


def test_sources_of_certificates() -> None:
    assert Certificates.parse("none") is None
    assert Certificates.parse("secret:web-tls") == Certificates(secret="web-tls")
    assert Certificates.parse("csi:csi.example", ["a=b"]) == Certificates(driver="csi.example", attributes={"a": "b"})


@pytest.mark.parametrize("text", ["secret:", "secret:Web", "csi:", "csi:a,b", "file", "secret:{other}"])
def test_others_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="write secret:NAME, csi:DRIVER or none"):
        Certificates.parse(text)


def test_the_name_of_a_secret_is_that_of_the_pod() -> None:
    source = Certificates.parse("secret:{workload}-{serviceAccount}-tls")
    assert source is not None
    assert source.secret_of("default", "web") == "web-default-tls"


@pytest.mark.parametrize(("text", "value"), [("100m", 0.1), ("2", 2), ("1.5", 1.5), ("1k", 1000), ("384Mi", 402653184)])
def test_quantities(text: str, value: float) -> None:
    assert quantity(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "m", "1 Mi", "-1", "1e3", "1mi"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="not a quantity"):
        quantity(text)


def test_resources_leave_out_what_is_empty() -> None:
    assert Resources("", "64Mi", "", "").as_json() == {"requests": {"memory": "64Mi"}}
    assert Resources("", "", "", "").as_json() == {}


@pytest.mark.parametrize(
    ("native", "known", "result"),
    [
        (Native.AUTO, None, True), (Native.AUTO, (1, 28), False), (Native.AUTO, (1, 29), True),
        (Native.ON, (1, 20), True), (Native.OFF, None, False),
    ],
)  # fmt: skip
def test_native_sidecars_need_a_version(native: Native, known: tuple[int, int] | None, result: bool) -> None:
    assert InjectionOptions(native=native, kubernetes_version=known).is_native is result


def test_versions() -> None:
    assert version("v1.29.3-gke.100") == version("1.29") == (1, 29)
    with pytest.raises(UsageError, match="cannot use --kubernetes-version '1'"):
        version("1")


def test_only_a_mesh_intercepts() -> None:
    assert InjectionOptions().intercepts
    assert not InjectionOptions(interception=Mode.NONE).intercepts
    tls = InjectionOptions(profile=Profile.TLS)
    assert (tls.intercepts, tls.rewrites_probes, tls.sidecar_image[:12]) == (False, False, "proxy-agent:")
