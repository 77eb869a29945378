"""The agent is replaced by its program on disk, in place, without an effect on clients and proxies."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import agent
from tests.system.agent_fixture import AgentFixture
from tests.system.counts import count
from tests.system.eventually import PATIENCE, eventually
from tests.system.loads import Loads, nothing_failed

UPGRADES = count("AGENT_UPGRADES", short=1, long=50)


@pytest.fixture
def own_package(unstarted: AgentFixture) -> Path:
    """The package of the fixture's agent, a copy that a test may damage."""
    lib = unstarted.directory / "lib"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(agent.__file__).parent, lib / "agent", ignore=ignored)
    script = unstarted.directory / "agent.py"
    lines = ["import sys", f"sys.path.insert(0, {str(lib)!r})", "from agent.entry import main", "main()"]
    script.write_text("\n".join(lines), encoding="ascii")
    unstarted.program = (sys.executable, str(script))
    unstarted.start()
    return lib / "agent"


def order(instance: AgentFixture, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run a command as an operator would."""
    command = [sys.executable, "-m", "agent", *words, "--run-dir", str(instance.run_dir)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


@pytest.mark.haproxy
@pytest.mark.timeout(600 + 6 * UPGRADES)
def test_upgrades_between_rotations_fail_nothing(instance: AgentFixture, loads: Loads) -> None:
    loads.gentle(instance.tls, instance.plain)
    for _ in range(UPGRADES):
        pid, serving = instance.agent_pid, instance.serving()
        done = order(instance, "upgrade")
        assert done.returncode == 0, done.stderr
        assert (instance.state().agent_pid, instance.serving()) == (pid, serving)
        instance.rotate()
        eventually(lambda: instance.serving().number > serving.number, what="the next one serves")  # noqa: B023
    nothing_failed(loads.finish(at_least=100))


@pytest.mark.long
def test_a_new_program_that_is_broken_changes_nothing(unstarted: AgentFixture, own_package: Path, loads: Loads) -> None:
    instance = unstarted
    before = instance.serving()
    loads.gentle(instance.tls, instance.plain)
    (own_package / "supervisor" / "supervisor.py").write_text("raise ImportError('half installed')\n", encoding="ascii")
    done = order(instance, "upgrade")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "cannot take over" in done.stderr
    assert "half installed" in done.stderr
    instance.rotate()
    eventually(lambda: instance.serving().number == before.number + 1, what="the next one serves")
    instance.served()
    nothing_failed(loads.finish(at_least=20))


def test_the_new_program_is_what_runs_after_it(unstarted: AgentFixture, own_package: Path) -> None:
    instance = unstarted
    marker = instance.directory / "new"
    entry = own_package / "entry.py"
    entry.write_text(f"open({str(marker)!r}, 'a').write('x')\n" + entry.read_text(encoding="utf-8"), encoding="utf-8")
    assert order(instance, "upgrade").returncode == 0
    assert marker.read_text(encoding="ascii") == "xxxx", (
        "twice to try it, twice to be it: the options are parsed before an exec"
    )


@pytest.mark.sidecar
def test_the_result_of_a_restart_is_correct(instance: AgentFixture) -> None:
    before = instance.serving()
    done = order(instance, "restart")
    assert done.returncode == 0, done.stderr
    assert f"epoch {before.number + 1} serves" in done.stdout
    (instance.certs / "tls.crt").write_bytes(b"garbage")
    refused = order(instance, "restart")
    assert refused.returncode == 1
    assert str(instance.certs) in refused.stderr
    assert instance.serving().number == before.number + 1
