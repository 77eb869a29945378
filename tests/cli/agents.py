"""Runs the command as an operator does: as a separate process."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from tests.system.eventually import PATIENCE


@dataclass(frozen=True)
class Ran:
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str


def agent(*arguments: object, env: Mapping[str, str] | None = None, timeout: float = PATIENCE) -> Ran:
    """Run `agent` to its end; only the given ones of its variables are set."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AGENT_")}
    ran = subprocess.run(
        [sys.executable, "-m", "agent", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
        env={**clean, **(env or {})},
    )
    return Ran(ran.returncode, ran.stdout, ran.stderr)
