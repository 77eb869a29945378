"""Results of certificate checks: a rejection holds a group back, a warning does not."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Self

from agent.core.errors import BadInput


class Fault(StrEnum):
    """Why a file is rejected: a closed set, usable as a metric label."""

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
        """Whether a write in progress also causes this fault: wait a little before alarming."""
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
    """Why there is a warning about a file: a closed set, usable as a metric label."""

    CHAIN_ORDER = "chain_order"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    SOON_TO_EXPIRE = "soon_to_expire"
    OLDER = "older"
    EXPIRED_ROOT = "expired_root"
    STRAY = "stray"


class Unusable(BadInput):
    """A file cannot be used; `remedy` is the next step.

    `usable_from`: when the file becomes usable without a change, if it does.
    """

    def __init__(self, path: str, fault: Fault, why: str, remedy: str, usable_from: datetime | None = None) -> None:
        super().__init__(f"cannot use {path}: {why}; {remedy}")
        self.path = path
        self.fault = fault
        self.why = why
        self.remedy = remedy
        self.usable_from = usable_from


class Fallback(StrEnum):
    """The substitute until a rejected file is repaired."""

    LAST_GOOD = "the last good files stay in use"
    NOTHING = "no proxy starts without it"
    UNREADY = "no connection is accepted without it"
    OTHERS = "the other certificates are served without it"


@dataclass(frozen=True, slots=True)
class Rejection:
    """A certificate group that is held back because of `path`."""

    group: str
    path: str
    fault: Fault
    why: str
    remedy: str
    meanwhile: Fallback
    usable_from: datetime | None = None

    @classmethod
    def of(cls, group: str, unusable: Unusable, meanwhile: Fallback = Fallback.NOTHING) -> Self:
        """Return the rejection of `group` for a fault in one of its files."""
        fault, why, remedy = unusable.fault, unusable.why, unusable.remedy
        return cls(group, unusable.path, fault, why, remedy, meanwhile, unusable.usable_from)

    @property
    def may_resolve(self) -> bool:
        """Whether the end of a write in progress may resolve this."""
        return self.fault.may_resolve

    @property
    def complaint(self) -> str:
        """The message for the operator: the file, the reason and the remedy."""
        return f"cannot use {self.path}: {self.why}; {self.remedy}"

    @property
    def message(self) -> str:
        """The log message: the complaint and the fallback."""
        return f"{self.complaint}, {self.meanwhile}"


@dataclass(frozen=True, slots=True)
class FileWarning:
    """A warning about a file that is not rejected; `message` is the log message."""

    group: str
    path: str
    worry: WarningKind
    message: str

    @classmethod
    def of(cls, refusal: Rejection) -> Self:
        """Return a warning in place of a rejection, for a file that nothing uses."""
        message = f"{refusal.path} is not used: {refusal.why}; {refusal.remedy}, or remove it"
        return cls(refusal.group, refusal.path, WarningKind.STRAY, message)
