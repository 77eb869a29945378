"""Formats the certificates of `agent status`: the most urgent first, those without trouble together."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from rich.text import Text

from agent.cli.format import left, moment, plural, short
from agent.cli.table import Table, join
from agent.core.expiry import Expiry, expiry
from agent.status.model import Authorities, CertificateSet, Facts

_WORRYING, _QUIET = "yellow", "dim"
EXPIRY_STYLES = {Expiry.FAR: "green", Expiry.SOON: "yellow", Expiry.URGENT: "red", Expiry.ENDED: "red"}
_ORDER = {Expiry.ENDED: 0, Expiry.URGENT: 1, Expiry.SOON: 2, Expiry.FAR: 3}
_FEW = 10  # certificate groups that are listed one by one without --all


def expiry_of(facts: Facts, now: datetime) -> Expiry:
    """Return how near the end of a certificate is."""
    return expiry(facts.not_before, facts.not_after, now)


def by_urgency(sets: Sequence[CertificateSet], now: datetime) -> list[CertificateSet]:
    """Return the certificate groups in the order of their urgency: troubles, then those that end next."""

    def key(each: CertificateSet) -> tuple[bool, int, datetime, str]:
        facts = each.served or each.disk
        if facts is None:
            return each.in_sync, len(_ORDER), now, each.name
        return each.in_sync, _ORDER[expiry_of(facts, now)], facts.not_after, each.name

    return sorted(sets, key=key)


def is_calm(each: CertificateSet, now: datetime) -> bool:
    """Whether a certificate group needs no attention."""
    return each.in_sync and not each.refused and (each.served is None or expiry_of(each.served, now) is Expiry.FAR)


def endings(sets: Sequence[CertificateSet], now: datetime) -> tuple[str, str]:
    """Return a sentence about the served certificates that end soon, and its style; empty if there are none."""
    near = [(facts.not_after, each.name, expiry_of(facts, now)) for each in sets if (facts := each.served) is not None]
    near = sorted(each for each in near if each[2] is not Expiry.FAR)
    if not near:
        return "", ""
    until, name, _ = near[0]
    style = EXPIRY_STYLES[min((each[2] for each in near), key=_ORDER.__getitem__)]
    which = f"the certificate of {name} needs" if len(near) == 1 else f"{len(near):,} certificates need"
    first = "" if len(near) == 1 else f", first that of {name}"
    return f"{which} renewal{first}: {left(until, now)}", style


def draw(sets: Sequence[CertificateSet], now: datetime, sheet: Table, *, whole: bool) -> None:
    """Write the section. `whole`: every group, else no more than ten and a summary of the rest."""
    if not sets:
        return
    sheet.title("certificates")
    ordered = by_urgency(sets, now)
    listed = ordered
    if not whole and len(sets) > _FEW:
        listed = [each for each in ordered if not is_calm(each, now)][:_FEW]
    width = min(24, max((len(each.name) for each in listed), default=0))
    for each in listed:
        sheet.say(_line(each, width, now, sheet), 2, width + 2)
    rest = [each for each in ordered if each not in listed] if len(listed) < len(ordered) else []
    for words, style in _summary(rest, now):
        sheet.say((words, style), 2)


def _summary(rest: Sequence[CertificateSet], now: datetime) -> list[tuple[str, str]]:
    calm = [each for each in rest if is_calm(each, now)]
    told = []
    if len(calm) < len(rest):
        told.append((f"{len(rest) - len(calm):,} more need attention: agent status --all", _WORRYING))
    ends = [(each.served.not_after, each.name) for each in calm if each.served]
    if ends:
        until, name = min(ends)
        verb = "is" if len(calm) == 1 else "are"
        text = f"{plural(len(calm), 'certificate')} {verb} as on disk; the next to end is {name}, {left(until, now)}"
        told.append((f"{text}: agent status --all", ""))
    elif calm:
        told.append((f"{plural(len(calm), 'bundle')} as on disk: agent status --all", ""))
    return told


def _line(each: CertificateSet, width: int, now: datetime, sheet: Table) -> Text:
    line = join([f"{each.name:<{width}}  "])
    if each.served is not None:
        return line.append_text(_served(each, each.served, now, sheet))
    return line.append_text(join([", ".join(map(_bundle, each.bundles)) or "no certificate serves"]))


def _served(each: CertificateSet, facts: Facts, now: datetime, sheet: Table) -> Text:
    life = max(facts.not_after - facts.not_before, timedelta(seconds=1))  # X.509 allows dates that are equal
    near = expiry_of(facts, now)
    style = EXPIRY_STYLES[near]
    bar = sheet.bar((facts.not_after - now) / life, style, 10)
    line = Text().append_text(bar).append("  " if bar else "")
    line.append(left(facts.not_after, now), style=style)
    if near in {Expiry.SOON, Expiry.URGENT}:
        line.append(f" ({near})", style=style)
    line.append_text(join([", ", facts.spiffe_id or facts.subject, (f", serial {short(facts.serial)}", _QUIET)]))
    if not each.in_sync:
        line.append_text(join([(f"; not the one on disk{' (refused)' * bool(each.refused)}", _WORRYING)]))
    return line


def _bundle(bundle: Authorities) -> str:
    count = "1 authority" if bundle.certificates == 1 else f"{bundle.certificates:,} authorities"
    return count if bundle.not_after is None else f"{count}, until {moment(bundle.not_after)}"
