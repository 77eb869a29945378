"""The entry point of `agent`: quick commands run before any large import."""

import sys


def main() -> None:
    """Run the command line and exit with its code."""
    program = sys.argv[0].rpartition("/")[2]
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if program == "pilot-agent" and name in {"request", "wait"}:
        from agent.control_client.pilot_commands import run as run_of_pilot  # noqa: PLC0415

        sys.exit(run_of_pilot(name, sys.argv[2:]))
    if program != "pilot-agent" and name in {"drain", "wait"}:
        from agent.control_client.commands import run  # noqa: PLC0415

        sys.exit(run(name, sys.argv[2:]))

    # Imports are slow. Until handlers exist, process 1 would lose a signal; any other would exit without its proxies.
    from agent.host.limits import hold_signals  # noqa: PLC0415

    hold_signals()

    from agent.cli.start import main as start  # noqa: PLC0415
    from agent.cli.start import take  # noqa: PLC0415

    if (invocation := take()) is not None:
        start(invocation)

    if program == "pilot-agent" or name == "proxy":
        from agent.cli.pilot_agent import main as pilot_agent  # noqa: PLC0415

        pilot_agent(sys.argv[1:])

    if program in {"istio-iptables", "istio-clean-iptables"} or name in {"istio-iptables", "istio-clean-iptables"}:
        from agent.cli.intercept import main as intercept  # noqa: PLC0415

        is_named = program.startswith("istio-")
        sys.exit(intercept(program if is_named else name, sys.argv[1 if is_named else 2 :]))

    from agent.cli.main import main as command_line  # noqa: PLC0415

    command_line()
