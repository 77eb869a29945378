"""What `agent certs` knows: sets as they lie on the disk, as the agent says they serve, and as listeners show them.

As JSON (`agent.status.model.to_json`) it is what `agent certs --json` prints.
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
    """How bad it is, as monitoring plugins tell it by their exit code."""

    OK = 0
    WARNING = 1
    CRITICAL = 2


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that monitoring should hear of. `about`: a set's name or a listener's address."""

    level: Level
    about: str
    message: str


@dataclass(frozen=True, slots=True)
class _File:
    """A file on the disk. `problem`: why it cannot be used, or why we cannot even read it; empty if neither."""

    path: str
    problem: str = field(default="", kw_only=True)
    readable: bool = field(default=True, kw_only=True)

    @property
    def unusable(self) -> bool:
        """Whether the file itself is to blame."""
        return self.readable and bool(self.problem)


@dataclass(frozen=True, slots=True)
class ChainFile(_File):
    """A chain on the disk."""

    certificates: int = 0
    in_order: bool = True
    leaf: Facts | None = None


@dataclass(frozen=True, slots=True)
class KeyFile(_File):
    """A key on the disk. `fits` is None where that cannot be told."""

    fits: bool | None = None


@dataclass(frozen=True, slots=True)
class BundleFile(_File):
    """A bundle on the disk, with every certificate in it."""

    certificates: tuple[Facts, ...] = ()


@dataclass(frozen=True, slots=True)
class Shown:
    """A leaf that a listener showed to a client that asked for `name`.

    `matches`: it is the one on the disk, with the same issuers. `serves`: it is what the agent says that serves.
    """

    address: str
    name: str
    fingerprint: str
    serial: str
    matches: bool
    serves: bool


@dataclass(frozen=True, slots=True)
class Item:
    """A set. `disk` is what lies there now, read here or, where that is not permitted, by the agent."""

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
    """A leaf shown by a listener that belongs to no set: from a control plane, or of whoever stands behind it."""

    address: str
    name: str
    leaf: Facts


@dataclass(frozen=True, slots=True)
class ListenerItem:
    """A listener: what it is, and why it showed no certificate."""

    address: str
    kind: str
    why: str


@dataclass(frozen=True, slots=True)
class Inventory:
    """All of it, with the findings, worst first."""

    at: datetime
    level: int
    findings: tuple[Finding, ...]
    sets: tuple[Item, ...]
    listeners: tuple[ListenerItem, ...]
    strangers: tuple[Stranger, ...]


@dataclass(frozen=True, slots=True)
class Files:
    """The files of a set, as they are now."""

    chain: ChainFile | None
    key: KeyFile | None
    bundles: tuple[BundleFile, ...]


# The disk


def read_files(of: CertificateSet) -> Files:
    """Look at the files of a set; what is wrong with one is told in it."""
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
        return BundleFile(path, tuple(Facts.of(Leaf.of(each)) for each in bundle.certificates))
    except (Unusable, _Unreadable) as error:
        return BundleFile(path, problem=str(error), readable=isinstance(error, Unusable))
    except (ValueError, TypeError):
        return BundleFile(path, problem=f"cannot use {path}: a certificate in it does not parse")


class _Unreadable(Exception):
    """We may not look into a file."""


def _content(path: str) -> bytes:
    """What a file holds; Unusable where the agent cannot read it either."""
    content = read_file(path)
    if isinstance(content, Unreadable) and content.fault is Fault.UNREADABLE:
        if content.passes:
            message = f"cannot read {path}: {content.reason}; try again"
            raise _Unreadable(message)
        if not os.access(path, os.R_OK, effective_ids=True):
            message = f"cannot read {path}: {content.reason}; ask as root or as the user the agent runs as"
            raise _Unreadable(message)
    return require({path: content}, path)
