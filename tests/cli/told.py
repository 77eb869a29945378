"""An agent that answers with one status, or with a test's own function, and commands that ask it from this process."""

import asyncio
import inspect
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner

from agent.cli.run import agent
from agent.core.errors import AgentError, UsageError
from agent.http.message import Request, Response
from agent.http.server import Server
from agent.status.control import NAME
from agent.status.model import Status, document
from tests.cli.agents import Ran

# click before 8.2 mixes stderr into stdout unless this option forbids it; later versions do not have the option.
_APART: dict[str, Any] = {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}

Answer = Callable[[Request], Response]


@dataclass
class Telling:
    """The agent's next answer, and the requests it received."""

    overview: Status
    other: Answer | None = None
    asked: list[str] = field(default_factory=list)

    async def answer(self, request: Request) -> Response:
        """Answer one request."""
        self.asked.append(f"{request.method} {request.target}")
        if self.other is not None:
            return self.other(request)
        return Response(200, document(self.overview), (("content-type", "application/json"),))


@asynccontextmanager
async def telling(directory: Path, overview: Status, other: Answer | None = None) -> AsyncIterator[Telling]:
    """Answer at the control socket of a run directory."""
    told = Telling(overview, other)
    server = Server(told.answer)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(directory / NAME))
    listener.listen()
    await server.start(listener)
    try:
        yield told
    finally:
        await server.close()
        (directory / NAME).unlink()


async def ask(command: click.Command, *arguments: object, place: Path | None = None) -> Ran:
    """Run a command to its end in another thread of this process."""
    if place is not None:
        arguments = (*arguments, "--run-dir", place)
    return await asyncio.to_thread(_invoke, command, *map(str, arguments))


async def order(*arguments: object, place: Path | None = None, **variables: str) -> Ran:
    """Run `agent` with these arguments in another thread of this process."""
    if place is not None:
        arguments = (*arguments, "--run-dir", place)
    return await asyncio.to_thread(_invoke, agent, *map(str, arguments), **variables)


def _invoke(command: click.Command, *arguments: str, **variables: str) -> Ran:
    unset: dict[str, str | None] = {name: None for name in os.environ if name.startswith("AGENT_")}
    runner = CliRunner(env={**unset, "COLUMNS": None, **variables}, **_APART)
    result = runner.invoke(command, arguments, standalone_mode=False)
    match result.exception:
        case None:
            return Ran(result.return_value or 0, result.stdout, result.stderr)
        case AgentError() as error:
            return Ran(2 if isinstance(error, UsageError) else 1, result.stdout, f"{result.stderr}agent: {error}\n")
        case click.UsageError() as error:
            return Ran(2, result.stdout, error.format_message())
        case error:
            raise error
