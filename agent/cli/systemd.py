"""`agent systemd`: write the units that start this agent, show them, and remove them."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.core.errors import MachineError, UsageError
from agent.units import UNITS

if TYPE_CHECKING:
    from agent.units.installation import UnitDirectory
    from agent.units.program import Program

_FIRST_WITH_NOTIFY_RELOAD = 253
_PATH = click.Path(path_type=Path, file_okay=False)
_directory = click.option(
    "--directory", type=_PATH, metavar="DIR", help="The directory of units, instead of /etc/systemd/system."
)
_root = click.option("--root", type=_PATH, metavar="DIR", help="The root of an image that is being built.")
_notify_reload = click.option(
    "--notify-reload",
    is_flag=True,
    help="`systemctl reload` sends SIGHUP and does not report whether the new epoch serves; from systemd 253 on.",
)


@click.group()
def systemd() -> None:
    """Write the units for systemd, for the interpreter in use."""


@systemd.command()
@_directory
@_root
@_notify_reload
@click.option("--force", is_flag=True, help="Replace units that were edited or that something else installed.")
def install(*, directory: Path | None, root: Path | None, notify_reload: bool, force: bool) -> None:
    """Write agent.service, agent@.service and agent.socket so that they start the agent that runs this command.

    A second run changes only what is not up to date. A unit that was edited stays as it is, and the command fails:
    drop-ins (`systemctl edit agent`) are kept in any case. Nothing is enabled or started.
    """
    from agent.units.program import check
    from agent.units.unit_files import unit_files

    units, program = _place(directory, root), _program(root)
    check(program)
    if notify_reload:
        _check_version(root)
    for path, change in units.install(unit_files(program.path, notify_reload=notify_reload), force=force):
        click.echo(f"{path}: {change}")
    click.echo(f"the units start {program.path}")
    if _is_live(units):
        click.echo("next: write the settings to /etc/proxy-agent/agent.env, then")
        click.echo("  systemctl daemon-reload")
        click.echo("  systemctl enable --now agent")


@systemd.command()
@click.argument("unit", type=click.Choice(UNITS), default=UNITS[0])
def show(unit: str) -> None:
    """Print a unit as `agent systemd install` would write it: agent.service, if none is named."""
    from agent.units.program import running
    from agent.units.unit_files import unit_files

    files = unit_files(running().path, notify_reload=False)
    click.echo(next(file.text for file in files if file.name == unit), nl=False)


@systemd.command()
@_directory
@_root
@click.option("--force", is_flag=True, help="Remove units that were edited, too.")
def uninstall(*, directory: Path | None, root: Path | None, force: bool) -> None:
    """Remove the units that `agent systemd install` wrote, unless they were edited or are in use."""
    units = _place(directory, root)
    _check_unused(units)
    for path, change in units.uninstall(force=force):
        click.echo(f"{path}: {change}")
    if _is_live(units):
        click.echo("next: systemctl daemon-reload; /etc/proxy-agent with your settings is not removed")


def _place(directory: Path | None, root: Path | None) -> "UnitDirectory":
    """Return the directory to use. Raises `MachineError` if it would be this machine's, and systemd does not run."""
    from agent.units import systemctl
    from agent.units.installation import DIRECTORY, UnitDirectory

    if directory is None and root is None and not systemctl.runs():
        message = (
            "cannot use units here: systemd does not run; name an image with --root, or a directory with --directory"
        )
        raise MachineError(message)
    chosen = (directory or DIRECTORY).absolute()
    base = Path("/") if root is None else root.absolute()
    if not base.is_dir():
        message = f"cannot use --root {base}: there is no such directory"
        raise UsageError(message)
    return UnitDirectory(base / chosen.relative_to("/"), base)


def _is_live(units: "UnitDirectory") -> bool:
    """Return whether the systemd of this machine reads the directory."""
    from agent.units import systemctl
    from agent.units.installation import DIRECTORY

    return units.path == DIRECTORY and systemctl.runs()


def _program(root: Path | None) -> "Program":
    from agent.units.program import running

    program = running()
    if root is not None and not (root / program.path.relative_to("/")).is_file():
        message = (
            f"cannot write units for {program.path}: there is no such file below {root}; install the agent there,"
            " at the same path"
        )
        raise MachineError(message)
    return program


def _check_version(root: Path | None) -> None:
    from agent.units import systemctl

    if root is None and systemctl.version() < _FIRST_WITH_NOTIFY_RELOAD:
        message = f"cannot use --notify-reload: systemd is older than {_FIRST_WITH_NOTIFY_RELOAD}"
        raise UsageError(message)


def _check_unused(units: "UnitDirectory") -> None:
    """Raise `MachineError` while a unit is enabled or runs: systemd would stop it without its settings."""
    from agent.units import systemctl

    used = [f"{name} is enabled" for name in units.enabled()]
    running = systemctl.active() if _is_live(units) else []
    used += [f"{name} runs" for name in running]
    if used:
        names = " ".join(sorted({*units.enabled(), *running}))
        message = f"cannot remove the units: {', '.join(used)}; systemctl disable --now {names}"
        raise MachineError(message)
