"""What an application holds of an address: nothing to accept at before the gate, nothing kept after the drain."""

import asyncio
import contextlib
import socket

from agent.epoch.sockets import Bound


class Listener:
    """An address of the epoch, inherited or bound. There are no sockets of it before the gate is open."""

    def __init__(self, bound: Bound) -> None:
        self._bound = bound
        self._lent: list[socket.socket] | None = None

    @property
    def address(self) -> str:
        """Where it listens, as `tcp://127.0.0.1:80` or `unix:///path`; the port is the one the kernel has chosen."""
        return self._bound.actual.address

    @property
    def sockets(self) -> list[socket.socket]:
        """The sockets to accept at, all of them: each has clients of its own. They are the server's, which closes them.

        One, as a rule; more after a predecessor with several workers. Raises RuntimeError before the gate is open.
        """
        if self._lent is None:
            raise RuntimeError("a listener has no sockets before `await epoch.admitted()`")
        return list(self._lent)

    # For the epoch

    def admit(self) -> None:
        """From now on there are sockets, and clients queue."""
        self._bound.listen()
        self._lent = [each.dup() for each in self._bound.sockets]

    def stop(self) -> None:
        """Accept nobody any more, though the server has not closed its sockets yet.

        They must not be closed in the same turn of the loop: what asyncio accepts in one turn becomes a connection in
        the next, which fails if the server is closed by then, and its client is lost (python/cpython#109564).
        """
        loop = asyncio.get_running_loop()
        for each in self._lent or []:
            if each.fileno() != -1:
                with contextlib.suppress(RuntimeError, NotImplementedError):  # not this loop's way to accept
                    loop.remove_reader(each)
        self._bound.close()

    def close(self) -> None:
        """Leave nothing open."""
        for each in [*self._bound.sockets, *(self._lent or [])]:
            each.close()
