"""Every command that a page shows is run: here, as it is written, or by what is named."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from tests.docs import pages
from tests.docs.test_pages import PAGES, ROOT
from tests.pki import Authority
from tests.system.bootstrap import Bootstrap, Secured
from tests.system.eventually import PATIENCE
from tests.system.room import Room

ELSEWHERE = {
    "AGENT_CLUSTER_BIN=": "CONTRIBUTING.md",  # by hand: the programs are not ours
    "PIPX_HOME=/opt/pipx": "tests/system/test_debian.py",
    "UV_TOOL_DIR=/opt/uv": "tests/system/test_debian.py",
    "agent --proxy-bin gunicorn": "tests/system/test_server.py",
    "agent --proxy-bin haproxy": "tests/system/test_examples.py",
    "agent --proxy-bin nginx": "tests/system/test_examples.py",
    "agent inject": "tests/cli/test_inject.py",
    "agent intercept": "tests/system/test_intercept.py",
    "agent webhook": "tests/webhook/test_webhook.py",
    "agent systemd": "tests/system/test_debian.py",
    "agent uninject": "tests/cli/test_inject.py",
    "apt install ./proxy-agent": "tests/system/test_debian.py",
    "examples/library/run": "tests/system/test_library.py",
    "export PATH": ".ci/run",
    "helm": "tests/examples/test_chart.py",
    "kubectl apply": "tests/examples/test_kubernetes.py",
    "ln -s /opt/proxy-agent": ".ci/floors",
    "ln -s agent": "tests/system/test_image.py",
    "packaging/deb/build": "tests/system/test_debian.py",
    "mkdir -p /etc/proxy-agent": "tests/system/test_systemd.py",
    "/opt/proxy-agent/bin/pip": ".ci/floors",
    "pilot-agent proxy": "tests/system/test_pod.py",
    "podman": "tests/system/test_image.py",
    "promtool": "tests/examples/test_prometheus.py",
    "python -m pip wheel": "tests/system/test_debian.py",
    "python -m pytest": "tests/run",
    "python -m tests.benchmarks": "CONTRIBUTING.md",  # by hand: minutes each
    "python -m tests.mutation": "CONTRIBUTING.md",
    "python3 -m venv": ".ci/floors",
    "requirements/install": ".ci/run",
    "systemctl": "tests/system/test_systemd.py",
    "tests/run": ".ci/run",
}
"""Beginnings of commands that something else runs."""

WALK = 'cd "$(mktemp -d)"'
"""The first line of a block that is to be run from its first line to its last."""

WITHOUT_AGENT = ("agent check", "agent version", "sidecar")
START = "agent --config /etc/envoy.yaml --certs /etc/certs"


class Sandbox:
    """A machine as the pages assume one: files below /etc, and a directory to work in."""

    def __init__(self, room: Room) -> None:
        self.root = Path(room.directory)
        self._room = room
        for directory in ("etc/certs", "etc/envoy", "etc/istio/proxy", "tmp"):
            (self.root / directory).mkdir(parents=True)
        leaf = Authority.create("ca").issue(["example.test"])
        chain, key = self.root / "etc/certs/tls.crt", self.root / "etc/certs/tls.key"
        chain.write_bytes(leaf.chain_pem)
        key.write_bytes(leaf.key_pem)
        bootstrap = Bootstrap(room.port(), room.port(), [Secured(chain, key)])
        for file in ("etc/envoy.yaml", "etc/envoy/envoy.yaml", "etc/istio/proxy/envoy.yaml", "envoy.yaml"):
            bootstrap.write(self.root / file)
        self._ports = {port: str(room.port()) for port in ("15443", "15020")}

    def run(self, lines: list[str]) -> None:
        """Run a script; each of its lines has to succeed."""
        text = "\n".join(lines).replace("/usr/local/bin/envoy", "envoy").replace("/etc/", f"{self.root}/etc/")
        for port, free in self._ports.items():
            text = text.replace(port, free)
        own = {name: value for name, value in os.environ.items() if not name.startswith(("AGENT_", "PYTHONDONT"))}
        named = {
            "PATH": f"{Path(sys.executable).parent}:{own['PATH']}",
            "TMPDIR": f"{self.root}/tmp",
            "AGENT_RUN_DIR": f"{self.root}/run",
            "AGENT_STATUS_PORT": self._ports["15020"],
        }
        settings = [f"export {name}='{value}'" for name, value in named.items()]
        log = self.root / "log"
        script = "\n".join([*settings, f"cd {self.root}", "set -x", text])
        process = self._room.spawn(["bash", "-euo", "pipefail", "-c", script], log=log)
        try:
            code = process.wait(timeout=4 * PATIENCE)
        except subprocess.TimeoutExpired:
            code = None
        assert code == 0, log.read_text()


@pytest.fixture
def sandbox(room: Room) -> Sandbox:
    return Sandbox(room)


def scripts(page: Path) -> Iterator[list[str]]:
    """Return the command lines of each block of a page, without comments and prompts."""
    for language, content in pages.blocks(page.read_text(encoding="utf-8")):
        if language in {"sh", "bash"}:
            lines = (line.split(" # ")[0].rstrip() for line in content.replace("\\\n", " ").splitlines())
            yield [line for line in lines if line and not line.startswith("#")]


def is_start(line: str) -> bool:
    """Return whether a line runs the agent itself: its first word is an option."""
    return line.startswith("agent -")


def lived(lines: list[str]) -> Iterator[str]:
    """Return lines that are run one after another, with an agent for those that want one."""
    serves = False
    for line in lines:
        if is_start(line) or (not serves and not line.startswith(WITHOUT_AGENT)):
            if serves:
                yield "agent stop"
            yield from (f"{line if is_start(line) else START} &", "agent wait --timeout 60s")
            serves = True
        if not is_start(line):
            yield line
    if serves:
        yield "agent stop"


def _elsewhere(line: str) -> str | None:
    """Return what else runs a line, if anything does."""
    return next((ELSEWHERE[each] for each in ELSEWHERE if line.startswith(each)), None)


def test_each_command_is_run_by_something() -> None:
    lost = []
    for page in PAGES:
        for script in scripts(page):
            if script[0] == WALK:
                continue
            for line in script:
                named = _elsewhere(line)
                if named is None and not line.startswith(("agent ", "sidecar ")):
                    lost.append(f"{page.name}: {line}")
                assert named is None or (ROOT / named).exists()
    assert lost == []


def own_commands(page: Path) -> list[str]:
    """Return the lines of a page that run the agent or the sidecar."""
    lines = [line for script in scripts(page) if script[0] != WALK for line in script]
    return [line for line in lines if line.startswith(("agent ", "sidecar ")) and not _elsewhere(line)]


def pages_with_commands() -> list[ParameterSet]:
    """Return the pages; the README's commands are run in the default run too."""
    shown = [page for page in PAGES if own_commands(page)]
    marks = {page: () if page.name == "README.md" else pytest.mark.long for page in shown}
    return [pytest.param(page, id=page.name, marks=marks[page]) for page in shown]


@pytest.mark.parametrize("page", pages_with_commands())
def test_each_command_of_the_agent_succeeds_as_it_is_written(sandbox: Sandbox, page: Path) -> None:
    sandbox.run(list(lived(own_commands(page))))


@pytest.mark.long
def test_the_walk_through_an_agents_life(sandbox: Sandbox) -> None:
    walks = [script for page in PAGES for script in scripts(page) if script[0] == WALK]
    assert walks
    for walk in walks:
        sandbox.run(walk)
