"""Requests and responses, whole or streamed."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end of a Unix socket, as the kernel names it; pid 0: it is in another namespace."""

    pid: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks. Header names are lower case; `body` is whole.

    `peer` is who it was, at a Unix socket; `address` is his, at one of the internet, and `local` the one he asked at.
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
    """What it gets. `body` is whole, or an iterator whose end is the end of the connection's answer."""

    status: int
    body: bytes | AsyncIterator[bytes] = b""
    headers: Headers = field(default=(("content-type", "text/plain; charset=utf-8"),))
