"""Which groups of certificates a proxy refuses a revision for, so that the others need not wait for them.

A complaint that names a file tells it at once. Otherwise the proxy is asked again, with some of the new groups held
back: whatever it takes together is cleared, and what it does not is halved, until single groups are left. Nothing is
started for it, and no client notices.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

from agent.certificates.groups import CertificateGroup, Pin
from agent.inputs.loader import Loader
from agent.inputs.revisions import RevisionStore
from agent.inputs.settings import Settings
from agent.processes.epoch_process import EpochProcess
from agent.proxies.interface import Complaint

Ask = Callable[[frozenset[str]], Awaitable[Complaint | None]]
"""Ask the proxy about the revision with these units held back; raises `NothingToRunError` where they cannot be."""


class NothingToRunError(Exception):
    """There is nothing to run from without a unit that is to be held back."""


async def bisect(suspects: Sequence[CertificateGroup], complaint: Complaint, ask: Ask) -> tuple[Pin, ...]:
    """Return the units at fault among `suspects`, which are new; none where it is not their fault, or not only.

    `complaint` is what the proxy says to all of them together.
    """
    if named := _named(suspects, complaint):
        return named
    search = _Search(ask, frozenset(unit.name for unit in suspects))
    try:
        if await ask(search.uncleared) is not None:
            return ()
        await search.among(suspects)
    except NothingToRunError:
        return ()
    return tuple(search.found)


def _named(suspects: Collection[CertificateGroup], complaint: Complaint) -> tuple[Pin, ...]:
    """The units that have a file which the complaint names, or the same bytes under another name."""
    contents = {unit.files[path]: path for path in complaint.paths for unit in suspects if path in unit.files}
    return tuple(
        _pin(unit, complaint, next(path for path, content in unit.files.items() if content in contents))
        for unit in suspects
        if not contents.keys().isdisjoint(unit.files.values())
    )


@dataclass(slots=True)
class _Search:
    """One search under way. `uncleared`: the units that are held back unless it is their turn."""

    ask: Ask
    uncleared: frozenset[str]
    found: list[Pin] = field(default_factory=list)

    async def among(self, units: Sequence[CertificateGroup]) -> None:
        """Clear these units, or find the culprits among them."""
        names = frozenset(unit.name for unit in units)
        complaint = await self.ask(self.uncleared - names)
        if complaint is None:
            self.uncleared -= names
        elif len(units) == 1:
            self.found.append(_pin(units[0], complaint))
        elif named := _named(units, complaint):
            self.found += named
            culprits = {pin.unit.name for pin in named}
            if rest := [unit for unit in units if unit.name not in culprits]:
                await self.among(rest)
        else:
            half = len(units) // 2
            await self.among(units[:half])
            await self.among(units[half:])


def _pin(unit: CertificateGroup, complaint: Complaint, path: str | None = None) -> Pin:
    """Accuse a file of the unit: the one that is named, or else its chain."""
    first = unit.chains[0].path if unit.chains else min(unit.files)
    return Pin(unit, path or first, complaint.text)


class Bisection:
    """Pins the groups at fault where the proxy of an epoch refused what it was to run from."""

    def __init__(self, settings: Settings, loader: Loader, revisions: RevisionStore) -> None:
        self._timeout = settings.policy.start_timeout
        self._loader = loader
        self._revisions = revisions

    async def accuse(self, refused: EpochProcess, complaint: Complaint) -> tuple[Pin, ...]:
        """Pin the groups of files at fault, if it is theirs. Raises `MachineError` if the proxy does not answer."""
        material = refused.material

        program = material.program.binary.path.name

        def said(complaint: Complaint) -> Complaint:
            return replace(complaint, text=f"{program} says: {complaint.text}")

        async def ask(held: frozenset[str]) -> Complaint | None:
            variant = await self._loader.without(material, held)
            if variant is None:
                raise NothingToRunError
            with self._revisions.trying(variant):
                answer = await refused.validate(self._timeout, variant)
            return None if answer is None else said(answer)

        pins = await bisect(self._loader.renewed(material), said(complaint), ask)
        self._loader.pin(pins)
        return pins

    def accuse_in(self, document: str, refused: EpochProcess, complaint: Complaint) -> tuple[Pin, ...]:
        """Pin the groups at fault where a proxy that runs refused what is in a file of resources.

        It validates no such file, so nothing can be asked again. Where it names none, they are all that are new there.
        """
        material = refused.material
        suspects = self._loader.renewed(material)
        pins = _named(suspects, complaint)
        if not pins:
            units = self._loader.units_in(document, material)
            pins = tuple(_pin(unit, complaint) for unit in suspects if unit.name in units)
        self._loader.pin(pins)
        return pins
