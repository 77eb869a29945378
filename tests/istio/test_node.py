"""The node that a control plane is told."""

from collections.abc import Mapping
from typing import Any

from agent.istio import node, proxy_config
from agent.istio.pod import Addresses, Pod

NAMES = {"POD_NAME": "web-7c9d", "POD_NAMESPACE": "shop", "SERVICE_ACCOUNT": "web"}


def made(
    environment: Mapping[str, str] = NAMES,
    labels: Mapping[str, str] | None = None,
    config: str = "",
    **named: str,
) -> node.Node:
    addresses = Addresses.parse(["10.0.0.7", "fd00::7"], "it")
    pod = Pod(environment, labels or {}, {"note": 'a"b\n'})
    return node.make("sidecar", pod, addresses, proxy_config.read(None, config, {}), {"cluster": "web.shop", **named})


def metadata(environment: Mapping[str, str], **given: Any) -> Mapping[str, Any]:  # noqa: ANN401
    return made({**NAMES, **environment}, **given).metadata


def test_the_id_is_of_four_parts() -> None:
    assert made().id == "sidecar~10.0.0.7~web-7c9d.shop~shop.svc.cluster.local"
    assert made(id="x.y", domain="d").id == "sidecar~10.0.0.7~x.y~d"
    assert made({}).id == "sidecar~10.0.0.7~10.0.0.7~"


def test_the_document_has_the_locality_only_if_it_is_known() -> None:
    assert "locality" not in made().document
    labels = {"istio-locality": "r/z"}
    assert made(labels=labels).document["locality"] == {"region": "r", "zone": "z"}


def test_the_pod_is_described() -> None:
    described = made(labels={"app": "web", "pod-template-hash": "7c9d"}).metadata
    assert described == {
        "NAME": "web-7c9d",
        "NAMESPACE": "shop",
        "SERVICE_ACCOUNT": "web",
        "INSTANCE_IPS": "10.0.0.7,fd00::7",
        "LABELS": {"app": "web"},
        "ANNOTATIONS": {"note": 'a"b\n'},
    }


def test_variables_become_metadata_and_win_over_the_configuration() -> None:
    config = "proxyMetadata: {ISTIO_META_A: config, ISTIO_META_B: config, OTHER: x}\nmeshId: m1\ninterceptionMode: NONE"
    found = metadata({"ISTIO_META_A": "env", "NOT_AN_ISTIO_META_C": "no", "ISTIO_META_MESH_ID": "m2"}, config=config)
    assert (found["A"], found["B"], found["MESH_ID"], found["INTERCEPTION_MODE"]) == ("env", "config", "m2", "NONE")
    assert not {"C", "OTHER", ""} & found.keys()
    assert found["PROXY_CONFIG"]["meshId"] == "m1"


def test_json_is_merged_flat_after_plain_variables() -> None:
    found = metadata({"ISTIO_METAJSON_X": '{"A": 1, "B": {"c": true}}', "ISTIO_META_A": "plain"})
    assert (found["A"], found["B"]) == (1, {"c": True})


def test_the_names_of_the_pod_win_over_all() -> None:
    found = metadata({"ISTIO_META_NAME": "other", "ISTIO_METAJSON_X": '{"NAMESPACE": "other"}'})
    assert (found["NAME"], found["NAMESPACE"]) == ("web-7c9d", "shop")


def test_labels_in_json_lie_below_those_of_the_file() -> None:
    found = metadata({"ISTIO_METAJSON_LABELS": '{"app": "json", "tier": "json"}'}, labels={"app": "file"})
    assert found["LABELS"] == {"app": "file", "tier": "json"}


def test_labels_in_json_have_a_locality_too() -> None:
    labels = {"ISTIO_METAJSON_LABELS": '{"istio-locality": "r.z"}'}
    assert made({**NAMES, **labels}).document["locality"] == {"region": "r", "zone": "z"}


def test_what_is_known_besides_lies_below_all() -> None:
    pod = Pod({**NAMES, "ISTIO_META_A": "env"})
    addresses, config = Addresses.parse(["10.0.0.7"], "it"), proxy_config.read(None, None, {})
    known = {"A": "known", "PORT": 15021, "SAN": [], "NAME": "x"}
    found = node.make("sidecar", pod, addresses, config, {"cluster": "c"}, known).metadata
    assert (found["A"], found["PORT"], found["NAME"], "SAN" in found) == ("env", 15021, "web-7c9d", False)


def test_json_that_is_no_object_is_left_out_and_named() -> None:
    pod = Pod({**NAMES, "ISTIO_METAJSON_A": "[1]", "ISTIO_METAJSON_B": "{", "ISTIO_METAJSON_C": "{}"})
    assert [text.split()[0] for text in node.unreadable(pod)] == ["ISTIO_METAJSON_A", "ISTIO_METAJSON_B"]
    assert "A" not in metadata({"ISTIO_METAJSON_A": "[1]"})
