"""The listeners of --listen: NAME=ADDRESS, with `plain:` before an address where clients see no certificate."""

import posixpath
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import NoReturn

from agent.core.errors import UsageError
from agent.handoff.socket_store import ListenAddress, spelled
from agent.host.sockets import Endpoint

_PLAIN = "plain:"
_LONGEST_PATH = 95  # sun_path has 108 octets (unix(7)); a candidate's path has a dot and its number more


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that a server gets. `is_plain`: it never serves a certificate."""

    name: str
    place: ListenAddress
    is_plain: bool = False

    @property
    def is_tcp(self) -> bool:
        """Whether it has a group of sockets, and not a path."""
        return self.place.address.startswith("tcp://")


def parse(texts: Iterable[str]) -> tuple[Listener, ...]:
    """Parse all listeners. Raises `UsageError`."""
    listeners: list[Listener] = []
    for text in texts:
        listener = _listener(text)
        for other in listeners:
            if listener.name == other.name:
                _refuse(text, f"another listener has the name {other.name}", "give each a name of its own")
            if listener.place == other.place:
                _refuse(text, f"{other.name} has the same address", "leave one of them out")
        listeners.append(listener)
    return tuple(listeners)


def _listener(text: str) -> Listener:
    name, _, address = text.partition("=")
    if not name.replace("-", "").replace("_", "").isalnum():
        _refuse(text, "the name may have letters, digits, - and _ only", "write it like web=127.0.0.1:8080")
    bare = address.removeprefix(_PLAIN)
    is_unix = bare.startswith(("unix:", "/"))
    place = _unix(text, bare.removeprefix("unix:").removeprefix("//")) if is_unix else _tcp(text, bare)
    return Listener(name, place, is_plain=bare != address)


def _unix(text: str, path: str) -> ListenAddress:
    if path.startswith("@"):
        _refuse(text, "an abstract socket cannot be replaced by the next epoch's", "use a path")
    if not path.startswith("/"):
        _refuse(text, "the path is not absolute", "write it like web=unix:/run/web.sock")
    if len(path.encode()) > _LONGEST_PATH:
        _refuse(text, f"the path is longer than {_LONGEST_PATH} bytes", "choose a shorter one")
    return ListenAddress(f"unix://{posixpath.normpath(path)}")


def _tcp(text: str, address: str) -> ListenAddress:
    bare = address.removeprefix("tcp:").removeprefix("//")
    if bare.startswith("udp:"):
        _refuse(text, "only TCP and Unix listeners can be handed from epoch to epoch", "leave it out")
    endpoint = Endpoint.parse(f"tcp://{bare}")
    if not endpoint.port:
        _refuse(text, "a candidate could not be told from the serving one at port 0", "name a port")
    try:
        host = spelled(endpoint.host)
    except ValueError:
        _refuse(text, f"{endpoint.host} is no IP address", "write it like web=127.0.0.1:8080 or web=[::]:8080")
    if ip_address(host).is_multicast:
        _refuse(text, f"{host} is a multicast address", "name an address of this machine")
    return ListenAddress(f"tcp://{Endpoint(host, endpoint.port)}")


def _refuse(text: str, why: str, next_step: str) -> NoReturn:
    message = f"cannot use --listen {text}: {why}; {next_step}"
    raise UsageError(message)
