"""Certificate and key pairs from the certificate directories, for the default bootstrap and for a server."""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime

from agent.certificates.contents import Contents
from agent.certificates.discovery import Discovery
from agent.certificates.findings import Fallback, FileWarning, Rejection
from agent.certificates.groups import Pin
from agent.certificates.references import Reference, Role
from agent.host.sockets import Endpoint
from agent.proxies.interface import Proxy

_PAIR = frozenset({Role.CHAIN, Role.KEY})


class PairChoice:
    """Chooses the pairs at each load.

    `unpaired`: files that should form a pair and do not; `beside`: unused files; `turn`: when the choice may change.
    """

    def __init__(self) -> None:
        self.found: list[Reference] = []
        self.unpaired: tuple[Rejection, ...] = ()
        self.beside: tuple[FileWarning, ...] = ()
        self.turn: datetime | None = None

    def choose(
        self,
        discovery: Discovery,
        contents: Contents,
        served: Collection[str],
        pins: Mapping[str, Pin],
        now: datetime,
    ) -> None:
        """Choose every pair; one that has served stays if its files turn bad.

        `served` names the groups that have served. A pair that has not served is dropped with its files, as after
        temporary names of a write. One that the proxy rejected before it ever served is left out while its bytes are
        unchanged. A pair that is not valid `now` is left out if another one replaces it.
        """
        self.turn = discovery.look_again
        pinned = [pin for name, pin in pins.items() if name not in served and pin.lies_in(contents)]
        left_out = {pin.group.name for pin in pinned}
        paired = [each for each in discovery.references if each.role in _PAIR and each.group not in left_out]
        groups = {each.group for each in paired}
        superseded = tuple(discovery.superseded(groups, now))
        paired = [each for each in paired if each.group not in {refusal.group for refusal in superseded}]
        kept = [each for each in self.found if each.group not in groups and each.group in served]
        self.found = _in_order({*paired, *kept})
        used = {name for each in self.found for name in (each.path, each.group)}
        # A fault of a served pair is logged when its files are selected; beside it alone, no file is half of a pair.
        refused = () if kept and not paired else discovery.refused
        refused += superseded + tuple(Rejection.of(pin.group.name, pin.fault, Fallback.OTHERS) for pin in pinned)
        self.unpaired = tuple(each for each in refused if not {each.path, each.group} & used)
        self.beside = tuple(each for each in discovery.strays if each.path not in used)


class DirectoryPairs(PairChoice):
    """Chooses the pairs at each load, and writes the default bootstrap over them."""

    def __init__(self, kind: Proxy, listen: str, forward: str) -> None:
        super().__init__()
        self._text: tuple[list[Reference] | None, bytes] = (None, b"")  # the last one, and the pairs in it
        self._kind = kind
        self._listen = listen
        self._forward = forward

    def text(self, references: Iterable[Reference]) -> bytes:
        """Return the default bootstrap over these pairs."""
        pairs = _in_order(references)
        if self._text[0] != pairs:
            self._text = pairs, self._written(pairs)
        return self._text[1]

    def _written(self, pairs: Iterable[Reference]) -> bytes:
        listen, forward = Endpoint.parse(self._listen), Endpoint.parse(self._forward)
        where, to = (listen.host, listen.port), (forward.host, forward.port)
        return self._kind.default_configuration(where, to, pairs).encode()


def _in_order(references: Iterable[Reference]) -> list[Reference]:
    return sorted(references, key=lambda each: (each.group, each.role.value, each.path))
