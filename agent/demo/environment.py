"""Everything that the demonstration needs on the machine, and its end: directory, port, origin, agent, clients."""

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

import yaml

from agent.core.errors import MachineError
from agent.demo.authority import ROOT, Authority, Pair, write_pair
from agent.demo.configuration import configuration
from agent.demo.journal import Log
from agent.demo.settings import Settings

_SHORT = ("/dev/shm", "/tmp")  # noqa: S108  # the paths of Unix sockets are short; in memory where there is room
_STOP_TIMEOUT = 8.0  # of the agent, which gives its epochs 2 s
_END_TIMEOUT = 1.0  # of the service and of the clients, which have finished by then
_PR_SET_PDEATHSIG = 1


class Environment:
    """A directory with what an operator would have in it, and the processes. `async with` begins and ends it all."""

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
        text = yaml.safe_dump(configuration(self.port, origin, self.certs), sort_keys=False)
        (self.directory / "proxy.yaml").write_text(text)

    def _reserve(self, stack: contextlib.AsyncExitStack) -> None:
        """A port for the proxy that nobody else can get: bound here by a socket that never listens, shared with it."""
        kept = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        kept.bind(("127.0.0.1", 0))
        self.port = kept.getsockname()[1]

    # Processes

    async def _start_origin(self, stack: contextlib.AsyncExitStack) -> int:
        """Start the service behind the proxy; return its port."""
        with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
            command = [sys.executable, "-m", "agent.demo.origin", str(listener.fileno())]
            self.origin = await self._start(command, "origin.log", pass_fds=(listener.fileno(),))
            stack.push_async_callback(_end, self.origin, _END_TIMEOUT)
            return int(listener.getsockname()[1])

    async def _start_agent(self, stack: contextlib.AsyncExitStack) -> None:
        flags = ["--proxy-bin", self._settings.proxy, "--config", "proxy.yaml", "--certs", "certs", "--run-dir", "run"]
        drains = ["--drain-time", "1s", "--drain-deadline", "10s", "--stop-deadline", "2s", "--status-port", "0"]
        proxy = ["--concurrency", "1", "-l", "error"]
        if self._settings.every < 1.5:  # else epochs drain faster than they come
            proxy += ["--drain-strategy", "immediate"]
        self._command = [sys.executable, "-m", "agent", *flags, *drains, "--log-format", "json", "--", *proxy]
        self.agent = await self._start(self._command, self.log.path.name, preexec_fn=_end_with_parent())
        stack.push_async_callback(self._stop_agent, self.agent)

    async def start_clients(self) -> asyncio.StreamReader:
        """Start them; their reports come from what is returned. They end with the scene, or with `stop_clients`."""
        command = [sys.executable, "-m", "agent.demo.load", str(self.port), str(self.directory / ROOT)]
        self._clients = await self._start(command, "clients.log", stdout=PIPE)
        self._stack.push_async_callback(_end, self._clients, _END_TIMEOUT)
        assert self._clients.stdout is not None
        return self._clients.stdout

    def stop_clients(self) -> None:
        """Ask them to finish what is under way; their reports end when they have."""
        if self._clients is not None and self._clients.stdin is not None:
            self._clients.stdin.close()

    async def _start(self, command: list[str], log: str, **more: Any) -> Process:  # noqa: ANN401  # of subprocess
        """Start a program in a group of its own, for Ctrl-C is ours; what it says goes to a file."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("AGENT_")}
        with (self.directory / "log" / log).open("ab") as sink:
            given = {"stdin": PIPE, "stdout": sink, "stderr": sink, "env": clean, "process_group": 0, **more}
            try:
                return await asyncio.create_subprocess_exec(*command, cwd=self.directory, **given)
            except OSError as error:
                message = f"cannot start {command[2]}: {error.strerror}"
                raise MachineError(message) from error

    async def _stop_agent(self, process: Process) -> None:
        """Stop it as an operator would; where it did not come to its end by itself, clear away what it left."""
        if process.returncode is None:
            process.terminate()
        try:
            await _ended(process, _STOP_TIMEOUT)
        finally:
            if process.returncode:
                await self._clear_leftovers()

    async def _clear_leftovers(self) -> None:
        """Have another agent take over what one left that died, and stop at once; its SIGTERM waits for it."""
        mask = functools.partial(signal.pthread_sigmask, signal.SIG_BLOCK, {signal.SIGTERM})
        process = await self._start(self._command, self.log.path.name, preexec_fn=mask)
        process.terminate()
        await _ended(process, _STOP_TIMEOUT)


def _end_with_parent() -> Callable[[], None]:
    """What a child calls to get a SIGTERM when this program is killed and cannot end it any more: see prctl(2)."""
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


async def _end(process: Process, timeout: float) -> None:
    """End one of our own programs by ending its input."""
    if process.stdin is not None:
        process.stdin.close()
    await _ended(process, timeout)


async def _ended(process: Process, timeout: float) -> None:
    """Wait for the end of a process; it is killed if that takes too long, or if somebody is in a hurry."""
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
