"""The entry point of `agent`: quick commands run before any large import."""

import sys


def main() -> None:
    """Run the command line and exit with its code."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in {"drain", "wait"}:
        from agent.control_client.commands import run  # noqa: PLC0415

        sys.exit(run(name, sys.argv[2:]))

    # Imports are slow. Until handlers exist, process 1 would lose a signal; any other would exit without its proxies.
    from agent.host.limits import hold_signals  # noqa: PLC0415

    hold_signals()

    from agent.cli.start import main as start  # noqa: PLC0415
    from agent.cli.start import take  # noqa: PLC0415

    if (invocation := take()) is not None:
        start(invocation)

    from agent.cli.main import main as command_line  # noqa: PLC0415

    command_line()
