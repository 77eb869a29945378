"""Accepts connections on a listener's sockets.

No socket option is changed, since other processes share the sockets.
"""

import asyncio
import socket
from collections.abc import Callable, Sequence
from errno import EMFILE, ENFILE, ENOBUFS, ENOMEM

_BURST = 32  # connections accepted at one wake-up, before other callbacks run
_PAUSE = 0.1  # seconds to wait when no descriptor is free: the kernel does not signal when one is
_FULL = frozenset({EMFILE, ENFILE, ENOBUFS, ENOMEM})


class Acceptor:
    """Accepts on all `sockets` until closed, and passes each connection to `accepted`.

    Calls `full` when no descriptor or memory is free for another connection.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        accepted: Callable[[socket.socket], None],
        full: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sockets = list(sockets)
        self._accepted = accepted
        self._full = full
        self._pause: asyncio.TimerHandle | None = None
        self._open()

    def close(self) -> None:
        """Stop accepting, and close the sockets."""
        self._shut()
        for door in self._sockets:
            door.close()
        self._sockets.clear()

    def _open(self) -> None:
        self._pause = None
        for door in self._sockets:
            self._loop.add_reader(door.fileno(), self._accept, door)

    def _shut(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        for door in self._sockets:
            self._loop.remove_reader(door.fileno())

    def _accept(self, door: socket.socket) -> None:
        for _ in range(_BURST):
            try:
                client, _address = door.accept()
            except BlockingIOError:  # another process may have accepted it
                return
            except OSError as error:
                if error.errno in _FULL:
                    self._wait()
                    return
                continue  # this connection has failed already, the next one may be good (accept(2), error handling)
            client.setblocking(False)
            self._accepted(client)
            if door.fileno() < 0:
                return

    def _wait(self) -> None:
        self._full()
        self._shut()
        self._pause = self._loop.call_later(_PAUSE, self._open)
