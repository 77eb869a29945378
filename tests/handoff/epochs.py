"""Controls a fake epoch, which runs as another process."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from agent.handoff.socket_paths import SocketPaths
from tests.handoff.handmade import datagrams
from tests.system.eventually import PATIENCE

PROGRAM = Path(__file__).with_name("fake_epoch.py")


class Epoch:
    """A running fake epoch."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    async def tell(self, *words: object) -> Any:  # noqa: ANN401  # JSON
        """Send a command; return the result."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(words).encode() + b"\n")
        return await self.answer()

    async def answer(self) -> Any:  # noqa: ANN401  # JSON
        """Wait for a line of its output."""
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            return json.loads(await self._process.stdout.readline())

    async def send(self, role: str, body: bytes) -> None:
        """Let it send a whole message to a role of the agent."""
        await self.tell("send", role, *[datagram.hex() for datagram in datagrams(body)])

    async def read(self, role: str) -> tuple[bytes, list[int]]:
        """Let it receive one datagram; return its bytes and the inodes of its descriptors."""
        got = await self.tell("read", role)
        assert got["flags"] == 0
        return bytes.fromhex(got["data"]), got["inodes"]


@asynccontextmanager
async def fake_epoch(names: SocketPaths) -> AsyncIterator[Epoch]:
    """Run an epoch with its sockets bound; it is killed at the end of the block."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", str(PROGRAM), str(names.directory), str(names.base_id)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    epoch = Epoch(process)
    try:
        assert await epoch.answer() == "ready"
        yield epoch
    finally:
        process.kill()
        await process.wait()
        assert process.stdin is not None
        process.stdin.close()


def open_descriptors() -> set[int]:
    """Return the open descriptors of this process."""
    entries = [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]
    return {entry for entry in entries if Path(f"/proc/self/fd/{entry}").exists() or _is_socket(entry)}


def _is_socket(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def leaked_since(before: set[int]) -> set[int]:
    """Return the descriptors that were opened since and not closed; close them."""
    leaked = open_descriptors() - before
    for descriptor in leaked:
        os.close(descriptor)
    return leaked


async def until(check: Callable[[], object]) -> None:
    """Run the loop until the condition holds."""
    async with asyncio.timeout(PATIENCE):
        while not check():  # noqa: ASYNC110  # runs the loop
            await asyncio.sleep(0)
