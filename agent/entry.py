"""Where `agent` begins: the quick commands go their own way before anything large is imported."""

import os
import sys


def main() -> None:
    """Run the command line and exit with its code."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in {"drain", "wait"}:
        from agent.quick.commands import run  # noqa: PLC0415

        sys.exit(run(name, sys.argv[2:]))

    if os.getpid() == 1:  # the kernel drops what process 1 has no handler for, and imports take a while
        from agent.host.limits import hold_signals  # noqa: PLC0415

        hold_signals()

    from agent.cli import main as command_line  # noqa: PLC0415

    command_line()
