"""One sidecar process from start to exit: hot restart, listeners, admin interface, signals."""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from agent import __version__
from agent.core.errors import AddressHeld, MachineError
from agent.epoch import admin_documents, sockets, statistics
from agent.epoch.arguments import Arguments
from agent.epoch.hot_restart import HotRestart, ServerHooks
from agent.epoch.sockets import Bound
from agent.handoff.socket_store import ListenAddress
from agent.host import clock
from agent.http.server import Server as HttpServer
from agent.sidecar.admin_server import AdminServer
from agent.sidecar.log import Log
from agent.sidecar.model import Address, Configuration, Listener, Pipe, Tls
from agent.sidecar.self_counters import SelfCounters
from agent.sidecar.traffic import DataPlane
from agent.stats.snapshot import Snapshot
from agent.stats.writer import Writer

_CONSOLE_QUEUE = 128
_log = logging.getLogger("main")


def try_addresses(configuration: Configuration) -> None:
    """Bind the addresses of all listeners and close them again, without listening. Raises `MachineError`.

    An address in use is no error: the predecessor may use it.
    """
    for listener in configuration.listeners:
        for address in listener.addresses if listener.bind_to_port else ():
            with contextlib.suppress(AddressHeld):
                _bind(listener, address).close()


class Server:
    """Runs one sidecar process until its exit. `traffic` is loaded and counts in `stats`.

    It shares the hot restart, the sockets and the statistics with `epoch.Epoch`, but not its life cycle: as in Envoy,
    requests to the admin interface drain the listeners, fail the health check and end the process from outside, and
    DNS clusters are resolved between binding and serving.
    """

    def __init__(
        self, arguments: Arguments, configuration: Configuration, traffic: DataPlane, stats: Writer, log: Log
    ) -> None:
        self.arguments = arguments
        self.configuration = configuration
        self.started_at = clock.calendar().timestamp()
        self._traffic = traffic
        self._stats = stats
        self._log_file = log
        self._counters = SelfCounters(stats, arguments, configuration)
        self._deltas = statistics.Deltas(stats)
        self._restart = None if arguments.disable_hot_restart else HotRestart(arguments, self._part())
        self._admin = HttpServer(AdminServer(self, self).answer)
        self._console_end: asyncio.Task[None] | None = None
        self._bound: dict[str, list[Bound]] = {}
        self._state = admin_documents.PRE_INITIALIZING
        self._is_failing = False
        self._late_close: asyncio.TimerHandle | None = None
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Serve until exit is requested. Raises `AgentError` if startup fails."""
        self._hear_signals()
        begin, end = (asyncio.ensure_future(each) for each in (self._begin(), self._ended.wait()))
        try:
            await asyncio.wait((begin, end), return_when=asyncio.FIRST_COMPLETED)
            if begin.done():
                begin.result()
            await end
        finally:
            begin.cancel()
            end.cancel()
            await asyncio.gather(begin, end, return_exceptions=True)
            await self._close()
        _log.info("exiting")

    async def _begin(self) -> None:
        if self._restart is not None:
            await self._restart.join()
        await self._open_console()
        for each in self.configuration.listeners:
            if each.bind_to_port:
                self._bound[each.name] = [await self._bind(each, address) for address in each.addresses]
        self._state = admin_documents.INITIALIZING
        await self._traffic.warm()
        await self._take_counts_over()
        self._serve()

    async def _bind(self, listener: Listener, address: Address) -> Bound:
        """Return all the predecessor's sockets, as one worker can serve many queues, or a new one."""
        place = address.place
        inherited = [] if self._restart is None else await self._restart.inherit(place)
        return Bound(place, inherited or [_bind(listener, address)])

    async def _take_counts_over(self) -> None:
        """Add the predecessor's counters to this process's; an agent as predecessor reports none."""
        if self._restart is None:
            return
        try:
            counters, _ = await self._restart.parent_stats()
        except MachineError as error:
            _log.warning("%s; its counters are lost", error)
            return
        known = self._stats.read().counters
        for name in counters.keys() & known.keys():
            self._stats.counter(name).add(counters[name])

    def _serve(self) -> None:
        for listener in self.configuration.listeners:
            for bound in self._bound.get(listener.name, []):
                bound.listen(listener.backlog)
        self._traffic.start(
            {name: [each for bound in group for each in bound.sockets] for name, group in self._bound.items()}
        )
        self._state = admin_documents.LIVE
        self._counters.serving()
        if self._restart is not None:
            self._restart.serve()
        addresses = [each.actual.address for group in self._bound.values() for each in group]
        _log.info("serving on %s", ", ".join(addresses))

    async def _close(self) -> None:
        if self._late_close is not None:
            self._late_close.cancel()
        if self._restart is not None:
            self._restart.close()
        if self._console_end is not None:
            await self._console_end
        else:
            await self._admin.close()
        await self._traffic.close()
        for bound in (each for group in self._bound.values() for each in group):
            bound.close()

    # The admin interface

    async def _open_console(self) -> None:
        admin = self.configuration.admin
        if admin is None:
            return
        mode = (admin.address.mode or 0o600) if isinstance(admin.address, Pipe) else None
        listener = sockets.bind(admin.address.place, mode)
        listener.listen(_CONSOLE_QUEUE)
        await self._admin.start(listener)
        if self.arguments.admin_address_path is not None:
            actual = Bound(admin.address.place, [listener]).actual
            _tell_address(Path(self.arguments.admin_address_path), actual)

    @cached_property
    def version(self) -> str:
        """The version in Envoy's form: revision/version/state/build/library."""
        return f"proxy-agent/{__version__}/Clean/RELEASE/OpenSSL"

    @property
    def first_started_at(self) -> float:
        """The start time of the chain's first epoch, in calendar seconds."""
        return self.started_at if self._restart is None else min(self.started_at, self._restart.started_at)

    def state(self) -> str:
        """Return the server state by Envoy's name."""
        return admin_documents.DRAINING if self._is_failing and self._state == admin_documents.LIVE else self._state

    def snapshot(self) -> Snapshot:
        """Update the gauges that are computed on request; return the statistics."""
        self._counters.update(self.state(), self._traffic.connections, clock.calendar().timestamp() - self.started_at)
        return replace(self._stats.read(), texts=self._traffic.texts())

    def filled(self, tls: Tls) -> Tls | None:
        """Return TLS settings with the secrets in use; None if one has not come."""
        return self._traffic.filled(tls)

    def bound(self) -> Sequence[tuple[str, Sequence[ListenAddress]]]:
        """Return each listener's name and actual addresses; closed ones included, as in Envoy."""
        return [(each.name, self._actual(each)) for each in self.configuration.listeners]

    def _actual(self, listener: Listener) -> list[ListenAddress]:
        """Return the actual addresses; the configured ones if the listener is not bound (yet)."""
        bound = self._bound.get(listener.name)
        return [each.place for each in listener.addresses] if bound is None else [each.actual for each in bound]

    def waiting(self) -> Mapping[str, Sequence[str]]:
        """Return the targets, by init manager, that must be ready before it serves."""
        return {"Server": sorted(self._traffic.unready)} if self._traffic.unready else {}

    # Operations requested by the admin interface, a successor or a signal

    def drain_listeners(self, *, graceful: bool, inbound_only: bool, skip_exit: bool) -> None:
        """Drain clients and close the listeners.

        `graceful`: close them after the drain time. `skip_exit`: only drain clients, close nothing.
        """
        self._traffic.drain(inbound_only=inbound_only)
        if skip_exit:
            return
        if not graceful:
            self._stop_accepting(inbound_only)
        elif self._late_close is None:
            loop = asyncio.get_running_loop()
            self._late_close = loop.call_later(self.arguments.drain_time, self._stop_accepting, inbound_only)

    def fail_health(self, failing: bool) -> None:
        """Set or clear the failed health state; while it is set, HTTP connections are drained."""
        self._is_failing = failing
        self._counters.live(not failing)
        self._traffic.fail_health(failing)

    def quit(self) -> None:
        """Exit: let `run` return."""
        self._ended.set()

    def _part(self) -> ServerHooks:
        return ServerHooks(self._share, self._drain, self._shut_console, self.quit, self._deltas_for_successor)

    def _share(self, place: ListenAddress) -> int | None:
        found = (bound.get(place) for group in self._bound.values() for bound in group)
        return next((descriptor for descriptor in found if descriptor is not None), None)

    def _drain(self) -> None:
        self._stop_accepting()
        self._traffic.drain()

    def _stop_accepting(self, inbound_only: bool = False) -> None:
        before = self._accepting()
        self._traffic.stop_accepting(inbound_only=inbound_only)
        self._counters.stopped(before - self._accepting())

    def _accepting(self) -> int:
        return sum(not each.is_given_up for group in self._bound.values() for each in group[:1])

    def _shut_console(self) -> None:
        if self._console_end is None:
            self._console_end = asyncio.get_running_loop().create_task(self._admin.close())

    def _deltas_for_successor(self) -> tuple[dict[str, int], dict[str, int]]:
        return self._deltas.take()

    def _hear_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end_by, number)
        loop.add_signal_handler(signal.SIGUSR1, self._log_file.reopen)
        loop.add_signal_handler(signal.SIGHUP, _log.warning, "SIGHUP is ignored")

    def _end_by(self, number: signal.Signals) -> None:
        _log.warning("%s: exiting", number.name)
        self.quit()


def _bind(listener: Listener, address: Address) -> socket.socket:
    if isinstance(address, Pipe):
        return sockets.bind(address.place, address.mode or None)
    return sockets.bind(address.place, reuse_port=listener.reuse_port, dual_stack=address.dual_stack)


def _tell_address(path: Path, place: ListenAddress) -> None:
    try:
        path.write_text(place.address.partition("://")[2])
    except OSError as error:
        _log.error("cannot write the admin interface's address to %s: %s", path, error.strerror)
