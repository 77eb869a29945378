"""One epoch of Envoy: the hot-restart protocol with the agent as parent and as child, and the gate."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Collection

from agent.core.errors import MachineError
from agent.handoff.child import Child
from agent.handoff.gate import Gate
from agent.handoff.parent import Parent, ParentEvents
from agent.handoff.socket_paths import SocketPaths
from agent.handoff.socket_store import ListenAddress
from agent.handoff.udp_relay import UdpRelay
from agent.host.log import log_event
from agent.proxies.interface import Admin, Delivery
from agent.proxies.link import EpochContext, EpochLink, Launch, LinkEvents, Send

_ANSWER_TIMEOUT = 5.0
_RESUME_INTERVAL = 0.02  # polling, because only its admin interface shows that an adopted epoch serves

Arguments = Callable[[SocketPaths, int, str | None, int, bool], list[str]]
"""Returns the command line: socket paths, descriptor of the configuration, extra document, overlap, drains."""


class HotRestartLink:
    """Speaks the hot-restart protocol with one epoch. `arguments` makes its command line."""

    def __init__(self, context: EpochContext, events: LinkEvents, admin: Admin, arguments: Arguments) -> None:
        assert context.segment is not None, "an epoch of this kind has a segment"
        self._context = context
        self._events = events
        self._arguments = arguments
        self.names = SocketPaths(context.home, context.segment.base_id)
        self.admin = admin
        self.gate = Gate(context.home / "gate", events.reached_gate, reached_before=context.is_adopted)
        self.child: Child | None = None
        self.parent: Parent | None = None
        self.relay: UdpRelay | None = None
        self._delivery: Delivery | None = None
        self._is_cleared = False
        self._send: Send | None = None
        self.orphan_signal: signal.Signals | None = None

    @property
    def asked(self) -> set[ListenAddress]:
        """Every address that it requested from its parent."""
        return set() if self.parent is None else self.parent.asked

    @property
    def bound_itself(self) -> set[ListenAddress]:
        """The requested addresses for which the agent had no socket."""
        return set() if self.parent is None else self.parent.bound_itself

    @property
    def is_open(self) -> bool:
        """Whether its gate is open."""
        return self.gate.is_open

    async def open(self, started_at: int, delivery: Delivery | None, *, serves: bool) -> None:
        """Open the sockets of its parent, its child, its UDP relay and its gate."""
        owner, events, asked = self._context.owner, self._events, self._context.places or ()
        answers = ParentEvents(events.get_socket, events.serves, events.held, events.broken)
        self.parent = Parent(self.names, started_at, answers, asked, serves=serves, owner=owner)
        self.parent.bound_itself.update(asked)  # which of them it bound itself is not recorded
        self.child = Child(self.names, owner)
        if self._context.configuration.has_udp:
            self.relay = UdpRelay(self.names, owner)
        self._delivery = delivery
        deliver, waiting = (None, 0) if delivery is None else (delivery.answer, len(delivery.scopes))
        await self.gate.shut(owner, deliver, waiting)

    def launch(self, copy: int, extra: str | None, overlap: int = 0) -> Launch:
        """Return the command line; the agent's sockets have names in its directory."""
        drains = self._delivery is not None and self._delivery.drains
        return Launch(self._arguments(self.names, copy, extra, overlap, drains), {})

    def attend(self, pid: int, send: Send) -> None:
        """Accept messages from this process only."""
        self._send = send
        assert self.parent is not None
        assert self.child is not None
        self.parent.channel.pid = self.child.channel.pid = self.gate.pid = self.admin.pid = pid
        if self.relay is not None:
            self.relay.pid = pid

    def open_gate(self) -> None:
        """Answer the candidate's request for routes."""
        self.gate.open()

    async def resume(self) -> bool:
        """Poll an adopted epoch with an open gate until it serves; return False if it never will.

        The killed agent may have lost two replies. Without the Stats reply, Envoy's main thread blocks in recvmsg(2)
        while its workers serve, so the reply is sent unrequested. Without the gate's reply, Envoy waits there and does
        not repeat its request (see `gate.listener`): no worker runs, so it has to be started again. Another proxy may
        repeat its request and continue.
        """
        assert self.parent is not None
        self.parent.answer_stats()
        while not self._is_cleared:
            with contextlib.suppress(MachineError):  # busy: polled again; or exiting: its pidfd reports that
                if await self.admin.waits_at_gate() and not self.gate.was_asked:
                    number = self._context.number
                    text = f"epoch {number} was at its gate when the agent exited: it is started again"
                    log_event(logging.INFO, "epoch.dropped", text)
                    return False
                if await self.admin.is_live():
                    self.parent.hear_that_it_serves()
                    return True
            await asyncio.sleep(_RESUME_INTERVAL)
        return True

    async def duplicate(self, place: ListenAddress) -> int | None:
        """Request a duplicate of its socket at an address, as its child would."""
        if self.child is None:
            return None
        return await self.child.ask(place, timeout=_ANSWER_TIMEOUT)

    def stop_accepting(self) -> None:
        """Tell it, as its child would, to close its listeners."""
        if self.child is not None:
            self.child.drain_listeners()

    def reopen_logs(self) -> None:
        """Send SIGUSR1."""
        if self._send is not None:
            self._send(signal.SIGUSR1)

    def forward_datagrams(self, successor: EpochLink) -> None:
        """Forward the datagrams that it still receives to its successor."""
        if self.relay is not None and isinstance(successor, HotRestartLink):
            self.relay.aim(successor.names)

    def workers(self) -> Collection[int]:
        """Return none: its workers are threads."""
        return ()

    def clear(self) -> None:
        """Release everything but the gate."""
        self._is_cleared = True
        for part in (self.parent, self.child, self.relay):
            if part is not None:
                part.close()

    async def close(self) -> None:
        """Close the gate."""
        await self.gate.close()
