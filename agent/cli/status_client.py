"""Reads status snapshots from a running agent, and finds its run directory."""

import json
import time
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, get_args, get_origin

import click

from agent.cli.options import Decorator, option
from agent.control_client.client import Exchange, at_control, explain, printable
from agent.control_client.run_dir import chosen
from agent.core.errors import MachineError

if TYPE_CHECKING:
    from agent.status.model import Status

_TIMEOUT = 10.0  # seconds until a healthy agent answers

run_dir: Decorator = option(
    "--run-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The agent's run directory, if it is not the default.",
)


def place(ctx: click.Context, given: Path | None) -> str:
    """Return the run directory: from the command, the group, the environment, or the default."""
    found = given or of_the_group(ctx)
    return chosen(None if found is None else str(found))


def of_the_group(ctx: click.Context) -> Path | None:
    """Return the group's option, as in `agent --run-dir DIR restart`."""
    return None if ctx.parent is None else ctx.parent.params.get("run_dir")


def ask(directory: str, timeout: float = _TIMEOUT) -> str:
    """Return the status as a line of JSON. Raises `MachineError`, of which `NoAgent` is one."""
    exchange = at_control(directory, time.monotonic() + timeout)
    try:
        status, text = exchange.ask("GET", "/status"), exchange.text()
    except OSError as error:
        raise unanswered(exchange, "read the agent's status", error) from None
    finally:
        exchange.close()
    if status != 200:
        message = f"cannot read the agent's status: it answers {status}: {text}"
        raise MachineError(message)
    return text


def read(text: str) -> "Status":
    """Parse the status; ignore fields of a newer agent. Raises `MachineError`."""
    from agent.status.model import Status

    try:
        overview: Status = _value(Status, json.loads(text))
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        message = f"cannot parse the agent's answer: {error}; compare its version with agent version"
        raise MachineError(message) from error
    return overview


def look(directory: str) -> "Status":
    """Request and parse the status."""
    return read(ask(directory))


def unanswered(exchange: Exchange, verb: str, error: OSError) -> MachineError:
    """Return the error for an agent that does not answer."""
    return MachineError(f"cannot {verb}: no answer from pid {exchange.peer}: {explain(error)}; see its log")


def _value(kind: Any, value: Any) -> Any:  # noqa: ANN401  # any type and its JSON value
    """Convert a JSON value from `agent.status.model.to_json` back to a `kind`."""
    if value is None:
        return None
    if isinstance(kind, UnionType):
        return _value(next(each for each in get_args(kind) if each is not NoneType), value)
    if get_origin(kind) is tuple:
        return tuple(_value(get_args(kind)[0], each) for each in value)
    if is_dataclass(kind):
        known = (field for field in fields(kind) if field.name in value)
        make: Callable[..., Any] = kind  # type: ignore[assignment]  # a class, not an instance
        return make(**{field.name: _value(field.type, value[field.name]) for field in known})
    return _plain(kind, value)


def _plain(kind: type, value: Any) -> Any:  # noqa: ANN401  # as above
    if kind is datetime:
        return datetime.fromisoformat(value)
    if issubclass(kind, StrEnum) and value in set(kind):
        return kind(value)
    return printable(value) if isinstance(value, str) else value  # also an enum value of a newer agent
