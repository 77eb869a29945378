"""Formats the output of `agent status`: the answer, then problems with reasons, the rest."""

from datetime import datetime

from rich.text import Text

from agent.cli import status_certificates
from agent.cli.format import left, moment, plural, recent, second, short, size, span
from agent.cli.table import Styled, Table, join
from agent.status.model import AttemptView, CertificateSet, End, EpochView, Facts, RejectedFile, Status

GOOD, BAD, WORRYING, BUSY, QUIET = "green", "red", "yellow", "cyan", "dim"
OUTCOMES = {
    "serving": GOOD,
    "succeeded": GOOD,
    "running": BUSY,
    "crashed": BAD,
    "refused": BAD,
    "failed": BAD,
    "short": WORRYING,
    "superseded": QUIET,
}
_STATES = {"candidate": BUSY, "serving": GOOD, "draining": WORRYING}
_STAGES = {"waiting": "at the gate"}
_SHOWN_ROTATIONS, _SHOWN_REFUSALS, _SHOWN_LISTENERS, _SHOWN_CHANGES = 5, 5, 10, 3
_REASONS = {
    "missing": "a file is missing",
    "unreadable": "a file cannot be read",
    "empty": "a file is empty",
    "incomplete": "a file is incomplete",
    "unparsable": "it cannot be read as PEM",
    "mismatch": "certificate and key do not belong together",
    "expired": "the certificate has expired",
    "not_yet_valid": "the certificate is not valid yet",
    "lost_own_ca": "the bundle lacks the authority of the served certificate",
    "tied": "it is shared with files that are refused",
    "configuration": "the configuration cannot be used",
    "program": "the proxy's program cannot be used",
    "proxy": "the proxy refuses it",
}
_WAITS = {
    "refused_files": "for a file to be written again",
    "refused_configuration": "for the configuration to be corrected",
    "refused_program": "for another program: this one is refused",
    "refused_by_proxy": "for other files, since the proxy refuses these; agent restart --force tries them again",
    "retry": "to try again after an attempt that failed",
    "drains": "for a draining epoch to end, as long as --drain-time; agent restart --now does not wait",
    "memory": "for memory: there is not enough for a second epoch beside the one that serves",
    "paused": "for the end of a pause; agent resume ends it",
    "window": "for the time of day at which it may rotate (--rotate-window)",
    "jitter": "for its turn, so that a fleet does not rotate all at once",
}
_HELD_BACK = {"refused_files", "refused_configuration", "refused_program"}


def answer(overview: Status) -> str:
    """Return the state as a sentence that does not change with time alone."""
    if not overview.ready:
        return f"not ready: {overview.reason or 'no reason given'}"
    ends = _end(overview)
    until = "" if ends is None else f", certificate until {moment(ends)}"
    refused = f"; {plural(len(overview.refused), 'file')} refused" if overview.refused else ""
    hung = "; the proxy is hung" if overview.hung else ""
    return f"ready: epoch {overview.epoch} serves{until}{refused}{hung}"


def _headline(overview: Status) -> str:
    """Return that sentence with the time left, without what the next lines contain."""
    ends = _end(overview)
    until = "" if ends is None else f", certificate until {moment(ends)} ({left(ends, overview.at)})"
    return f"ready: epoch {overview.epoch} serves{until}" if overview.ready else answer(overview)


def _end(overview: Status) -> datetime | None:
    """Return when the first of the served certificates expires."""
    return min((each.served.not_after for each in overview.certificates if each.served), default=None)


def draw(overview: Status, sheet: Table, *, whole: bool = False) -> None:
    """Write the status. `whole`: every certificate, refusal and listener, however many there are."""
    worried = overview.refused or overview.hung or overview.out_of_sync_since
    shown = BAD if not overview.ready or overview.crash_loop else WORRYING if worried else GOOD
    sheet.say((_headline(overview), f"bold {shown}"))
    _worries(overview, sheet)
    _refused(overview, sheet, whole=whole)
    _waits(overview, sheet)
    _epochs(overview, sheet)
    status_certificates.draw(overview.certificates, overview.at, sheet, whole=whole)
    _listeners(overview, sheet, whole=whole)
    _rotations(overview, sheet)
    _agent(overview, sheet)


def _worries(overview: Status, sheet: Table) -> None:
    if overview.hung:
        sheet.say(("the serving proxy hangs: it accepts no connections, and clients wait", BAD))
    if overview.crash_loop:
        sheet.say((_crashes(overview), BAD))
    if overview.refused:
        sheet.say((f"{plural(len(overview.refused), 'file')} refused, see below", WORRYING))
    if overview.out_of_sync_since is not None and overview.epoch is not None:
        since = span(overview.at - overview.out_of_sync_since)
        sheet.say((f"the files on disk have not been served for {since}", WORRYING))
    words, style = status_certificates.endings(overview.certificates, overview.at)
    if words:
        sheet.say((words, style))


def _crashes(overview: Status) -> str:
    crashes = overview.crashes
    last = crashes[0]
    assert last.end is not None
    ago = span(overview.at - last.end.at)
    return f"{len(crashes)} crashes in the last hour, the last one {ago} ago: epoch {last.epoch} {crash(last.end)}"


# Refusals


def _refused(overview: Status, sheet: Table, *, whole: bool) -> None:
    if not overview.refused:
        return
    sheet.title("refused")
    listed = overview.refused if whole else overview.refused[:_SHOWN_REFUSALS]
    for refused in listed:
        concerned = next((each for each in overview.certificates if _concerns(refused, each)), None)
        sheet.say(_name(refused, concerned), indent=2)
        sheet.say(refused.message, indent=4, hang=0)
        if concerned is not None and concerned.chain is not None:
            sheet.table(_beside(concerned, overview.at), indent=4)
    if len(listed) < len(overview.refused):
        sheet.say((f"and {plural(len(overview.refused) - len(listed), 'more file')}: agent status --all", WORRYING), 2)


def _concerns(refused: RejectedFile, certificates: CertificateSet) -> bool:
    paths = {certificates.chain, certificates.key, *(each.path for each in certificates.bundles)}
    return refused.set == certificates.name or refused.path in paths


def _name(refused: RejectedFile, concerned: CertificateSet | None) -> Text:
    name = refused.set or refused.path if concerned is None else concerned.name
    reason = _REASONS.get(refused.reason, refused.reason.replace("_", " "))
    return join([(f"{name}: ", "bold"), (reason, BAD)])


def _beside(concerned: CertificateSet, now: datetime) -> list[list[Styled]]:
    """Return two rows: the served certificate, and the one on disk."""
    pair = (("serves", concerned.served), ("on disk", concerned.disk))
    return [
        [(word, QUIET), "no usable certificate" if facts is None else _identity(facts, now)] for word, facts in pair
    ]


def _identity(facts: Facts, now: datetime) -> str:
    return f"serial {short(facts.serial)}, until {moment(facts.not_after)}, {left(facts.not_after, now)}"


def _waits(overview: Status, sheet: Table) -> None:
    if not overview.blocked:
        return
    sheet.title("the agent waits")
    for blocked in overview.blocked:
        sheet.say(_WAITS.get(blocked, str(blocked)) + _detail(overview, blocked), indent=2)


def _detail(overview: Status, blocked: str) -> str:
    if blocked == "paused" and overview.paused_until is not None:
        return f", {second(overview.paused_until)} at the latest"
    if blocked in _HELD_BACK and overview.epoch is not None:
        return "; the last good one stays in use"
    failed = next((each for each in overview.rotations if each.outcome == "failed"), None)
    return f": {failed.reason}" if blocked == "retry" and failed is not None else ""


# Epochs, certificates, listeners


def _epochs(overview: Status, sheet: Table) -> None:
    sheet.title("epochs")
    if not overview.epochs:
        sheet.say("none", indent=2)
    for epoch in reversed(overview.epochs):
        line = join([f"{epoch.number:>4}  ", (f"{epoch.state:<11}", _STATES.get(epoch.state, ""))])
        sheet.say(line.append_text(_life(epoch, overview.at, sheet)), hang=17)
        if epoch.awaits:
            sheet.say((epoch.awaits, WORRYING), indent=6, hang=0)


def _life(epoch: EpochView, now: datetime, sheet: Table) -> Text:
    drains = epoch.state == "draining"
    bar = sheet.bar(_gone(epoch), _STATES["draining"]) if drains else Text()
    facts = [_drain(epoch)] if drains else [_STAGES.get(epoch.stage, epoch.stage)] * (epoch.stage != epoch.state)
    if epoch.deadline is not None:
        facts.append(f"{'cut' if drains else 'given up'} in {span(epoch.deadline - now)}")
    facts.append(f"for {span(now - epoch.since)}")
    facts += [f"pushed {plural(epoch.pushes, 'time')}"] if epoch.pushes else []
    facts += [f"pid {epoch.pid}"] if epoch.pid is not None else []
    facts += [size(epoch.memory)] if epoch.memory is not None else []
    return bar.append("  " if bar else "").append_text(join(facts, ", "))


def _gone(epoch: EpochView) -> float:
    """Return the share of its connections that have closed."""
    if epoch.connections is None or not epoch.connections_at_first:
        return 0.0
    return 1 - epoch.connections / epoch.connections_at_first


def _drain(epoch: EpochView) -> str:
    if epoch.connections is None:
        return "connections unknown"
    of = f" of {epoch.connections_at_first:,}" if epoch.connections_at_first else ""
    return f"{epoch.connections:,}{of} connections left"


def _listeners(overview: Status, sheet: Table, *, whole: bool) -> None:
    if not overview.listeners:
        return
    sheet.title("listeners")
    rows: list[list[Styled]] = []
    busiest_first = sorted(overview.listeners, key=lambda each: -(each.queue or 0))
    listed = overview.listeners if whole else busiest_first[:_SHOWN_LISTENERS]
    for each in listed:
        queue = "queue unknown" if each.queue is None else f"{plural(each.queue, 'client')} waiting"
        queue = "no client waiting" if each.queue == 0 else queue
        rows.append([each.address, (queue, WORRYING if each.queue else QUIET), (plural(each.workers, "worker"), QUIET)])
    sheet.table(rows)
    if len(listed) < len(overview.listeners):
        sheet.say((f"and {len(overview.listeners) - len(listed):,} more: agent status --all", QUIET), 2)


# Rotations


def _rotations(overview: Status, sheet: Table) -> None:
    if not overview.rotations:
        return
    sheet.title("last rotations", "all of them: agent history")
    shown = overview.rotations[:_SHOWN_ROTATIONS]
    moments = [recent(attempt.began_at, overview.at) for attempt in shown]
    for attempt, began in zip(shown, moments, strict=True):
        line = join([(f"{began:<{max(map(len, moments))}}  ", QUIET), f"{number_of(attempt):>4}  "])
        line.append(f"{attempt.trigger:<13}  ")
        result = attempt.result(overview.epoch)
        line.append_text(join([(f"{result:<10}", OUTCOMES.get(result, ""))]))
        ending = attempt.reason or brief(attempt)
        sheet.say(line.append(f"  {ending}" if ending else ""), indent=2, hang=6)


def number_of(attempt: AttemptView) -> str:
    """Return the epoch of an attempt; a push has its own number behind it, as in 7.2."""
    return f"{attempt.epoch}.{attempt.push}" if attempt.push else str(attempt.epoch)


def brief(attempt: AttemptView) -> str:
    """Return how long an attempt took and what it changed."""
    facts = [span(total(attempt))] if attempt.phases and attempt.outcome != "running" else []
    changes = [f"{each.set} {short(each.before)} -> {short(each.after)}" for each in attempt.changes]
    hidden = len(changes) - _SHOWN_CHANGES
    facts += changes if hidden <= 1 else [*changes[:_SHOWN_CHANGES], f"and {hidden:,} more"]
    facts += [crash(attempt.end)] if attempt.end is not None and attempt.end.is_crash else []
    return ", ".join(facts)


def crash(end: End) -> str:
    """Return how a crashed epoch ended."""
    why = "ran out of memory" if end.cause == "memory" else end.text
    return f"{why} after {span(end.served)}"


def total(attempt: AttemptView) -> float:
    """Return the seconds until it served or ended, without its predecessor's drain."""
    return sum(phase.seconds for phase in attempt.phases if phase.name != "drain")


def _agent(overview: Status, sheet: Table) -> None:
    up = span(overview.at - overview.started_at)
    watching = "" if overview.watch == "inotify" else f", files are watched by {overview.watch}"
    sheet.lines.append(Text())
    sheet.say((f"agent {overview.version}, pid {overview.pid}, up for {up}{watching}", QUIET))
