"""What the supervisor's parts find around them, as small as a test needs it: processes, inputs, revisions, a clock."""

import asyncio
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from agent.certificates.findings import Fallback, Fault, Rejection
from agent.certificates.groups import CertificateGroup
from agent.certificates.references import Reference, Role
from agent.certificates.selection import Selection
from agent.certificates.x509 import Bundle, Chain, Leaf
from agent.core import events as on
from agent.core.effects import Effect
from agent.core.events import Event, Failure, FailureKind
from agent.core.policy import Policy
from agent.core.reconciler import Reconciler
from agent.core.revision import Revision
from agent.handoff.segment import HotRestartVersion
from agent.handoff.socket_store import ListenAddress, SocketStore
from agent.host.binaries import Binary
from agent.host.carried import Carried
from agent.host.log import LogEvent, subscribe
from agent.http.client import stream
from agent.http.message import Request, Response
from agent.inputs.loader import LoadResult
from agent.inputs.revisions import LoadedRevision, Program, Source
from agent.inputs.watch import InputWatcher
from agent.processes.epoch_process import EpochProcess
from agent.processes.process_table import ProcessTable
from agent.processes.push_target import PushTarget
from agent.proxies.envoy.admin_client import AdminClient
from agent.proxies.envoy.configuration import Configuration
from agent.proxies.envoy.options import Flags
from agent.proxies.envoy.proxy import Envoy
from agent.proxies.interface import TlsListener
from agent.status.model import Blocked
from agent.supervisor.service import Service

NOW = 1000.0
TODAY = datetime(2026, 5, 4, 12, tzinfo=UTC)
"""The date at `NOW`."""

KIND = Envoy(Flags(), 1.0)
BOOTSTRAP = "static_resources: {}"


@contextmanager
def logged() -> Iterator[list[LogEvent]]:
    """Collect what is logged."""
    events: list[LogEvent] = []
    with subscribe(events.append):
        yield events


def texts(events: Sequence[LogEvent], name: str) -> list[str]:
    """Return the sentences of the log events with this name."""
    return [event.text for event in events if event.name == name]


# Revisions


def leaf(serial: int = 0x1F, begins: datetime = TODAY, life: timedelta = timedelta(days=100)) -> Leaf:
    """A leaf certificate; its fingerprint is its serial."""
    return Leaf("CN=web", ("DNS:web",), "CN=ca", serial, begins, begins + life, "RSA 2048", f"{serial:064x}")


def group(name: str, *leaves: Leaf, bundles: tuple[Bundle, ...] = ()) -> CertificateGroup:
    """A certificate group with these leaves; its chain is `name`, and its key is beside it."""
    chains = tuple(Chain(name, (), each, in_order=True) for each in leaves)
    key = Reference(name.replace(".crt", ".key"), Role.KEY, name)
    references = {Reference(name, Role.CHAIN, name), key} if leaves else set[Reference]()
    references |= {Reference(bundle.path, Role.BUNDLE, name) for bundle in bundles}
    return CertificateGroup(name, frozenset(references), {}, chains, bundles)


def selection(*groups: CertificateGroup) -> Selection:
    """A selection of exactly these groups, all as they are on disk."""
    found = {each.name: each.leaf for each in groups if each.leaf is not None}
    return Selection({each.name: each for each in groups}, (), (), (), None, found)


def program(path: str = "/opt/proxy", descriptor: int = -1) -> Program:
    """A program that nobody executes."""
    return Program(Binary(Path(path), descriptor, (descriptor,)), KIND, "1.0", HotRestartVersion.parse("11.104"))


def source(text: str = BOOTSTRAP) -> Source:
    """A configuration."""
    return Source(Configuration(text, "/etc/proxy.yaml"), text.encode())


def loaded(name: str, *groups: CertificateGroup, text: str = BOOTSTRAP, shape: str = "shape") -> LoadedRevision:
    """A loaded revision."""
    parsed = source(text)
    copies = parsed.configuration.copies([])
    return LoadedRevision(Revision(name, shape), parsed, copies, selection(*groups), program(), {}, ())


def rejection(group: str, why: str = "it is empty", fault: Fault = Fault.EMPTY) -> Rejection:
    """A certificate group that is held back."""
    return Rejection(group, group, fault, why, "write it", Fallback.LAST_GOOD)


# Processes


class Admin:
    """An admin interface that answers with `listeners`; if they are an error, it is raised."""

    def __init__(self, place: Path) -> None:
        self.place = self.path = place
        self.listeners: Sequence[TlsListener] | Exception = ()

    def exposition(self, request: Request) -> AbstractAsyncContextManager[Response]:
        """Return what is at `place`."""
        return AdminClient(self.place).exposition(request)

    async def tls_listeners(self) -> Sequence[TlsListener]:
        """Return the listeners, or raise the error."""
        if isinstance(self.listeners, Exception):
            raise self.listeners
        return self.listeners


@dataclass
class Process:
    """An epoch process that lists the signals that it receives."""

    number: int
    loaded: LoadedRevision
    home: Path = Path("/nonexistent")
    pid: int | None = None
    clients: int | None = None
    clients_at_first: int | None = None
    has_served: bool = False
    drains: bool = False
    was_asked: bool = False
    was_killed: bool = False
    was_starved: bool = False
    adopted: bool = False
    asked: set[ListenAddress] = field(default_factory=set)
    signals: list[signal.Signals] = field(default_factory=list)
    nonce: str = "nonce"
    created: int = 5
    segment: object = field(default_factory=lambda: SimpleNamespace(base_id=7))
    manifest: Carried = field(default_factory=lambda: Carried(3, 4, 5))
    target: PushTarget | None = None
    takes_pushes: bool = False

    def __post_init__(self) -> None:
        self.admin = Admin(self.home / "admin")
        self.link = SimpleNamespace(reopen_logs=lambda: self.signal(signal.SIGUSR1))

    def is_adopted(self) -> bool:
        """Return whether an earlier agent started it."""
        return self.adopted

    def processes(self) -> tuple[int, ...]:
        """Return its pid."""
        return () if self.pid is None else (self.pid,)

    def signal(self, number: signal.Signals) -> None:
        """List a signal."""
        self.signals.append(number)

    @property
    def as_epoch(self) -> EpochProcess:
        """This, for what takes an epoch process."""
        return cast("EpochProcess", self)


class Processes:
    """A process table that starts nothing: `calls` lists what it was told, `epochs` what a test put there."""

    def __init__(self, store: SocketStore | None = None) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.epochs: dict[int, Process] = {}
        self.serving: Process | None = None
        self.unserved = ""
        self.served_since = 111
        self.segments = SimpleNamespace(spare=None, upcoming=5)
        self.listeners = SimpleNamespace(store=SocketStore() if store is None else store)
        self.fails: Exception | None = None  # raised by the next `start`

    def start(self, number: int, revision: Revision, *, validate: bool) -> None:
        """List it."""
        self.calls.append(("start", number, revision, validate))
        if self.fails is not None:
            error, self.fails = self.fails, None
            raise error

    def push(self, number: int, revision: Revision, *, restores: bool) -> None:
        """List it."""
        self.calls.append(("push", number, revision, restores))

    def commit_push(self, number: int, revision: Revision) -> EpochProcess:
        """List it."""
        self.calls.append(("commit_push", number, revision))
        return self.epochs[number].as_epoch

    def commit(self, number: int) -> EpochProcess:
        """List it; the epoch serves."""
        self.calls.append(("commit", number))
        self.serving = self.epochs[number]
        return self.serving.as_epoch

    def drain(self, number: int, *, stopping: bool) -> None:
        """List it."""
        self.calls.append(("drain", number, stopping))

    def await_empty(self, number: int) -> None:
        """List it."""
        self.calls.append(("await_empty", number))

    def judge(self, number: int) -> None:
        """List it."""
        self.calls.append(("judge", number))

    def open_gate(self, number: int) -> None:
        """List it."""
        self.calls.append(("open_gate", number))

    def drop(self, number: int) -> None:
        """List it."""
        self.calls.append(("drop", number))

    def end(self, number: int) -> None:
        """List it."""
        self.calls.append(("end", number))

    def kill(self, number: int) -> None:
        """List it."""
        self.calls.append(("kill", number))

    def refuse_clients(self) -> None:
        """List it."""
        self.calls.append(("refuse_clients",))


# Inputs


class Programs:
    """The program on disk; `error` is raised when it is loaded."""

    def __init__(self) -> None:
        self.loaded = 0
        self.error: Exception | None = None

    async def load(self) -> bool:
        """Count it, or raise."""
        self.loaded += 1
        if self.error is not None:
            raise self.error
        return True


class Loader:
    """A loader whose findings a test sets; `calls` lists what it was told."""

    configuration_name = "/etc/proxy.yaml"

    def __init__(self, calls: list[tuple[object, ...]]) -> None:
        self.calls = calls
        self.newest: Revision | None = None
        self.selection: Selection | None = None
        self.found: list[tuple[str, str, str]] = []
        self.reports = SimpleNamespace(refusals=list[Rejection]())
        self.programs = Programs()

    def complaints(self) -> Iterator[tuple[str, str, str]]:
        """Yield what a test found."""
        yield from self.found

    def serves(self, served: LoadedRevision) -> None:
        """List it."""
        self.calls.append(("serves", served.revision.digest))

    def refuse(self, refused: LoadedRevision, verdict: str) -> None:
        """List it."""
        self.calls.append(("refuse", refused.revision.digest, verdict))

    def forgive(self) -> None:
        """List it."""
        self.calls.append(("forgive",))


class Timing:
    """A rotation schedule."""

    def __init__(self, calls: list[tuple[object, ...]]) -> None:
        self.calls = calls
        self.blocked = Blocked.WINDOW

    def clock_stepped(self) -> None:
        """List it."""
        self.calls.append(("clock_stepped",))


class Inputs:
    """An input watcher that reads no disk: `calls` lists what it was told; `result` is that of every load."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.loader = Loader(self.calls)
        self.timing = Timing(self.calls)
        self.missing = "waiting for /etc/certs/tls.crt"
        self.mode = "inotify"
        self.is_usable = True
        self.result = LoadResult(None)

    def reload_soon(self) -> None:
        """List it."""
        self.calls.append(("reload_soon",))

    async def load(self) -> LoadResult:
        """List it."""
        self.calls.append(("load",))
        return self.result


# All of it


class Scene:
    """A real reconciler between stand-ins: what a part is given of the service, and what it posted."""

    def __init__(self, policy: Policy | None = None, *, store: SocketStore | None = None) -> None:
        self.core = Reconciler(policy or Policy(), jitter=lambda: 1.0)
        self.processes = Processes(store)
        self.inputs = Inputs()
        self.revisions: dict[Revision, LoadedRevision] = {}
        self.posted: list[Event] = []
        processes, inputs = cast("ProcessTable", self.processes), cast("InputWatcher", self.inputs)
        self.service = Service(self.core, processes, inputs)

    def tell(self, event: Event) -> list[Effect]:
        """Let the reconciler handle an event; return its effects, which are not executed."""
        return self.core.handle(event)

    def begin(self, name: str, *groups: CertificateGroup, at: float = NOW, text: str = BOOTSTRAP) -> Process:
        """Let a revision be ready; return the process of the candidate that starts for it."""
        made = loaded(name, *groups, text=text)
        self.revisions[made.revision] = made
        self.tell(on.RevisionReady(at=at, revision=made.revision))
        assert self.core.candidate is not None
        process = self.processes.epochs[self.core.candidate.number] = Process(self.core.candidate.number, made)
        return process

    def pass_gate(self, at: float = NOW) -> int:
        """Let the candidate start and pass the gate."""
        assert self.core.candidate is not None
        number = self.core.candidate.number
        self.tell(on.EpochStarted(at=at, epoch=number, pid=100 + number))
        self.processes.epochs[number].pid = 100 + number
        self.tell(on.EpochReachedGate(at=at, epoch=number))
        self.tell(on.EpochJudged(at=at, epoch=number))
        return number

    def serve(self, name: str, *groups: CertificateGroup, at: float = NOW, text: str = BOOTSTRAP) -> Process:
        """Let a revision serve."""
        process = self.begin(name, *groups, at=at, text=text)
        self.tell(on.EpochServes(at=at, epoch=self.pass_gate(at)))
        self.processes.serving = process
        process.has_served = True
        return process

    def exits(self, number: int, reason: str = "it fell over", code: int | None = 1, *, at: float = NOW) -> None:
        """Let an epoch exit."""
        failure = Failure(FailureKind.TRANSIENT, reason)
        self.tell(on.EpochExited(at=at, epoch=number, code=code, failure=failure))
        gone = self.processes.epochs.pop(number, None)
        if self.processes.serving is gone:
            self.processes.serving = None


async def ask(
    place: Path | tuple[str, int], target: str, method: str = "GET", host: str = "localhost", body: bytes = b""
) -> tuple[int, str]:
    """Send a request; return the status and the body of the answer."""
    async with stream(place, Request(method, target, (), body), host) as response:
        assert not isinstance(response.body, bytes)
        return response.status, b"".join([part async for part in response.body]).decode()


async def settled(check: Callable[[], object], turns: int = 1000) -> None:
    """Let the loop turn until `check` is true."""
    for _ in range(turns):
        if check():
            return
        await asyncio.sleep(0)
    raise AssertionError(check)
