"""`agent history`: list the rotations and their outcomes."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.status_client import look, place, run_dir
from agent.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.status.model import AttemptView

_FAILED = frozenset({"crashed", "refused", "failed", "short"})
_EPILOG = """\
Outcomes: running; serving; succeeded, it has served; crashed, it exited while it served; refused, until the files
change; failed, and retried; short, not enough memory; superseded by a newer revision or no longer wanted. The agent
keeps a bounded number of attempts.
"""


@click.command(epilog=_EPILOG)
@run_dir
@click.option("-n", "--number", type=click.IntRange(min=1), default=20, show_default=True, help="Maximum number.")
@click.option("--failed", is_flag=True, help="Only crashed, refused and failed attempts.")
@click.option("-v", "--verbose", is_flag=True, help="All details of each attempt.")
@click.option("--json", "raw", is_flag=True, help="One line of JSON per attempt.")
@click.argument("epoch", type=click.IntRange(min=1), required=False)
@click.pass_context
def history(
    ctx: click.Context,
    /,
    run_dir: Path | None,
    number: int,
    epoch: int | None,
    *,
    failed: bool,
    verbose: bool,
    raw: bool,
) -> None:
    """List the last attempts at a new epoch, newest first; with an epoch's number, all details of that one."""
    overview = look(place(ctx, run_dir))
    attempts: Sequence[AttemptView] = overview.rotations
    if epoch is not None:
        attempts = [each for each in attempts if each.epoch == epoch]
        if not attempts:
            message = f"cannot show epoch {epoch}: the agent has no record of it, or no longer; see agent history"
            raise UsageError(message)
    if failed:
        attempts = [each for each in attempts if each.result(overview.epoch) in _FAILED]
    if raw:
        _print_lines(attempts[:number])
    else:
        _print(attempts[:number], overview.epoch, whole=verbose or epoch is not None)


def _print_lines(attempts: "Sequence[AttemptView]") -> None:
    from agent.status.model import to_json

    for each in attempts:
        click.echo(json.dumps(to_json(each)))


def _print(attempts: "Sequence[AttemptView]", serving: int | None, *, whole: bool) -> None:
    from agent.cli.history_view import details, rows
    from agent.cli.table import Table, console

    sheet = Table(console(), least=100)
    (details if whole else rows)(attempts, serving, sheet)
    sheet.print()
