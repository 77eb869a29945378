"""A pod as its proxy sees it."""

import pytest

from agent.core.errors import UsageError
from agent.istio.pod import Addresses, Family, Locality, Pod


@pytest.mark.parametrize(
    ("texts", "family", "localhost", "wildcards"),
    [
        (["10.0.0.7"], Family.V4, "127.0.0.1", ("0.0.0.0",)),
        (["fd00::7"], Family.V6, "::1", ("::",)),
        (["10.0.0.7", "fd00::7"], Family.BOTH, "127.0.0.1", ("0.0.0.0", "::")),
        (["fd00::7", "10.0.0.7"], Family.BOTH, "::1", ("::", "0.0.0.0")),
    ],
)
def test_the_first_address_decides_where_both_families_are_there(
    texts: list[str], family: Family, localhost: str, wildcards: tuple[str, ...]
) -> None:
    addresses = Addresses.parse(texts, "INSTANCE_IP")
    assert (addresses.family, addresses.localhost, addresses.wildcards) == (family, localhost, wildcards)


def test_repeated_addresses_count_once() -> None:
    assert len(Addresses.parse(["10.0.0.7", " 10.0.0.7", "fd00::7", "FD00:0::7"], "it").all) == 2


def test_another_text_is_refused_with_its_source() -> None:
    with pytest.raises(UsageError, match="cannot use INSTANCE_IP: it is not an IP address"):
        Addresses.parse(["10.0.0"], "INSTANCE_IP")


@pytest.mark.parametrize(
    ("labels", "locality"),
    [
        ({}, Locality()),
        ({"topology.istio.io/locality": "r/z/s"}, Locality("r", "z", "s")),
        ({"istio-locality": "eu-west.eu-west-1a.rack-4"}, Locality("eu-west", "eu-west-1a", "rack-4")),
        ({"istio-locality": "r/z"}, Locality("r", "z")),
        ({"istio-locality": "a.b/c"}, Locality("a.b", "c")),
        ({"istio-locality": "x", "topology.istio.io/locality": "r/z/s/t"}, Locality("r", "z", "s/t")),
    ],
)
def test_a_label_has_the_locality(labels: dict[str, str], locality: Locality) -> None:
    assert Locality.of(labels) == locality


def test_the_pods_own_address_comes_first() -> None:
    pod = Pod({"INSTANCE_IP": "10.0.0.7", "INSTANCE_IPS": "fd00::7, 10.0.0.7,"})
    assert pod.address_texts == ["10.0.0.7", "fd00::7", "10.0.0.7"]


@pytest.mark.parametrize(
    ("text", "limit"), [("2", 2), ("500m", 1), ("2001m", 3), ("2000m", 2), ("", None), ("0", None)]
)
def test_a_limit_of_processors_is_rounded_up(text: str, limit: int | None) -> None:
    assert Pod({"ISTIO_CPU_LIMIT": text}).cpu_limit == limit


@pytest.mark.parametrize("text", ["two", "1.5", "-1", "2G", "٢"])
def test_another_limit_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="cannot use ISTIO_CPU_LIMIT"):
        _ = Pod({"ISTIO_CPU_LIMIT": text}).cpu_limit
