"""A non-blocking TLS handshake with a deadline, as server or client."""

import asyncio
import socket
import ssl
from collections.abc import Callable

from agent.sidecar.counters import TlsCounters
from agent.sidecar.wire import SecureWire, forget

Done = Callable[[SecureWire | OSError], None]


class Handshake:
    """Calls `done` once, later: with the wire, or with the error and the socket closed."""

    __slots__ = ("_counters", "_done", "_loop", "_secure", "_timer", "_wants_write")

    def __init__(
        self,
        connected: socket.socket,
        context: ssl.SSLContext,
        counters: TlsCounters,
        done: Done,
        *,
        within: float,
        server_name: str | None = None,
    ) -> None:
        """Begin; `server_name` None: as server, otherwise as a client that sends it (empty: none).

        `within` in seconds, 0: no limit. Raises OSError, and closes the socket, if it cannot begin.
        """
        self._loop = asyncio.get_running_loop()
        self._counters = counters
        self._done = done
        self._wants_write = False
        try:
            self._secure = context.wrap_socket(
                connected,
                server_side=server_name is None,
                do_handshake_on_connect=False,
                suppress_ragged_eofs=False,
                server_hostname=server_name or None,
            )
        except OSError:
            connected.close()
            raise
        self._timer = self._loop.call_later(within, self._fail, TimeoutError("timed out")) if within else None
        self._loop.add_reader(self._secure.fileno(), self._step)
        if server_name is not None:
            self._loop.call_soon(self._step)

    def cancel(self) -> None:
        """Cancel the handshake and close the socket; `done` is not called any more."""
        self._rest()
        self._secure.close()

    def _step(self) -> None:
        if self._secure.fileno() < 0:
            return  # cancelled before its first step
        try:
            self._secure.do_handshake()
        except ssl.SSLWantReadError:
            self._want(write=False)
        except ssl.SSLWantWriteError:
            self._want(write=True)
        except (OSError, ValueError) as error:
            forget(error)
            self._counters.failed(error)
            self._fail(error if isinstance(error, OSError) else ConnectionError(str(error)))
        else:
            self._succeed()

    def _want(self, *, write: bool) -> None:
        if write == self._wants_write:
            return
        self._wants_write = write
        if write:
            self._loop.remove_reader(self._secure.fileno())
            self._loop.add_writer(self._secure.fileno(), self._step)
        else:
            self._loop.remove_writer(self._secure.fileno())
            self._loop.add_reader(self._secure.fileno(), self._step)

    def _succeed(self) -> None:
        self._rest()
        self._counters.shaken(self._secure)
        self._done(SecureWire(self._secure, self._counters))

    def _fail(self, error: OSError) -> None:
        self._rest()
        self._secure.close()
        self._done(error)

    def _rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._secure.fileno() >= 0:
            self._loop.remove_reader(self._secure.fileno())
            self._loop.remove_writer(self._secure.fileno())
