"""`agent sweep`: kill and remove what an agent that was killed left behind."""

from pathlib import Path

import click

from agent.cli.options import Decorator, option
from agent.control_client.run_dir import chosen

_run_dir: Decorator = option("--run-dir", type=click.Path(path_type=Path), metavar="DIR", help="The agent's directory.")


@click.command(hidden=True)
@_run_dir
def sweep(run_dir: Path | None) -> None:
    """End the proxies of an agent that was killed, and remove their shared memory and their sockets.

    Does nothing while an agent runs. systemd calls it when the service has ended.
    """
    from agent.host.run_directory import RunDirectory
    from agent.processes.leftovers import kill_leftovers

    path = Path(chosen(None if run_dir is None else str(run_dir)))
    if not path.is_dir():
        return
    directory = RunDirectory(path)
    try:
        for number, pid in kill_leftovers(directory):
            click.echo(f"epoch {number} (pid {pid}) outlived its agent: it is ended")
    finally:
        directory.close()
