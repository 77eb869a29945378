"""A client's connection as the filters get it, and what a filter is."""

from collections.abc import Callable
from typing import Protocol

from agent.sidecar.model import SocketAddress
from agent.sidecar.wire import Wire


class Session(Protocol):
    """What goes on over a connection."""

    def abort(self) -> None:
        """Cut it at once."""


class Client:
    """An accepted connection, from its accept to its end.

    `session` is what goes on over it now. Whoever ends it calls `leave`, with its wire closed.
    """

    __slots__ = ("_left", "original", "session", "wire")

    def __init__(self, left: Callable[["Client"], None]) -> None:
        self.session: Session
        self.wire: Wire
        self.original: SocketAddress | None = None
        self._left = left

    def leave(self) -> None:
        """It is gone."""
        self._left(self)


class Filter(Protocol):
    """What serves the clients of a filter chain."""

    def arrived(self, *, is_secure: bool) -> None:
        """A connection has this chain; TLS's handshake may lie ahead."""

    def serve(self, client: Client) -> None:
        """Serve it from here on: sets `session`, and calls `leave` at the end."""

    def left(self, *, is_secure: bool) -> None:
        """A connection that had arrived is gone."""
