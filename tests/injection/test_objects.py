"""Objects with a pod template: where it is, how they are named, and what is no text, list or mapping."""

from typing import Any

import pytest

from agent.injection.objects import TEMPLATE, InjectionRefused, PodTemplate, has_template, objects

SPEC: dict[str, Any] = {"containers": [{"name": "a"}]}


def of(kind: str, template: dict[str, Any]) -> dict[str, Any]:
    """Return an object of a kind with a template."""
    for key in reversed(TEMPLATE[kind]):
        template = {str(key): template}
    return {"kind": kind, "metadata": {"name": "web"}, **template}


@pytest.mark.parametrize("kind", TEMPLATE)
def test_each_kind_has_its_template(kind: str) -> None:
    document = of(kind, {"spec": SPEC})
    assert has_template(document)
    pod = PodTemplate(document, "shop")
    assert [each.text("name") for each in pod.containers] == ["a"]
    assert pod.where == f"{kind} shop/web"
    assert not has_template(of(kind, {"spec": {}}))


@pytest.mark.parametrize("document", [{}, {"kind": 1}, {"kind": "Rollout", "spec": {"template": {"spec": SPEC}}}])
def test_other_objects_have_none(document: dict[str, Any]) -> None:
    assert not has_template(document)


@pytest.mark.parametrize(
    ("metadata", "where"),
    [
        ({"name": "a", "namespace": "own"}, "Pod own/a"),
        ({"generateName": "a-"}, "Pod given/a-*"),
        ({}, "Pod given/without a name"),
    ],
)
def test_an_object_is_named(metadata: dict[str, Any], where: str) -> None:
    assert PodTemplate({"kind": "Pod", "metadata": metadata, "spec": SPEC}, "given").where == where


def users(pod: PodTemplate) -> dict[str, int | None]:
    """Return the users of the containers."""
    return {each.text("name"): each.mapping("securityContext").number("runAsUser") for each in pod.containers}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"containers": {}}, r"cannot change Pod web: spec\.containers is not a list; correct it"),
        ({"containers": ["a"]}, r"spec\.containers\.0 is not a mapping"),
        ({"containers": [{"name": 5}]}, r"spec\.containers\.0\.name is not a text"),
        (
            {"containers": [{"name": "a", "securityContext": 1}]},
            r"spec\.containers\.0\.securityContext is not a mapping",
        ),
        ({"containers": [{"name": "a", "securityContext": {"runAsUser": True}}]}, r"runAsUser is not a whole number"),
    ],
)
def test_a_field_of_another_type_is_named(spec: dict[str, Any], message: str) -> None:
    pod = PodTemplate({"kind": "Pod", "metadata": {"name": "web"}, "spec": spec})
    with pytest.raises(InjectionRefused, match=message):
        users(pod)


def test_lists_are_searched_and_nothing_else() -> None:
    inner: dict[str, Any] = {"kind": "PodList", "items": [{"kind": "Pod"}, 5]}
    found = list(objects({"kind": "List", "items": [{"kind": "Service"}, inner]}))
    assert found == [(("items", 0), {"kind": "Service"}), (("items", 1, "items", 0), {"kind": "Pod"})]
    assert list(objects(None)) == []
    assert list(objects({"kind": "List"})) == [((), {"kind": "List"})]


def test_containers_that_last() -> None:
    inits: list[Any] = [{"name": "once"}, {"name": "side", "restartPolicy": "Always"}]
    pod = PodTemplate({"kind": "Pod", "spec": {**SPEC, "initContainers": inits}})
    assert [each.text("name") for each in pod.lasting] == ["side", "a"]
