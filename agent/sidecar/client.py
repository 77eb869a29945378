"""A client connection as filters receive it, and the filter interface."""

from collections.abc import Callable
from typing import Protocol

from agent.sidecar.model import SocketAddress
from agent.sidecar.wire import Wire


class Session(Protocol):
    """The current handler of a client connection."""

    def abort(self) -> None:
        """Close the connection at once."""


class Client:
    """A client connection, from accept to its end.

    `session` is its current handler. A handler that ends the connection closes `wire`, then calls `leave`.
    """

    __slots__ = ("_left", "original", "session", "wire")

    def __init__(self, left: Callable[["Client"], None]) -> None:
        self.session: Session
        self.wire: Wire
        self.original: SocketAddress | None = None
        self._left = left

    def leave(self) -> None:
        """Report that the connection has ended."""
        self._left(self)


class Filter(Protocol):
    """Serves the connections of a filter chain."""

    def arrived(self, *, is_secure: bool) -> None:
        """Count a connection that got this chain; its TLS handshake may still follow."""

    def serve(self, client: Client) -> None:
        """Serve the connection from now on: set `session`, and call `leave` at the end."""

    def left(self, *, is_secure: bool) -> None:
        """Count the end of a connection that `arrived` has counted."""
