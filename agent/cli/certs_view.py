"""Formats the inventory of `agent certs`: findings, then each set, then the other listeners."""

from collections import defaultdict
from datetime import datetime

from agent.cli.certs_files import BundleFile, ChainFile, Inventory, Item, KeyFile, Level
from agent.cli.format import left, moment, plural, second, time_left
from agent.cli.table import Styled, Table, join
from agent.core.expiry import Expiry
from agent.status.model import Facts

_STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.CRITICAL: "red"}
_QUIET = "dim"


def draw(inventory: Inventory, sheet: Table) -> None:
    """Write the inventory."""
    _findings(inventory, sheet)
    for item in inventory.sets:
        _set(item, inventory, sheet)
    _listeners(inventory, sheet)


def _findings(inventory: Inventory, sheet: Table) -> None:
    level = Level(inventory.level)
    if not inventory.findings:
        sheet.say((f"ok: {_all_is_well(inventory)}", "bold green"))
    for number, finding in enumerate(inventory.findings):
        style = _STYLES[finding.level]
        words = (f"{finding.level.name.lower()}: ", f"bold {_STYLES[level]}" if number == 0 else style)
        sheet.say(join([words, f"{finding.about}: {finding.message}"]))


def _all_is_well(inventory: Inventory) -> str:
    """Return the sentence for no findings, and on whose word it is."""
    if not inventory.sets:
        return "no certificate is in use"
    sets = plural(len(inventory.sets), "set")
    if any(item.shown for item in inventory.sets):
        return f"{sets}; the files on disk are served"
    return f"{sets}; the agent reports that the files on disk are served, but no listener has shown a certificate"


def _set(item: Item, inventory: Inventory, sheet: Table) -> None:
    now = inventory.at
    sheet.title(item.name)
    rows: list[tuple[str, Styled]] = []
    if item.disk is not None:
        rows += _identity(item.disk, now)
    if item.served is not None and item.disk != item.served:
        rows.append(("serves", (_brief(item.served, now), "yellow")))
    rows += [("chain", _chain(item.chain))] if item.chain is not None else []
    rows += [("key", _key(item.key))] if item.key is not None else []
    rows += [("bundle", _bundle(bundle, now)) for bundle in item.bundles]
    rows += _shown(item) if inventory.listeners else []
    sheet.table([[(word, _QUIET), value] for word, value in rows])


def _identity(facts: Facts, now: datetime) -> list[tuple[str, Styled]]:
    others = [name for name in facts.names if name != f"URI:{facts.spiffe_id}"]
    rest, style = time_left(facts, now)
    style = "" if facts.expiry(now) is Expiry.FAR else style
    life = f"{second(facts.not_before)} to {second(facts.not_after)}, {rest}"
    rows: list[tuple[str, Styled]] = [("subject", facts.subject or "none")]
    rows += [("names", ", ".join(others))] if others else []
    rows += [("spiffe id", facts.spiffe_id)] if facts.spiffe_id else []
    rows += [("issuer", facts.issuer), ("serial", facts.serial.upper()), ("valid", (life, style))]
    return [*rows, ("key type", facts.key_type)]


def _brief(facts: Facts, now: datetime) -> str:
    return f"serial {facts.serial.upper()}, until {moment(facts.not_after)}, {left(facts.not_after, now)}"


def _chain(file: ChainFile) -> Styled:
    if file.problem:
        return file.problem, "red" if file.unusable else "yellow"
    order = "" if file.in_order else ", out of order"
    return f"{file.path}: {plural(file.certificates, 'certificate')}{order}", "" if file.in_order else "yellow"


def _key(file: KeyFile) -> Styled:
    if file.problem:
        return file.problem, "red" if file.unusable else "yellow"
    return f"{file.path}: {'fits' if file.fits else 'cannot be compared with its certificate'}"


def _bundle(file: BundleFile, now: datetime) -> Styled:
    if file.problem:
        return file.problem, "red" if file.unusable else "yellow"
    count = len(file.certificates)
    ends = min(each.not_after for each in file.certificates)
    word = "1 authority" if count == 1 else f"{count:,} authorities"
    expired = sum(each.not_after < now for each in file.certificates)
    gone = f", {expired:,} expired" if expired else f", {'' if count == 1 else 'the first '}until {moment(ends)}"
    return f"{file.path}: {word}{gone}"


def _shown(item: Item) -> list[tuple[str, Styled]]:
    if item.chain is None:
        return []
    if not item.shown:
        return [("shown by", ("no listener; perhaps the proxy uses it for its own connections", _QUIET))]
    asked: dict[tuple[str, str, bool], list[str]] = defaultdict(list)
    for shown in item.shown:
        is_leaf = item.disk is not None and item.disk.fingerprint == shown.fingerprint
        issuers = " with other issuers" if is_leaf and not shown.matches else ""
        asked[shown.address, f"{shown.serial.upper()}{issuers}", shown.matches].append(shown.name)
    rows: list[tuple[str, Styled]] = []
    for (address, serial, matches), names in asked.items():
        verdict = "the one on disk" if matches else f"serial {serial}, not the one on disk"
        rows.append(("shown by", (f"{address}{_asking(names)}: {verdict}", "green" if matches else "red")))
    return rows


def _asking(names: list[str]) -> str:
    """Return the server names that it was served for, unless it is served without one."""
    return "" if "" in names else f" for {', '.join(names)}"


def _listeners(inventory: Inventory, sheet: Table) -> None:
    quiet = [each for each in inventory.listeners if each.kind != "tls"]
    if quiet or inventory.strangers:
        sheet.title("other listeners")
        rows: list[list[Styled]] = [[each.address, (f"{each.kind}: {each.why}", _QUIET)] for each in quiet]
        rows += [
            [each.address, f"shows {each.leaf.subject}, serial {each.leaf.serial.upper()}, which is in no file here"]
            for each in inventory.strangers
        ]
        sheet.table(rows)
