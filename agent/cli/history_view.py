"""Formats rotations: one line each, or with all details."""

from collections.abc import Iterator, Sequence

from rich.text import Text

from agent.cli.format import plural, second, short, span
from agent.cli.status_view import OUTCOMES, QUIET, crash, number_of, total
from agent.cli.table import Styled, Table, join
from agent.status.model import AttemptView, Evidence, ProbeResult

_HEAD = f"{'began':<20}  {'epoch':>5}  {'trigger':<13}  {'outcome':<10}  {'took':>7}  what"


def rows(attempts: Sequence[AttemptView], serving: int | None, sheet: Table) -> None:
    """Write a line for each attempt; a long reason ends in an ellipsis. `serving`: the epoch that serves."""
    if not attempts:
        sheet.say("no matching attempts recorded")
        return
    sheet.lines.append(Text(_HEAD, QUIET))
    for each in attempts:
        took = "" if each.outcome == "running" or not each.phases else span(total(each))
        line = join([f"{second(each.began_at)}  {number_of(each):>5}  {each.trigger:<13}  "])
        result = each.result(serving)
        line.append_text(join([(f"{result:<10}", OUTCOMES.get(result, ""))]))
        line.append_text(join([f"  {took:>7}  {'; '.join(_brief(each))}"]))
        line.rstrip()
        line.truncate(sheet.width, overflow="ellipsis")
        sheet.lines.append(line)


def _brief(attempt: AttemptView) -> Iterator[str]:
    if attempt.reason:
        yield attempt.reason
    if attempt.end is not None and attempt.end.is_crash:
        yield crash(attempt.end)
    if attempt.evidence is not None:
        yield from _losses(attempt.evidence)
    for change in attempt.changes:  # last, since there may be hundreds
        yield f"{change.set} {short(change.before)} -> {short(change.after)}"


def _losses(evidence: Evidence) -> Iterator[str]:
    """Yield losses and mismatches."""
    if evidence.overflows:
        yield plural(evidence.overflows, "overflow")
    if evidence.drops:
        yield plural(evidence.drops, "drop")
    if evidence.cut:
        yield f"{evidence.cut:,} cut"
    if evidence.cut_at_end:
        yield f"{evidence.cut_at_end:,} of its own cut"
    if any(not seen.matches for seen in evidence.seen):
        yield "another certificate was seen"


def details(attempts: Sequence[AttemptView], serving: int | None, sheet: Table) -> None:
    """Write all details of each attempt. `serving`: the epoch that serves."""
    for number, each in enumerate(attempts):
        if number:
            sheet.lines.append(Text())
        result = each.result(serving)
        outcome = (result, f"bold {OUTCOMES.get(result, '')}")
        push = f", push {each.push}" if each.push else ""
        sheet.say(join([(f"epoch {each.epoch}{push}: ", "bold"), outcome]))
        if each.reason:
            sheet.say(each.reason, indent=2, hang=0)
        sheet.table([[(name, QUIET), value] for name, value in _facts(each)])


def _facts(attempt: AttemptView) -> Iterator[tuple[str, Styled]]:
    yield "began", second(attempt.began_at)
    yield "trigger", attempt.trigger
    yield "revision", f"{attempt.before or 'none'} -> {attempt.revision}"
    for change in attempt.changes:
        yield "certificate", f"{change.set}: serial {change.before or 'none'} -> {change.after or 'none'}"
    if attempt.phases:
        parts = ", ".join(f"{phase.name} {span(phase.seconds)}" for phase in attempt.phases)
        yield "took", f"{span(total(attempt))}: {parts}"
    if attempt.reaction is not None:
        yield "served", f"{span(attempt.reaction)} after the change on disk was noticed"
    if attempt.evidence is not None:
        yield from _evidence(attempt.evidence, follows=attempt.before is not None and attempt.trigger != "crash")
    if attempt.end is not None:
        end, color = attempt.end, "red" if attempt.end.is_crash else ""
        asked = "" if end.is_crash else " on request of the agent"
        yield "exit", (f"{end.text}{asked} at {second(end.at)}, {end.state}, after {span(end.served)}", color)


def _evidence(evidence: Evidence, *, follows: bool) -> Iterator[tuple[str, Styled]]:
    yield "queued", f"{plural(evidence.queued, 'client')} waited at the commit"
    yield "kernel", f"{_count(evidence.overflows, 'listen overflow')}, {_count(evidence.drops, 'listen drop')}"
    if evidence.cut is not None:
        yield "cut", (f"{plural(evidence.cut, 'connection')} at the drain deadline", "yellow" if evidence.cut else "")
    elif follows:
        yield "cut", "unknown yet: the previous epoch still drains"
    if evidence.cut_at_end is not None:
        yield "its end", (f"cut {plural(evidence.cut_at_end, 'connection')}", "yellow" if evidence.cut_at_end else "")
    for seen in evidence.seen:
        yield "seen", (_seen(seen), "green" if seen.matches else "red")


def _count(count: int | None, noun: str) -> str:
    return f"{noun}s unknown" if count is None else plural(count, noun)


def _seen(seen: ProbeResult) -> str:
    if seen.serial is None:
        return f"no certificate at {seen.address}: {seen.error or 'reason unknown'}"
    return f"serial {seen.serial} at {seen.address}, {'as expected' if seen.matches else 'not the one expected'}"
