"""Compares an inventory: which listener serves which set, and what monitoring should report.

A listener may serve an older certificate than the one on disk if the agent gives a reason: the new one is refused or
scheduled for later. Without a reason it is critical, since nothing else would report it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from agent.cli.certs_files import Files, Finding, Inventory, Item, Level, ListenerItem, Shown, Stranger
from agent.cli.certs_listeners import Kind, Listener
from agent.cli.format import left, moment
from agent.status.model import CertificateSet, Facts, Status

_SHARE = 10  # without --min-days: warn when less than 1/_SHARE of the whole life is left


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A leaf certificate as a listener served it."""

    address: str
    name: str
    facts: Facts


def compare(
    overview: Status, files: Mapping[str, Files], listeners: Sequence[Listener], least: timedelta | None
) -> Inventory:
    """Combine status, files and listeners. `least`: minimum life left; None: a tenth of it all."""
    leaves = [_Leaf(each.address, one.name, Facts.of(one.leaf)) for each in listeners for one in each.answers]
    items = tuple(_item(each, files[each.name]) for each in overview.certificates)
    owners = [_owner(items, leaf) for leaf in leaves]
    items = tuple(replace(item, shown=_shown(item, leaves, owners)) for item in items)
    strangers = [leaf for leaf, owner in zip(leaves, owners, strict=True) if owner is None]
    found = [*_findings(overview, items, listeners, least), *_of_strangers(strangers, overview.at)]
    findings = sorted(found, key=lambda each: -each.level)
    return Inventory(
        overview.at,
        int(max((each.level for each in findings), default=Level.OK)),
        tuple(findings),
        items,
        tuple(ListenerItem(each.address, each.kind, each.why) for each in listeners),
        tuple(Stranger(leaf.address, leaf.name, leaf.facts) for leaf in strangers),
    )


def _item(of: CertificateSet, files: Files) -> Item:
    read_here = files.chain is not None and files.chain.readable
    disk = files.chain.leaf if files.chain is not None and read_here else of.disk
    return Item(of.name, files.chain, files.key, files.bundles, disk, of.served, of.in_sync, of.refused, ())


# Ownership of served certificates


def _owner(items: Sequence[Item], leaf: _Leaf) -> str | None:
    """Return the set that has this leaf, else the first set that shares a name with it."""
    for item in items:
        if leaf.facts.fingerprint in _fingerprints(item):
            return item.name
    return next((item.name for item in items if _names(item) & set(leaf.facts.names)), None)


def _fingerprints(item: Item) -> set[str]:
    return {facts.fingerprint for facts in (item.disk, item.served) if facts is not None}


def _names(item: Item) -> set[str]:
    return {name for facts in (item.disk, item.served) if facts is not None for name in facts.names}


def _shown(item: Item, leaves: Sequence[_Leaf], owners: Sequence[str | None]) -> tuple[Shown, ...]:
    own = (leaf for leaf, owner in zip(leaves, owners, strict=True) if owner == item.name)
    return tuple(
        Shown(
            leaf.address,
            leaf.name,
            leaf.facts.fingerprint,
            leaf.facts.serial,
            _is(leaf.facts, item.disk),
            _is(leaf.facts, item.served),
        )
        for leaf in own
    )


def _is(shown: Facts, known: Facts | None) -> bool:
    """Return whether both are the same chain; a server may add further issuers."""
    if known is None or shown.fingerprint != known.fingerprint:
        return False
    return shown.issuers[: len(known.issuers)] == known.issuers


# Findings


def _findings(
    overview: Status, items: Sequence[Item], listeners: Sequence[Listener], least: timedelta | None
) -> Iterator[Finding]:
    for item in items:
        yield from _of_life(item, overview.at, least)
        yield from _of_files(item)
        yield from _of_what_is_shown(item, overview)
    for listener in listeners:
        if listener.kind == Kind.UNREACHABLE or (listener.kind == Kind.SILENT and overview.hung):
            yield Finding(Level.CRITICAL, listener.address, listener.why)


def _of_life(item: Item, now: datetime, least: timedelta | None) -> Iterator[Finding]:
    facts = item.served or item.disk
    if facts is None:
        return
    wanted = (facts.not_after - facts.not_before) / _SHARE if least is None else least
    ends = f"serial {facts.serial} {'ended' if facts.not_after < now else 'ends'} {moment(facts.not_after)}"
    if facts.not_before > now:
        message = f"the certificate is not valid yet: serial {facts.serial} begins {moment(facts.not_before)}"
        yield Finding(Level.CRITICAL, item.name, message)
    elif facts.not_after < now:
        yield Finding(Level.CRITICAL, item.name, f"the certificate has expired: {ends}")
    elif facts.not_after - now < wanted:
        yield Finding(Level.WARNING, item.name, f"{left(facts.not_after, now)}: {ends}")


def _of_strangers(strangers: Iterable[_Leaf], now: datetime) -> Iterator[Finding]:
    """Report expired certificates of no set: from a control plane, but clients refuse them too."""
    ended = {(each.address, each.facts.serial): each.facts for each in strangers if each.facts.not_after < now}
    for (address, serial), facts in ended.items():
        yield Finding(Level.CRITICAL, address, f"shows serial {serial}, which ended {moment(facts.not_after)}")


def _of_files(item: Item) -> Iterator[Finding]:
    """Report unusable files on disk, even if what serves is good."""
    if item.refused:
        yield Finding(Level.WARNING, item.name, item.refused)
        return
    problems = [file.problem for file in (item.chain, item.key) if file is not None and file.unusable]
    problems += [bundle.problem for bundle in item.bundles if bundle.unusable]
    yield from (Finding(Level.WARNING, item.name, problem) for problem in problems)


def _of_what_is_shown(item: Item, overview: Status) -> Iterator[Finding]:
    behind = [shown for shown in item.shown if not shown.matches]
    reason = item.refused or _reason(overview)
    for shown in {(each.address, each.serial): each for each in behind}.values():
        if not shown.serves:
            message = f"{shown.address} shows {_name(shown, item.served)}, the agent reports that {_told(item)} serves"
            yield Finding(Level.CRITICAL, item.name, message)
        elif not reason:
            message = f"{shown.address} shows {_name(shown, item.disk)}, which is not on disk; reason unknown"
            yield Finding(Level.CRITICAL, item.name, message)
    if (behind or not item.in_sync) and reason and not item.refused:
        yield Finding(Level.WARNING, item.name, f"the files on disk are not served yet: {reason}")
    elif not behind and not item.in_sync and not reason:
        yield Finding(Level.WARNING, item.name, "the files on disk are not served; reason unknown")


def _name(shown: Shown, known: Facts | None) -> str:
    """Name a served certificate for comparison: the leaf may be the same with other issuers."""
    is_same_leaf = known is not None and shown.fingerprint == known.fingerprint
    return f"serial {shown.serial}{' with other issuers' if is_same_leaf else ''}"


def _told(item: Item) -> str:
    return "nothing" if item.served is None else f"serial {item.served.serial}"


def _reason(overview: Status) -> str:
    """Return the agent's reason why files on disk do not serve yet; empty if it gives none."""
    if overview.blocked:
        return ", ".join(each.replace("_", " ") for each in overview.blocked)
    return "a new epoch is starting" if any(each.state == "candidate" for each in overview.epochs) else ""
