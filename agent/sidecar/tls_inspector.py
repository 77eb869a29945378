"""Looking at the beginning of a connection without taking it."""

import asyncio
import socket
from collections.abc import Callable

from agent.sidecar.client_hello import LONGEST, Hello, hello_of

_LOOK = LONGEST + (1 << 10)
_UNIX_PAUSE = 0.01  # seconds: SO_RCVLOWAT does not hold poll back on a Unix socket


class HelloError(ConnectionError):
    """The connection ended, or went on without end, before it said enough."""

    def __init__(self, *, is_endless: bool) -> None:
        super().__init__("it does not end" if is_endless else "it ended")
        self.is_endless = is_endless


class Inspection:
    """Calls `done` once, with what the client says, or with what went wrong: HelloError, TimeoutError, OSError."""

    __slots__ = ("_done", "_loop", "_seen", "_socket", "_timer")

    def __init__(self, client: socket.socket, done: Callable[[Hello | OSError], None], *, within: float) -> None:
        """Begin; `within` in seconds, 0: for as long as it takes."""
        self._loop = asyncio.get_running_loop()
        self._socket = client
        self._done = done
        self._seen = 0
        self._timer = self._loop.call_later(within, self._finish, TimeoutError("timed out")) if within else None
        self._wait()

    def cancel(self) -> None:
        """Drop it; `done` is not called any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._socket.fileno())
        self._done = _nothing

    def _wait(self) -> None:
        self._loop.add_reader(self._socket.fileno(), self._look)

    def _look(self) -> None:
        if self._socket.fileno() < 0:
            return  # dropped while it paused
        try:
            data = self._socket.recv(_LOOK, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError as error:
            self._finish(error)
            return
        hello = hello_of(data) if data else None
        if hello is not None:
            self._finish(hello)
        elif len(data) == self._seen:
            self._finish(HelloError(is_endless=False))  # woken for an end, not for more
        elif len(data) >= LONGEST:
            self._finish(HelloError(is_endless=True))
        else:
            self._want_more(len(data))

    def _want_more(self, seen: int) -> None:
        """Be woken only when there is more than what has been seen, or an end."""
        if self._socket.family == socket.AF_UNIX:
            self._loop.remove_reader(self._socket.fileno())
            self._loop.call_later(_UNIX_PAUSE, self._look_again)
            return
        self._seen = seen
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, seen + 1)

    def _look_again(self) -> None:
        if self._done is not _nothing and self._socket.fileno() >= 0:
            self._wait()

    def _finish(self, result: Hello | OSError) -> None:
        if self._seen:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        done = self._done
        self.cancel()
        done(result)


def _nothing(_: Hello | OSError) -> None:
    """Stand in for a call that has been made, or that nobody waits for."""
