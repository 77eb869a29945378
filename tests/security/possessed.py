"""A compromised sidecar: a thread in it executes code of the test, with the proxy's rights."""

import os
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import pytest

from tests.system.agent_fixture import AgentFixture
from tests.system.eventually import eventually
from tests.system.stand_ins import script

NOBODY = 65534
HERE = Path(__file__).parents[2]

# The agent passes each epoch the path of its statistics, which is in its own directory.
_PROGRAM = """\
#!{interpreter} -IB
import os, sys, threading, time, traceback
sys.path[:0] = {paths!r}
home = os.path.dirname(os.environ.get("PROXY_AGENT_STATS", "/nowhere/stats"))
world = {{"home": home}}

def obey():
    while True:
        try:
            with open(home + "/order") as file:
                order = file.read()
            os.unlink(home + "/order")
        except OSError:
            time.sleep(0.01)
            continue
        try:
            exec(order, world)
            told = "done"
        except BaseException:
            told = traceback.format_exc()
        with open(home + "/told~", "w") as file:
            file.write(told)
        os.rename(home + "/told~", home + "/told")

if os.path.isdir(home):
    threading.Thread(target=obey, daemon=True).start()
from agent.sidecar.program import main
main()
"""


def interpreter() -> Path:
    """Return an interpreter of this version that nobody may execute; skip the test if there is none."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (Path(sys.executable), Path("/usr/bin", version), Path("/usr/local/bin", version)):
        if candidate.exists() and _may_be_run(candidate):
            return candidate
    pytest.skip(f"no {version} that the user nobody may run")


def cores(instance: AgentFixture) -> list[Path]:
    """List the core dumps beside the fixture's files and in the agent's working directory."""
    return [
        path for folder in (instance.directory, Path.cwd()) for path in folder.iterdir() if path.name.startswith("core")
    ]


def _may_be_run(program: Path) -> bool:
    wanted = f"import sys; sys.path[:0] = {_paths()!r}; import agent.sidecar.program"
    try:
        done = subprocess.run(
            [program, "-IB", "-c", wanted], user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, check=False
        )
    except OSError:
        return False
    return done.returncode == 0


def _paths() -> list[str]:
    return [str(HERE), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]


@dataclass
class Possessed:
    """An agent fixture whose agent is root, and whose proxy is nobody's sidecar under the test's control."""

    instance: AgentFixture

    def start(self) -> None:
        """Start the agent."""
        self.instance.directory.chmod(0o755)
        script_path = self.instance.directory / "sidecar"
        script(script_path, "exit 1")
        script_path.write_text(_PROGRAM.format(interpreter=interpreter(), paths=_paths()))
        self.instance.binary, self.instance.proxy_args = script_path, ["-l", "warning"]
        self.instance.more_flags += ["--proxy-user", "nobody"]
        self.instance.start()

    @property
    def home(self) -> Path:
        """The directory of the serving epoch."""
        return self.instance.run_dir / str(self.instance.serving().number)

    def order(self, text: str, home: Path | None = None) -> None:
        """Execute this code in it, and wait for its end; exceptions are raised in the test. It can use `home`."""
        at = home or self.home
        (at / "told").unlink(missing_ok=True)
        draft = at / "draft"
        draft.write_text(dedent(text))
        os.chown(draft, NOBODY, NOBODY)
        draft.rename(at / "order")
        eventually((at / "told").exists, what="the order is carried out")
        assert (at / "told").read_text() == "done"

    def logged(self, event: str) -> list[str]:
        """Return the agent's messages in events of this name."""
        return [entry.body for entry in self.instance.journal.entries() if entry.name == event]

    def serves_on(self) -> None:
        """Check that the next certificate is served, by a proxy with unchanged rights."""
        self.instance.rotate()
        self.instance.served()
        self.instance.committed()
        status = Path(f"/proc/{self.instance.serving_pid()}/status").read_text()
        assert next(line for line in status.splitlines() if line.startswith("Uid:")).split()[1:] == [str(NOBODY)] * 4
