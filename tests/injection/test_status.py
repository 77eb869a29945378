"""The status annotation: written, read, and refused if it is not one."""

import json
from typing import Any

import pytest

from agent import __version__
from agent.injection import status
from agent.injection.annotations import STATUS
from agent.injection.objects import InjectionRefused, PodTemplate
from agent.injection.status import Status, keys_of, pointer


def pod(text: object) -> PodTemplate:
    annotations: dict[str, Any] = {STATUS: text}
    return PodTemplate({"kind": "Pod", "metadata": {"name": "p", "annotations": annotations}, "spec": {}})


def test_what_is_written_is_read() -> None:
    written = Status(made=["/spec/volumes"], nulls=["/metadata"], probes={"a": {}}, prometheus={"port": "1"})
    written.names["volumes"] = ["v"]
    assert status.read(pod(written.as_text())) == written
    assert json.loads(written.as_text())["version"] == __version__


def test_empty_parts_are_left_out() -> None:
    assert json.loads(Status().as_text()) == {"made": [], "version": __version__}


def test_without_one_there_is_none() -> None:
    assert status.read(pod(None)) is None


def test_the_status_of_another_injector_has_nothing_made() -> None:
    read = status.read(pod('{"initContainers":["istio-init"],"containers":null,"revision":"default"}'))
    assert read is not None
    assert (read.is_ours, read.names["initContainers"], read.names["containers"]) == (False, ["istio-init"], [])


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", 5, '{"made": {}}', '{"made": [1]}', '{"made": [], "probes": []}', '{"volumes": "v"}', "[" * 9999],
)
def test_what_is_no_status_is_refused(text: object) -> None:
    with pytest.raises(InjectionRefused) as refused:
        status.read(pod(text))
    field, _, why = str(refused.value).partition(" cannot be used: ")
    assert field == f"cannot change Pod p: metadata.annotations.{STATUS}"
    assert why == "it is not the JSON that an injection writes; restore the object from before its injection"


def test_pointers() -> None:
    keys = ("metadata", "annotations", "a.b/c~d")
    assert pointer(*keys) == "/metadata/annotations/a.b~1c~0d"
    assert keys_of(pointer(*keys)) == keys
