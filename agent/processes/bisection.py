"""Finds the certificate groups for which a proxy rejects a revision, so that others rotate.

A complaint that names a file identifies its group. Otherwise the proxy validates variants in which some of the new
groups are held back: groups that it accepts together are cleared, and rejected ones are halved until single groups
remain. No epoch is started for this, and no client is affected.
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
"""Validates the revision with these groups held back; may raise `NothingToRunError`."""


class NothingToRunError(Exception):
    """A certificate group cannot be held back: without it, there is no revision to run."""


async def bisect(suspects: Sequence[CertificateGroup], complaint: Complaint, ask: Ask) -> tuple[Pin, ...]:
    """Return the groups at fault among `suspects`, the new ones.

    Returns none if the proxy rejects the revision even without them. `complaint` is about all of them together.
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
    """Return the groups with a file that the complaint names, or with the same bytes elsewhere."""
    contents = {unit.files[path]: path for path in complaint.paths for unit in suspects if path in unit.files}
    return tuple(
        _pin(unit, complaint, next(path for path, content in unit.files.items() if content in contents))
        for unit in suspects
        if not contents.keys().isdisjoint(unit.files.values())
    )


@dataclass(slots=True)
class _Search:
    """One search in progress. `uncleared`: the groups that are held back unless being tested."""

    ask: Ask
    uncleared: frozenset[str]
    found: list[Pin] = field(default_factory=list)

    async def among(self, units: Sequence[CertificateGroup]) -> None:
        """Clear these groups, or find those at fault among them."""
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
    """Pin a group at one of its files: `path`, or else its chain, or else its first file."""
    first = unit.chains[0].path if unit.chains else min(unit.files)
    return Pin(unit, path or first, complaint.text)


class Bisection:
    """Pins the certificate groups at fault when a proxy rejected an epoch's revision."""

    def __init__(self, settings: Settings, loader: Loader, revisions: RevisionStore) -> None:
        self._timeout = settings.policy.start_timeout
        self._loader = loader
        self._revisions = revisions

    async def accuse(self, refused: EpochProcess, complaint: Complaint) -> tuple[Pin, ...]:
        """Pin the groups at fault, if any. Raises `MachineError` if the proxy does not respond."""
        material = refused.material

        program = material.program.binary.path.name

        def said(complaint: Complaint) -> Complaint:
            return replace(complaint, text=f"{program} reports: {complaint.text}")

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
        """Pin the groups at fault when a running proxy rejected a resource file.

        A proxy cannot validate resource files, so bisection is impossible: if the complaint names no group, all new
        groups of that file are pinned.
        """
        material = refused.material
        suspects = self._loader.renewed(material)
        pins = _named(suspects, complaint)
        if not pins:
            units = self._loader.units_in(document, material)
            pins = tuple(_pin(unit, complaint) for unit in suspects if unit.name in units)
        self._loader.pin(pins)
        return pins
