"""The agent as the child of an epoch: it asks for duplicates of its sockets, and tells it to drain.

Traps, all measured on Envoy 1.36 and 1.40, and why none of them bites here: an answer that finds nobody at `child_2`
aborts the proxy (the agent's socket is bound before the first request and until the epoch is dead); an address it
cannot parse aborts it (only addresses that it named itself are sent); a child that does not read blocks its main
thread (one request is under way at a time, and the loop reads at once); Stats steals from its sinks (never asked).
"""

import asyncio
import os

from agent.core.errors import MachineError, ProtocolError
from agent.handoff.channel import Channel, Message
from agent.handoff.descriptors import discard, is_socket_of
from agent.handoff.hot_restart_pb2 import HotRestartMessage, Request
from agent.handoff.socket_paths import SocketPaths
from agent.handoff.socket_store import ListenAddress


class Child:
    """Asks one epoch. Requests are answered in order, so they are made one at a time."""

    def __init__(self, names: SocketPaths, owner: tuple[int, int] | None = None) -> None:
        self.names = names
        self.channel = Channel(names.agent_as_child, self._take, self._break, owner)
        self._turn = asyncio.Lock()
        self._answer: asyncio.Future[int | None] | None = None
        self._late = 0  # answers still to come to requests that nobody waits for any more

    def close(self) -> None:
        """Stop asking and remove the socket; whoever still waits gets a `MachineError`."""
        self._break(ProtocolError("the epoch is gone"))
        self.channel.close()

    async def ask(self, place: ListenAddress, timeout: float) -> int | None:
        """Return a duplicate of the epoch's socket at this place, which the caller owns; None if it has none.

        Raises `MachineError` if the epoch does not answer within `timeout` seconds, is gone, or gives something else.
        """
        async with self._turn:
            self._check_way_back()
            self._answer = asyncio.get_running_loop().create_future()
            try:
                self._send(Request(pass_listen_socket=_request(place)))
                return _checked(place, await asyncio.wait_for(self._answer, timeout))
            except TimeoutError as error:
                message = f"cannot get the socket of {place}: no answer within {timeout:g} s"
                raise MachineError(message) from error
            finally:
                if self._answer.cancelled():
                    self._late += 1  # given up on, by the timeout or by whoever asked; it may still come
                self._answer = None

    def drain_listeners(self) -> None:
        """Tell the epoch to accept no more. Raises `MachineError` if it is gone."""
        self._send(Request(drain_listeners=Request.DrainListeners()))

    def _check_way_back(self) -> None:
        """Somebody may have emptied the run directory: an answer to a name that is gone would abort the epoch."""
        if not os.path.lexists(self.names.agent_as_child):
            message = f"cannot ask the epoch: {self.names.agent_as_child} is gone, and its answer would abort it"
            raise MachineError(message)

    def _send(self, request: Request) -> None:
        self.channel.connect(self.names.epoch_as_parent)
        self.channel.send(HotRestartMessage(request=request))

    def _take(self, letter: Message) -> None:
        if self._late or self._answer is None or self._answer.done():
            self._late = max(0, self._late - 1)
            discard([] if letter.descriptor is None else [letter.descriptor])
            return
        self._answer.set_result(letter.descriptor)

    def _break(self, error: ProtocolError) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(MachineError(str(error)))


def _checked(place: ListenAddress, descriptor: int | None) -> int | None:
    """What an epoch gives is handed to the next one, and clients queue in it: it must be what was asked for."""
    if descriptor is None or is_socket_of(descriptor, place.address):
        return descriptor
    discard([descriptor])
    message = f"cannot take the socket of {place}: what the epoch gives listens somewhere else, or is no socket"
    raise MachineError(message)


def _request(place: ListenAddress) -> Request.PassListenSocket:
    return Request.PassListenSocket(address=place.address, worker_index=place.worker, network_namespace=place.namespace)
