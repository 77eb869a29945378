"""A real supervisor between stand-ins for processes, disk, kernel and cluster. `journal`: what was begun and closed."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

from agent.certificates.groups import CertificateGroup
from agent.core import events as on
from agent.core.events import Event, Failure, FailureKind
from agent.core.revision import Revision
from agent.handoff.socket_store import SocketStore
from agent.host.inherited_sockets import InheritedSocket
from agent.host.run_directory import RunDirectory
from agent.http.message import Request, Response
from agent.http.server import Server
from agent.inputs.programs import Programs
from agent.inputs.revisions import LoadedRevision, RevisionStore
from agent.inputs.settings import Settings
from agent.metrics.shared_counters import SharedCounters
from agent.processes.bisection import Bisection
from agent.processes.hang_detector import Serving
from agent.processes.process_table import Callbacks
from agent.processes.state_file import StateFile
from agent.processes.survivor import Survivor
from agent.proxies.interface import Proxy
from agent.supervisor.supervisor import Parts, Supervisor
from tests.supervisor.stand_ins import KIND, Inputs, Process, Processes, ask, program, selection, settled, source

LOOPBACK = "127.0.0.1"


class Table(Processes):
    """The process table of an agent."""

    def __init__(
        self,
        agent: "Agent",
        settings: Settings,
        directory: RunDirectory,
        revisions: RevisionStore,
        shared_counters: SharedCounters,
        store: SocketStore,
        bisection: Bisection,
        callbacks: Callbacks,
    ) -> None:
        super().__init__(store)
        self.given = (settings, directory, revisions)
        self.shared_counters, self.bisection, self.callbacks = shared_counters, bisection, callbacks
        self.inherited: list[InheritedSocket] = []
        self.bequest: dict[str, int] = {}
        self.listeners = SimpleNamespace(store=store, inherit=self._inherit, bequest=lambda: self.bequest)
        self.unadoptable: dict[int, Exception] = {}
        self.adopted: list[tuple[Survivor, LoadedRevision]] = []
        self.at_close: Callable[[], None] = lambda: None
        self._agent = agent
        self._revisions = revisions

    def _inherit(self, inherited: Iterable[InheritedSocket]) -> None:
        self.inherited += inherited

    def start(self, number: int, revision: Revision, *, validate: bool) -> None:
        """List it, and make its process; its home is its number in the run directory."""
        super().start(number, revision, validate=validate)
        self.epochs[number] = Process(number, self._revisions[revision], self._agent.directory.path / str(number))

    async def adopt(self, found: Survivor, loaded: LoadedRevision) -> None:
        """Hold an earlier agent's epoch, or raise why it cannot be."""
        if found.number in self.unadoptable:
            raise self.unadoptable[found.number]
        self.adopted.append((found, loaded))
        self.epochs[found.number] = Process(found.number, loaded, pid=found.pid, adopted=True)

    def cleanup(self, number: int) -> None:
        """List it."""
        self.calls.append(("cleanup", number))
        gone = self.epochs.pop(number, None)
        if self.serving is gone:
            self.serving = None

    async def close(self) -> None:
        """List it."""
        self._agent.journal.append("processes closed")
        self.at_close()


class Watch(Inputs):
    """The input watcher of an agent; a test says what is on the disk."""

    def __init__(
        self,
        agent: "Agent",
        settings: Settings,
        programs: Programs,
        revisions: RevisionStore,
        post: Callable[[Event], None],
        record: Callable[[], None],
    ) -> None:
        super().__init__()
        self.given = settings
        self.programs, self.revisions, self.post, self.record = programs, revisions, post, record
        self.close_fails: OSError | None = None
        self._agent = agent

    def find(self, name: str, *groups: CertificateGroup, text: str = "{}") -> LoadedRevision:
        """Let the disk hold a revision."""
        made = self.revisions.adopt(Revision(name, "shape"), source(text), selection(*groups), program())
        self.loader.newest = made.revision
        return made

    async def watch(self) -> None:
        """Watch until cancelled; that takes a while."""
        self._agent.journal.append("watching")
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self._agent.journal.append("watch cancelled")
            for _ in range(5):
                with contextlib.suppress(asyncio.CancelledError):  # it may be cancelled twice
                    await asyncio.sleep(0)
            self._agent.journal.append("watch ended")

    async def close(self) -> None:
        """List it, or fail."""
        self._agent.journal.append("inputs closed")
        if self.close_fails is not None:
            raise self.close_fails


class Detector:
    """The hang detector."""

    def __init__(
        self,
        agent: "Agent",
        store: SocketStore,
        serving: Callable[[], Serving | None],
        report: Callable[[bool, str], None],
        replace: Callable[[str], None],
        replace_after: float | None,
    ) -> None:
        self.store, self.serving, self.report, self.replace = store, serving, report, replace
        self.replace_after = replace_after
        self.follows = 0
        self.hung = False
        self._agent = agent

    def follow(self) -> None:
        """Count it."""
        self.follows += 1

    async def close(self) -> None:
        """List it, and take a while."""
        self._agent.journal.append("detector closed")
        await asyncio.sleep(0)


class Cluster:
    """The events of a cluster."""

    def __init__(self, agent: "Agent", standing: Callable[[], Collection[str]]) -> None:
        self.standing = standing
        self.begun = 0
        self._agent = agent

    def begin(self) -> None:
        """Count it."""
        self.begun += 1

    async def close(self) -> None:
        """List it."""
        self._agent.journal.append("cluster closed")


class Clock:
    """What tells of steps of the clock."""

    def __init__(self, agent: "Agent", stepped: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
        self.stepped, self.loop = stepped, loop
        self._agent = agent

    def close(self) -> None:
        """List it."""
        self._agent.journal.append("clock closed")


class Orphanage:
    """The reaper."""

    def __init__(self, agent: "Agent", owner: Callable[[int], object], *, loop: asyncio.AbstractEventLoop) -> None:
        self.owner, self.loop = owner, loop
        self._agent = agent

    def start(self) -> None:
        """List it."""
        self._agent.journal.append("reaper started")

    def close(self) -> None:
        """List it."""
        self._agent.journal.append("reaper closed")


class Legacy:
    """What an earlier agent left."""

    def __init__(
        self,
        agent: "Agent",
        kind: Proxy,
        state_file: StateFile,
        directory: RunDirectory,
        revisions: RevisionStore,
        shared_counters: SharedCounters,
    ) -> None:
        self.given = (kind, state_file, directory, revisions, shared_counters)
        self._agent = agent

    def epochs(self) -> Iterator[tuple[Survivor, LoadedRevision]]:
        """Yield what a test left."""
        for found, path in self._agent.left_behind:
            revision = Revision(f"r{found.number}", "shape")
            taken, runs = selection(), program(path, found.number)
            yield found, self._agent.inputs.revisions.adopt(revision, source(), taken, runs)

    def remove_stale(self, adopted: frozenset[int]) -> None:
        """List it."""
        self._agent.stale_but.append(adopted)


class Words:
    """The termination log."""

    def __init__(self, agent: "Agent") -> None:
        self._agent = agent

    def leave(self, words: str) -> None:
        """List it, if it is new."""
        if [words] != self._agent.last_words[-1:]:
            self._agent.last_words.append(words)


class Agent:
    """A supervisor, and everything around it."""

    def __init__(self, directory: RunDirectory, **settings: object) -> None:
        self.directory = directory
        self.journal: list[str] = []
        self.left_behind: list[tuple[Survivor, str]] = []  # each with the path of its program
        self.stale_but: list[frozenset[int]] = []
        self.last_words: list[str] = []
        self.code: int | None = None
        plain = Settings("/bin/true", KIND, (), None, (), directory.path, "", "")
        self.settings = replace(plain, **settings)  # type: ignore[arg-type]  # a test's own
        self._made: dict[str, Any] = {}
        self.parts = Parts(**{name: cast("Any", partial(self._make, name, kind)) for name, kind in _KINDS.items()})
        self.supervisor = Supervisor(self.settings, directory, self.parts)
        self.processes: Table = self._made["processes"]
        self.inputs: Watch = self._made["inputs"]
        self.detector: Detector = self._made["hang_detector"]
        self.cluster: Cluster = self._made["kubernetes_events"]
        self.reaper: Orphanage = self._made["reaper"]

    def _make(self, name: str, kind: Callable[..., Any], *arguments: object, **more: object) -> object:
        made = self._made[name] = kind(self, *arguments, **more)
        return made

    @property
    def clock(self) -> Clock:
        """What tells of steps of the clock, once the agent runs."""
        made: Clock = self._made["clock_steps"]
        return made

    @property
    def legacy(self) -> Legacy:
        """What looked for an earlier agent's epochs, once the agent runs."""
        made: Legacy = self._made["adoption"]
        return made

    async def run(self) -> None:
        """Run to the exit code."""
        self.code = await self.supervisor.run()
        self.journal.append("ended")

    # What happens

    def post(self, event: Event) -> None:
        """Let something have happened."""
        self.processes.callbacks.post(event)

    async def find(self, name: str, *groups: CertificateGroup, text: str = "{}", at: float = 0.0) -> Process:
        """Let a revision be on the disk, and wait for the process of its candidate."""
        known = set(self.processes.epochs)
        made = self.inputs.find(name, *groups, text=text)
        self.inputs.post(on.RevisionReady(at=at or self.now, revision=made.revision))
        await settled(lambda: self.processes.epochs.keys() - known)
        (number,) = self.processes.epochs.keys() - known
        return self.processes.epochs[number]

    async def serve(self, name: str, *groups: CertificateGroup, text: str = "{}") -> Process:
        """Let a revision serve, and wait for the commit."""
        process = await self.find(name, *groups, text=text)
        await self.come_to_serve(process)
        return process

    async def come_to_serve(self, process: Process) -> None:
        """Let a candidate serve, and wait for the commit."""
        number = process.number
        process.pid = 100 + number
        self.post(on.EpochStarted(at=self.now, epoch=number, pid=process.pid))
        self.post(on.EpochReachedGate(at=self.now, epoch=number))
        self.post(on.EpochJudged(at=self.now, epoch=number))
        self.post(on.EpochServes(at=self.now, epoch=number))
        process.has_served = True
        await self.heard()
        assert self.processes.serving is process

    async def exits(self, number: int, code: int | None = 1, reason: str = "it fell over") -> None:
        """Let an epoch exit, and wait until that is dealt with."""
        failure = Failure(FailureKind.TRANSIENT, reason)
        self.post(on.EpochExited(at=self.now, epoch=number, code=code, failure=failure))
        await self.heard()

    async def heard(self) -> None:
        """Wait until the agent has dealt with every event, or has ended."""
        for _ in range(3):  # an event may post another one
            await settled(lambda: self.supervisor._events.empty() or self.code is not None)
            await asyncio.sleep(0)

    @property
    def now(self) -> float:
        """Monotonic seconds."""
        return asyncio.get_running_loop().time()

    # What it shows

    @property
    def state(self) -> dict[str, Any]:
        """The state file."""
        return json.loads((self.directory.path / "state.json").read_text())  # type: ignore[no-any-return]

    @property
    def calls(self) -> list[tuple[object, ...]]:
        """What the process table was told."""
        return self.processes.calls

    async def control(self, target: str, method: str = "GET") -> tuple[int, str]:
        """Ask the control socket."""
        return await ask(self.directory.path / "control", target, method)

    async def http(self, target: str, method: str = "GET", host: str = "localhost") -> tuple[int, str]:
        """Ask the status server."""
        return await ask((LOOPBACK, self.settings.status_port), target, method, host)

    def release(self) -> None:
        """Close what an agent leaves to the end of its process."""
        self.inputs.revisions.keep_only([])
        self.processes.shared_counters.close()
        self.processes.listeners.store.close_all()


_KINDS: Mapping[str, Callable[..., Any]] = {
    "inputs": Watch,
    "processes": Table,
    "adoption": Legacy,
    "hang_detector": Detector,
    "kubernetes_events": Cluster,
    "termination_log": Words,
    "clock_steps": Clock,
    "reaper": Orphanage,
}


@asynccontextmanager
async def running(agent: Agent) -> AsyncIterator[asyncio.Task[None]]:
    """Let an agent run, from its first wait for an event until the test or the agent ends."""
    task = asyncio.create_task(agent.run())
    try:
        await settled(lambda: "watching" in agent.journal or task.done())
        if task.done():
            await task
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        agent.release()


@asynccontextmanager
async def console(process: Process, answers: Mapping[str, str]) -> AsyncIterator[list[str]]:
    """The admin interface of a process; yields the paths that it is asked for."""
    asked: list[str] = []

    async def answer(request: Request) -> Response:
        asked.append(request.target)
        text = answers.get(request.path)
        return Response(404 if text is None else 200, (text or "").encode(), (("content-type", "text/plain"),))

    process.home.mkdir(exist_ok=True)
    place = process.home / "admin"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(place))
    server = Server(answer)
    await server.start(listener)
    try:
        yield asked
    finally:
        await server.close()
