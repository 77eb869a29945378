"""The agent as an epoch's child: requests duplicates of its sockets and tells it to drain.

Hazards, all measured on Envoy 1.36 and 1.40, and how each is avoided:

* A reply that finds nothing bound at `child_2` aborts the proxy: the agent's socket is bound from before the first
  request until the proxy has exited.
* An address that the proxy cannot parse aborts it: only addresses that the proxy itself sent are requested.
* A child that does not read blocks the proxy's main thread: there is one request at a time, and the loop reads at once.
* Stats requests steal counts from the proxy's sinks: never sent.
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
    """Sends requests to one epoch, one at a time because it replies in order."""

    def __init__(self, names: SocketPaths, owner: tuple[int, int] | None = None) -> None:
        self.names = names
        self.channel = Channel(names.agent_as_child, self._take, self._break, owner)
        self._turn = asyncio.Lock()
        self._answer: asyncio.Future[int | None] | None = None
        self._late = 0  # replies still due to requests that were given up

    def close(self) -> None:
        """Stop sending requests and remove the socket; a pending request raises `MachineError`."""
        self._break(ProtocolError("the epoch has exited"))
        self.channel.close()

    async def ask(self, place: ListenAddress, timeout: float) -> int | None:
        """Return a duplicate of the epoch's socket for this address, or None if it has none.

        The caller owns it. Raises `MachineError` if the epoch does not reply within `timeout` seconds, has exited, or
        sends something else.
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
                    self._late += 1  # timed out or cancelled by the caller; the reply may still arrive
                self._answer = None

    def drain_listeners(self) -> None:
        """Tell the epoch to stop accepting. Raises `MachineError` if it has exited."""
        self._send(Request(drain_listeners=Request.DrainListeners()))

    def _check_way_back(self) -> None:
        """Raise `MachineError` if the reply path is missing: replying to it would abort the epoch."""
        if not os.path.lexists(self.names.agent_as_child):
            message = f"cannot ask the epoch: {self.names.agent_as_child} does not exist, and the answer would abort it"
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
    """Return the descriptor if it matches the address; raise `MachineError` otherwise.

    It is passed to the next epoch and clients queue in it, so it must be the socket that was requested.
    """
    if descriptor is None or is_socket_of(descriptor, place.address):
        return descriptor
    discard([descriptor])
    message = f"cannot use the socket of {place}: the epoch sent one of another address, or not a socket"
    raise MachineError(message)


def _request(place: ListenAddress) -> Request.PassListenSocket:
    return Request.PassListenSocket(address=place.address, worker_index=place.worker, network_namespace=place.namespace)
