"""Makes any asyncio server an epoch that can be replaced without clients noticing.

    async def main(epoch: Epoch) -> None:
        files = epoch.configuration["tls"]                          # the file of -c: the application's own YAML
        tls = epoch.tls_context(files["certificate_chain"]["filename"], files["private_key"]["filename"])
        web = await epoch.listen("127.0.0.1", 8443)                 # every step that may fail comes before …
        await epoch.admitted()                                      # … this line: the gate
        servers = [await asyncio.start_server(handle, sock=each, ssl=tls, backlog=BACKLOG) for each in web.sockets]
        await epoch.serve()                                         # until a successor serves, or SIGTERM
        for server in servers:
            server.close()
        await epoch.terminated()                                    # open connections may finish

    run(main)

The order matters, and it is checked: sockets are available only after the gate, so that a rejected candidate has never
accepted a client. `--mode validate` runs the steps before the gate without binding, `--mode init_only` binds as well.
Without an agent and without a chain (no `--restart-epoch`, `--base-id` or `--socket-path`) the same program just binds
and serves.

The library answers the agent's requests at the admin address that the agent adds to the configuration: the certificates
that `tls_context` has loaded, the listening addresses, the number of clients (from the kernel), statistics.
"""

import asyncio
import contextlib
import os
import random
import signal
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable, Sequence
from enum import IntEnum
from pathlib import PurePath
from types import TracebackType
from typing import Any, NoReturn, Self

from agent.core.errors import AddressHeld, AgentError, BadInput, UsageError
from agent.epoch import admin_documents, configuration, sockets, statistics
from agent.epoch.admin_server import AdminServer, EpochFacts
from agent.epoch.arguments import Answer, Arguments, parse
from agent.epoch.gate import wait_at_gate
from agent.epoch.hot_restart import HotRestart, ServerHooks
from agent.epoch.public_listener import Listener
from agent.epoch.sockets import Bound
from agent.handoff.socket_store import ListenAddress
from agent.host import clock
from agent.stats.writer import Writer

_IN_A_CHAIN = frozenset({"restart_epoch", "base_id", "socket_path"})
_USAGE_ERROR = 2


class Stage(IntEnum):
    """The phases of an epoch's life; it only moves forward."""

    MADE = 0
    PREPARING = 1
    ADMITTED = 2
    SERVING = 3
    DRAINING = 4
    ENDING = 5


class Validated(BaseException):
    """Raised to end the epoch's block when validation is complete."""


class Epoch:
    """One generation of a server. Use it with `async with`, within the task that serves."""

    def __init__(self, arguments: Arguments, program: str) -> None:
        self.arguments = arguments
        self.stats = statistics.open_writer() if arguments.mode == "serve" else Writer.private()
        """Counters and gauges, for the admin interface, the agent's totals and a successor."""
        self._configuration = configuration.Configuration()
        self._stage = Stage.MADE
        self._facts = EpochFacts(program, arguments, self.stats)
        self._listeners: list[Listener] = []
        self._restart: HotRestart | None = None
        self._admin: AdminServer | None = None
        self._console_end: asyncio.Task[None] | None = None
        self._owner: asyncio.Task[Any] | None = None
        self._was_stopped = False
        self._drained = asyncio.Event()
        self._ended = asyncio.Event()
        self._drain_began = 0.0

    @classmethod
    def from_command_line(cls, arguments: Sequence[str] | None = None) -> Self:
        """Create an epoch from a command line, by default this program's, with its name in front.

        Handles --version, --hot-restart-version and --help, and reports invalid arguments, by SystemExit.
        """
        program, *rest = sys.argv if arguments is None else arguments
        name = PurePath(os.path.realpath(program)).name  # a supervisor may execute it through an open descriptor
        try:
            return cls(parse(rest, name), name)
        except Answer as answer:
            sys.stdout.write(f"{answer.text}\n")
            raise SystemExit(0) from None
        except UsageError as error:
            sys.stderr.write(f"{name}: {error}\n")
            raise SystemExit(_USAGE_ERROR) from None

    @property
    def configuration(self) -> dict[str, Any]:
        """The configuration file, the application's own mapping; its files may be named `/dev/fd/N`."""
        return self._configuration.tree

    @property
    def number(self) -> int:
        """The number given by the agent, from 1; in a chain without an agent the restart epoch."""
        return statistics.number() or self.arguments.restart_epoch

    @property
    def is_draining(self) -> bool:
        """Whether clients should disconnect soon."""
        return self._stage >= Stage.DRAINING

    def client_should_leave(self) -> bool:
        """Return whether to close the next client (`connection: close` in HTTP/1.1).

        Follows --drain-strategy. Never true before the drain; then with a probability that grows over the drain time,
        so that clients do not all reconnect at once.
        """
        if not self.is_draining:
            return False
        if self.arguments.drain_strategy == "immediate" or not self.arguments.drain_time:
            return True
        elapsed = clock.monotonic() - self._drain_began
        return random.random() < elapsed / self.arguments.drain_time  # noqa: S311  # not used for secrets

    # Lifecycle

    async def __aenter__(self) -> Self:
        """Read the configuration and join the chain.

        Raises `BadInput`, `UsageError`, `MachineError`.
        """
        self._expect(Stage.MADE)
        self._stage = Stage.PREPARING
        self._owner = asyncio.current_task()
        self._configuration = configuration.read(self.arguments.config_path, self.arguments.config_yaml)
        if self._is_validating:
            return self
        self._hear_signals()
        try:
            await self._begin()
        except BaseException as error:
            await self._end()
            if not self._swallows(error):
                raise
            raise SystemExit(0) from None
        return self

    async def _begin(self) -> None:
        if not self.arguments.disable_hot_restart and self.arguments.given & _IN_A_CHAIN:
            self._restart = HotRestart(self.arguments, self._part())
            await self._restart.join()
            self._facts.chain_began = self._restart.started_at
        if self._configuration.console is not None:
            self._admin = AdminServer(self._facts)
            await self._admin.open(self._configuration.console)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Leave the chain and close everything; suppress the cancellation by an early stop."""
        await self._end()
        return error is not None and self._swallows(error)

    def _swallows(self, error: BaseException) -> bool:
        """Return whether this epoch itself ended its block."""
        if isinstance(error, asyncio.CancelledError) and self._was_stopped and self._owner is not None:
            return self._owner.uncancel() == 0
        return isinstance(error, Validated)

    async def _end(self) -> None:
        self._stage = Stage.ENDING
        if not self._is_validating:
            self._ignore_signals()
        if self._restart is not None:
            self._restart.close()
        if self._console_end is not None:
            await self._console_end
        elif self._admin is not None:
            await self._admin.close()
        for listener in self._listeners:
            listener.close()

    # Preparing

    async def listen(self, host: str, port: int) -> Listener:
        """Listen on a literal IPv4 or IPv6 address: inherit the predecessor's sockets, or bind one.

        Raises `AddressHeld` if another process listens there, `MachineError`, `UsageError`.
        """
        name = f"[{host.replace(':', '_')}]_{port}" if ":" in host else f"{host}_{port}"
        return await self._listen(sockets.tcp(host, port), name, None)

    async def listen_unix(self, path: str, mode: int | None = None) -> Listener:
        """Listen on a Unix socket; `mode` is the file mode if it is bound here.

        The file is the successor's too. Serve with `asyncio.start_server`: since Python 3.13 a server made by
        `start_unix_server` removes it when it closes, unless given `cleanup_socket=False`.
        """
        return await self._listen(sockets.unix(path), path.replace(":", "_"), mode)

    async def _listen(self, place: ListenAddress, name: str, mode: int | None) -> Listener:
        self._expect(Stage.PREPARING)
        bound = Bound(place)
        listener = Listener(bound)
        if self.arguments.mode == "init_only":
            with contextlib.suppress(AddressHeld):  # the predecessor may use it
                bound.sockets.append(sockets.bind(place, mode))
        elif not self._is_validating:
            bound.sockets.extend(await self._sockets(place, mode))
        if bound.sockets:
            self._facts.listeners[name] = bound
            self._listeners.append(listener)
        return listener

    async def _sockets(self, place: ListenAddress, mode: int | None) -> list[socket.socket]:
        inherited = [] if self._restart is None else await self._restart.inherit(place)
        return inherited or [sockets.bind(place, mode)]

    def tls_context(self, certificate_chain: str, private_key: str) -> ssl.SSLContext:
        """Return a server context with a certificate and its key; the agent checks what it loaded.

        Raises `BadInput` if they cannot be read or do not match.
        """
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            pem = admin_documents.Pem.read(certificate_chain)
            context.load_cert_chain(certificate_chain, private_key)
        except (OSError, ValueError) as error:
            why = (error.strerror if isinstance(error, OSError) else None) or error
            raise BadInput(f"cannot load {certificate_chain} with {private_key}: {why}") from error
        self._facts.certificates.append(admin_documents.Context((pem,)))
        return context

    async def admitted(self) -> None:
        """Wait at the gate until this epoch may serve; a rejected candidate never returns from here.

        With `--mode validate` the epoch's block ends here, since everything has been validated. So it does with `--mode
        init_only`, which binds the addresses as well.
        """
        self._expect(Stage.PREPARING)
        if self._is_validating:
            raise Validated
        self._facts.state = admin_documents.INITIALIZING
        if self._configuration.gate is not None:
            self._facts.waits_at_gate = True
            await wait_at_gate(self._configuration.gate)
            self._facts.waits_at_gate = False
        self._stage = Stage.ADMITTED
        for listener in self._listeners:
            listener.admit()

    # Serving

    async def serve(self) -> None:
        """Report that the server accepts; return when this epoch drains.

        The report makes the predecessor drain. On return, close the server's sockets; connections continue until
        `terminated`.
        """
        self._expect(Stage.ADMITTED)
        if not self.is_draining:  # else it was stopped just before
            self._stage = Stage.SERVING
            self._facts.state = admin_documents.LIVE
            if self._restart is not None:
                self._restart.serve()
        await self._drained.wait()
        await asyncio.sleep(0)  # asyncio creates connections one turn after it accepts them

    async def terminated(self) -> None:
        """Return when it is time to exit, which cuts remaining clients; the server may exit earlier."""
        await self._ended.wait()

    # Callbacks from the chain and signals

    def _part(self) -> ServerHooks:
        deltas: list[statistics.Deltas] = []

        def stats() -> tuple[dict[str, int], dict[str, int]]:
            if not deltas:
                deltas.append(statistics.Deltas(self.stats))
            self._facts.count_clients()
            return deltas[0].take()

        return ServerHooks(self._lend, self._drain, self._shut_console, self._terminate, stats)

    def _lend(self, place: ListenAddress) -> int | None:
        found = (bound.get(place) for bound in self._facts.listeners.values())
        return next((descriptor for descriptor in found if descriptor is not None), None)

    def _drain(self) -> None:
        if self._stage >= Stage.DRAINING or self._stage < Stage.ADMITTED:
            return
        self._stage = Stage.DRAINING
        self._facts.state = admin_documents.DRAINING
        self._drain_began = clock.monotonic()
        for listener in self._listeners:
            listener.stop()
        self._drained.set()

    def _shut_console(self) -> None:
        if self._admin is not None and self._console_end is None:
            self._console_end = asyncio.get_running_loop().create_task(self._admin.close())

    def _terminate(self) -> None:
        """Handle SIGTERM, or Terminate from the successor.

        Before it serves, and on a second call, there is nothing to wait for: the owner task is cancelled.
        """
        was_ended = self._ended.is_set()
        self._drain()
        self._ended.set()
        if (was_ended or self._stage < Stage.DRAINING) and self._owner is not None and not self._was_stopped:
            self._was_stopped = True
            self._owner.cancel()

    def _hear_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._terminate)
        if self.arguments.given & _IN_A_CHAIN:
            for number in (signal.SIGHUP, signal.SIGUSR1):  # meant for Envoy; by default they would kill it
                loop.add_signal_handler(number, _do_nothing)

    def _ignore_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            loop.remove_signal_handler(number)

    # Order of calls

    @property
    def _is_validating(self) -> bool:
        return self.arguments.mode != "serve"

    def _expect(self, expected: Stage) -> None:
        if self._stage is not expected and not (expected is Stage.ADMITTED and self._stage is Stage.DRAINING):
            wanted, found = expected.name.lower(), self._stage.name.lower()
            raise RuntimeError(f"the epoch is {found}, but this call needs one that is {wanted}: see {__name__}")


def run(main: Callable[[Epoch], Awaitable[None]], arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a server, then exit: 0 after a normal end, 1 with a line on stderr on `AgentError`."""
    epoch = Epoch.from_command_line(arguments)
    try:
        asyncio.run(_run(epoch, main))
    except AgentError as error:
        sys.exit(str(error))
    sys.exit(0)


async def _run(epoch: Epoch, main: Callable[[Epoch], Awaitable[None]]) -> None:
    async with epoch:
        await main(epoch)


def _do_nothing() -> None:
    pass
