"""The command as an operator has it: a process of its own."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from tests.system.eventually import PATIENCE


@dataclass(frozen=True)
class Ran:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


def agent(*arguments: object, env: Mapping[str, str] | None = None, timeout: float = PATIENCE) -> Ran:
    """Run `agent` to its end; none of its variables is set but those given."""
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
