"""The agent as an epoch's parent: answers the requests a proxy sends to its predecessor.

A candidate sends ShutdownAdmin, then PassListenSocket for each address and worker, then Stats. When its workers accept,
it sends DrainListeners and, with `--parent-shutdown-time-s 0`, Terminate at once. After that it sends its parent
nothing, so the agent may restart. None of these requests reaches the serving epoch.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from ipaddress import ip_address

from agent.core.errors import AddressHeld, MachineError, ProtocolError
from agent.handoff.channel import Channel, Message
from agent.handoff.descriptors import discard
from agent.handoff.hot_restart_pb2 import HotRestartMessage, Reply
from agent.handoff.socket_paths import SocketPaths
from agent.handoff.socket_store import ListenAddress

NOTHING = -1
_LAST_PORT = 65535
_PLACES_LIMIT = 1 << 16  # listeners times workers
_LITERAL = re.compile(r"(?:tcp|udp)://(?:\[(?P<six>[0-9A-Fa-f:.]+(?:%\w+)?)]|(?P<four>[0-9.]+)):(?P<port>\d{1,5})")


def require_literal(place: ListenAddress) -> None:
    """Raise `ProtocolError` unless the address is a Unix path or an IP address with a port.

    Envoy always sends one of these. Resolving a host name would block the agent.
    """
    match = _LITERAL.fullmatch(place.address)
    try:
        if match is not None:
            ip_address(match["six"] or match["four"])
        if place.address.startswith("unix://") or (match is not None and int(match["port"]) <= _LAST_PORT):
            return
    except ValueError:
        pass
    message = f"cannot hand over the socket of {place.address[:80]!r}: it is not an IP address with a port"
    raise ProtocolError(message)


@dataclass(frozen=True, slots=True)
class ParentEvents:
    """Callbacks to the owner of an epoch.

    `get_socket` returns the descriptor for an address, or None to let the proxy bind it. It raises `AddressHeld` if
    another process listens there; the proxy then gets no reply, since any reply would let it share the port.
    """

    get_socket: Callable[[ListenAddress], int | None]
    serves: Callable[[], None]
    held: Callable[[AddressHeld], None]
    broken: Callable[[ProtocolError], None]


class Parent:
    """Answers one epoch's requests.

    `started_at` is in calendar seconds: when the service as a whole started. `asked` and `serves` restore an epoch that
    an earlier agent already answered.
    """

    def __init__(
        self,
        names: SocketPaths,
        started_at: int,
        events: ParentEvents,
        asked: Collection[ListenAddress] = (),
        *,
        serves: bool = False,
        owner: tuple[int, int] | None = None,
    ) -> None:
        self.names = names
        self.asked = set(asked)  # every address the epoch requested
        self.bound_itself: set[ListenAddress] = set()  # addresses the epoch had to bind
        self.channel = Channel(names.agent_as_parent, self._answer, events.broken, owner)
        self._started_at = started_at
        self._events = events
        self._said_it_serves = serves

    def close(self) -> None:
        """Stop answering and remove the socket."""
        self.channel.close()

    def _answer(self, letter: Message) -> None:
        if letter.descriptor is not None:
            discard([letter.descriptor])  # a request never carries one
        kind = letter.message.request.WhichOneof("request") if letter.message.HasField("request") else None
        match kind:
            case "shutdown_admin":
                self._reply(self._take_over())
            case "pass_listen_socket":
                self._lend(letter.message)
            case "stats":
                # The reply would only carry deltas, and requesting Stats steals counts from the predecessor's sinks.
                self.answer_stats()
            case "drain_listeners":
                self.hear_that_it_serves()
            case "terminate" | "test_connection":
                pass  # the predecessor is the agent, which keeps running; Envoy expects no reply to either
            case _:
                self._reply(HotRestartMessage(didnt_recognize_your_last_message=True))

    def _take_over(self) -> HotRestartMessage:
        reply = Reply.ShutdownAdmin(original_start_time_unix_seconds=self._started_at, enable_reuse_port_default=True)
        return HotRestartMessage(reply=Reply(shutdown_admin=reply))

    def _lend(self, message: HotRestartMessage) -> None:
        request = message.request.pass_listen_socket
        place = ListenAddress(request.address, request.network_namespace, request.worker_index)
        require_literal(place)
        if len(self.asked) >= _PLACES_LIMIT and place not in self.asked:
            raise ProtocolError(f"cannot hand over more than {_PLACES_LIMIT} sockets to one epoch")
        self.asked.add(place)
        try:
            descriptor = self._events.get_socket(place)
        except AddressHeld as error:
            self._events.held(error)
            return
        if descriptor is None:
            self.bound_itself.add(place)
        number = NOTHING if descriptor is None else descriptor
        reply = Reply(pass_listen_socket=Reply.PassListenSocket(fd=number))
        self._reply(HotRestartMessage(reply=reply), descriptor)

    def answer_stats(self) -> None:
        """Send an empty Stats reply, also to an epoch whose request was lost with an earlier agent.

        An extra reply is harmless: Envoy reads it as the reply to its next Stats request, and after Terminate it sends
        no more requests.
        """
        self._reply(HotRestartMessage(reply=Reply(stats=Reply.Stats())))

    def hear_that_it_serves(self) -> None:
        """Call `serves` once; ignore repeated reports."""
        if not self._said_it_serves:
            self._said_it_serves = True
            self._events.serves()

    def _reply(self, message: HotRestartMessage, descriptor: int | None = None) -> None:
        try:
            self.channel.connect(self.names.epoch_as_child)
            self.channel.send(message, descriptor)
        except MachineError:
            return  # it exited; its pidfd reports that
