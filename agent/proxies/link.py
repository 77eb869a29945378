"""The interface between the supervisor and one running epoch.

A kind of proxy answers the questions that differ: how listening sockets reach the epoch and return, where it waits
before it serves, how it reports that it serves, and how it drains.
"""

import signal
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from agent.core.errors import AddressHeld, ProtocolError
from agent.handoff.segment import Segment
from agent.handoff.socket_store import ListenAddress
from agent.host.processes import Listening
from agent.proxies.interface import Admin, Configuration, Delivery

Send = Callable[[signal.Signals], None]
"""Sends a signal to a process; does nothing once it has exited."""


@dataclass(frozen=True, slots=True)
class LinkEvents:
    """Callbacks to the owner of an epoch.

    `get_socket` returns the descriptor for an address, or None to let the proxy bind it. It raises `AddressHeld` if
    another process listens there; the epoch then gets no answer, since any answer would let it share the port.
    `sockets` returns all sockets that the agent holds, by address. `bound` takes over a duplicate of a socket that the
    epoch bound itself. `is_serving` returns whether an epoch serves. `broken`: the process violated the protocol.
    """

    reached_gate: Callable[[], None]
    serves: Callable[[], None]
    held: Callable[[AddressHeld], None]
    broken: Callable[[ProtocolError], None]
    get_socket: Callable[[ListenAddress], int | None]
    sockets: Callable[[], Mapping[ListenAddress, int]]
    bound: Callable[[ListenAddress, int], None]
    is_serving: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class EpochContext:
    """What the link of an epoch is made from.

    `home` is its directory and `owner` the uid and gid of its process, None for the agent's own. `segment` is its
    shared memory, for a kind that needs one. `places`: the addresses that an adopted epoch has, None for a new one.
    `leaves`: fingerprints of the certificates that it serves, each with a DNS name of it, if it has one.
    """

    number: int
    home: Path
    owner: tuple[int, int] | None
    configuration: Configuration
    segment: Segment | None
    places: frozenset[ListenAddress] | None = None
    leaves: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def is_adopted(self) -> bool:
        """Whether an earlier agent started the epoch."""
        return self.places is not None


@dataclass(frozen=True, slots=True)
class Launch:
    """How to execute an epoch: arguments, further environment, and descriptors that it inherits.

    `listening` are sockets that it gets as systemd passes them.
    """

    arguments: list[str]
    environment: Mapping[str, str]
    descriptors: frozenset[int] = frozenset()
    listening: Listening = ()


class EpochLink(Protocol):
    """Exchanges sockets and messages with one epoch."""

    @property
    def admin(self) -> Admin:
        """The epoch's admin interface."""

    @property
    def asked(self) -> set[ListenAddress]:
        """Every address that it listens on or requested a socket for, as far as it is known."""

    @property
    def bound_itself(self) -> set[ListenAddress]:
        """Those of which `duplicate` returns a socket that the agent does not hold yet."""

    @property
    def orphan_signal(self) -> signal.Signals | None:
        """The signal that drains the processes that it leaves behind when it exits; None if it leaves none."""

    @property
    def is_open(self) -> bool:
        """Whether the epoch may serve."""

    async def open(self, started_at: int, delivery: Delivery | None, *, serves: bool) -> None:
        """Open everything that the process expects. Raises `MachineError`.

        `started_at`: start of the service as a whole, in calendar seconds. `serves`: an adopted epoch's gate was opened
        by an earlier agent.
        """

    def launch(self, copy: int, extra: str | None, overlap: int = 0) -> Launch:
        """Return how to execute it. `copy`: the descriptor of its configuration. Raises `MachineError`.

        For `overlap` seconds after it serves, its predecessor continues to read the UDP sockets.
        """

    def attend(self, pid: int, send: Send) -> None:
        """Accept messages from this process only; `send` sends it a signal."""

    def open_gate(self) -> None:
        """Let the candidate serve; `serves` is called when it does."""

    async def resume(self) -> bool:
        """Wait until an adopted epoch whose gate was opened serves; return False if it never will."""

    async def duplicate(self, place: ListenAddress) -> int | None:
        """Return a duplicate of its socket at an address, or None; the caller owns it. Raises `MachineError`."""

    def stop_accepting(self) -> None:
        """Make it close its listeners and ask its clients to reconnect. Raises `MachineError`."""

    def reopen_logs(self) -> None:
        """Make it open its log files again."""

    def forward_datagrams(self, successor: "EpochLink") -> None:
        """Forward the datagrams that it still receives to its successor."""

    def workers(self) -> Collection[int]:
        """Return the pids of the other processes in which it accepts clients."""

    def clear(self) -> None:
        """Release everything but the gate; no callback follows."""

    async def close(self) -> None:
        """Close the gate."""
