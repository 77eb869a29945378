"""Chooses the filter chain of a connection.

The criteria apply one after the other, as in Envoy, the most specific first. A later criterion that does not match does
not undo an earlier choice: if the chain for `a.example` requires `h2`, a connection for it that offers only `http/1.1`
matches no chain, even if there are chains without a name.
"""

from collections.abc import Sequence
from typing import Generic, TypeVar

from agent.sidecar.client_hello import Hello
from agent.sidecar.model import Match

Chain = TypeVar("Chain")


class FilterChainMatcher(Generic[Chain]):
    """Finds filter chains by their matches. Raises ValueError if two matches are the same."""

    def __init__(self, chains: Sequence[tuple[Match, Chain]], default: Chain | None) -> None:
        self._default = default
        self._names: dict[str, dict[str, dict[str, Chain]]] = {}
        self.needs_hello = any(_needs_hello(match) for match, _ in chains)
        for match, chain in chains:
            for name in match.server_names or ("",):
                self._add(name.removeprefix("*"), match, chain)

    def _add(self, name: str, match: Match, chain: Chain) -> None:
        protocols = self._names.setdefault(name, {}).setdefault(match.transport_protocol, {})
        for protocol in match.application_protocols or ("",):
            if protocol in protocols:
                raise ValueError("two of its filter chains match the same connections")
            protocols[protocol] = chain

    def find(self, hello: Hello) -> Chain | None:
        """Return the chain of a connection, or the default chain, or None."""
        found = self._by_name(hello)
        return self._default if found is None else found

    def _by_name(self, hello: Hello) -> Chain | None:
        for name in _names(hello.server_name):
            transports = self._names.get(name)
            if transports is not None:
                return _by_transport(transports, hello)
        return None


def _names(name: str) -> list[str]:
    """Return the name, its wildcard suffixes from the longest, and the empty name."""
    found = [name] if name else []
    at = name.find(".")
    while at >= 0:
        found.append(name[at:])
        at = name.find(".", at + 1)
    return [*found, ""]


def _by_transport(transports: dict[str, dict[str, Chain]], hello: Hello) -> Chain | None:
    protocols = transports.get("tls" if hello.is_tls else "raw_buffer")
    if protocols is None:
        protocols = transports.get("")
    if protocols is None:
        return None
    wanted = next((each for each in hello.protocols if each in protocols), "")
    return protocols.get(wanted)


def _needs_hello(match: Match) -> bool:
    return bool(match.server_names or match.application_protocols or match.transport_protocol == "tls")
