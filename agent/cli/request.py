"""`agent request`: send a request to an epoch's admin interface."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.status_client import place, run_dir
from agent.control_client.client import explain
from agent.control_client.run_dir import forbidden, is_trusted, nobody_there
from agent.core.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AsyncExitStack

    from agent.http.message import Response

_HEAD_TIMEOUT = 60.0  # seconds until an epoch begins to answer
_EPILOG = """\
Examples:

\b
  agent request GET stats?filter=downstream_cx         of the epoch that serves
  agent request GET clusters --epoch 6                 of one that drains
  agent request POST logging?level=debug

The answer goes to standard output as it comes, byte for byte. Exit codes: 0 the admin interface answered 2xx; 1 it
answered another status, reported on standard error, or there is no agent.
"""


@click.command(epilog=_EPILOG)
@run_dir
@click.option("--epoch", type=click.IntRange(min=1), metavar="N", help="The epoch; by default the one that serves.")
@click.argument("method")
@click.argument("path")
@click.pass_context
def request(ctx: click.Context, /, run_dir: Path | None, epoch: int | None, method: str, path: str) -> int:
    """Send a request to an epoch's admin interface, even if that has no port; METHOD is GET or POST."""
    import asyncio
    from urllib.parse import urlencode

    parameters = {"method": method.upper(), "target": f"/{path.removeprefix('/')}"}
    if epoch is not None:
        parameters["epoch"] = str(epoch)
    status = asyncio.run(_pass_on(place(ctx, run_dir), f"/request?{urlencode(parameters)}"))
    if 200 <= status < 300:
        return 0
    click.echo(f"agent: {parameters['method']} {parameters['target']} is answered with {status}", err=True)
    return 1


async def _pass_on(directory: str, target: str) -> int:
    """Write the response body to standard output; return the status code."""
    from contextlib import AsyncExitStack

    out = sys.stdout.buffer
    async with AsyncExitStack() as stack:
        answer = await _answer(stack, directory, target)
        assert not isinstance(answer.body, bytes), "a client's answers are streamed"
        parts = aiter(answer.body)
        while (part := await _next(parts)) is not None:
            out.write(part)
            out.flush()
        return answer.status


async def _answer(stack: "AsyncExitStack", directory: str, target: str) -> "Response":
    """Return the response once its head arrives; the body may take any time."""
    import asyncio

    from agent.http.client import Owned, stream
    from agent.http.message import Request

    try:
        async with asyncio.timeout(_HEAD_TIMEOUT):
            control = Owned(Path(directory, "control"), admits=lambda user: is_trusted(user, directory))
            return await stack.enter_async_context(stream(control, Request("POST", target)))
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        raise nobody_there(directory) from None
    except PermissionError:
        raise forbidden(directory) from None
    except OSError as error:
        message = f"cannot ask the agent at {directory}: {explain(error)}; see its log"
        raise MachineError(message) from error


async def _next(parts: "AsyncIterator[bytes]") -> bytes | None:
    """Return the next part of the body; None at the end."""
    import h11

    try:
        return await anext(parts, None)
    except (OSError, h11.ProtocolError) as error:
        message = f"cannot read the rest of the answer: {error}"
        raise MachineError(message) from error
