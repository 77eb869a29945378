"""The certificate and key that the webhook serves, by the same transaction as the agent's own certificates.

A pair is chosen by content among the files of a directory. One that is incomplete, does not fit, has expired while the
served one is valid, or is rejected by OpenSSL leaves the served one in use.
"""

import logging
import ssl
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from agent.certificates.contents import Contents
from agent.certificates.discovery import discover
from agent.certificates.findings import Fallback, Fault, Rejection, Unusable
from agent.certificates.groups import CertificateGroup, Pin
from agent.certificates.parsed_files import ParsedFiles
from agent.certificates.references import Role
from agent.certificates.selection import LastGood, Selection, select_files
from agent.certificates.x509 import Leaf
from agent.host import clock
from agent.host.disk_thread import DiskThread
from agent.host.log import log_event
from agent.host.server_context import server_context
from agent.inputs.directories import CertificateDirectories
from agent.inputs.finding_log import FindingLog
from agent.inputs.pairs import PairChoice

ALARM_TIMEOUT = 2.0  # seconds until what may be half of a rotation is logged as refused
SETTLE_TIMEOUT = 1.0  # seconds for two reads of the files to agree


class ServingPair:
    """The pair of a directory; `load` after each change. `beside`: further files to watch.

    `context`: for new connections, None before the first usable pair. `group` is what it was made from; `on_disk` the
    leaf of its files, usable or not.
    """

    def __init__(self, directory: Path, beside: Sequence[Path], disk: DiskThread) -> None:
        self.context: ssl.SSLContext | None = None
        self.group: CertificateGroup | None = None
        self.on_disk: Leaf | None = None
        self.reports = FindingLog(ALARM_TIMEOUT)
        self.loaded = 0
        self.rejected = 0
        """How often a pair was loaded, and how often a file was rejected."""
        self._directory = directory
        self._beside = [str(path) for path in beside]
        self._disk = disk
        self._directories = CertificateDirectories((directory,), None, disk, self._watch, self.reports)
        self._parsed = ParsedFiles()
        self._choice = PairChoice()
        self._pins: dict[str, Pin] = {}
        self._refused: frozenset[tuple[str, str]] = frozenset()  # path and fault

    @property
    def missing(self) -> str:
        """What is missing before connections can be accepted; empty if nothing is."""
        if self.context is not None:
            return ""
        reasons = "; ".join(each.complaint for each in self._choice.unpaired)
        return f"waiting for a certificate with its key in {self._directory}{reasons and ': '}{reasons}"

    async def load(self) -> float | None:
        """Read the directory and use the best pair in it; return when to do so without a change.

        Raises `MachineError` or `OSError` if the machine fails.
        """
        await self._disk.settle()
        await self._watch()
        contents = await self._disk.read(await self._directories.files(), SETTLE_TIMEOUT)
        now = clock.calendar()
        selection = await self._select(contents, now)
        while (best := _best(selection, now)) is not None and best is not self.group:
            if self._use(best, now):
                break
            selection = await self._select(contents, now)
        self.on_disk = None if self.group is None else selection.found.get(self.group.name)
        return self._report(selection)

    async def _watch(self) -> None:
        await self._disk.watch([str(self._directory), *self._directories.below, *self._beside])

    async def _select(self, contents: Contents, now: datetime) -> Selection:
        served = {} if self.group is None else {self.group.name: self.group}
        self._choice.choose(discover(contents, now, self._parsed), contents, served, self._pins, now)
        paths = {each.path for each in self._choice.found} - contents.keys()  # of the served pair, if it is gone
        missing = await self._disk.read(paths, SETTLE_TIMEOUT) if paths else {}
        return select_files(self._choice.found, {**contents, **missing}, LastGood(served), now, self._pins)

    def _use(self, group: CertificateGroup, now: datetime) -> bool:
        """Make a context from a pair; return False, and do not try these bytes again, if OpenSSL rejects it."""
        chain, key = (next(each.path for each in group.references if each.role is role) for role in _PAIR)
        try:
            context = server_context(chain, group.files[chain], group.files[key])
        except Unusable as error:
            self._pins[group.name] = Pin(group, chain, error.why, now)
            return False
        self.context, self.group = context, group
        self._pins.pop(group.name, None)
        self.loaded += 1
        assert group.leaf is not None, "a pair has a chain"
        leaf = group.leaf
        text = (
            f"new connections get the certificate in {chain} (serial {leaf.serial_hex}), valid until {leaf.not_after}"
        )
        log_event(logging.INFO, "webhook.certificate", text)
        return True

    def _report(self, selection: Selection) -> float | None:
        """Log the findings; return when to load again."""
        now = clock.monotonic()
        refused = [*map(_reworded, (*selection.refused, *self._choice.unpaired))]
        self._count(refused)
        again = self.reports.refuse(refused, now)
        stray = self.reports.caution((*selection.cautions, *self._choice.beside), now)
        turns = [*map(_monotonic, filter(None, (selection.look_again, self._choice.turn)))]
        return min((each for each in (again, stray, *turns) if each is not None), default=None)

    def _count(self, refused: Collection[Rejection]) -> None:
        before, self._refused = self._refused, frozenset((each.path, each.fault.value) for each in refused)
        self.rejected += len(self._refused - before)


_PAIR = (Role.CHAIN, Role.KEY)


def _best(selection: Selection, now: datetime) -> CertificateGroup | None:
    """Return the pair to serve: a valid one, then the newest, then the first by name."""
    groups: Iterable[CertificateGroup] = sorted(selection.groups.values(), key=lambda each: each.name)
    return max(groups, key=lambda each: _rank(each, now), default=None)


def _rank(group: CertificateGroup, now: datetime) -> tuple[bool, datetime]:
    assert group.leaf is not None, "a pair has a chain"
    return group.leaf.valid_at(now), group.leaf.not_before


def _reworded(rejection: Rejection) -> Rejection:
    """Return the rejection with what it means for a server without a proxy."""
    if rejection.meanwhile is Fallback.NOTHING:
        rejection = replace(rejection, meanwhile=Fallback.UNREADY)
    if rejection.fault is Fault.PROXY:
        rejection = replace(rejection, remedy="write one that it accepts")
    return rejection


def _monotonic(moment: datetime) -> float:
    """Convert a date to monotonic time."""
    return clock.monotonic() + max(0.0, (moment - clock.calendar()).total_seconds())
