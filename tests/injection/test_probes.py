"""Probes and hooks lead to the agent, and back to where they were."""

import json
from typing import Any

import pytest

from agent.core import app_probes
from agent.injection import probes
from agent.injection.draft import applied
from agent.injection.objects import InjectionRefused, PodTemplate

PORTS = [{"name": "http", "containerPort": 8080}]


def pod(**fields: object) -> dict[str, Any]:
    container = {"name": "a", "ports": PORTS, **fields}
    return {"kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [container]}}


def rewritten(document: dict[str, Any]) -> tuple[dict[str, Any], list[probes.Rewritten]]:
    """Return the container with its probes rewritten, and what they were."""
    found = probes.rewritten(PodTemplate(document), 15020)
    edits = [edit for each in found for edit in each.edits(15020)]
    return applied(document, edits), found


@pytest.mark.parametrize(
    ("probe", "prober"),
    [
        ({"httpGet": {"port": "http", "path": "/x"}}, {"httpGet": {"port": 8080, "path": "/x"}}),
        ({"httpGet": {"port": "81"}}, {"httpGet": {"port": 81}}),
        (
            {"httpGet": {"port": 80, "host": "localhost", "scheme": "HTTPS"}, "timeoutSeconds": 7},
            {"httpGet": {"port": 80, "host": "localhost", "scheme": "HTTPS"}, "timeoutSeconds": 7},
        ),
        ({"tcpSocket": {"port": 80}, "periodSeconds": 2}, {"tcpSocket": {"port": 80}}),
        ({"grpc": {"port": 80, "service": "s"}}, {"grpc": {"port": 80, "service": "s"}}),
    ],
)
def test_a_probe_asks_the_agent(probe: dict[str, Any], prober: dict[str, Any]) -> None:
    document = pod(livenessProbe=probe)
    result, (found,) = rewritten(document)
    address = "/app-health/a/livez"
    assert (found.address, found.prober) == (address, prober)
    assert app_probes.parse(json.dumps({address: prober}))
    new = result["spec"]["containers"][0]["livenessProbe"]
    assert new["httpGet"]["path"] == address
    assert new["httpGet"]["port"] == 15020
    assert new["httpGet"].get("scheme", "HTTP") == "HTTP"
    assert "host" not in new["httpGet"]
    assert {*new} - {"httpGet"} == {*probe} - {"httpGet", "tcpSocket", "grpc"}
    places = probes.as_status([found])["a"]
    assert isinstance(places, dict)
    (container,) = PodTemplate(result).containers
    assert applied(result, probes.restored(container, places)) == document


def test_each_place_has_its_address() -> None:
    probe = {"httpGet": {"port": 80}}
    document = pod(
        livenessProbe=probe, readinessProbe=probe, startupProbe=probe, lifecycle={"preStop": probe, "postStart": probe}
    )
    assert [each.address for each in rewritten(document)[1]] == [
        "/app-health/a/livez", "/app-health/a/readyz", "/app-health/a/startupz",
        "/app-lifecycle/a/prestopz", "/app-lifecycle/a/poststartz",
    ]  # fmt: skip


@pytest.mark.parametrize("probe", [{"exec": {"command": ["x"]}}, {}, {"httpGet": {"port": 15020, "path": "/x"}}])
def test_others_stay(probe: dict[str, Any]) -> None:
    document = pod(livenessProbe=probe)
    assert rewritten(document) == (document, [])


@pytest.mark.parametrize("port", ["https", None, 0, 70000, True])
def test_a_port_without_a_number_is_refused(port: object) -> None:
    with pytest.raises(InjectionRefused, match=r"livenessProbe\.tcpSocket\.port is neither a number nor the name"):
        rewritten(pod(livenessProbe={"tcpSocket": {"port": port}}))


def test_what_the_agent_cannot_ask_is_refused() -> None:
    with pytest.raises(
        InjectionRefused, match=r"livenessProbe cannot be answered by the agent: .* has the scheme 'FTP'"
    ):
        rewritten(pod(livenessProbe={"httpGet": {"port": 80, "scheme": "FTP"}}))


def test_a_probe_that_has_changed_since_is_left_alone() -> None:
    document = pod(livenessProbe={"httpGet": {"port": 80, "path": "/mine"}}, readinessProbe={"exec": {}})
    (container,) = PodTemplate(document).containers
    places: dict[str, Any] = {"livenessProbe": {"tcpSocket": {"port": 1}}, "readinessProbe": {"httpGet": {"port": 1}}}
    assert list(probes.restored(container, places)) == []


def test_the_probes_of_another_injector_are_recovered() -> None:
    (container,) = PodTemplate(pod()).containers
    probers: dict[str, Any] = {
        "/app-health/a/livez": {"tcpSocket": {"port": 80}, "timeoutSeconds": 1},
        "/app-health/a/readyz": {"path": "/old", "port": 81},
        "/app-health/b/livez": {"tcpSocket": {"port": 82}},
        "/app-lifecycle/a/prestopz": {"tcpSocket": {"port": 83}},
    }
    assert probes.recovered(container, probers) == {
        "livenessProbe": {"tcpSocket": {"port": 80}}, "readinessProbe": {"httpGet": {"path": "/old", "port": 81}},
        "lifecycle/preStop": {"tcpSocket": {"port": 83}},
    }  # fmt: skip
