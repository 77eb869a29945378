"""Limits of a process and of its children."""

import subprocess
import sys

_PROGRAM = """
import resource, subprocess, sys
from contextlib import nullcontext
from agent.host.limits import core_dumps_allowed, forbid_core_dumps
resource.setrlimit(resource.RLIMIT_CORE, (4096, resource.getrlimit(resource.RLIMIT_CORE)[1]))
forbid_core_dumps()
show = [sys.executable, "-c", "import resource; print(*resource.getrlimit(resource.RLIMIT_CORE))"]
for around in (nullcontext(), core_dumps_allowed(), nullcontext()):
    with around:
        subprocess.run(show)
"""


def test_neither_we_nor_our_children_leave_a_core_dump_unless_it_is_allowed() -> None:
    """The kernel treats a soft limit of 1 as none, also if a program receives core dumps through a pipe."""
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True)
    forbidden, allowed, again = done.stdout.splitlines()
    assert forbidden == again
    assert forbidden.split()[0] in {"1", "0"}
    soft, hard = allowed.split()
    assert soft == hard
