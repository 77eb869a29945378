"""A small agent that is killed: starts a program, prints its pid, and waits for its exit.

`python -m tests.host.keeper keep|leave [PROGRAM ARGUMENTS…]`; with `keep` the program outlives it.
"""

import signal
import subprocess
import sys

from agent.host.parent_death_filter import keep_children_alive


def main() -> None:
    """Start the program and wait."""
    if sys.argv[1] == "keep":
        keep_children_alive()
    child = subprocess.Popen(sys.argv[2:])
    print(child.pid, flush=True)  # noqa: T201
    signal.pause()


if __name__ == "__main__":
    main()
