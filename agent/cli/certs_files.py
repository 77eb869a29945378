"""The inventory of `agent certs`: sets on disk, as reported by the agent, as served.

`agent certs --json` prints it as JSON (`agent.status.model.to_json`).
"""

import os
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum

from agent.certificates.contents import Unreadable, require
from agent.certificates.findings import Fault, Unusable
from agent.certificates.pem import parse
from agent.certificates.x509 import Bundle, Chain, Key, Leaf, require_fit
from agent.host.files import read_file
from agent.status.model import CertificateSet, Facts


class Level(IntEnum):
    """Severity, as in the exit codes of monitoring plugins."""

    OK = 0
    WARNING = 1
    CRITICAL = 2


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem for monitoring. `about`: a set's name or a listener's address."""

    level: Level
    about: str
    message: str


@dataclass(frozen=True, slots=True)
class _File:
    """A file on disk. `problem`: why it is unusable or unreadable; empty if neither."""

    path: str
    problem: str = field(default="", kw_only=True)
    readable: bool = field(default=True, kw_only=True)

    @property
    def unusable(self) -> bool:
        """Whether the file itself is at fault."""
        return self.readable and bool(self.problem)


@dataclass(frozen=True, slots=True)
class ChainFile(_File):
    """A certificate chain on disk."""

    certificates: int = 0
    in_order: bool = True
    leaf: Facts | None = None


@dataclass(frozen=True, slots=True)
class KeyFile(_File):
    """A key on disk. `fits`: it belongs to the chain; None if that is unknown."""

    fits: bool | None = None


@dataclass(frozen=True, slots=True)
class BundleFile(_File):
    """A CA bundle on disk, with every certificate in it."""

    certificates: tuple[Facts, ...] = ()


@dataclass(frozen=True, slots=True)
class Shown:
    """A leaf certificate that a listener served to a client asking for `name`.

    `matches`: it is the one on disk, with the same issuers. `serves`: it is the one that the agent reports as serving.
    """

    address: str
    name: str
    fingerprint: str
    serial: str
    matches: bool
    serves: bool


@dataclass(frozen=True, slots=True)
class Item:
    """A certificate set. `disk`: read here, or by the agent if permission is denied here."""

    name: str
    chain: ChainFile | None
    key: KeyFile | None
    bundles: tuple[BundleFile, ...]
    disk: Facts | None
    served: Facts | None
    in_sync: bool
    refused: str
    shown: tuple[Shown, ...]


@dataclass(frozen=True, slots=True)
class Stranger:
    """A served leaf that belongs to no set: from a control plane or a server behind the proxy."""

    address: str
    name: str
    leaf: Facts


@dataclass(frozen=True, slots=True)
class ListenerItem:
    """A listener: its kind, and why it served no certificate."""

    address: str
    kind: str
    why: str


@dataclass(frozen=True, slots=True)
class Inventory:
    """The whole inventory, with the findings, worst first."""

    at: datetime
    level: int
    findings: tuple[Finding, ...]
    sets: tuple[Item, ...]
    listeners: tuple[ListenerItem, ...]
    strangers: tuple[Stranger, ...]


@dataclass(frozen=True, slots=True)
class Files:
    """The current files of a certificate set."""

    chain: ChainFile | None
    key: KeyFile | None
    bundles: tuple[BundleFile, ...]


# Files on disk


def read_files(of: CertificateSet) -> Files:
    """Read the files of a set; the results include their problems."""
    chain_file, loaded = (None, None) if of.chain is None else _read_chain(of.chain)
    key_file = None if of.key is None else _read_key(of.key, loaded)
    return Files(chain_file, key_file, tuple(_read_bundle(each.path) for each in of.bundles))


def _read_chain(path: str) -> tuple[ChainFile, Chain | None]:
    try:
        loaded = Chain.of(path, parse(path, _content(path)))
    except (Unusable, _Unreadable) as error:
        return ChainFile(path, problem=str(error), readable=isinstance(error, Unusable)), None
    return ChainFile(path, len(loaded.certificates), loaded.in_order, Facts.of(loaded.leaf)), loaded


def _read_key(path: str, of: Chain | None) -> KeyFile:
    try:
        key = Key.of(path, parse(path, _content(path)))
        if of is not None:
            require_fit(of, key)
    except (Unusable, _Unreadable) as error:
        known = isinstance(error, Unusable)
        return KeyFile(path, fits=False if known else None, problem=str(error), readable=known)
    return KeyFile(path, fits=None if of is None or key.private.encrypted else True)


def _read_bundle(path: str) -> BundleFile:
    try:
        bundle = Bundle.of(path, parse(path, _content(path)))
        return BundleFile(path, tuple(Facts.of(Leaf.of(each.parsed())) for each in bundle.certificates))
    except (Unusable, _Unreadable) as error:
        return BundleFile(path, problem=str(error), readable=isinstance(error, Unusable))
    except (ValueError, TypeError):
        return BundleFile(path, problem=f"cannot use {path}: a certificate in it does not parse")


class _Unreadable(Exception):
    """This process may not read a file that the agent perhaps can."""


def _content(path: str) -> bytes:
    """Return a file's content.

    Raises `Unusable` if the agent cannot read it either, `_Unreadable` if only this process cannot.
    """
    content = read_file(path)
    if isinstance(content, Unreadable) and content.fault is Fault.UNREADABLE:
        if content.passes:
            message = f"cannot read {path}: {content.reason}; try again"
            raise _Unreadable(message)
        if not os.access(path, os.R_OK, effective_ids=True):
            message = f"cannot read {path}: {content.reason}; run this as root or as the agent's user"
            raise _Unreadable(message)
    return require({path: content}, path)
