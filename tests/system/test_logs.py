"""What is written to the log during a rotation: by the agent and by its proxies."""

import json

import pytest

from tests.system.agent_fixture import AgentFixture
from tests.system.eventually import eventually

QUIET = 3  # lines of a proxy in a start and an end; Envoy writes 140 at its own default level


def rotated(instance: AgentFixture) -> None:
    """Rotate once, and wait until the log tells how that went."""
    instance.start()
    instance.journal.mark()
    instance.rotate()
    instance.served()
    eventually(lambda: instance.journal.named("rotation.done"), what="the rotation is logged")


def test_a_rotation_is_a_few_lines_and_each_is_json(unstarted: AgentFixture) -> None:
    instance = unstarted
    instance.proxy_args = ["--concurrency", "1"] if "envoy" in instance.binary.name else []
    rotated(instance)
    lines = instance.journal.path.read_text(encoding="utf-8").splitlines()
    trees = [json.loads(line) for line in lines]
    assert all({"timestamp", "severityText", "body", "attributes"} <= tree.keys() for tree in trees)
    assert len([tree for tree in trees if "eventName" not in tree]) <= QUIET


def test_a_proxys_line_names_its_epoch_and_is_json_whatever_it_says(unstarted: AgentFixture) -> None:
    instance = unstarted
    instance.proxy_args = ["--log-level", "info"]
    instance.start()

    def proxys() -> list[dict[str, object]]:
        trees = [json.loads(line) for line in instance.journal.path.read_text(encoding="utf-8").splitlines()]
        return [tree for tree in trees if "eventName" not in tree]

    eventually(proxys, what="the proxy writes a line")
    attributes = proxys()[-1]["attributes"]
    assert isinstance(attributes, dict)
    assert attributes["epoch"] == instance.serving().number


def test_the_facts_of_a_rotation_are_attributes(unstarted: AgentFixture) -> None:
    instance = unstarted
    rotated(instance)
    (done,) = instance.journal.named("rotation.done")
    (change,) = done.attributes["changes"]
    phases = done.attributes["phases"]
    assert done.attributes["trigger"] == "certificate"
    assert f"{int(change['before'], 16):x}" != f"{int(change['after'], 16):x}" == f"{instance.serial_served():x}"
    assert {"launch", "start", "judge", "open", "handover"} <= phases.keys()
    assert done.attributes["duration"] == pytest.approx(sum(phases.values()), abs=1e-4)
    assert [each["matches"] for each in done.attributes["seen"]] == [True]
    (serving,) = instance.journal.named("epoch.serving")
    assert serving.attributes["pid"] == instance.serving_pid()
