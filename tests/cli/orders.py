"""Runs the commands as separate processes, beside an agent in this process that answers them."""

import asyncio
import os
import sys
from pathlib import Path

from tests.cli.agents import Ran
from tests.system.eventually import PATIENCE

_ENTRY = "from agent.entry import main; main()"


async def order(*arguments: object, place: Path | None = None, **variables: str) -> Ran:
    """Run `agent` to its end, while the loop continues."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AGENT_")}
    if place is not None:
        arguments = (*arguments, "--run-dir", place)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _ENTRY,
        *map(str, arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**clean, **variables},
    )
    try:
        async with asyncio.timeout(PATIENCE):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Ran(process.returncode, out.decode(), err.decode())
