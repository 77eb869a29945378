"""Finds the certificate groups for which a proxy rejects a revision, so that others rotate.

A complaint that names a file identifies its group. Otherwise the proxy validates variants in which some of the new
groups are held back: groups that it accepts together are cleared, and rejected ones are halved until single groups
remain. No epoch is started for this, and no client is affected.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

from agent.certificates.groups import CertificateGroup, Pin
from agent.inputs.loader import Loader
from agent.inputs.revisions import LoadedRevision, RevisionStore
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
    search = _Search(ask, frozenset(group.name for group in suspects))
    try:
        if await ask(search.uncleared) is not None:
            return ()
        await search.among(suspects)
    except NothingToRunError:
        return ()
    return tuple(search.found)


def _named(suspects: Collection[CertificateGroup], complaint: Complaint) -> tuple[Pin, ...]:
    """Return the groups with a file that the complaint names, or with the same bytes elsewhere."""
    contents = {group.files[path]: path for path in complaint.paths for group in suspects if path in group.files}
    return tuple(
        _pin(group, complaint, next(path for path, content in group.files.items() if content in contents))
        for group in suspects
        if not contents.keys().isdisjoint(group.files.values())
    )


@dataclass(slots=True)
class _Search:
    """One search in progress. `uncleared`: the groups that are held back unless being tested."""

    ask: Ask
    uncleared: frozenset[str]
    found: list[Pin] = field(default_factory=list)

    async def among(self, groups: Sequence[CertificateGroup]) -> None:
        """Clear these groups, or find those at fault among them."""
        names = frozenset(group.name for group in groups)
        complaint = await self.ask(self.uncleared - names)
        if complaint is None:
            self.uncleared -= names
        elif len(groups) == 1:
            self.found.append(_pin(groups[0], complaint))
        elif named := _named(groups, complaint):
            self.found += named
            culprits = {pin.group.name for pin in named}
            if rest := [group for group in groups if group.name not in culprits]:
                await self.among(rest)
        else:
            half = len(groups) // 2
            await self.among(groups[:half])
            await self.among(groups[half:])


def _pin(group: CertificateGroup, complaint: Complaint, path: str | None = None) -> Pin:
    """Pin a group at one of its files: `path`, or else its chain, or else its first file."""
    first = group.chains[0].path if group.chains else min(group.files)
    return Pin(group, path or first, complaint.text)


class Bisection:
    """Pins the certificate groups at fault when a proxy rejected an epoch's revision."""

    def __init__(self, settings: Settings, loader: Loader, revisions: RevisionStore) -> None:
        self._timeout = settings.policy.start_timeout
        self._loader = loader
        self._revisions = revisions

    async def accuse(
        self, refused: EpochProcess, complaint: Complaint, pushed: LoadedRevision | None = None
    ) -> tuple[Pin, ...]:
        """Pin the groups at fault, if any, in its revision or in the one `pushed` into it.

        Raises `MachineError` if the proxy does not respond.
        """
        loaded = pushed or refused.loaded
        program = loaded.program.binary.path.name

        def said(complaint: Complaint) -> Complaint:
            return replace(complaint, text=f"{program} reports: {complaint.text}")

        async def ask(held: frozenset[str]) -> Complaint | None:
            variant = await self._loader.without(loaded, held)
            if variant is None:
                raise NothingToRunError
            with self._revisions.trying(variant):
                answer = await refused.validate(self._timeout, variant)
            return None if answer is None else said(answer)

        pins = await bisect(self._loader.renewed(loaded), said(complaint), ask)
        self._loader.pin(pins)
        return pins

    async def accuse_delivered(self, epoch: EpochProcess, loaded: LoadedRevision) -> tuple[str, tuple[Pin, ...]]:
        """Pin the groups for which a running proxy refuses what was delivered to it; return its reason as well.

        A proxy gives no reason for a secret, so then it validates the configuration. Raises `MachineError`.
        """
        kind, paths = loaded.program.kind, epoch.paths
        said = [kind.rejection(text, paths) for text in await epoch.admin.rejections()]
        complaint = Complaint("; ".join(each.text for each in said), frozenset().union(*(each.paths for each in said)))
        if not complaint.paths:
            complaint = await epoch.validate(self._timeout, loaded) or complaint
        return complaint.text or "see its log", await self.accuse(epoch, complaint, loaded)

    def accuse_in(self, document: str, refused: EpochProcess, complaint: Complaint) -> tuple[Pin, ...]:
        """Pin the groups at fault when a running proxy rejected a resource file.

        A proxy cannot validate resource files, so bisection is impossible: if the complaint names no group, all new
        groups of that file are pinned.
        """
        loaded = refused.loaded
        suspects = self._loader.renewed(loaded)
        pins = _named(suspects, complaint)
        if not pins:
            groups = self._loader.groups_in(document, loaded)
            pins = tuple(_pin(group, complaint) for group in suspects if group.name in groups)
        self._loader.pin(pins)
        return pins
