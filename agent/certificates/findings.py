"""What the judgement of certificates says: a refusal holds a unit back, a caution lets it through and says why."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Self

from agent.core.errors import BadInput


class Fault(StrEnum):
    """Why a file is refused: a closed set, fit for a metric's label."""

    MISSING = "missing"
    UNREADABLE = "unreadable"
    EMPTY = "empty"
    INCOMPLETE = "incomplete"
    UNPARSABLE = "unparsable"
    MISMATCH = "mismatch"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    LOST_OWN_CA = "lost_own_ca"
    TIED = "tied"
    PROXY = "proxy"

    @property
    def may_resolve(self) -> bool:
        """Whether this is also what a healthy rotation looks like half way: wait a little before raising an alarm."""
        return self in _HALF_WRITTEN


_HALF_WRITTEN = frozenset(
    {
        Fault.MISSING,
        Fault.UNREADABLE,
        Fault.EMPTY,
        Fault.INCOMPLETE,
        Fault.MISMATCH,
        Fault.LOST_OWN_CA,
        Fault.TIED,
    }
)


class WarningKind(StrEnum):
    """Why a file that is used deserves a look: a closed set, fit for a metric's label."""

    CHAIN_ORDER = "chain_order"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    SOON_TO_EXPIRE = "soon_to_expire"
    OLDER = "older"
    EXPIRED_ROOT = "expired_root"
    STRAY = "stray"


class Unusable(BadInput):
    """A file cannot be used; `remedy` is the next step, `usable_from` the moment time alone heals it, if it does."""

    def __init__(self, path: str, fault: Fault, why: str, remedy: str, usable_from: datetime | None = None) -> None:
        super().__init__(f"cannot use {path}: {why}; {remedy}")
        self.path = path
        self.fault = fault
        self.why = why
        self.remedy = remedy
        self.usable_from = usable_from


class Fallback(StrEnum):
    """What happens until a refused file is mended."""

    LAST_GOOD = "the last good files serve on"
    NOTHING = "nothing is started without it"
    OTHERS = "the others are served without it"


@dataclass(frozen=True, slots=True)
class Rejection:
    """A unit is held back because of `path`."""

    unit: str
    path: str
    fault: Fault
    why: str
    remedy: str
    meanwhile: Fallback
    usable_from: datetime | None = None

    @classmethod
    def of(cls, unit: str, unusable: Unusable, meanwhile: Fallback = Fallback.NOTHING) -> Self:
        """Say of `unit` what was found about one of its files."""
        fault, why, remedy = unusable.fault, unusable.why, unusable.remedy
        return cls(unit, unusable.path, fault, why, remedy, meanwhile, unusable.usable_from)

    @property
    def may_resolve(self) -> bool:
        """Whether the rest of a write under way may clear this without anybody's help."""
        return self.fault.may_resolve

    @property
    def complaint(self) -> str:
        """What cannot be used, why, and what to do."""
        return f"cannot use {self.path}: {self.why}; {self.remedy}"

    @property
    def message(self) -> str:
        """The line for the log: the complaint, and what happens until it is heard."""
        return f"{self.complaint}, {self.meanwhile}"


@dataclass(frozen=True, slots=True)
class FileWarning:
    """Something about a file that is no reason to refuse it; `message` is the line for the log."""

    unit: str
    path: str
    worry: WarningKind
    message: str

    @classmethod
    def of(cls, refusal: Rejection) -> Self:
        """Only worry about what could be refused: others are served without it."""
        message = f"nothing uses {refusal.path}: {refusal.why}; {refusal.remedy}, or remove it"
        return cls(refusal.unit, refusal.path, WarningKind.STRAY, message)
