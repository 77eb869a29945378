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
def own_package(bed_apart: AgentFixture) -> Path:
    """The package of the fixture's agent, a copy that a test may damage."""
    lib = bed_apart.directory / "lib"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(agent.__file__).parent, lib / "agent", ignore=ignored)
    script = bed_apart.directory / "agent.py"
    lines = ["import sys", f"sys.path.insert(0, {str(lib)!r})", "from agent.entry import main", "main()"]
    script.write_text("\n".join(lines), encoding="ascii")
    bed_apart.program = (sys.executable, str(script))
    bed_apart.start()
    return lib / "agent"


def order(bed: AgentFixture, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run a command as an operator would."""
    command = [sys.executable, "-m", "agent", *words, "--run-dir", str(bed.run_dir)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


@pytest.mark.timeout(600 + 6 * UPGRADES)
def test_upgrades_between_rotations_fail_nothing(bed: AgentFixture, loads: Loads) -> None:
    loads.gentle(bed.tls, bed.plain)
    for _ in range(UPGRADES):
        pid, serving = bed.agent_pid, bed.serving()
        done = order(bed, "upgrade")
        assert done.returncode == 0, done.stderr
        assert (bed.state().agent_pid, bed.serving()) == (pid, serving)
        bed.rotate()
        eventually(lambda: bed.serving().number > serving.number, what="the next one serves")  # noqa: B023
    nothing_failed(loads.finish(at_least=100))


@pytest.mark.long
def test_a_new_program_that_is_broken_changes_nothing(bed_apart: AgentFixture, own_package: Path, loads: Loads) -> None:
    bed = bed_apart
    before = bed.serving()
    loads.gentle(bed.tls, bed.plain)
    (own_package / "supervisor" / "supervisor.py").write_text("raise ImportError('half installed')\n", encoding="ascii")
    done = order(bed, "upgrade")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "cannot take over" in done.stderr
    assert "half installed" in done.stderr
    bed.rotate()
    eventually(lambda: bed.serving().number == before.number + 1, what="the next one serves")
    bed.served()
    nothing_failed(loads.finish(at_least=20))


def test_the_new_program_is_what_runs_after_it(bed_apart: AgentFixture, own_package: Path) -> None:
    bed = bed_apart
    marker = bed.directory / "new"
    entry = own_package / "entry.py"
    entry.write_text(f"open({str(marker)!r}, 'a').write('x')\n" + entry.read_text(encoding="utf-8"), encoding="utf-8")
    assert order(bed, "upgrade").returncode == 0
    assert marker.read_text(encoding="ascii") == "xx", "once to try it, once to be it"


@pytest.mark.sidecar
def test_the_result_of_a_restart_is_correct(bed: AgentFixture) -> None:
    before = bed.serving()
    done = order(bed, "restart")
    assert done.returncode == 0, done.stderr
    assert f"epoch {before.number + 1} serves" in done.stdout
    (bed.certs / "tls.crt").write_bytes(b"garbage")
    refused = order(bed, "restart")
    assert refused.returncode == 1
    assert str(bed.certs) in refused.stderr
    assert bed.serving().number == before.number + 1
