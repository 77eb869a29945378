"""A small agent that is killed: starts a program, says its pid, and waits for the end.

`python -m tests.host.keeper keep|leave [PROGRAM ARGUMENTS…]`; with `keep` the program is to outlive it.
"""

import signal
import subprocess
import sys

from agent.host.parent_death_filter import keep_children_alive


def main() -> None:
    """Do it."""
    if sys.argv[1] == "keep":
        keep_children_alive()
    child = subprocess.Popen(sys.argv[2:])
    print(child.pid, flush=True)  # noqa: T201
    signal.pause()


if __name__ == "__main__":
    main()
