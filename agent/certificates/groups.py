"""A certificate group: files that must fit each other and change together, checked as one."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import product

from agent.certificates.contents import Contents, require
from agent.certificates.findings import Fault, FileWarning, Unusable, WarningKind
from agent.certificates.pem import PemFile, parse
from agent.certificates.references import Reference, Role
from agent.certificates.x509 import Bundle, Chain, Key, Leaf, require_fit, require_valid


@dataclass(frozen=True, slots=True)
class CertificateGroup:
    """The usable files of one certificate group, and their parsed content.

    `files` holds exactly the paths of `references`. It alone holds private keys, so it stays out of the repr. Every key
    fits every chain.
    """

    name: str
    references: frozenset[Reference]
    files: Mapping[str, bytes] = field(repr=False)
    chains: tuple[Chain, ...]
    bundles: tuple[Bundle, ...]

    @property
    def leaf(self) -> Leaf | None:
        """The served leaf; None for a group without a chain."""
        return self.chains[0].leaf if self.chains else None

    def narrowed_to(self, references: frozenset[Reference]) -> "CertificateGroup | None":
        """Return the part with these `references`; None if the group lacks some of them."""
        if references == self.references:
            return self
        if not references <= self.references:
            return None
        return CertificateGroup(
            self.name,
            references,
            {reference.path: self.files[reference.path] for reference in references},
            tuple(chain for chain in self.chains if Reference(chain.path, Role.CHAIN, self.name) in references),
            tuple(bundle for bundle in self.bundles if Reference(bundle.path, Role.BUNDLE, self.name) in references),
        )

    def cautions(self, now: datetime) -> Iterator[FileWarning]:
        """Yield warnings about the files of this group."""
        for chain in self.chains:
            yield from _about_chain(self.name, chain, now)
        for bundle in self.bundles:
            yield from _about_bundle(self.name, bundle, now)

    def cautions_after(self, served: "CertificateGroup") -> Iterator[FileWarning]:
        """Yield a warning if the leaf is older than that of the group served so far."""
        if self is served or self.leaf is None or served.leaf is None:
            return
        old, new = served.leaf, self.leaf
        if new.not_before < old.not_before and new.not_after < old.not_after:
            message = f"the leaf in {self.chains[0].path} (serial {new.serial_hex}) is older than the one it replaces"
            message += f" (serial {old.serial_hex}) in both its dates; check whether an old copy was restored"
            yield FileWarning(self.name, self.chains[0].path, WarningKind.OLDER, message)


@dataclass(frozen=True, slots=True)
class Pin:
    """A certificate group that the proxy rejected, so that the same bytes are not tried again.

    `path` is the file at fault, `why` the proxy's message, `since` the time of the rejection.
    """

    group: CertificateGroup
    path: str
    why: str
    since: datetime | None = None

    def holds(self, group: CertificateGroup) -> bool:
        """Whether `group` has the same files and references; any other may be tried."""
        return (group.files, group.references) == (self.group.files, self.group.references)

    def is_tried_again(self, served: CertificateGroup | None, now: datetime) -> bool:
        """Whether the served leaf has come near expiry since: then the proxy may retry the group."""
        if self.since is None or served is None or served.leaf is None:
            return False
        return self.since < served.leaf.old_from <= now

    def lies_in(self, contents: Contents) -> bool:
        """Whether `contents` holds the same bytes."""
        return all(contents.get(path) == content for path, content in self.group.files.items())

    @property
    def fault(self) -> Unusable:
        """The error for a group that is not tried again."""
        return Unusable(self.path, Fault.PROXY, self.why, "write one that the proxy accepts")


@dataclass(frozen=True, slots=True)
class Judgement:
    """The result of `judge`: a usable certificate group, or all its faults.

    `found`: the leaf in its files, usable or not; None if none can be parsed.
    """

    group: CertificateGroup | None
    faults: tuple[Unusable, ...]
    found: Leaf | None


def judge(
    name: str, references: Sequence[Reference], contents: Contents, served: CertificateGroup | None, now: datetime
) -> Judgement:
    """Check the files of one certificate group.

    `contents` holds every path of `references`. If bytes and references equal those of `served`, returns `served`
    without parsing or checking dates. A leaf that is not valid now is a fault only if the served one is valid.
    """
    if served is not None and _unchanged(references, contents, served):
        return Judgement(served, (), served.leaf)
    bench = _GroupBuilder()
    bench.read(references, contents)
    bench.compare()
    if served is not None and served.leaf is not None and served.leaf.valid_at(now):
        bench.ask_dates(now)
    if bench.faults:
        return Judgement(None, tuple(bench.faults), bench.leaf)
    group = CertificateGroup(name, frozenset(references), bench.files, tuple(bench.chains), tuple(bench.bundles))
    return Judgement(group, (), bench.leaf)


def _unchanged(references: Sequence[Reference], contents: Contents, served: CertificateGroup) -> bool:
    same_bytes = all(contents[reference.path] == served.files.get(reference.path) for reference in references)
    return same_bytes and frozenset(references) == served.references


@dataclass(slots=True)
class _GroupBuilder:
    """Parses and compares the files of one group, collecting all faults instead of the first."""

    files: dict[str, bytes] = field(default_factory=dict)
    chains: list[Chain] = field(default_factory=list)
    keys: list[Key] = field(default_factory=list)
    bundles: list[Bundle] = field(default_factory=list)
    faults: list[Unusable] = field(default_factory=list)

    @contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except Unusable as unusable:
            self.faults.append(unusable)

    @property
    def leaf(self) -> Leaf | None:
        return self.chains[0].leaf if self.chains else None

    def read(self, references: Sequence[Reference], contents: Contents) -> None:
        for path in dict.fromkeys(reference.path for reference in references):
            roles = [role for role in Role if any(each.path == path and each.role is role for each in references)]
            with self._noting():
                self.files[path] = require(contents, path)
                self._take(path, roles)

    def _take(self, path: str, roles: list[Role]) -> None:
        if roles == [Role.OTHER]:
            return
        for role in roles:
            with self._noting():
                self._take_as(role, path, parse(path, self.files[path], role))

    def _take_as(self, role: Role, path: str, pem: PemFile) -> None:
        match role:
            case Role.CHAIN:
                self.chains.append(Chain.of(path, pem))
            case Role.KEY:
                self.keys.append(Key.of(path, pem))
            case Role.BUNDLE:
                self.bundles.append(Bundle.of(path, pem))
            case Role.OTHER:
                pass

    def compare(self) -> None:
        for chain, key in product(self.chains, self.keys):
            with self._noting():
                require_fit(chain, key)

    def ask_dates(self, now: datetime) -> None:
        for chain in self.chains:
            with self._noting():
                require_valid(chain, now)


def _about_chain(group: str, chain: Chain, now: datetime) -> Iterator[FileWarning]:
    leaf = chain.leaf
    if chain.in_order and leaf.valid_at(now) and not leaf.soon_to_expire(now):
        return
    named = f"the leaf in {chain.path} (serial {leaf.serial_hex})"
    ends = f"the issuer in {chain.path} ({leaf.ends_by})" if leaf.ends_by else named
    begins = f"the issuer in {chain.path} ({leaf.begins_by})" if leaf.begins_by else named
    if leaf.not_after < now:
        message = f"{ends} expired at {leaf.not_after.isoformat()}; clients refuse it: write a renewed certificate"
        yield FileWarning(group, chain.path, WarningKind.EXPIRED, message)
    elif leaf.not_before > now:
        message = f"{begins} is not valid before {leaf.not_before.isoformat()}; clients refuse it until then"
        yield FileWarning(group, chain.path, WarningKind.NOT_YET_VALID, message)
    elif leaf.soon_to_expire(now):
        message = f"{ends} expires at {leaf.not_after.isoformat()}, in the last tenth of its life; renew it now"
        yield FileWarning(group, chain.path, WarningKind.SOON_TO_EXPIRE, message)
    if not chain.in_order:
        message = f"the certificates in {chain.path} are out of order; put the leaf first and each issuer next"
        yield FileWarning(group, chain.path, WarningKind.CHAIN_ORDER, message)


def _about_bundle(group: str, bundle: Bundle, now: datetime) -> Iterator[FileWarning]:
    expired = bundle.expired(now)
    if expired:
        first = f"serial {expired[0].serial_number:x}, at {expired[0].not_valid_after_utc.isoformat()}"
        message = f"{len(expired)} of {len(bundle.certificates)} authorities in {bundle.path} have expired"
        message += f" (the first: {first}); remove them"
        yield FileWarning(group, bundle.path, WarningKind.EXPIRED_ROOT, message)
