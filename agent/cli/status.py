"""`agent status`: show the agent's state, once or live."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.status_client import place, run_dir
from agent.core.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from agent.status.model import Status

_INTERVAL = 1.0  # seconds between two polls
_NOT_READY, _WORRIED = 1, 3
_EPILOG = """\
Exit codes: 0 ready, and the files on disk are served; 1 not ready, or no agent; 2 usage; 3 ready, but a file is
refused, the files on disk are not served yet, or the serving proxy hangs. With --watch: 0 at Ctrl-C.
"""


@click.command(epilog=_EPILOG)
@run_dir
@click.option("--watch", is_flag=True, help="Refresh every second until Ctrl-C.")
@click.option("--all", "whole", is_flag=True, help="List every certificate, refusal and listener.")
@click.option("--json", "raw", is_flag=True, help="The agent's answer as a line of JSON.")
@click.pass_context
def status(ctx: click.Context, /, run_dir: Path | None, *, watch: bool, whole: bool, raw: bool) -> int:
    """Show whether the agent is ready, the epochs and certificates, refused files, and pending changes."""
    directory = place(ctx, run_dir)
    if not watch:
        return _once(directory, whole=whole, raw=raw)
    try:
        _stay(directory, whole=whole, raw=raw)
    except KeyboardInterrupt:
        return 0
    return 0


def _once(directory: str, *, whole: bool, raw: bool) -> int:
    from agent.cli.status_client import ask, read

    text = ask(directory)
    overview = read(text)
    if raw:
        click.echo(text)
    else:
        _print(overview, whole=whole)
    return exit_code(overview)


def exit_code(overview: "Status") -> int:
    """Return 0, 1 or 3, as --help describes."""
    if not overview.ready:
        return _NOT_READY
    worried = overview.refused or overview.hung or overview.crash_loop or overview.out_of_sync_since is not None
    return _WORRIED if worried or not all(each.in_sync for each in overview.certificates) else 0


def _print(overview: "Status", *, whole: bool) -> None:
    from agent.cli.status_view import draw
    from agent.cli.table import Table, console

    sheet = Table(console())
    draw(overview, sheet, whole=whole)
    sheet.print()


def _stay(directory: str, *, whole: bool, raw: bool) -> None:
    from agent.cli.table import console

    looks = _looks(directory)
    if raw:
        _print_lines(looks)
    elif (out := console()).is_terminal:
        from agent.cli.watch_view import show

        show(looks, out, whole=whole)
    else:
        _print_headlines(looks)


def _looks(directory: str, interval: float = _INTERVAL) -> "Generator[str | MachineError]":
    """Poll the agent each second; yield its answer, or the error if it may come back."""
    from agent.cli.status_client import ask
    from agent.control_client.run_dir import NoAgent

    found = False
    while True:
        began = time.monotonic()
        try:
            answer: str | MachineError = ask(directory)
            found = True
        except MachineError as error:
            if not found and not isinstance(error, NoAgent):
                raise  # permission denied or no usable answer: that will not change
            answer = error
        yield answer
        time.sleep(max(0.0, began + interval - time.monotonic()))


def _print_lines(looks: "Iterator[str | MachineError]") -> None:
    for look in looks:
        click.echo(f"agent: {look}" if isinstance(look, MachineError) else look, err=isinstance(look, MachineError))


def _print_headlines(looks: "Iterator[str | MachineError]") -> None:
    """Print a line whenever the answer changes."""
    from agent.cli.format import second
    from agent.cli.status_client import read
    from agent.cli.status_view import answer
    from agent.control_client.client import printable
    from agent.host.clock import calendar

    said = ""
    for look in looks:
        words = str(look) if isinstance(look, MachineError) else answer(read(look))
        if words != said:
            click.echo(f"{second(calendar())}  {printable(words)}")
            said = words
