"""The agent in a clean Debian: as a .deb, by pipx and by uv; from the installation to the removal of all of it.

The cases are those of public reports: a package that stops its service at an upgrade, one that leaves it stopped, a
unit whose program is in a home directory (203/EXEC).
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.system.conftest import QUIETLY
from tests.system.debian import DebianInstance, booted_debian, built, missing, missing_for_a_package, newer, unpacked
from tests.system.eventually import eventually
from tests.system.loads import Loads, nothing_failed
from tests.system.room import Room
from tests.system.systemd_fixture import PROJECT

pytestmark = [
    pytest.mark.root,
    pytest.mark.long,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(missing()), reason=f"wants {missing()}"),
    pytest.mark.skipif(bool(missing_for_a_package()), reason=f"wants {missing_for_a_package()}"),
]


@dataclass(frozen=True)
class Built:
    """The .deb, and the wheels that it consists of."""

    package: Path
    wheels: Path


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file system of a clean Debian."""
    return unpacked(tmp_path_factory.mktemp("debian") / "root")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The package of this checkout."""
    return Built(*built(tmp_path_factory.mktemp("deb")))


@pytest.fixture
def instance(room: Room, debian: Path, request: pytest.FixtureRequest) -> Iterator[DebianInstance]:
    """A booted clean Debian; its proxy is the built-in one."""
    with booted_debian(room, debian, Path("sidecar"), QUIETLY) as instance:
        yield instance
        request.node.add_report_section("call", "log of the unit", instance.log())


def rotated_under_load(instance: DebianInstance, loads: Loads) -> None:
    """Rotate a certificate; the next epoch serves it, and `loads` still runs."""
    before = instance.serving().number
    instance.rotate()
    instance.served()
    assert instance.serving().number == before + 1
    loads.more(10)


def an_instance(instance: DebianInstance, name: str, certs: Path) -> None:
    """Enable and start agent@NAME beside agent.service; it may wait for its first certificate."""
    settings = {
        "AGENT_PROXY_BIN": "sidecar",
        "AGENT_CERTS": str(certs),
        "AGENT_LISTEN": f"127.0.0.1:{instance.room.port()}",
        "AGENT_STATUS_PORT": "0",
        "AGENT_STOP_DEADLINE": "3s",
    }
    text = "".join(f"{variable}={value}\n" for variable, value in settings.items())
    (instance.settings / f"{name}.env").write_text(text, encoding="utf-8")
    instance.done("systemctl", "enable", f"agent@{name}")
    instance.done("systemctl", "start", "--no-block", f"agent@{name}")


def state_of(instance: DebianInstance, unit: str) -> tuple[str, str]:
    """Return whether a unit is active, and its main process."""
    lines = instance.done("systemctl", "show", "-p", "ActiveState", "-p", "MainPID", unit).split()
    found = dict(line.split("=") for line in lines)
    return found["ActiveState"], found["MainPID"]


def test_the_package_of_this_checkout_has_no_errors(made: Built) -> None:
    if shutil.which("lintian") is None:
        pytest.skip("wants lintian")
    words = ["lintian", "--fail-on=error,warning", "--allow-root", "--tag-display-limit=0", str(made.package)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout
    assert "unused-override" not in done.stdout


def test_a_package_is_installed_upgraded_and_removed(instance: DebianInstance, made: Built, loads: Loads) -> None:
    better = newer(made.package, "0.1.0-2", {"__init__.py": ('__version__ = "', '__version__ = "9.')})
    broken = newer(made.package, "0.1.0-3", {"cli/start.py": ("import json\n", "raise ImportError\n")})
    instance.put(made.package, better, broken)
    files, accounts = instance.files(), instance.accounts()

    instance.done("dpkg", "-i", f"/work/{made.package.name}")
    assert (instance.show("ActiveState"), instance.show("UnitFileState")) == ("inactive", "disabled"), (
        "it wants settings first"
    )
    assert instance.run("stat", "-c", "%a %U", "/etc/proxy-agent/certs").stdout.split() == ["700", "root"]
    instance.configure(AGENT_PROXY_USER="proxy-agent")
    instance.done("systemctl", "enable", "--now", "agent")
    refused = instance.run("agent", "systemd", "install")
    assert "a package has installed /usr/lib/systemd/system/agent.service" in refused.stderr
    an_instance(instance, "edge", Path("/etc/proxy-agent/certs"))
    an_instance(instance, "waits", Path("/etc/proxy-agent/none"))
    eventually(lambda: state_of(instance, "agent@edge")[0] == "active", every=0.1, what="the instance serves")
    edge, waits = state_of(instance, "agent@edge"), state_of(instance, "agent@waits")
    assert waits[0] == "activating"
    loads.gentle(instance.tls, instance.plain)
    rotated_under_load(instance, loads)
    assert instance.done("stat", "-c", "%U", f"/proc/{instance.serving().pid}").strip() == "proxy-agent"

    serving, agent = instance.serving(), instance.agent_pid
    done = instance.done("dpkg", "-i", f"/work/{better.name}")
    assert ("agent.service: agent upgrade" in done, "agent@edge.service: agent upgrade" in done) == (True, True)
    assert state_of(instance, "agent@edge") == edge
    eventually(
        lambda: state_of(instance, "agent@waits")[1] not in {"0", waits[1]}, every=0.1, what="the one that waits is new"
    )
    assert (instance.serving(), instance.agent_pid, instance.show("NRestarts")) == (serving, agent, "0"), (
        "the new program, in place"
    )
    assert instance.done("agent", "--version").split() == ["agent", "9.0.1.0"]
    assert '"version": "9.0.1.0"' in instance.done("agent", "status", "--json").replace('":"', '": "')
    rotated_under_load(instance, loads)

    serving = instance.serving()
    done = instance.done("dpkg", "-i", f"/work/{broken.name}")
    assert "agent.service keeps its old agent and its proxies" in done
    assert (instance.serving(), instance.agent_pid, instance.show("ActiveState")) == (serving, agent, "active")
    rotated_under_load(instance, loads)
    instance.done("dpkg", "-i", f"/work/{better.name}")
    assert instance.systemctl("restart").returncode == 0
    loads.more(10)
    nothing_failed(loads.finish(at_least=20))

    instance.done("dpkg", "--remove", "proxy-agent")
    assert instance.show("ActiveState") == "inactive"
    assert instance.left() == []
    shutil.rmtree(instance.certs)  # the operator's files are not the package's
    for file in (instance.config, instance.settings / "edge.env", instance.settings / "waits.env"):
        file.unlink()
    instance.done("dpkg", "--purge", "proxy-agent")
    assert sorted(instance.files() ^ files) == []
    assert instance.accounts() == accounts


@dataclass(frozen=True)
class Tool:
    """A tool that installs Python programs: its command, where it installs by default, and what it keeps for itself."""

    name: str
    install: str
    program: str
    keeps: tuple[str, ...]

    @property
    def uninstall(self) -> str:
        """The opposite of `install`."""
        return self.install.replace(" install", " uninstall")


OFFLINE = "export PIP_NO_INDEX=1 PIP_FIND_LINKS=/work UV_OFFLINE=1 UV_NO_INDEX=1 UV_FIND_LINKS=/work HOME=/root;"
PIPX = Tool("pipx", "pipx install proxy-agent", "/root/.local/bin/agent", ("/root/.local", "/opt/pipx", "/root/.cache"))
UV = Tool("uv", "uv tool install proxy-agent", "/root/.local/bin/agent", ("/root/.local", "/opt/uv", "/root/.cache"))


@pytest.fixture(scope="module")
def uv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The locked uv."""
    environment = tmp_path_factory.mktemp("uv")
    subprocess.run(
        [PROJECT / "requirements/install", "lock"],
        env={**os.environ, "AGENT_VENV": str(environment)},
        check=True,
        capture_output=True,
    )
    return environment / "bin/uv"


@pytest.mark.parametrize("tool", [PIPX, UV], ids=lambda tool: tool.name)
def test_a_tool_installs_and_units_fit(
    instance: DebianInstance, made: Built, uv: Path, tool: Tool, loads: Loads
) -> None:
    instance.put(*made.wheels.glob("*.whl"), uv)
    instance.done("mv", "/work/uv", "/usr/local/bin/uv")
    files = instance.files()

    instance.shell(f"{OFFLINE} {tool.install}")
    refused = instance.run(tool.program, "systemd", "install")
    assert refused.returncode == 1
    remedy = re.search(rf"install the agent outside of /root: (.*{tool.install})$", refused.stderr.strip())
    assert remedy is not None, refused.stderr
    instance.shell(f"{OFFLINE} {tool.uninstall}")

    instance.shell(f"{OFFLINE} {remedy[1]}")
    refused = instance.run("runuser", "-u", "nobody", "--", "agent", "systemd", "install")
    assert "agent.service: permission denied; run this command as root" in refused.stderr
    assert instance.done("agent", "systemd", "install").count(": written\n") == 3
    assert instance.done("agent", "systemd", "install").count(": unchanged\n") == 3
    instance.configure()
    instance.done("systemctl", "daemon-reload")
    instance.done("systemctl", "enable", "--now", "agent")
    assert "/usr/local/bin/agent" in instance.show("ExecStart")
    loads.gentle(instance.tls, instance.plain)
    rotated_under_load(instance, loads)
    assert instance.systemctl("reload").returncode == 0
    assert instance.systemctl("restart").returncode == 0
    nothing_failed(loads.finish(at_least=20))

    refused = instance.run("agent", "systemd", "uninstall")
    assert "agent.service is enabled, agent.service runs; systemctl disable --now agent.service" in refused.stderr
    instance.done("systemctl", "disable", "--now", "agent")
    assert instance.left() == []
    assert instance.done("agent", "systemd", "uninstall").count(": removed\n") == 3
    instance.done("systemctl", "daemon-reload")
    instance.shell(f"{OFFLINE} {remedy[1].replace(tool.install, tool.uninstall)}")
    shutil.rmtree(instance.settings)
    found = instance.files()
    assert {path for path in found ^ files if not path.startswith(tool.keeps)} == set()
    ours = re.compile(r"/bin/agent$|proxy[_-]agent")
    assert [path for path in found if ours.search(path) and not path.startswith("/root/.cache")] == []
