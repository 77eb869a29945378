"""Reads the first bytes of a connection without consuming them (MSG_PEEK)."""

import asyncio
import select
import socket
from collections.abc import Callable

from agent.sidecar.client_hello import LONGEST, Hello, hello_of

_LOOK = LONGEST + (1 << 10)
_UNIX_PAUSE = 0.01  # seconds: SO_RCVLOWAT has no effect on poll for a Unix socket


class HelloError(ConnectionError):
    """The connection ended before its ClientHello was complete, or the ClientHello is too long."""

    def __init__(self, *, is_endless: bool) -> None:
        super().__init__("the ClientHello is too long" if is_endless else "the connection ended")
        self.is_endless = is_endless


class Inspection:
    """Calls `done` once: with the Hello, or with a HelloError, TimeoutError or OSError."""

    __slots__ = ("_done", "_loop", "_seen", "_socket", "_timer")

    def __init__(self, client: socket.socket, done: Callable[[Hello | OSError], None], *, within: float) -> None:
        """Begin; `within` in seconds, 0: no limit."""
        self._loop = asyncio.get_running_loop()
        self._socket = client
        self._done = done
        self._seen = 0
        self._timer = self._loop.call_later(within, self._finish, TimeoutError("timed out")) if within else None
        self._wait()

    def cancel(self) -> None:
        """Cancel the inspection; `done` is not called any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._socket.fileno())
        self._done = _nothing

    def _wait(self) -> None:
        self._loop.add_reader(self._socket.fileno(), self._look)

    def _look(self) -> None:
        if self._socket.fileno() < 0:
            return  # closed during the pause
        has_ended = self._is_unix and _has_ended(self._socket)  # before the look, which then finds all there is
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
        elif has_ended or len(data) == self._seen:  # woken by the end of the stream, not by more bytes
            self._finish(HelloError(is_endless=False))
        elif len(data) >= LONGEST:
            self._finish(HelloError(is_endless=True))
        else:
            self._want_more(len(data))

    def _want_more(self, seen: int) -> None:
        """Wake up only for more than `seen` bytes or the end; poll a Unix socket instead."""
        if self._is_unix:
            self._loop.remove_reader(self._socket.fileno())
            self._loop.call_later(_UNIX_PAUSE, self._look_again)
            return
        self._seen = seen
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, seen + 1)

    @property
    def _is_unix(self) -> bool:
        return self._socket.family == socket.AF_UNIX

    def _look_again(self) -> None:
        if self._done is not _nothing and self._socket.fileno() >= 0:
            self._wait()

    def _finish(self, result: Hello | OSError) -> None:
        if self._seen:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        done = self._done
        self.cancel()
        done(result)


def _has_ended(client: socket.socket) -> bool:
    """Whether the peer will send no more, even if there are bytes to read."""
    poll = select.poll()
    poll.register(client, select.POLLRDHUP)
    return bool(poll.poll(0))


def _nothing(_: Hello | OSError) -> None:
    """Replace `done` after it was called, or after `cancel`."""
