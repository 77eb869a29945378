"""Formats the certificates of `agent status`: the most urgent first, those without trouble together."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from rich.text import Text

from agent.cli.format import EXPIRY_STYLES, left, moment, plural, short, time_left
from agent.cli.table import Table, join
from agent.core.expiry import Expiry
from agent.status.model import Authorities, CertificateSet, Facts

_WORRYING, _QUIET = "yellow", "dim"
_ORDER = {Expiry.ENDED: 0, Expiry.URGENT: 1, Expiry.SOON: 2, Expiry.FAR: 3}
_FEW = 10  # certificate groups that are listed one by one without --all


def by_urgency(sets: Sequence[CertificateSet], now: datetime) -> list[CertificateSet]:
    """Return the certificate groups in the order of their urgency: troubles, then those that end next."""

    def key(each: CertificateSet) -> tuple[bool, int, datetime, str]:
        facts = each.served or each.disk
        if facts is None:
            return each.in_sync, len(_ORDER), now, each.name
        return each.in_sync, _ORDER[facts.expiry(now)], facts.not_after, each.name

    return sorted(sets, key=key)


def _is_calm(each: CertificateSet, now: datetime) -> bool:
    """Whether a certificate group needs no attention."""
    return each.in_sync and not each.refused and (each.served is None or each.served.expiry(now) is Expiry.FAR)


def endings(sets: Sequence[CertificateSet], now: datetime) -> tuple[str, str]:
    """Return a sentence about the served certificates that end soon, and its style; empty if there are none."""
    near = [(facts.not_after, each.name, facts.expiry(now)) for each in sets if (facts := each.served) is not None]
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
    listed, calm = ordered, list[CertificateSet]()
    if not whole and len(sets) > _FEW:
        calm = [each for each in ordered if _is_calm(each, now)]
        listed = [each for each in ordered if not _is_calm(each, now)][:_FEW]
    width = min(24, max((len(each.name) for each in listed), default=0))
    for each in listed:
        sheet.say(_line(each, width, now, sheet), 2, width + 2)
    if hidden := len(ordered) - len(listed) - len(calm):
        sheet.say((f"{hidden:,} more need attention: agent status --all", _WORRYING), 2)
    if calm:
        sheet.say(f"{_summary(calm, now)}: agent status --all", 2)


def _summary(calm: Sequence[CertificateSet], now: datetime) -> str:
    ends = [(each.served.not_after, each.name) for each in calm if each.served]
    if not ends:
        return f"{plural(len(calm), 'bundle')} as on disk"
    until, name = min(ends)
    verb = "is" if len(calm) == 1 else "are"
    return f"{plural(len(calm), 'certificate')} {verb} as on disk; the next to end is {name}, {left(until, now)}"


def _line(each: CertificateSet, width: int, now: datetime, sheet: Table) -> Text:
    line = join([f"{each.name:<{width}}  "])
    if each.served is not None:
        return line.append_text(_served(each, each.served, now, sheet))
    return line.append_text(join([", ".join(map(_bundle, each.bundles)) or "no certificate serves"]))


def _served(each: CertificateSet, facts: Facts, now: datetime, sheet: Table) -> Text:
    life = max(facts.not_after - facts.not_before, timedelta(seconds=1))  # X.509 allows dates that are equal
    words, style = time_left(facts, now)
    bar = sheet.bar((facts.not_after - now) / life, style, 10)
    line = Text().append_text(bar).append("  " if bar else "").append(words, style=style)
    line.append_text(join([", ", facts.spiffe_id or facts.subject, (f", serial {short(facts.serial)}", _QUIET)]))
    if not each.in_sync:
        line.append_text(join([(f"; not the one on disk{' (refused)' * bool(each.refused)}", _WORRYING)]))
    return line


def _bundle(bundle: Authorities) -> str:
    count = "1 authority" if bundle.certificates == 1 else f"{bundle.certificates:,} authorities"
    return count if bundle.not_after is None else f"{count}, until {moment(bundle.not_after)}"
