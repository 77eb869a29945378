"""Where `agent` begins: the quick commands go their own way before anything large is imported."""

import sys


def main() -> None:
    """Run the command line and exit with its code."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in {"drain", "wait"}:
        from agent.control_client.commands import run  # noqa: PLC0415

        sys.exit(run(name, sys.argv[2:]))

    # Imports take a while. Process 1 would lose a signal meanwhile; another agent would be ended, and not its proxies.
    from agent.host.limits import hold_signals  # noqa: PLC0415

    hold_signals()

    from agent.cli import main as command_line  # noqa: PLC0415

    command_line()
