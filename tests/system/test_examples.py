"""The examples with other proxies: one command each, with load and rotations, and no failed request."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.room import Room

ROOT = Path(__file__).parents[2]


def environment(**more: str) -> dict[str, str]:
    """Return the environment in which an example uses the Python of the tests."""
    return {**os.environ, "AGENT_VENV": sys.prefix, **more}


def ran(name: str, **more: str) -> str:
    """Run an example for some seconds; return what it printed."""
    command = [str(ROOT / "examples" / name / "run"), "--for", "5"]
    made = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment(**more))
    assert made.returncode == 0, made.stdout + made.stderr
    return made.stdout


@pytest.mark.long
@pytest.mark.parametrize("name", ["gunicorn", "haproxy", "nginx", "traefik"])
def test_an_example_fails_nothing(name: str, room: Room) -> None:
    if not (shutil.which(name) or (Path(sys.prefix) / "bin" / name).exists()):
        pytest.skip(f"there is no {name} here")
    told = ran(name)
    assert "failed: 0" in told.splitlines()[-1]
    assert told.count("every client has the new certificate") > 1


@pytest.mark.long
@pytest.mark.skipif(shutil.which("haproxy") is None, reason="there is no haproxy here")
def test_haproxy_takes_pushes_in_its_example(room: Room) -> None:
    told = ran("haproxy", ON_CERTIFICATE="push")
    assert "certificate.pushed" in told
    assert "failed: 0" in told.splitlines()[-1]
