"""Requests and responses, whole or streamed."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end of a Unix socket; pid 0 if in another PID namespace."""

    pid: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Request:
    """A client's request. Header names are lower case; `body` is whole.

    `peer` is the client's process at a Unix socket. For internet sockets, `address` is the client's address and `local`
    the server's.
    """

    method: str
    target: str
    headers: Headers = ()
    body: bytes = b""
    peer: Peer | None = None
    address: str | None = None
    local: str | None = None

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]


@dataclass(frozen=True, slots=True)
class Response:
    """A response. `body` is bytes, or an iterator over its parts."""

    status: int
    body: bytes | AsyncIterator[bytes] = b""
    headers: Headers = field(default=(("content-type", "text/plain; charset=utf-8"),))
