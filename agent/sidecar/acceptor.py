"""A listener's doors: the listening sockets it was given. Nothing about them is changed, for others share them."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from errno import EMFILE, ENFILE, ENOBUFS, ENOMEM

_BURST = 32  # connections accepted at one wake-up, before everybody else has a turn
_PAUSE = 0.1  # seconds, when there is no descriptor left: the kernel does not tell when there is one again
_FULL = frozenset({EMFILE, ENFILE, ENOBUFS, ENOMEM})


class Acceptor:
    """Accepts from all of them until closed. `full` is called when the machine has no room for another connection."""

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
        """Accept no more, and close them."""
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
            except BlockingIOError:  # somebody else took it, perhaps
                return
            except OSError as error:
                if error.errno in _FULL:
                    self._wait()
                    return
                continue  # a client that is gone already: the next one may be well (accept(2), error handling)
            client.setblocking(False)
            self._accepted(client)
            if door.fileno() < 0:
                return

    def _wait(self) -> None:
        self._full()
        self._shut()
        self._pause = self._loop.call_later(_PAUSE, self._open)
