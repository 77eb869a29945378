"""The demonstration's environment: directory, port, origin, agent and clients, with cleanup."""

import asyncio
import contextlib
import ctypes
import functools
import os
import shutil
import signal
import socket
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from agent.core.errors import MachineError
from agent.demo.authority import ROOT, Authority, Pair, write_pair
from agent.demo.configuration import configured
from agent.demo.journal import Log
from agent.demo.settings import Settings

_SHORT = ("/dev/shm", "/tmp")  # noqa: S108  # Unix socket paths must be short; in memory if possible
_STOP_TIMEOUT = 8.0  # for the agent, which gives its epochs 2 s
_END_TIMEOUT = 1.0  # for the origin and the clients, which have finished by then
_PR_SET_PDEATHSIG = 1
_BRISK = 1.5  # seconds between two rotations below which epochs start faster than they drain


class Environment:
    """An operator's files in a directory, and the processes; `async with` starts and ends both."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stack = contextlib.AsyncExitStack()
        self._clients: Process | None = None
        self.authority = Authority()
        self.agent: Process | None = None
        self.origin: Process | None = None
        self.port = 0

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            self.directory = _make_directory()
            stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
            self.certs, self.run_directory, logs = (self.directory / name for name in ("certs", "run", "log"))
            for each in (self.certs, self.run_directory, logs):
                each.mkdir(mode=0o700)
            self.log = Log(logs / "agent.log")
            self._reserve(stack)
            origin = await self._start_origin(stack)
            self._write_files(origin, self.authority.issue())
            await self._start_agent(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    # Files

    def _write_files(self, origin: int, first: Pair) -> None:
        (self.directory / ROOT).write_bytes(self.authority.pem)
        write_pair(self.certs, first)
        brisk = self._settings.every < _BRISK
        self._configured = configured(self._settings.proxy, self.port, origin, self.certs, is_brisk=brisk)
        (self.directory / self._configured.name).write_text(self._configured.text)

    def _reserve(self, stack: contextlib.AsyncExitStack) -> None:
        """Reserve a port for the proxy: bind a socket that never listens, shared by SO_REUSEPORT."""
        kept = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        kept.bind(("127.0.0.1", 0))
        self.port = kept.getsockname()[1]

    # Processes

    async def _start_origin(self, stack: contextlib.AsyncExitStack) -> int:
        """Start the origin; return its port."""
        with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
            command = [sys.executable, "-m", "agent.demo.origin", str(listener.fileno())]
            self.origin = await self._start(command, "origin.log", pass_fds=(listener.fileno(),))
            stack.push_async_callback(_end, self.origin, _END_TIMEOUT)
            return int(listener.getsockname()[1])

    async def _start_agent(self, stack: contextlib.AsyncExitStack) -> None:
        files = ["--config", self._configured.name, "--certs", "certs", "--run-dir", "run"]
        flags = ["--proxy-bin", self._settings.proxy, *files]
        drains = ["--drain-time", "1s", "--drain-deadline", "10s", "--stop-deadline", "2s", "--status-port", "0"]
        proxy = ["--", *self._configured.arguments] if self._configured.arguments else []
        self._command = [sys.executable, "-m", "agent", *flags, *drains, "--log-format", "json", *proxy]
        self.agent = await self._start(self._command, self.log.path.name, preexec_fn=_end_with_parent())
        stack.push_async_callback(self._stop_agent, self.agent)

    async def start_clients(self) -> asyncio.StreamReader:
        """Start the clients; return the stream of their reports.

        They end at `stop_clients` or with the environment.
        """
        command = [sys.executable, "-m", "agent.demo.load", str(self.port), str(self.directory / ROOT)]
        self._clients = await self._start(command, "clients.log", stdout=PIPE)
        self._stack.push_async_callback(_end, self._clients, _END_TIMEOUT)
        assert self._clients.stdout is not None
        return self._clients.stdout

    def stop_clients(self) -> None:
        """Ask the clients to finish their requests; their reports end after that."""
        if self._clients is not None and self._clients.stdin is not None:
            self._clients.stdin.close()

    async def _start(self, command: list[str], log: str, **more: Any) -> Process:  # noqa: ANN401  # of subprocess
        """Start a program in its own process group, so that Ctrl-C does not reach it; log to a file."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("AGENT_")}
        with (self.directory / "log" / log).open("ab") as sink:
            given = {"stdin": PIPE, "stdout": sink, "stderr": sink, "env": clean, "process_group": 0, **more}
            try:
                return await asyncio.create_subprocess_exec(*command, cwd=self.directory, **given)
            except OSError as error:
                message = f"cannot start {command[2]}: {error.strerror}"
                raise MachineError(message) from error

    async def _stop_agent(self, process: Process) -> None:
        """Stop the agent with SIGTERM; clean up after it if it failed."""
        if process.returncode is None:
            process.terminate()
        try:
            await _ended(process, _STOP_TIMEOUT)
        finally:
            if process.returncode:
                await self._clear_leftovers()

    async def _clear_leftovers(self) -> None:
        """Start an agent that adopts the leftovers and then stops: its SIGTERM is already pending."""
        mask = functools.partial(signal.pthread_sigmask, signal.SIG_BLOCK, {signal.SIGTERM})
        process = await self._start(self._command, self.log.path.name, preexec_fn=mask)
        process.terminate()
        await _ended(process, _STOP_TIMEOUT)


def _end_with_parent() -> Callable[[], None]:
    """Return a function by which a child gets SIGTERM when its parent is killed: see prctl(2)."""
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


async def _end(process: Process, timeout: float) -> None:
    """End one of our own programs by closing its standard input."""
    if process.stdin is not None:
        process.stdin.close()
    await _ended(process, timeout)


async def _ended(process: Process, timeout: float) -> None:
    """Wait until a process exits; kill it at the timeout or when cancelled."""
    try:
        async with asyncio.timeout(timeout):
            await process.wait()
    except TimeoutError:
        return
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _make_directory() -> Path:
    for place in _SHORT:
        if os.access(place, os.W_OK):
            return Path(tempfile.mkdtemp(prefix="agent-demo-", dir=place))
    return Path(tempfile.mkdtemp(prefix="agent-demo-"))
