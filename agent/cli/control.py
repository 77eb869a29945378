"""Commands for a running agent: restart, upgrade, stop, pause, resume, drain, wait."""

import json
import os
import select
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.duration import Span
from agent.cli.options import Decorator
from agent.cli.status_client import of_the_group, place, run_dir, unanswered
from agent.control_client import commands
from agent.control_client.client import Exchange, at_control, printable
from agent.core.errors import MachineError, UsageError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_HEAD_TIMEOUT = 10.0  # seconds until a healthy agent begins to answer
_EXECUTION_TIMEOUT = "60s"  # until a new program is ready

_as_json: Decorator = click.option("--json", "raw", is_flag=True, help="Progress as JSON, one object per line.")


@click.command()
@run_dir
@click.option("--binary", is_flag=True, help="Start the proxy's program that is on disk now.")
@click.option("--force", is_flag=True, help="Try files again that were refused before.")
@click.option("--now", is_flag=True, help="Do not wait for other epochs to drain, or for a pause to end.")
@_as_json
@click.pass_context
def restart(ctx: click.Context, /, run_dir: Path | None, *, raw: bool, **wishes: bool) -> int:
    """Start a new epoch and report its progress; exit 0 only if it serves."""
    query = "&".join(f"{name}=1" for name, wished in wishes.items() if wished)
    outcome = _follow(place(ctx, run_dir), f"/restart?{query}" if query else "/restart", raw=raw)
    return _conclude(outcome, "restart", raw=raw)


@click.command()
@run_dir
@_as_json
@click.pass_context
def upgrade(ctx: click.Context, /, run_dir: Path | None, *, raw: bool) -> int:
    """Replace the agent in place by its program on disk; exit 0 only if the new one serves."""
    directory = place(ctx, run_dir)
    outcome = _follow(directory, "/upgrade", raw=raw)
    if outcome.get("outcome") != "executing":
        return _conclude(outcome, "upgrade", raw=raw)
    try:
        commands.until_ready(directory, _EXECUTION_TIMEOUT)
    except MachineError as error:
        message = f"the agent runs its new program, but {error}"
        raise MachineError(message) from error
    return _conclude({"outcome": "serving"}, "upgrade", raw=raw)


@click.command()
@run_dir
@click.option("--wait/--no-wait", default=True, show_default=True, help="Return when the agent has exited.")
@click.pass_context
def stop(ctx: click.Context, /, run_dir: Path | None, *, wait: bool) -> None:
    """Drain and stop the agent and its proxies, as SIGTERM does."""
    exchange = _reach(place(ctx, run_dir))
    pid = exchange.peer
    process = _open_process(pid) if wait else None
    try:
        click.echo(_ask(exchange, "stop", "/stop"))
        if process is not None:
            select.select([process], [], [])
            click.echo(f"pid {pid} has exited")
    finally:
        if process is not None:
            os.close(process)


@click.command()
@run_dir
@click.option("--for", "span", type=Span(), default="10m", show_default=True, help="Rotations resume after this time.")
@click.pass_context
def pause(ctx: click.Context, /, run_dir: Path | None, span: float) -> None:
    """Pause rotations: changes on disk take effect at the end of the pause."""
    click.echo(_ask(_reach(place(ctx, run_dir)), "pause", f"/pause?for={span:g}"))


@click.command()
@run_dir
@click.pass_context
def resume(ctx: click.Context, /, run_dir: Path | None) -> None:
    """End a pause."""
    click.echo(_ask(_reach(place(ctx, run_dir)), "resume", "/resume"))


class _Quick(click.Command):
    """A command that is listed here but parses its own arguments."""

    def shell_complete(self, _: click.Context, incomplete: str) -> "list[CompletionItem]":
        """Return the options that it parses."""
        from click.shell_completion import CompletionItem

        valued, flags = commands.OPTIONS[str(self.name)]
        return [CompletionItem(each) for each in (*valued, *flags, "--help") if each.startswith(incomplete)]


def _quick(name: str, help_text: str) -> click.Command:
    def call(arguments: tuple[str, ...]) -> None:
        found = of_the_group(click.get_current_context())
        given = [] if found is None else ["--run-dir", str(found)]
        {"drain": commands.drain, "wait": commands.wait}[name]([*given, *arguments])

    return _Quick(
        name,
        callback=call,
        params=[click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED)],
        help=help_text.partition("\n\n")[2].partition("\n\n")[0].strip(),
        context_settings={"ignore_unknown_options": True, "help_option_names": []},
        add_help_option=False,
    )


drain = _quick("drain", commands.DRAIN_HELP)
wait = _quick("wait", commands.WAIT_HELP)

COMMANDS = (drain, pause, restart, resume, stop, upgrade, wait)


def _reach(directory: str) -> Exchange:
    return at_control(directory, time.monotonic() + _HEAD_TIMEOUT)


def _ask(exchange: Exchange, verb: str, target: str) -> str:
    """Return the answer to a short request.

    Raises `MachineError`, or `UsageError` if the request is invalid.
    """
    try:
        status = exchange.ask("POST", target)
        text = exchange.text()
    except OSError as error:
        raise unanswered(exchange, verb, error) from None
    finally:
        exchange.close()
    return _judge(verb, status, text)


def _judge(verb: str, status: int, text: str) -> str:
    if status in {200, 202}:
        return text
    if text.startswith("cannot "):
        raise (UsageError if status == 400 else MachineError)(text)
    message = f"cannot {verb}: {text or f'the agent answers {status}'}"
    raise MachineError(message)


def _follow(directory: str, target: str, *, raw: bool) -> dict[str, Any]:
    """Print a timeline as it arrives; return its last outcome, empty if there was none."""
    exchange = _reach(directory)
    outcome: dict[str, Any] = {}
    try:
        _expect_timeline(exchange, target)
        for line, row in _timeline(exchange):
            outcome = row if "outcome" in row else outcome
            _print(line, row, raw=raw)
    finally:
        exchange.close()
    return outcome


def _expect_timeline(exchange: Exchange, target: str) -> None:
    verb = target.lstrip("/").partition("?")[0]
    try:
        status = exchange.ask("POST", target)
        if status != 200:
            _judge(verb, status, exchange.text())
    except OSError as error:
        raise unanswered(exchange, verb, error) from None
    exchange.deadline = None  # the agent has its own deadlines


def _timeline(exchange: Exchange) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        for line in exchange.lines():
            yield line, json.loads(line)
    except (OSError, ValueError):
        return  # the connection broke


def _print(line: str, row: dict[str, Any], *, raw: bool) -> None:
    if raw:
        click.echo(line)
    elif "text" in row:
        click.echo(f"{row['at']:8.3f} s  {printable(row['text'])}")


def _conclude(outcome: dict[str, Any], verb: str, *, raw: bool) -> int:
    word, epoch, reason = outcome.get("outcome"), outcome.get("epoch"), outcome.get("reason")
    if word == "serving":
        if not raw:
            click.echo("the new agent serves" if epoch is None else f"epoch {epoch} serves")
        return 0
    if word is None:
        reason = "the agent exited before it reported the result; see its log"
    message = printable(f"cannot {verb}: {reason or word}")
    raise MachineError(message)


def _open_process(pid: int) -> int | None:
    """Return a pidfd, readable once the process has exited; None if it cannot be opened."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None
