"""Selects the certificate files to run from, out of those on disk and the last good ones.

Each certificate group is checked by itself (`groups`). A usable group is selected at once; an unusable one keeps its
last good files without blocking the others. Two constraints hold across groups: a file that two groups share has one
content, and a bundle must not lose the authority of a served leaf.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from agent.certificates.contents import Contents
from agent.certificates.findings import Fallback, Fault, FileWarning, Rejection, Unusable
from agent.certificates.groups import CertificateGroup, Pin, judge
from agent.certificates.references import Reference
from agent.certificates.x509 import Bundle, Chain, Leaf

_NONE: Mapping[str, Pin] = {}


@dataclass(frozen=True, slots=True)
class LastGood:
    """The certificate groups of the newest revision that has served; empty before the first.

    An agent that adopts a running epoch rebuilds it by selecting from that epoch's own files against an empty one.
    """

    groups: Mapping[str, CertificateGroup] = field(default_factory=dict)

    @classmethod
    def after(cls, selection: "Selection") -> "LastGood":
        """Return the last good groups after a revision made from `selection` has served."""
        return cls(selection.groups)


@dataclass(frozen=True, slots=True)
class Selection:
    """The selected certificate groups, with rejections and warnings.

    `groups` lacks the groups without usable files, neither new nor last good; `missing` names them. `look_again` is
    the earliest time at which a certificate rejected for its date becomes valid, or a selected one starts to cause a
    warning. `found`: the leaf on disk for each group, selected or not, if one can be parsed.
    """

    groups: Mapping[str, CertificateGroup]
    missing: tuple[str, ...]
    refused: tuple[Rejection, ...]
    cautions: tuple[FileWarning, ...]
    look_again: datetime | None
    found: Mapping[str, Leaf] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(init=False, repr=False, compare=False)
    """The selected bytes by path."""
    leaves: Mapping[str, Leaf] = field(init=False, repr=False, compare=False)
    """The selected leaf by group, for every group with a chain."""

    def __post_init__(self) -> None:
        groups = self.groups
        files = {path: content for group in groups.values() for path, content in group.files.items()}
        leaves = {name: leaf for name, group in groups.items() if (leaf := group.leaf) is not None}
        object.__setattr__(self, "files", files)
        object.__setattr__(self, "leaves", leaves)

    def renewed(self, last_good: LastGood) -> tuple[CertificateGroup, ...]:
        """Return the selected groups that differ from the last good ones."""
        return tuple(group for name, group in self.groups.items() if group is not last_good.groups.get(name))

    @property
    def served_leaves(self) -> list[Leaf]:
        """Every leaf that a process with these files may show: a group can have several."""
        return [chain.leaf for group in self.groups.values() for chain in group.chains]

    @property
    def complete(self) -> bool:
        """Whether every group has files to run from."""
        return not self.missing


def select_files(
    references: Iterable[Reference],
    contents: Contents,
    last_good: LastGood,
    now: datetime,
    pins: Mapping[str, Pin] = _NONE,
) -> Selection:
    """Select for each group of `references` its files in `contents`, or its last good ones.

    `contents` comes from one consistent read and holds every referenced path; `now` is aware. Groups with the last good
    bytes are not parsed. `last_good` is not changed: see `LastGood.after`. `pins`: the groups that the proxy rejected,
    by name.
    """
    scales = _Selection(last_good, now, pins)
    for name, members in _by_unit(references).items():
        scales.put(name, members, contents)
    scales.settle()
    return scales.selection()


def _by_unit(references: Iterable[Reference]) -> dict[str, list[Reference]]:
    groups: defaultdict[str, list[Reference]] = defaultdict(list)
    for reference in dict.fromkeys(references):
        groups[reference.group].append(reference)
    return groups


class _Selection:
    """One selection in progress.

    `_before` is a group's fallback, `_chosen` its selection so far; the same object in both means that the group is
    unchanged or held back.
    """

    def __init__(self, last_good: LastGood, now: datetime, pins: Mapping[str, Pin]) -> None:
        self._served = last_good.groups
        self._pins = pins
        self._now = now
        self._before: dict[str, CertificateGroup | None] = {}
        self._chosen: dict[str, CertificateGroup | None] = {}
        self._refused: list[Rejection] = []
        self._found: dict[str, Leaf] = {}

    def put(self, name: str, members: Sequence[Reference], contents: Contents) -> None:
        served = self._served.get(name)
        judgement = judge(name, members, contents, served, self._now)
        self._before[name] = served.narrowed_to(frozenset(members)) if served else None
        self._chosen[name] = judgement.group
        if judgement.found is not None:
            self._found[name] = judgement.found
        for fault in (*judgement.faults, *self._pinned(judgement.group)):
            self._hold(name, fault)

    def _pinned(self, group: CertificateGroup | None) -> Iterator[Unusable]:
        """Yield the proxy's rejection of these files, unless they serve or are due for a retry."""
        if group is None or (pin := self._pins.get(group.name)) is None or not pin.holds(group):
            return
        served = self._served.get(group.name)
        if group is not served and not pin.is_tried_again(served, self._now):
            yield pin.fault

    def _hold(self, name: str, fault: Unusable) -> None:
        before = self._before[name]
        self._chosen[name] = before
        meanwhile = Fallback.NOTHING if before is None else Fallback.LAST_GOOD
        self._refused.append(Rejection.of(name, fault, meanwhile))

    def settle(self) -> None:
        """Hold groups back until no constraint is violated; each round holds at least one."""
        while broken := dict(self._broken_bonds()):
            for name, fault in broken.items():
                self._hold(name, fault)

    def _broken_bonds(self) -> Iterator[tuple[str, Unusable]]:
        yield from self._torn_files()
        yield from self._lost_authorities()

    def _renewed(self) -> Iterator[CertificateGroup]:
        return (group for name, group in self._chosen.items() if group and group is not self._before[name])

    def _torn_files(self) -> Iterator[tuple[str, Unusable]]:
        kept = {}
        for name, group in self._chosen.items():
            if group and group is self._before[name]:
                kept.update({path: (name, content) for path, content in group.files.items()})
        for group in self._renewed():
            for path, content in group.files.items():
                holder, old = kept.get(path, ("", content))
                if old != content:
                    why = f"{holder} uses it too, and cannot use this version"
                    yield group.name, Unusable(path, Fault.TIED, why, "repair the refused files of that one")

    def _lost_authorities(self) -> Iterator[tuple[str, Unusable]]:
        for group in self._renewed():
            served = self._served.get(group.name)
            olds = {bundle.path: bundle for bundle in served.bundles} if served else {}
            for bundle in group.bundles:
                lost = self._unanchored(olds.get(bundle.path), bundle)
                if lost is not None:
                    why = f"it lacks the authority that issued the leaf in {lost.path} (serial {lost.leaf.serial_hex})"
                    remedy = "restore the authority until that leaf is replaced"
                    yield group.name, Unusable(bundle.path, Fault.LOST_OWN_CA, why, remedy)

    def _unanchored(self, old: Bundle | None, new: Bundle) -> Chain | None:
        """Return a selected chain with an authority in the old bundle but none in the new one."""
        if old is None or set(old.certificates) <= set(new.certificates):
            return None
        chains = (chain for group in self._chosen.values() if group for chain in group.chains)
        own = (chain for chain in chains if old.anchors(chain, self._now))
        return next((chain for chain in own if not new.anchors(chain, self._now)), None)

    def selection(self) -> Selection:
        groups = {name: group for name, group in self._chosen.items() if group}
        return Selection(
            groups=groups,
            missing=tuple(name for name, group in self._chosen.items() if group is None),
            refused=tuple(self._refused),
            cautions=tuple(self._cautions(groups.values())),
            look_again=min(self._turns(groups.values()), default=None),
            found=self._found,
        )

    def _turns(self, groups: Iterable[CertificateGroup]) -> Iterator[datetime]:
        """Yield the times at which the result changes without any change on disk."""
        yield from (each.usable_from for each in self._refused if each.usable_from)
        for leaf in (group.leaf for group in groups if group.leaf is not None):
            yield from (turn for turn in (leaf.old_from, leaf.not_after) if turn > self._now)

    def _cautions(self, groups: Iterable[CertificateGroup]) -> Iterator[FileWarning]:
        for group in groups:
            yield from group.cautions(self._now)
            served = self._served.get(group.name)
            if served:
                yield from group.cautions_after(served)
