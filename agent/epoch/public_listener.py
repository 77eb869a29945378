"""The application's view of a listening address, with sockets only after the gate."""

import asyncio
import contextlib
import socket

from agent.epoch.sockets import Bound


class Listener:
    """An address of the epoch, inherited or bound; it has no sockets before the gate opens."""

    def __init__(self, bound: Bound) -> None:
        self._bound = bound
        self._lent: list[socket.socket] | None = None

    @property
    def address(self) -> str:
        """The listening address, `tcp://127.0.0.1:80` or `unix:///path`, with the actual port."""
        return self._bound.actual.address

    @property
    def sockets(self) -> list[socket.socket]:
        """All sockets to accept on; each has its own queue. The server owns and closes them.

        Usually one; more after a predecessor with several workers. Raises RuntimeError before the gate is open.
        """
        if self._lent is None:
            raise RuntimeError("a listener has no sockets before `await epoch.admitted()`")
        return list(self._lent)

    # For the epoch

    def admit(self) -> None:
        """Start listening and make the sockets available."""
        self._bound.listen()
        self._lent = [each.dup() for each in self._bound.sockets]

    def stop(self) -> None:
        """Stop accepting, although the server has not closed its sockets yet.

        They must not be closed in the same turn of the loop: what asyncio accepts in one turn becomes a connection in
        the next, which fails if the server is closed by then, and its client is lost (python/cpython#109564).
        """
        loop = asyncio.get_running_loop()
        for each in self._lent or []:
            if each.fileno() != -1:
                with contextlib.suppress(RuntimeError, NotImplementedError):  # this loop accepts in another way
                    loop.remove_reader(each)
        self._bound.close()

    def close(self) -> None:
        """Close all sockets."""
        for each in [*self._bound.sockets, *(self._lent or [])]:
            each.close()
