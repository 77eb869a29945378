"""Runs the tiny server as a separate process."""

import asyncio
import os
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from tests.handoff.epochs import until
from tests.system.eventually import PATIENCE

TINY = Path(__file__).with_name("minimal_epoch.py")
ROOT = Path(__file__).parents[2]


class Running:
    """A running program and its stderr."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.pid = process.pid

    def signal(self, number: int) -> None:
        """Send a signal to the process."""
        self._process.send_signal(number)

    async def ended(self) -> tuple[int, str, str]:
        """Wait for the exit; return the exit code and the stderr."""
        async with asyncio.timeout(PATIENCE):
            out, err = await self._process.communicate()
        assert self._process.returncode is not None
        return self._process.returncode, out.decode(), err.decode()


@asynccontextmanager
async def running(*arguments: str | Path, environment: Mapping[str, str] | None = None) -> AsyncIterator[Running]:
    """Run a program; it is killed at the end of the block if it still runs."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, TINY, *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
    )
    try:
        yield Running(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def run(*arguments: str | Path) -> tuple[int, str, str]:
    """Run a program to its end; return the exit code and the stderr."""
    async with running(*arguments) as process:
        return await process.ended()


def listens(path: Path) -> bool:
    """Return whether a process accepts connections there: a socket has its name before it listens."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


async def answer(path: Path, request: str = "GET / HTTP/1.1") -> str:
    """Make one request at a Unix socket, as soon as a process listens there; return the complete response."""
    await until(lambda: listens(path))
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(f"{request}\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        whole = await reader.read()
        writer.close()
        await writer.wait_closed()
        return whole.decode()
