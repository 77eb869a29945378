import pytest

from agent.sidecar.config.sources import SOURCE, RestSource, rest_source
from tests.sidecar.config.messages import Read, read

API = {"api_type": "REST", "transport_api_version": "V3", "cluster_names": ["c"], "refresh_delay": "0.5s"}


def made(api: object = API, **source: object) -> Read:
    return read(rest_source, {"resource_api_version": "V3", "api_config_source": api, **source}, SOURCE)


def test_intervals_have_the_defaults_of_envoy() -> None:
    assert made() == (RestSource("c", 0.5, 1.0, 15.0), "")


def test_every_field_is_read() -> None:
    found = made({**API, "request_timeout": "3600s"}, initial_fetch_timeout="0s")
    assert found == (RestSource("c", 0.5, 3600.0, 0.0), "")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"api_type": None}, "api_type: it is missing"),
        ({"api_type": "GRPC"}, "api_type: GRPC is not supported by sidecar, only REST"),
        ({"transport_api_version": "AUTO"}, "transport_api_version: AUTO is not supported by sidecar, only V3"),
        ({"cluster_names": []}, "cluster_names: it names no cluster"),
        ({"cluster_names": ["a", "b"]}, "cluster_names: more than one cluster is not supported by sidecar"),
        ({"refresh_delay": None}, "refresh_delay: it is missing"),
        ({"refresh_delay": "0s"}, "refresh_delay: 0s is too short"),
        ({"request_timeout": "0s"}, "request_timeout: 0s is too short"),
        ({"grpc_services": []}, "grpc_services: not supported by sidecar"),
    ],
)
def test_another_api_is_refused(changes: dict[str, object], said: str) -> None:
    assert made({**API, **changes}).why == f"m.api_config_source.{said}"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ads": {}}, "ads: not supported by sidecar"),
        ({"path_config_source": {}}, "path_config_source: not supported by sidecar"),
        ({"resource_api_version": "V2"}, "resource_api_version: V2 is not supported by sidecar, only V3"),
        ({"initial_fetch_timeout": "-1s"}, "initial_fetch_timeout: -1s is too short"),
        ({"api_config_source": None}, "api_config_source: it is missing"),
    ],
)
def test_another_source_is_refused(changes: dict[str, object], said: str) -> None:
    assert made(**changes).why == f"m.{said}"
