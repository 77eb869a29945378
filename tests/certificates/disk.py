"""A simulated disk with certificates, for tests of the certificate selection."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache

from agent.certificates.contents import Unreadable
from agent.certificates.findings import Fault, WarningKind
from agent.certificates.references import Reference, Role
from agent.certificates.selection import LastGood, Selection, select_files
from tests.pki import Authority, Leaf

NOW = datetime(2026, 11, 1, tzinfo=UTC)
DAY = timedelta(days=1)
GONE = Unreadable("it does not exist")
PAIR = (Reference("chain", Role.CHAIN, "a"), Reference("key", Role.KEY, "a"))
BUNDLE = Reference("bundle", Role.BUNDLE, "bundle")


@cache
def root() -> Authority:
    return Authority.create("root")


@cache
def other_root() -> Authority:
    return Authority.create("other root")


def leaf(first_day: int = -10, last_day: int = 100, by: Authority | None = None) -> Leaf:
    """Issue a leaf whose days are relative to NOW."""
    issuer = by or root()
    return issuer.issue(["a.example"], not_before=NOW + first_day * DAY, not_after=NOW + last_day * DAY)


@cache
def old() -> Leaf:
    return leaf(-10, 100)


@cache
def new() -> Leaf:
    return leaf(-1, 109)


@dataclass
class Disk:
    """The files on disk and the last served ones, selected again after each change."""

    references: tuple[Reference, ...] = PAIR
    contents: dict[str, bytes | Unreadable] = field(default_factory=dict)
    last_good: LastGood = field(default_factory=LastGood)
    now: datetime = NOW

    def select(self, **written: bytes | Unreadable) -> Selection:
        self.contents.update(written)
        return select_files(self.references, self.contents, self.last_good, self.now)

    def serve(self, **written: bytes | Unreadable) -> Selection:
        selection = self.select(**written)
        self.last_good = LastGood.after(selection)
        return selection


def serving(pair: Leaf | None = None) -> Disk:
    """Return a disk whose pair has been served."""
    disk = Disk()
    pair = pair or old()
    assert disk.serve(chain=pair.chain_pem, key=pair.key_pem).complete
    return disk


def faults(selection: Selection) -> list[tuple[str, Fault]]:
    return [(refusal.path, refusal.fault) for refusal in selection.refused]


def worries(selection: Selection) -> list[WarningKind]:
    return [caution.worry for caution in selection.cautions]
