"""A removal trusts no status: what it names must be there, and nothing else is removed."""

import copy
import json
from typing import Any

import pytest

from agent.injection import planning
from agent.injection.annotations import STATUS
from agent.injection.draft import applied
from agent.injection.objects import InjectionRefused
from agent.injection.options import Certificates, InjectionOptions, Native

POD: dict[str, Any] = {"kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": "b"}]}}


def injected(document: dict[str, Any] | None = None, options: InjectionOptions | None = None) -> dict[str, Any]:
    document = POD if document is None else document
    return applied(document, planning.inject(document, options or InjectionOptions()).edits)


def removed(document: dict[str, Any]) -> dict[str, Any]:
    return applied(document, planning.uninject(document).edits)


def changed(document: dict[str, Any], **parts: object) -> dict[str, Any]:
    """Return the document with other parts of its status."""
    document = copy.deepcopy(document)
    annotations = document["metadata"]["annotations"]
    annotations[STATUS] = json.dumps({**json.loads(annotations[STATUS]), **parts})
    return document


@pytest.mark.parametrize("value", [None, {}, {"fsGroup": None}, {"fsGroup": 2000}, {"runAsUser": 5}])
def test_the_group_is_removed_where_it_was_added(value: object) -> None:
    document = {**POD, "spec": {**POD["spec"], "securityContext": value}}
    options = InjectionOptions(certificates=Certificates(secret="s"))
    after = injected(document, options)
    assert after["spec"]["securityContext"]["fsGroup"] in {1337, 2000}
    assert removed(after) == document


@pytest.mark.parametrize("parent", ["annotations", "volumes", "initContainers"])
@pytest.mark.parametrize("empty", [True, False])
def test_empty_and_null_parents_come_back(parent: str, *, empty: bool) -> None:
    document = copy.deepcopy(POD)
    value: Any = ({} if parent == "annotations" else []) if empty else None
    document["metadata" if parent == "annotations" else "spec"][parent] = value
    assert removed(injected(document)) == document


def test_what_was_added_since_stays() -> None:
    document = injected()
    document["metadata"]["annotations"]["mine"] = "1"
    document["spec"]["volumes"].append({"name": "mine"})
    document["spec"]["initContainers"].append({"name": "mine"})
    after = removed(document)
    assert after["metadata"]["annotations"] == {"mine": "1"}
    assert (after["spec"]["volumes"], after["spec"]["initContainers"]) == ([{"name": "mine"}], [{"name": "mine"}])


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"volumes": ["gone"]}, "gone of volumes is not there"),
        ({"containers": ["istio-proxy"]}, "istio-proxy of containers is not there"),
        ({"probes": {"gone": {}}}, "the container gone, whose probes it records, is not there"),
        ({"probes": {"a": []}}, "the container a"),
        ({"made": 5}, "it is not the JSON"),
    ],
)
def test_a_status_that_does_not_match_is_refused(parts: dict[str, object], message: str) -> None:
    document = changed(injected(), **parts)
    with pytest.raises(InjectionRefused, match=f"status cannot be used: {message}"):
        planning.uninject(document)
    with pytest.raises(InjectionRefused, match=message):
        planning.inject(document, InjectionOptions())


def test_a_status_cannot_remove_anything_else() -> None:
    document = injected()
    document["metadata"]["annotations"]["mine"] = "1"
    pointers = ["/spec/containers", "/spec", "/metadata/annotations/mine", "/metadata/name", "/kind", ""]
    after = removed(changed(document, made=pointers, nulls=pointers, prometheus={"other": "x"}))
    assert after["metadata"] == {"name": "p", "annotations": after["metadata"]["annotations"]}
    assert after["metadata"]["annotations"]["mine"] == "1"
    assert (after["kind"], after["spec"]["containers"]) == ("Pod", POD["spec"]["containers"])


def test_a_classic_sidecar_is_removed_wherever_it_is() -> None:
    document = injected(options=InjectionOptions(native=Native.OFF, hold_application=True))
    document["spec"]["containers"].reverse()
    assert removed(document) == POD
