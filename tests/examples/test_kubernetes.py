"""The examples for Kubernetes match its schemas, and every command line of the agent in them is valid."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import agent
from agent.cli.run import agent as command
from agent.cli.settings import running
from agent.control_client import commands
from agent.inputs.settings import Settings

DIRECTORY = Path(agent.__file__).parents[1] / "examples" / "kubernetes"
FILES = sorted(DIRECTORY.glob("*.yaml"))
USER = 1337
Json = dict[str, Any]


def documents(path: Path) -> list[Json]:
    """Parse the objects of a file."""
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def pod(path: Path) -> Json:
    """Return the pod template of a file's deployment."""
    (deployment,) = (each for each in documents(path) if each["kind"] == "Deployment")
    spec: Json = deployment["spec"]["template"]["spec"]
    return spec


def sidecar(path: Path) -> Json:
    """Return the container of the agent."""
    (found,) = (each for each in containers(path) if each["name"] == "agent")
    return found


def containers(path: Path) -> list[Json]:
    """List the containers of the pod."""
    return [*pod(path).get("initContainers", []), *pod(path)["containers"]]


def executed(tree: object) -> Iterator[list[str]]:
    """Return the commands that the kubelet executes: in probes and in both hooks."""
    if isinstance(tree, dict):
        if "exec" in tree:
            yield tree["exec"]["command"]
        for value in tree.values():
            yield from executed(value)


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def example(request: pytest.FixtureRequest) -> Path:
    """One of the example files."""
    path: Path = request.param
    return path


@pytest.fixture
def settings(example: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Return the agent's settings in an example, from its command line and its environment."""
    container = sidecar(example)
    known = {option.envvar for option in command.params}
    for variable in container["env"]:
        assert variable["name"] in known, "the agent reads it"
        monkeypatch.setenv(variable["name"], variable["value"])
    context = command.make_context("agent", list(container["args"]))
    assert not context.args
    return running(context.params, context.obj)


def test_there_are_examples() -> None:
    assert [path.stem for path in FILES] == ["classic-sidecar", "native-sidecar"]


def test_they_fit_the_schemas(example: Path) -> None:
    kubernetes = pytest.importorskip("kubernetes_validate")
    for document in documents(example):
        kubernetes.validate(document, kubernetes.latest_version(), strict=True)


def test_a_misspelt_field_would_not_fit(example: Path) -> None:
    kubernetes = pytest.importorskip("kubernetes_validate")
    (deployment,) = (each for each in documents(example) if each["kind"] == "Deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["livenessprobe"] = {}
    with pytest.raises(kubernetes.ValidationError, match="livenessprobe"):
        kubernetes.validate(deployment, kubernetes.latest_version(), strict=True)


def test_what_the_kubelet_executes_is_understood(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = [words for words in executed(sidecar(example)) if words[0] == "agent"]
    assert ours
    for _, name, *arguments in ours:
        assert commands.run(name, [*arguments, "--help"]) == 0, capsys.readouterr().err
        assert f"Usage: agent {name}" in capsys.readouterr().out


def test_a_pod_ends_in_peace(example: Path, settings: Settings) -> None:
    policy = settings.policy
    assert 0 < policy.drain_delay < policy.stop_timeout
    assert pod(example)["terminationGracePeriodSeconds"] > policy.stop_timeout + policy.end_timeout
    assert sidecar(example)["lifecycle"]["preStop"]["exec"]["command"] == ["agent", "drain"]


def test_the_application_answers_until_the_agent_is_done(example: Path, settings: Settings) -> None:
    (app,) = (each for each in containers(example) if each["name"] == "app")
    (hook,) = app["lifecycle"]["preStop"].values()
    span = hook["seconds"] if "seconds" in hook else int(hook["command"][1])
    assert settings.policy.stop_timeout + settings.policy.end_timeout <= span
    assert span < pod(example)["terminationGracePeriodSeconds"]


def test_the_account_may_do_what_the_events_want_and_nothing_else(example: Path, settings: Settings) -> None:
    assert settings.kubernetes_events
    kinds = {each["kind"]: each for each in documents(example)}
    assert kinds["Role"]["rules"] == [{"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"]}]
    assert kinds["RoleBinding"]["roleRef"]["name"] == kinds["Role"]["metadata"]["name"]
    (subject,) = kinds["RoleBinding"]["subjects"]
    assert subject["name"] == kinds["ServiceAccount"]["metadata"]["name"] == pod(example)["serviceAccountName"]


def test_probes_ask_where_the_agent_answers(example: Path, settings: Settings) -> None:
    container = sidecar(example)
    probes = {name: container[name]["httpGet"] for name in ("readinessProbe", "livenessProbe")}
    assert {probe["port"] for probe in probes.values()} == {settings.status_port}
    assert probes["readinessProbe"]["path"] == "/healthz/ready"
    assert probes["livenessProbe"]["path"] == "/healthz/live"
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert settings.listen.endswith(f":{ports['https']}")
    (service,) = (each for each in documents(example) if each["kind"] == "Service")
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports.keys()


def test_the_agent_finds_its_certificates_and_writes_to_memory_only(example: Path, settings: Settings) -> None:
    mounts = {Path(mount["mountPath"]): mount for mount in sidecar(example)["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod(example)["volumes"]}
    (certificates,) = settings.certificates
    assert mounts[certificates]["readOnly"]
    writable = [path for path, mount in mounts.items() if not mount.get("readOnly")]
    assert [settings.run_directory.is_relative_to(path) for path in writable] == [True]
    assert volumes[mounts[writable[0]]["name"]]["emptyDir"]["medium"] == "Memory"


def test_nothing_has_rights(example: Path) -> None:
    everybody = pod(example)["securityContext"]
    assert everybody["runAsNonRoot"]
    assert {everybody[name] for name in ("runAsUser", "runAsGroup", "fsGroup")} == {USER}
    for container in containers(example):
        own = container["securityContext"]
        assert own["readOnlyRootFilesystem"]
        assert not own["allowPrivilegeEscalation"]
        assert own["capabilities"] == {"drop": ["ALL"]}
