"""The certificate transaction: out of what is on disk and what has served, the files to run from.

Each unit is judged by itself (`units`) and goes on at once when it is good; one that is not keeps its last good files
and the others go on without it. Between units there are two bonds: a file that two of them share has one content, and a
bundle must not lose the authority of a leaf that is served.
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
    """The units of the newest revision that has served; empty before the first.

    An agent that adopts a running epoch rebuilds it by weighing that epoch's own files against an empty one.
    """

    units: Mapping[str, CertificateGroup] = field(default_factory=dict)

    @classmethod
    def after(cls, outcome: "Selection") -> "LastGood":
        """Return what is last good once a revision made from `outcome` has served, and not before."""
        return cls(outcome.units)


@dataclass(frozen=True, slots=True)
class Selection:
    """What to run from, and what was found on the way.

    `units` lacks those that have nothing usable, neither new nor last good; `missing` names them. `look_again` is the
    earliest moment at which a certificate that was refused for its date becomes valid, or one that is used gives cause
    for worry. `found`: what leaf lies on the disk for each unit, used or not, where one can be read.
    """

    units: Mapping[str, CertificateGroup]
    missing: tuple[str, ...]
    refused: tuple[Rejection, ...]
    cautions: tuple[FileWarning, ...]
    look_again: datetime | None
    found: Mapping[str, Leaf] = field(default_factory=dict)

    def renewed(self, last_good: LastGood) -> tuple[CertificateGroup, ...]:
        """The units that are not what has served, and that could be held back."""
        return tuple(unit for name, unit in self.units.items() if unit is not last_good.units.get(name))

    @property
    def complete(self) -> bool:
        """Whether every unit has files to run from."""
        return not self.missing

    @property
    def files(self) -> dict[str, bytes]:
        """Path to the bytes to run from, for every unit that has some."""
        return {path: content for unit in self.units.values() for path, content in unit.files.items()}

    @property
    def leaves(self) -> dict[str, Leaf]:
        """Unit to the facts of the leaf that it runs from, for every unit with a chain."""
        return {name: unit.leaf for name, unit in self.units.items() if unit.leaf is not None}


def select_files(
    references: Iterable[Reference],
    contents: Contents,
    last_good: LastGood,
    now: datetime,
    pins: Mapping[str, Pin] = _NONE,
) -> Selection:
    """Choose for each unit of `references` the files in `contents` or the last good ones.

    `contents` comes from one consistent look and holds every referenced path; `now` is aware. Nothing is parsed of a
    unit whose bytes are the last good ones. `last_good` stays what it is: see `LastGood.after`. `pins`: what the proxy
    refused, by unit.
    """
    scales = _Selection(last_good, now, pins)
    for name, members in _by_unit(references).items():
        scales.put(name, members, contents)
    scales.settle()
    return scales.outcome()


def _by_unit(references: Iterable[Reference]) -> dict[str, list[Reference]]:
    units: defaultdict[str, list[Reference]] = defaultdict(list)
    for reference in dict.fromkeys(references):
        units[reference.unit].append(reference)
    return units


class _Selection:
    """One weighing under way.

    `_before` is what a unit falls back on, `_chosen` what it runs from as far as is known; the same object in both is a
    unit that is unchanged or held back.
    """

    def __init__(self, last_good: LastGood, now: datetime, pins: Mapping[str, Pin]) -> None:
        self._served = last_good.units
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
        self._chosen[name] = judgement.unit
        if judgement.found is not None:
            self._found[name] = judgement.found
        for fault in (*judgement.faults, *self._pinned(judgement.unit)):
            self._hold(name, fault)

    def _pinned(self, unit: CertificateGroup | None) -> Iterator[Unusable]:
        """Say what the proxy has against these very files, unless they serve."""
        if unit is None or (pin := self._pins.get(unit.name)) is None or not pin.holds(unit):
            return
        served = self._served.get(unit.name)
        if unit is not served and not pin.is_tried_again(served, self._now):
            yield pin.fault

    def _hold(self, name: str, fault: Unusable) -> None:
        before = self._before[name]
        self._chosen[name] = before
        meanwhile = Fallback.NOTHING if before is None else Fallback.LAST_GOOD
        self._refused.append(Rejection.of(name, fault, meanwhile))

    def settle(self) -> None:
        """Hold units back until no bond between them is broken; each round holds at least one, so it ends."""
        while broken := dict(self._broken_bonds()):
            for name, fault in broken.items():
                self._hold(name, fault)

    def _broken_bonds(self) -> Iterator[tuple[str, Unusable]]:
        yield from self._torn_files()
        yield from self._lost_authorities()

    def _renewed(self) -> Iterator[CertificateGroup]:
        return (unit for name, unit in self._chosen.items() if unit and unit is not self._before[name])

    def _torn_files(self) -> Iterator[tuple[str, Unusable]]:
        kept = {}
        for name, unit in self._chosen.items():
            if unit and unit is self._before[name]:
                kept.update({path: (name, content) for path, content in unit.files.items()})
        for unit in self._renewed():
            for path, content in unit.files.items():
                holder, old = kept.get(path, ("", content))
                if old != content:
                    why = f"it is used by {holder} too, which cannot take it"
                    yield unit.name, Unusable(path, Fault.TIED, why, "repair what was refused there")

    def _lost_authorities(self) -> Iterator[tuple[str, Unusable]]:
        for unit in self._renewed():
            served = self._served.get(unit.name)
            olds = {bundle.path: bundle for bundle in served.bundles} if served else {}
            for bundle in unit.bundles:
                lost = self._unanchored(olds.get(bundle.path), bundle)
                if lost is not None:
                    why = f"it lost the authority that issued the leaf in {lost.path} (serial {lost.leaf.serial_hex})"
                    remedy = "put the authority back until that leaf is replaced"
                    yield unit.name, Unusable(bundle.path, Fault.LOST_OWN_CA, why, remedy)

    def _unanchored(self, old: Bundle | None, new: Bundle) -> Chain | None:
        """Return a chain to be served whose authority was in the old bundle and is not in the new one."""
        if old is None or set(old.certificates) <= set(new.certificates):
            return None
        chains = (chain for unit in self._chosen.values() if unit for chain in unit.chains)
        own = (chain for chain in chains if old.anchors(chain, self._now))
        return next((chain for chain in own if not new.anchors(chain, self._now)), None)

    def outcome(self) -> Selection:
        units = {name: unit for name, unit in self._chosen.items() if unit}
        return Selection(
            units=units,
            missing=tuple(name for name, unit in self._chosen.items() if unit is None),
            refused=tuple(self._refused),
            cautions=tuple(self._cautions(units.values())),
            look_again=min(self._turns(units.values()), default=None),
            found=self._found,
        )

    def _turns(self, units: Iterable[CertificateGroup]) -> Iterator[datetime]:
        """When time alone changes the judgement."""
        yield from (each.usable_from for each in self._refused if each.usable_from)
        for leaf in (unit.leaf for unit in units if unit.leaf is not None):
            yield from (turn for turn in (leaf.old_from, leaf.not_after) if turn > self._now)

    def _cautions(self, units: Iterable[CertificateGroup]) -> Iterator[FileWarning]:
        for unit in units:
            yield from unit.cautions(self._now)
            served = self._served.get(unit.name)
            if served:
                yield from unit.cautions_after(served)
