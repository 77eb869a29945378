"""One epoch's process and the resources that belong to it: directory, segment, sockets."""

import logging
import secrets
import signal
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial

from agent.core.epochs import State
from agent.core.errors import AddressHeld, MachineError, ProtocolError
from agent.handoff.segment import Segment
from agent.handoff.socket_store import ListenAddress
from agent.host.carried import Carried
from agent.host.log import log_event
from agent.host.memfds import Memfds
from agent.host.processes import Command, Process, User, created_at, run
from agent.host.run_directory import RunDirectory, add_tree
from agent.host.sessions import signal_members
from agent.inputs.revisions import LoadedRevision
from agent.metrics.shared_counters import make_room
from agent.processes.manifest import Manifest
from agent.processes.push_target import PushTarget
from agent.processes.reserved_segments import ReservedSegments
from agent.processes.survivor import Survivor
from agent.proxies.interface import Admin, Complaint, Configuration, Delivery
from agent.proxies.link import EpochContext, EpochLink, LinkEvents


@dataclass(frozen=True, slots=True)
class ListenerAccess:
    """Callbacks of an epoch process, see `LinkEvents`; each but `sockets` receives the epoch's number first."""

    reached_gate: Callable[[int], None]
    serves: Callable[[int], None]
    exited: Callable[[int, int | None], None]
    held: Callable[[int, AddressHeld], None]
    broken: Callable[[int, ProtocolError], None]
    get_socket: Callable[[int, ListenAddress], int | None]
    sockets: Callable[[], Mapping[ListenAddress, int]]
    bound: Callable[[int, ListenAddress, int], None]
    is_serving: Callable[[], bool]

    def of(self, number: int) -> LinkEvents:
        """Return the callbacks of one epoch."""
        return LinkEvents(
            reached_gate=partial(self.reached_gate, number),
            serves=partial(self.serves, number),
            held=partial(self.held, number),
            broken=partial(self.broken, number),
            get_socket=partial(self.get_socket, number),
            sockets=self.sockets,
            bound=partial(self.bound, number),
            is_serving=self.is_serving,
        )


CommandLine = Callable[[int, str | None, Configuration], list[str]]


class EpochProcess:
    """An epoch from its launch to its cleanup.

    `started_at` is the start of the service as a whole, in calendar seconds.
    """

    def __init__(
        self,
        number: int,
        loaded: LoadedRevision,
        directory: RunDirectory,
        user: User | None,
        listeners: ListenerAccess,
        found: Survivor | None = None,
        segments: ReservedSegments | None = None,
    ) -> None:
        """Create the epoch's resources, or reuse those of `found`, an earlier agent's epoch."""
        self.number = number
        self.loaded = loaded
        self.nonce = secrets.token_hex(16) if found is None else found.nonce
        self.found = found
        self.process: Process | None = None
        self.created: int | None = None  # start time of the process, clock ticks since boot
        self.has_served = False
        self.clients: int | None = None  # connections at the last count, while it drains
        self.clients_at_first: int | None = None  # connections at the first count of its drain
        self.drains = False  # its drain has begun
        self.was_asked = False  # received SIGTERM from this agent
        self.was_killed = False  # received SIGKILL from this agent
        self.was_starved = False  # killed by the kernel because memory ran out
        self._run_directory = directory
        self._user = user
        self._owner = None if user is None else user.owner
        self._exits = listeners.exited
        self._memory = Memfds()
        self.target: PushTarget | None = None  # takes pushes
        binary = loaded.program.binary
        name = f"bin/{binary.path.name}"  # a link to the opened binary, so that `ps` and `ss` show its own name
        if found is None:
            self.home = directory.make_epoch(number, self._owner, {name: f"/proc/self/fd/{binary.descriptor}"})
            self._room = {} if loaded.program.handoff is None else make_room(self.home, self._owner)
            self.target = self._make_target()
            manifest = Manifest.of(loaded, None if self.target is None else self.target.slots).to_bytes()
            self.manifest = Carried.in_memory(self._memory.seal(f"epoch {number}", manifest))
            try:
                self.segment = self._claim(segments)
            except MachineError:
                self._memory.close()
                self._close_slots()
                raise
        else:
            self.home = directory.epoch(number)
            self._room = {}
            self.segment = None if found.base_id is None else Segment(found.base_id)
            self.manifest = found.manifest
        self._program = self.home / name
        places = None if found is None else found.places
        leaves = {leaf.fingerprint: leaf.dns_name for leaf in loaded.selection.served_leaves}
        context = EpochContext(number, self.home, self._owner, loaded.configuration, self.segment, places, leaves)
        self.link: EpochLink = loaded.program.kind.link(context, listeners.of(number))

    def _claim(self, segments: ReservedSegments | None) -> Segment | None:
        """Return the shared memory that its program expects, if any. Raises `MachineError`."""
        version = self.loaded.program.handoff
        return None if version is None else (segments or ReservedSegments(self._owner)).claim(version)

    @property
    def admin(self) -> Admin:
        """Its admin interface."""
        return self.link.admin

    def _make_target(self) -> PushTarget | None:
        """Return what takes pushes; without memory for it, a changed certificate is a restart."""
        try:
            return PushTarget.make(self.loaded)
        except MachineError as error:
            text = f"{error}; epoch {self.number} takes no pushes, a changed certificate starts a new epoch"
            log_event(logging.WARNING, "push.unavailable", text, epoch=self.number)
            return None

    def _close_slots(self) -> None:
        if self.target is not None:
            self.target.slots.close()

    @property
    def paths(self) -> dict[int, str]:
        """The path that each of its descriptors replaces."""
        return self.loaded.paths if self.target is None else self.target.paths

    @property
    def takes_pushes(self) -> bool:
        """Whether certificates can be pushed into it."""
        return self.target is not None

    @property
    def delivery(self) -> Delivery | None:
        """Delivers certificates to it at its gate, once its configuration is made; None if it takes no pushes."""
        return None if self.target is None else self.target.delivery

    @property
    def pid(self) -> int | None:
        """The pid, once the process runs."""
        return None if self.process is None else self.process.pid

    @property
    def asked(self) -> set[ListenAddress]:
        """Every address that it listens on or requested a socket for."""
        return self.link.asked

    def processes(self) -> Collection[int]:
        """Return the pids of the processes in which it accepts clients."""
        return () if self.pid is None else (self.pid, *self.link.workers())

    def is_adopted(self) -> bool:
        """Return whether an earlier agent started it."""
        return self.found is not None

    @property
    def bound_itself(self) -> set[ListenAddress]:
        """Those of which the agent may not hold a socket yet."""
        return self.link.bound_itself

    # Process

    async def validate(self, timeout: float, loaded: LoadedRevision | None = None) -> Complaint | None:
        """Validate the configuration of `loaded` (default: its own) with the proxy.

        Returns the proxy's complaint, or None if it accepts it.
        """
        loaded = loaded or self.loaded
        return await self._try(loaded.program.kind.validate, timeout, loaded)

    async def rehearse(self, timeout: float) -> Complaint | None:
        """Let the proxy start and exit before it listens; return its complaint, or None if it has none.

        It is a new process without the epoch's sockets, so it binds the addresses anew. Raises `MachineError`.
        """
        return await self._try(self.loaded.program.kind.rehearse, timeout, self.loaded)

    async def _try(self, command_line: CommandLine, timeout: float, loaded: LoadedRevision) -> Complaint | None:
        copy, extra = self._copy(loaded)
        arguments = command_line(copy, extra, loaded.configuration)
        if not arguments:
            return None  # there is no way to ask it
        code, output = await run(self._command(arguments, loaded), timeout)
        if code == 0:
            return None
        paths = {**loaded.paths, copy: loaded.configuration.name}
        return loaded.program.kind.complaint(output, paths, loaded.configuration)

    async def launch(self, started_at: int, overlap: int = 0, *, dumps_core: bool = False) -> int:
        """Start the process after its sockets are open; return its pid. Raises `MachineError`.

        For `overlap` seconds after it serves, its predecessor continues to read the UDP sockets.
        """
        copy, extra = self._copy(self.loaded) if self.target is None else self._copy_pushable(self.target)
        await self._open_link(started_at)
        launch = self.link.launch(copy, extra, overlap)
        command = self._command(launch.arguments, self.loaded)
        command = replace(
            command,
            dumps_core=dumps_core,
            environment={**command.environment, **launch.environment},
            descriptors={*command.descriptors, *launch.descriptors},
            listening=launch.listening,
        )
        process = Process.start(command, self._exited)
        self.created = created_at(process.pid)
        self._attend(process)
        return process.pid

    async def take_over(self, found: Survivor, started_at: int) -> None:
        """Adopt an earlier agent's process. Raises `MachineError` if it has exited."""
        process = Process.adopt(found.pid, found.created, self._exited)
        self.process = process  # before anything fails: it can still be killed
        self.created = found.created
        self.has_served = found.state is not State.OPENING
        self.target = PushTarget.regain(found, self.loaded, self.home)
        await self._open_link(started_at)
        self._attend(process)

    async def _open_link(self, started_at: int) -> None:
        await self.link.open(started_at, self.delivery, serves=self.has_served)

    def _attend(self, process: Process) -> None:
        """Accept messages from this process only."""
        self.process = process
        self.link.attend(process.pid, self.signal)

    def _exited(self, code: int | None) -> None:
        self._exits(self.number, code)

    def _copy(self, loaded: LoadedRevision) -> tuple[int, str | None]:
        """Write the configuration copy to a memfd; return its descriptor and the extra document."""
        as_json = loaded.program.reads_json
        self._add_tree(loaded)
        main, extra = loaded.copies.fill(str(self.home), self.number, loaded.descriptors, as_json=as_json)
        return self._memory.hold(loaded.configuration.name, main.encode()), extra

    def _add_tree(self, loaded: LoadedRevision) -> None:
        add_tree(self.home, loaded.copies.tree(str(self.home), loaded.descriptors), self._owner)

    def _copy_pushable(self, target: PushTarget) -> tuple[int, str | None]:
        """Like `_copy`, for an epoch that takes pushes."""
        self._add_tree(self.loaded)
        main, extra = target.fill(self.loaded, self.home, self.number)
        return self._memory.hold(self.loaded.configuration.name, main.encode()), extra

    def _command(self, arguments: list[str], loaded: LoadedRevision) -> Command:
        slots = frozenset[int]() if self.target is None else self.target.slots.descriptors
        return Command(
            binary=self.loaded.program.binary.descriptor,
            executable=str(self._program),
            arguments=[str(self.loaded.program.binary.path), *arguments],
            descriptors={*loaded.descriptors.values(), *self._memory.descriptors, *slots},
            environment=self._environment(),
            user=self._user,
        )

    def _environment(self) -> Mapping[str, str]:
        return {"PROXY_AGENT_EPOCH": str(self.number), "PROXY_AGENT_NONCE": self.nonce, **self._room}

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it was started and has not exited."""
        self.was_asked |= number is signal.SIGTERM or self.drains
        self.was_killed |= number is signal.SIGKILL
        if number is signal.SIGKILL and self.link.orphan_signal is not None and self.pid is not None:
            signal_members(self.pid, number)
        if self.process is not None:
            self.process.signal(number)

    def clear(self) -> None:
        """Remove the epoch's resources except the gate."""
        self.link.clear()
        if self.segment is not None:
            self.segment.release()
        self._memory.close()
        self._close_slots()
        self._run_directory.remove_epoch(self.number)

    async def cleanup(self) -> None:
        """Remove the epoch's resources."""
        self.clear()
        await self.link.close()

    # Sockets

    async def duplicate(self, place: ListenAddress) -> int | None:
        """Return a duplicate of its socket at an address, or None; the caller owns it.

        Raises `MachineError`.
        """
        return await self.link.duplicate(place)

    def stop_accepting(self) -> None:
        """Make it close its listeners and ask its clients to reconnect. Raises `MachineError`."""
        self.link.stop_accepting()
