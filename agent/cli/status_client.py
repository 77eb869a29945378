"""Overviews as the agent of a run directory gives them, and how a command finds that directory."""

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

_TIMEOUT = 10.0  # seconds for an agent whose loop turns

run_dir: Decorator = option(
    "--run-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The agent's run directory, where it is not usual.",
)


def place(ctx: click.Context, given: Path | None) -> str:
    """The run directory that is meant: the command's own, what stood before its name, the environment's, the usual."""
    found = given or of_the_group(ctx)
    return chosen(None if found is None else str(found))


def of_the_group(ctx: click.Context) -> Path | None:
    """What stood before the command's name, as in `agent --run-dir DIR restart`."""
    return None if ctx.parent is None else ctx.parent.params.get("run_dir")


def ask(directory: str, timeout: float = _TIMEOUT) -> str:
    """The overview as a line of JSON. Raises `MachineError`, with `NoAgent` among them."""
    exchange = at_control(directory, time.monotonic() + timeout)
    try:
        status, text = exchange.ask("GET", "/status"), exchange.text()
    except OSError as error:
        raise unanswered(exchange, "learn how the agent is", error) from None
    finally:
        exchange.close()
    if status != 200:
        message = f"cannot learn how the agent is: it answers {status}: {text}"
        raise MachineError(message)
    return text


def read(text: str) -> "Status":
    """The overview that JSON tells of; fields of a newer agent are passed over. Raises `MachineError`."""
    from agent.status.model import Status

    try:
        overview: Status = _value(Status, json.loads(text))
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        message = f"cannot understand the agent's answer: {error}; is it as new as this command? see agent version"
        raise MachineError(message) from error
    return overview


def look(directory: str) -> "Status":
    """Ask and read."""
    return read(ask(directory))


def unanswered(exchange: Exchange, verb: str, error: OSError) -> MachineError:
    """What to say where an agent was asked and did not answer."""
    return MachineError(f"cannot {verb}: no answer from pid {exchange.peer}: {explain(error)}; look at its log")


def _value(kind: Any, value: Any) -> Any:  # noqa: ANN401  # any type, and what JSON makes of it
    """What was a `kind` before `agent.status.model.to_json` turned it into `value`."""
    if value is None:
        return None
    if isinstance(kind, UnionType):
        return _value(next(each for each in get_args(kind) if each is not NoneType), value)
    if get_origin(kind) is tuple:
        return tuple(_value(get_args(kind)[0], each) for each in value)
    if is_dataclass(kind):
        known = (field for field in fields(kind) if field.name in value)
        make: Callable[..., Any] = kind  # type: ignore[assignment]  # no instance of one
        return make(**{field.name: _value(field.type, value[field.name]) for field in known})
    return _plain(kind, value)


def _plain(kind: type, value: Any) -> Any:  # noqa: ANN401  # as above
    if kind is datetime:
        return datetime.fromisoformat(value)
    if issubclass(kind, StrEnum) and value in set(kind):
        return kind(value)
    return printable(value) if isinstance(value, str) else value  # also the word of a newer agent
