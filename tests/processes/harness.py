"""Runs single epochs: the real proxy, driven by the agent's own classes, without the deciding loop."""

import asyncio
import contextlib
import inspect
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from agent.certificates.contents import Contents
from agent.certificates.selection import LastGood, select_files
from agent.core.errors import AddressHeld, ProtocolError
from agent.handoff.socket_store import ListenAddress
from agent.host import clock
from agent.host.run_directory import RunDirectory
from agent.inputs.programs import Programs
from agent.inputs.revisions import LoadedRevision, RevisionStore, Source
from agent.processes.epoch_process import EpochProcess, ListenerAccess
from agent.processes.listeners import Listeners
from agent.proxies.envoy.configuration import Configuration
from agent.proxies.envoy.options import Flags
from agent.proxies.envoy.proxy import Envoy
from tests.processes.links import link_of
from tests.proxies.envoy.envoys import ENVOY
from tests.system.eventually import PATIENCE

QUIET = ("-l", "warning", "--concurrency", "2")


class EpochHandle:
    """One running epoch, and the events it has reported so far."""

    def __init__(self, harness: "Harness", loaded: LoadedRevision) -> None:
        self.reached_gate, self.serves, self.exited = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.code: int | None = None
        self.harness_listeners = harness.listeners
        self._buried = False
        self.held: list[AddressHeld] = []
        self.broken: list[ProtocolError] = []
        harness.number += 1
        listeners = ListenerAccess(
            reached_gate=lambda _: self.reached_gate.set(),
            serves=lambda _: self.serves.set(),
            exited=lambda _, code: self._exit(code),
            held=lambda _, error: self.held.append(error),
            broken=lambda _, error: self.broken.append(error),
            get_socket=lambda _, place: harness.listeners.get(place, loaded.configuration),
            sockets=harness.listeners.store.lent,
            bound=lambda _, place, descriptor: harness.listeners.keep(place, descriptor, serves=False),
            is_serving=lambda: False,
        )
        self.process = EpochProcess(harness.number, loaded, harness.directory, None, listeners)

    def _exit(self, code: int | None) -> None:
        self.code = code
        self.exited.set()

    @property
    def pid(self) -> int:
        """The process."""
        assert self.process.pid is not None
        return self.process.pid

    @property
    def asked(self) -> set[str]:
        """The addresses it requested."""
        return {place.address for place in self.process.asked}

    async def reach_gate(self) -> None:
        """Launch it and wait until it is at the gate."""
        await self.process.launch(1_700_000_000)
        await happens(self.reached_gate)

    async def serve(self, before: "EpochHandle | None" = None) -> None:
        """Let it take over."""
        if self.process.pid is None:
            await self.reach_gate()
        await self.harness_listeners.stage(self.process)
        link_of(self.process).gate.open()
        await happens(self.serves)
        self.harness_listeners.adopt()
        await self.harness_listeners.hand_over(self.process, None if before is None else before.process)

    async def cleanup(self) -> None:
        """Remove its files, once."""
        if not self._buried:
            self._buried = True
            await self.process.cleanup()


class Harness:
    """The shared parts of the epochs: a run directory, a socket store, the program."""

    def __init__(self, directory: RunDirectory, programs: Programs) -> None:
        self.directory, self.programs = directory, programs
        self.number = 0
        self.roles: list[EpochHandle] = []
        self.listeners = Listeners(
            None, lambda: [role.process.pid for role in self.roles if role.process.pid is not None]
        )
        self._revisions = RevisionStore()

    def start(self, text: str, contents: Contents | None = None) -> EpochHandle:
        """Create an epoch of this configuration."""
        assert self.programs.current is not None
        configuration = Configuration(text, "envoy.yaml")
        references = configuration.references if contents else []
        selection = select_files(references, contents or {}, LastGood(), clock.calendar())
        assert selection.complete, selection
        source = Source(configuration, text.encode())
        loaded = self._revisions.make(source, selection, self.programs.current, b"")
        role = EpochHandle(self, loaded)
        self.roles.append(role)
        return role

    async def serving(self, text: str) -> EpochHandle:
        """Start an epoch of this configuration and let it serve."""
        role = self.start(text)
        await role.serve()
        return role

    async def close(self) -> None:
        """End all epochs."""
        for role in self.roles:
            if role.process.process is not None and role.code is None:
                with contextlib.suppress(ProcessLookupError):
                    role.process.signal(signal.SIGCONT)
                    role.process.signal(signal.SIGKILL)
                await happens(role.exited)
            await role.cleanup()
        self.listeners.unstage()
        self.listeners.store.close_all()
        self._revisions.keep_only([])
        if self.programs.current is not None:
            self.programs.current.binary.close()
        self.directory.close()


@asynccontextmanager
async def harness(binary: Path | None = None) -> AsyncIterator[Harness]:
    """Open a harness in a short directory of its own; all its files are removed at the end."""
    path = binary or ENVOY
    assert path is not None
    directory = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))
    programs = Programs(path, Envoy(Flags(rest=QUIET), 1.0), None)
    await programs.load()
    made = Harness(RunDirectory(directory), programs)
    try:
        yield made
    finally:
        await made.close()
        shutil.rmtree(directory)


async def happens(event: asyncio.Event) -> None:
    """Wait for an event."""
    async with asyncio.timeout(PATIENCE):
        await event.wait()


async def until(check: object) -> None:
    """Wait until `check` is true; for states that only the kernel or an admin interface reports."""
    assert callable(check)
    async with asyncio.timeout(PATIENCE):
        while not (await check() if inspect.iscoroutinefunction(check) else check()):  # noqa: ASYNC110  # no event signals this
            await asyncio.sleep(0.01)


def descriptors_of(pid: int) -> dict[int, str]:
    """List the open descriptors of a process, each by its target."""
    found = {}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found[int(entry.name)] = str(entry.readlink())
    return found


def place(port: int, worker: int = 0) -> ListenAddress:
    """Return an address on loopback."""
    return ListenAddress(f"tcp://127.0.0.1:{port}", worker=worker)


def alive(pid: int) -> bool:
    """Return whether a child process still runs; a zombie does not."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False
