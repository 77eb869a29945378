"""Patches: each operation by itself, and both appliers of edits against one another."""

import copy
import json
from typing import Any

import jsonpatch
import pytest
from hypothesis import given

from agent.injection import documents, planning
from agent.injection.draft import applied, value_at
from agent.injection.edits import Append, Edit, Insert, JsonValue, Path, Remove, Set
from agent.injection.json_patch import json_patch, pointer
from agent.injection.objects import objects
from agent.injection.options import Certificates, InjectionOptions, Native, Profile
from tests.injection import generated
from tests.injection.test_documents import MANY, injected, parsed, without_texts
from tests.injection.vectors import CRON_JOB, DEPLOYMENT, LIST, SEVERAL
from tests.injection.vectors import POD as POD_TEXT

POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"generateName": "web-", "labels": None},
    "spec": {
        "containers": [
            {"name": "app", "image": "a:1", "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}}},
        ],
    },
}
"""Vector 15: a pod as a ReplicaSet makes it, without a namespace."""


def patched(document: dict[str, Any], edits: tuple[Edit, ...]) -> Any:  # noqa: ANN401  # of the library
    """Return the document with the patch of these edits, as the API server applies it."""
    before = copy.deepcopy(document)
    result = jsonpatch.apply_patch(document, json_patch(edits))
    assert document == before
    return result


def read(tree: object) -> object:
    """Return an object with the JSON in its texts read: the order of keys has no meaning there either."""
    if isinstance(tree, dict):
        return {key: read(each) for key, each in tree.items()}
    if isinstance(tree, list):
        return [read(each) for each in tree]
    return json.loads(tree) if isinstance(tree, str) and tree.startswith('{"') else tree


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ((), ""),
        (("a",), "/a"),
        (("a", 0, "b"), "/a/0/b"),
        (("prometheus.io/scrape",), "/prometheus.io~1scrape"),
        (("a~b/c",), "/a~0b~1c"),
        (("~1",), "/~01"),
        (("",), "/"),
    ],
)
def test_a_pointer_escapes_its_keys(path: Path, text: str) -> None:
    assert pointer(path) == text


@pytest.mark.parametrize(
    ("edits", "after"),
    [
        ([Append(("list",), 3)], {"list": [1, 2, 3], "map": {"a/b": 1}}),
        ([Insert(("list", 0), 0)], {"list": [0, 1, 2], "map": {"a/b": 1}}),
        ([Insert(("list", 2), 0)], {"list": [1, 2, 0], "map": {"a/b": 1}}),
        ([Set(("list", 0), 9)], {"list": [9, 2], "map": {"a/b": 1}}),
        ([Set(("map", "a/b"), 2)], {"list": [1, 2], "map": {"a/b": 2}}),
        ([Set(("map", "~"), None)], {"list": [1, 2], "map": {"a/b": 1, "~": None}}),
        ([Remove(("list", 1))], {"list": [1], "map": {"a/b": 1}}),
        ([Remove(("map", "a/b"))], {"list": [1, 2], "map": {}}),
        ([Set(("new",), []), Append(("new",), 1)], {"list": [1, 2], "map": {"a/b": 1}, "new": [1]}),
        ([Remove(("list", 0)), Set(("list", 0), 5)], {"list": [5], "map": {"a/b": 1}}),
    ],
)
def test_each_edit_is_an_operation_with_its_result(edits: list[Edit], after: JsonValue) -> None:
    before: dict[str, JsonValue] = {"list": [1, 2], "map": {"a/b": 1}}
    assert patched(before, tuple(edits)) == after
    assert applied(before, edits) == after


def test_no_edits_are_an_empty_patch() -> None:
    assert json_patch(()) == []


def test_a_pod_of_a_controller_gets_what_its_text_gets() -> None:
    text = """\
apiVersion: v1
kind: Pod
metadata: {generateName: web-, labels: null}
spec:
  containers:
    - name: app
      image: a:1
      readinessProbe: {httpGet: {path: /ready, port: 8080}}
"""
    options = InjectionOptions()
    assert parsed(text) == [POD]
    plan = planning.inject(POD, options, namespace="shop")
    result = patched(POD, plan.edits)
    assert without_texts(parsed(documents.inject(text, "app.yaml", options, "shop").text)) == without_texts([result])
    assert result["metadata"]["generateName"] == "web-"
    assert [each["name"] for each in result["spec"]["initContainers"]] == ["istio-init", "istio-proxy"]
    again = patched(result, planning.inject(result, options, namespace="shop").edits)
    assert again == result


VECTORS = {"Deployment": DEPLOYMENT, "CronJob": CRON_JOB, "List": LIST, "several": SEVERAL, "Pod": POD_TEXT}
CHOICES = {
    "mesh": InjectionOptions(),
    "secret": InjectionOptions(certificates=Certificates(secret="web-tls")),
    "classic": InjectionOptions(native=Native.OFF),
    "tls": InjectionOptions(profile=Profile.TLS, certificates=Certificates(secret="web-tls")),
}


def patched_objects(text: str, options: InjectionOptions) -> list[Any]:
    """Return the objects of a file, those with a pod template patched; a list has its items patched."""
    found_documents = parsed(text)
    for document in found_documents:
        for path, found in [*objects(document)]:
            result = patched(found, planning.inject(found, options).edits)
            parent: Any = value_at(document, path[:-1])
            if path:
                parent[path[-1]] = result
            else:
                parent.update(result)
    return found_documents


@pytest.mark.parametrize("options", CHOICES.values(), ids=CHOICES)
@pytest.mark.parametrize("text", VECTORS.values(), ids=VECTORS)
def test_both_appliers_agree_on_each_vector(text: str, options: InjectionOptions) -> None:
    once = patched_objects(text, options)
    assert once != parsed(text)
    assert read(without_texts(parsed(documents.inject(text, "app.yaml", options).text))) == read(without_texts(once))


@MANY
@given(text=generated.files(), first=generated.options, second=generated.options)
def test_both_appliers_agree(text: str, first: InjectionOptions, second: InjectionOptions) -> None:
    once = [patched(each, planning.inject(each, first).edits) for each in parsed(text)]
    assert without_texts(parsed(injected(text, first))) == without_texts(once)
    twice = [patched(each, planning.inject(each, second).edits) for each in once]
    assert read(without_texts(parsed(injected(injected(text, first), second)))) == read(without_texts(twice))
