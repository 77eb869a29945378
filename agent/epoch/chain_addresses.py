"""Socket addresses of the processes of one chain.

Epoch N receives requests at `<prefix>_parent_<id>` and replies at `<prefix>_child_<id>`, with `id = base id x 10 + N %
3`; both exist once more for forwarded UDP. Replies always go to the next epoch's child socket, whichever process sent
the request. A prefix with `@` makes abstract names (unix(7)), which Envoy fills with zeros up to the end of sun_path.
"""

from dataclasses import dataclass

from agent.core.errors import UsageError
from agent.handoff.socket_paths import PATH_LIMIT

_GENERATIONS = 3
_SUN_PATH = PATH_LIMIT + 1


@dataclass(frozen=True, slots=True)
class ChainAddresses:
    """The addresses of one epoch and its neighbours, each a path or `@name`."""

    prefix: str
    base_id: int
    epoch: int

    @property
    def requests(self) -> str:
        """Where this epoch receives its successor's requests."""
        return self._name("parent", self.epoch)

    @property
    def replies(self) -> str:
        """Where this epoch receives its predecessor's replies."""
        return self._name("child", self.epoch)

    @property
    def datagrams(self) -> tuple[str, str]:
        """Where forwarded UDP would arrive."""
        return self._name("udp_parent", self.epoch), self._name("udp_child", self.epoch)

    @property
    def predecessor(self) -> str:
        """Where the predecessor receives requests."""
        return self._name("parent", self.epoch - 1)

    @property
    def successor(self) -> str:
        """Where the successor receives replies."""
        return self._name("child", self.epoch + 1)

    def check(self) -> None:
        """Raise `UsageError` if a name is too long for a socket; call it before binding any of them."""
        excess = max(len(name.encode()) for name in (self.requests, self.successor, *self.datagrams)) - PATH_LIMIT
        if excess > 0:
            raise UsageError(f"cannot use --socket-path {self.prefix}: it is {excess} bytes too long for socket names")

    def _name(self, role: str, epoch: int) -> str:
        return f"{self.prefix}_{role}_{_first_id(self.base_id) + epoch % _GENERATIONS}"


def _first_id(base_id: int) -> int:
    """Return the base id times ten as Envoy computes it.

    In signed 32 bits, then reinterpreted as unsigned 64 bits.
    """
    low = base_id * 10 & 0xFFFFFFFF
    signed = low - (1 << 32) if low >> 31 else low
    return signed & 0xFFFFFFFFFFFFFFFF


def is_abstract(address: str) -> bool:
    """Return whether a name is abstract: it has no file and exists only as long as its socket."""
    return address.startswith("@")


def to_kernel(address: str) -> str | bytes:
    """Return an address in the form that Python's bind(2) and connect(2) require."""
    if not is_abstract(address):
        return address
    name = b"\0" + address[1:].encode()
    return name + bytes(_SUN_PATH - len(name))
