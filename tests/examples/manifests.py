"""The objects of the examples for Kubernetes: from files, from a kustomization and from the chart."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

import agent
from tests.system.eventually import PATIENCE

DIRECTORY = Path(agent.__file__).parents[1] / "examples" / "kubernetes"
CHART = DIRECTORY / "chart"
KUSTOMIZE = DIRECTORY / "kustomize"
NO_OBJECTS = {"kustomization.yaml", "envoy.yaml"}

Json = dict[str, Any]


@dataclass(frozen=True)
class Example:
    """The objects of one example."""

    name: str
    objects: list[Json] = field(repr=False)

    def only(self, kind: str) -> Json:
        """Return the object of a kind of which there is one."""
        (found,) = self.all(kind)
        return found

    def all(self, kind: str) -> list[Json]:
        """Return the objects of a kind."""
        return [each for each in self.objects if each["kind"] == kind]

    def pod(self) -> Json:
        """Return the specification of the deployment's pods."""
        spec: Json = self.only("Deployment")["spec"]["template"]["spec"]
        return spec

    def containers(self) -> list[Json]:
        """Return the containers of the pod."""
        return [*self.pod().get("initContainers", []), *self.pod()["containers"]]

    def agent(self) -> Json:
        """Return the container of the agent."""
        (found,) = (each for each in self.containers() if each["name"] == "agent")
        return found


def parsed(text: str) -> list[Json]:
    """Parse a stream of objects."""
    return [each for each in yaml.safe_load_all(text) if each is not None]


def of_files(name: str, files: Iterable[Path]) -> Example:
    """Return the objects of files."""
    return Example(name, [each for file in files for each in parsed(file.read_text(encoding="utf-8"))])


def run(program: str, *arguments: str | Path) -> str:
    """Run a program and return what it prints; AssertionError if it fails. Skips the test without the program."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"there is no {program} here: .ci/helm DIRECTORY installs helm and kubectl")
    with tempfile.TemporaryDirectory() as home:  # helm writes below it
        done = subprocess.run(
            [path, *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
            env={**os.environ, "HOME": home, "XDG_CACHE_HOME": home, "XDG_CONFIG_HOME": home, "XDG_DATA_HOME": home},
        )
    assert done.returncode == 0, done.stderr
    return done.stdout


def of_chart(release: str = "gateway", values: Json | None = None, arguments: Sequence[str] = ()) -> Example:
    """Return what `helm template` prints, with these values."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(values or {}, file)
        file.flush()
        text = run("helm", "template", release, CHART, "--values", file.name, "--namespace", "web", *arguments)
    return Example(f"chart {release}", parsed(text))


def of_kustomization(name: str) -> Example:
    """Return what `kubectl kustomize` prints."""
    return Example(name, parsed(run("kubectl", "kustomize", KUSTOMIZE / name)))


APPLICATION: Json = {
    "name": "app",
    "image": "app:1",
    "lifecycle": {"preStop": {"sleep": {"seconds": 35}}},
    "securityContext": {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    },
}
MONITORED: Json = {"podMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}, "dashboard": {"enabled": True}}

FROM_FILES: dict[str, Callable[[], Example]] = {
    **{
        file.stem: lambda file=file: of_files(file.stem, [file])  # type: ignore[misc]
        for file in sorted(DIRECTORY.glob("*.yaml"))
    },
    "base": lambda: of_files(
        "base", [file for file in sorted(KUSTOMIZE.glob("base/*.yaml")) if file.name not in NO_OBJECTS]
    ),
}
RENDERED: dict[str, Callable[[], Example]] = {
    "kustomize": lambda: of_kustomization("example"),
    "chart": lambda: of_chart(values=MONITORED),
    "chart with a sidecar": lambda: of_chart(values={**MONITORED, "containers": [APPLICATION]}),
}
