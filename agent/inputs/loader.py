"""Loads a revision from disk: settled files only, each validated, last good for bad ones."""

import asyncio
import hashlib
import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from agent.certificates.contents import Contents, Unreadable
from agent.certificates.discovery import Discovery, discover, strays
from agent.certificates.findings import Fault, Rejection
from agent.certificates.groups import CertificateGroup, Pin
from agent.certificates.parsed_files import ParsedFiles
from agent.certificates.references import Reference
from agent.certificates.selection import LastGood, Selection, select_files
from agent.core.errors import BadInput, MachineError, UsageError
from agent.core.revision import Revision
from agent.host import clock
from agent.host.disk_thread import DiskThread
from agent.host.log import log_event
from agent.host.offload import offload
from agent.inputs import limits
from agent.inputs.directories import CertificateDirectories
from agent.inputs.finding_log import FindingLog
from agent.inputs.pairs import DirectoryPairs
from agent.inputs.programs import Programs
from agent.inputs.revisions import LoadedRevision, RevisionStore, Source
from agent.inputs.scopes import Scopes
from agent.inputs.settings import OnCertificate, Settings
from agent.proxies.interface import Configuration

_SHORTAGE = 1.0  # seconds until a retry after the machine failed to read files
_LINE = 64  # bytes that a path counts as, where its file is not read
_TRY_AGAIN = 10.0  # seconds until an unusable program is checked again, if there is no other
SMALL = "bootstrap.yaml"  # the name of the configuration that the agent generates
DOCUMENT = "bootstrap.json"  # of the one that it was started with


class NoPairError(BadInput):
    """There is no certificate with its key; the message contains the reason."""

    def __init__(self, where: str, refused: Sequence[Rejection]) -> None:
        said = "; ".join(each.complaint for each in refused)
        super().__init__(f"cannot write a configuration for {where}: {said or 'there is no certificate with its key'}")


@dataclass(frozen=True, slots=True)
class LoadResult:
    """The result of one load.

    `loaded` is None while something is missing that nothing can replace. `refused`: messages about files that exist
    but are not usable, and so not in `loaded`.
    """

    loaded: LoadedRevision | None
    missing: tuple[str, ...] = ()
    again_at: float | None = None  # monotonic: when to load again even without a change
    refused: tuple[str, ...] = ()


class Loader:
    """Loads revisions on request; watches each file before reading it."""

    def __init__(self, settings: Settings, programs: Programs, revisions: RevisionStore, files: DiskThread) -> None:
        self.programs = programs
        self.reports = FindingLog(settings.alarm_timeout)
        self._settings = settings
        self._revisions = revisions
        self._files = files
        programs.aside = files.call
        self.newest: Revision | None = None  # the last one made; its event may still be queued
        self.covered = 0  # the newest change on disk before the last load, see `DiskThread.settle`
        self._last_good = LastGood()
        self._pins: dict[str, Pin] = {}  # rejected by the proxy, by certificate group, until the bytes change
        self._source: Source | None = None  # the newest that could be parsed
        self._served: Source | None = None  # the newest that has served
        self._refused: Source | None = None  # rejected by the proxy, until the text changes
        self._verdict = ""  # the proxy's reason
        self._document = settings.document
        self._merged: tuple[bytes, bytes, bytes] | None = None  # a configuration, its override, and the two as one
        self._is_short = False  # whether the machine lacked a resource during the load
        self._resources: dict[str, None] = {}  # the resource files that the newest configuration names
        self._scopes = Scopes(settings.scopes)  # as they resolved at the beginning of the newest load
        self._directories = CertificateDirectories(
            settings.certificates, settings.run_directory, files, self._watch, self.reports
        )
        self.silent: tuple[tuple[Path, ...], str] | None = None  # paths on a hanging file system, and the message
        self._unreadable = ""  # why the configuration on disk cannot be read
        self._incomplete = ""  # what the newest configuration lacks, so that the previous one is used
        self._unusable = ""  # why the program on disk cannot be used
        self.selection: Selection | None = None  # the newest selection of certificates
        self._parsed_files = ParsedFiles()
        self._small: Contents = {}  # during a load, what was read to write the default bootstrap
        self._pairing = DirectoryPairs(settings.kind, settings.listen, settings.forward)

    def serves(self, loaded: LoadedRevision) -> None:
        """Use a revision that has served as the fallback for bad files."""
        self._last_good = LastGood.after(loaded.selection)
        self._served = loaded.source
        refused, taken = {each.group for each in loaded.selection.refused}, loaded.selection.groups
        self._pins = {name: pin for name, pin in self._pins.items() if name in refused or name not in taken}

    def refuse(self, loaded: LoadedRevision, verdict: str) -> None:
        """Record that the proxy rejects a revision; if its configuration is new, use the served one.

        Certificates thus continue to rotate. If the served configuration is rejected too, the configuration was not at
        fault.
        """
        is_new = self._served is not None and not loaded.source.same(self._served)
        self._refused = loaded.source if is_new else None
        self._verdict = verdict

    def pin(self, pins: Iterable[Pin]) -> None:
        """Keep the last good files of groups that the proxy rejects; others continue to rotate."""
        now = clock.calendar()
        self._pins |= {pin.group.name: replace(pin, since=now) for pin in pins}

    def renewed(self, loaded: LoadedRevision) -> tuple[CertificateGroup, ...]:
        """Return the revision's groups that differ from those that have served."""
        return loaded.selection.renewed(self._last_good)

    def groups_in(self, document: str, loaded: LoadedRevision) -> frozenset[str]:
        """Return the groups that a resource file names; none if the file is new and may be at fault."""
        if self._served is None or self._served.resources.get(document) != loaded.source.resources.get(document):
            return frozenset()
        return loaded.configuration.groups_in(document)

    async def without(self, loaded: LoadedRevision, held: Collection[str]) -> LoadedRevision | None:
        """Make a revision with these new groups held back; None if that is not possible."""
        groups = loaded.selection.groups
        pins = {name: Pin(groups[name], name, "it is held back") for name in held}
        references = [each for group in groups.values() for each in group.references]
        source = loaded.source
        if self._settings.writes_configuration:
            references = [each for each in references if each.group not in held or each.group in self._last_good.groups]
            if not references:
                return None
            source = await self._parsed_small(references)
        contents = loaded.selection.files
        selection = await offload(
            _size(contents), select_files, references, contents, self._last_good, clock.calendar(), pins
        )
        if not selection.complete or any(selection.groups.get(name) is groups[name] for name in held):
            return None
        await self._prepare(source, selection, as_json=loaded.program.reads_json)
        return self._revisions.make(source, selection, loaded.program, b"")

    @property
    def configuration_name(self) -> str:
        """The path of the operator's configuration, or the name of the generated one."""
        return str(self._settings.config or (SMALL if self._settings.document is None else DOCUMENT))

    def complaints(self) -> Iterator[tuple[str, str, str]]:
        """Yield other unused files: path, reason (one of a closed set) and message."""
        if self.silent is not None:
            paths, text = self.silent
            yield from ((str(path), Fault.UNREADABLE.value, text) for path in paths)
        if self._unreadable:
            yield self._concerned(self._unreadable), "configuration", self._unreadable
        elif self._refused is not None and self._newest_is_refused():
            yield self._concerned(self._verdict), "proxy", self._verdict
        if self._incomplete:
            yield self.configuration_name, "configuration", self._incomplete
        if self._unusable:
            yield str(self.programs.path), "program", self._unusable

    def _concerned(self, reason: str) -> str:
        """Return the resource file that a reason names, or else the configuration."""
        return next((path for path in self._resources if path in reason), self.configuration_name)

    def _newest_is_refused(self) -> bool:
        return self._refused is not None and self._source is not None and self._source.same(self._refused)

    def forgive(self) -> None:
        """Retry what was refused: an operator requested it, or the program changed."""
        self._refused = None
        self._pins.clear()
        if self._unusable:
            self.programs.ask_again()

    async def load(self) -> LoadResult:
        """Read, validate and materialise.

        Bad files are in the result, not raised. Raises `MachineError` if the machine fails.
        """
        self._is_short = False
        self.covered = await self._files.settle()
        self._scopes = Scopes(self._settings.scopes)
        try:
            result = await self._load()
        finally:
            self._small = {}
        await self._files.forget_unused()
        if not self._is_short:
            return result
        soon = clock.monotonic() + _SHORTAGE
        return replace(result, again_at=soon if result.again_at is None else min(soon, result.again_at))

    async def _load(self) -> LoadResult:
        if self._source is None:
            await self._watch()
        await self._take_program()
        source = await self._take_configuration()
        if source is None or self.programs.current is None:
            return LoadResult(
                None,
                await self._what_is_missing(source),
                self._report_nothing(),
                self._not_usable(self._pairing.unpaired),
            )
        await self._watch()
        limits.report(source.configuration, self.reports)
        selection = newest = self.selection = await self._weigh(source)
        again_at = self._report(selection)
        self._incomplete = ""
        if not selection.complete and self._served is not None and not source.same(self._served):
            names = ", ".join(selection.missing)
            self._incomplete = f"cannot use {source.configuration.name}: it names {names}, which cannot be used"
            source = self._served
            selection = await self._weigh(source)
        refused = self._not_usable(newest.refused)
        if not selection.complete:
            return LoadResult(None, selection.missing, again_at, refused)
        extra = await self._digest_watched({*selection.files, *source.resources})
        await self._prepare(source, selection, as_json=self.programs.current.reads_json)
        loaded = await self._revisions.materialise(source, selection, self.programs.current, extra)
        earlier, self.newest = self.newest, loaded.revision
        if earlier not in {None, loaded.revision} and await self._has_newer_document():
            return await self._load()
        if self._settings.on_certificate is not OnCertificate.RESTART:
            limits.report_push(loaded, self.reports)
        return LoadResult(loaded, again_at=again_at, refused=refused)

    async def _has_newer_document(self) -> bool:
        """Make the configuration anew, since a new revision is due anyway; return whether it differs."""
        earlier = self._document
        if self._settings.renew_document is not None:
            try:
                self._document = await self._files.call(self._settings.renew_document)
            except UsageError as error:
                self.reports.once("config.outdated", f"{error}; the configuration stays as it was", logging.WARNING)
        return self._document != earlier

    async def _weigh(self, source: Source) -> Selection:
        """Select the files that a configuration names, by their current content on disk."""
        references = await self._in_scope(source.configuration)
        contents = await self._contents([reference.path for reference in references])
        now = clock.calendar()
        return await offload(_size(contents), select_files, references, contents, self._last_good, now, self._pins)

    async def _contents(self, paths: Sequence[str]) -> Contents:
        """Read files, except those that were read to write the default bootstrap: they were watched before that."""
        missing = [path for path in paths if path not in self._small]
        return {**self._small, **await self._read(missing)} if missing else self._small

    @staticmethod
    async def _prepare(source: Source, selection: Selection, *, as_json: bool) -> None:
        """Prepare the copies off the loop, unless they exist already."""
        copies = source.configuration.copies(selection.files)
        if not copies.are_made(as_json=as_json):
            await offload(len(source.text) + _size(source.resources), copies.prepare, as_json=as_json)

    def _not_usable(self, refusals: Sequence[Rejection]) -> tuple[str, ...]:
        unusable = self._unusable if self.programs.current is None else ""
        return (*filter(None, [unusable, self._unreadable, self._incomplete]), *(each.message for each in refusals))

    # The program

    async def _take_program(self) -> None:
        if self.programs.current is not None and not self._settings.restart_on_binary:
            return
        if not await self._files.call(self.programs.changed):
            return
        try:
            self._unusable = ""
            if await self.programs.load() and self.programs.current is not None:
                program = self.programs.current
                self.forgive()
                self.reports.once("proxy.refused", "")
                text = f"{program.binary.path} is version {program.version}, hot restart {program.handoff}"
                log_event(logging.INFO, "proxy.found", text)
        except BadInput as error:
            self._unusable = str(error)
            self.reports.once("proxy.refused", self._unusable, logging.ERROR)

    # The configuration

    async def _take_configuration(self) -> Source | None:
        """Return the configuration to use now: the one on disk, or the last usable one."""
        newest = await self._take_newest()
        return self._served if self._newest_is_refused() else newest

    async def _take_newest(self) -> Source | None:
        try:
            text, name = await self._read_configuration()
            self._source = await self._parsed(text, name)
            self._unreadable = ""
            self.reports.once("config.refused", "")
        except NoPairError:
            self._source = None
        except UnicodeDecodeError as error:
            self._refuse_configuration(f"cannot read {self.configuration_name}: byte {error.start} is not UTF-8")
        except BadInput as error:
            self._refuse_configuration(str(error))
        return self._source

    async def _parsed(self, text: bytes, name: str) -> Source:
        """Parse it with all resource files that it names, directly or not. Raises `BadInput`."""
        known = self._source
        if known is not None and known.text == text and await self._read_all(known.resources) == known.resources:
            return known
        resources: dict[str, bytes] = {}
        kind = self._settings.kind
        extra = kind.extra_document
        while True:
            size = len(text) + _size(resources)
            configuration = await offload(size, kind.configuration, text.decode(), name, extra, resources)
            unread = configuration.unread
            self._resources = dict.fromkeys([*resources, *unread])
            if not unread:
                return Source(configuration, text, resources)
            await self._watch()
            resources |= {path: _required(path, content) for path, content in (await self._read(unread)).items()}

    async def _read_all(self, paths: Iterable[str]) -> Contents:
        return await self._read([*paths]) if paths else {}

    def _refuse_configuration(self, reason: str) -> None:
        self._unreadable = reason
        has_another = self._source is not None or self._served is not None
        serves_on = "the last good one stays in use" if has_another else "no proxy starts without it"
        self.reports.once("config.refused", f"{reason}; {serves_on}", logging.ERROR)

    async def _read_configuration(self) -> tuple[bytes, str]:
        if self._settings.writes_configuration:
            return await self.small(), SMALL
        name = self.configuration_name
        content = self._document
        if content is None:
            content = await self._read_whole(name)
        if self._settings.override is not None:
            content = await self._overridden(content, name, self._settings.override)
        return content, name

    async def _overridden(self, content: bytes, name: str, override: Path) -> bytes:
        """Merge the operator's override over the configuration, unless that is done already."""
        over = await self._read_whole(str(override))
        if self._merged is None or self._merged[:2] != (content, over):
            try:
                text = over.decode()
            except UnicodeDecodeError as error:
                message = f"cannot read {override}: byte {error.start} is not UTF-8"
                raise BadInput(message) from None
            for placeholder, value in self._settings.override_values.items():
                text = text.replace(placeholder, value)
            merge = self._settings.kind.merged
            merged = await offload(len(content) + len(over), merge, content.decode(), name, text, str(override))
            self._merged = content, over, merged.encode()
        return self._merged[2]

    async def _read_whole(self, path: str) -> bytes:
        content = _required(path, (await self._read([path]))[path])
        if not content.strip():  # a partial write: a proxy would accept it and serve nothing
            message = f"cannot read {path}: it is empty; write it"
            raise BadInput(message)
        return content

    async def small(self) -> bytes:
        """Return the default bootstrap over every pair in the certificate directories."""
        contents, pairing = await self._read(await self._directories.files()), self._pairing
        self._small = contents
        discovery = await self._discovered(contents)
        served, size = self._last_good.groups, _size(contents)
        await offload(size, pairing.choose, discovery, contents, served, self._pins, clock.calendar())
        if not pairing.found:
            raise NoPairError(await self._directories.where(), pairing.unpaired)
        return await offload(size, pairing.text, pairing.found)

    async def _parsed_small(self, references: Iterable[Reference]) -> Source:
        text, extra = self._pairing.text(references), self._settings.kind.extra_document
        return Source(await offload(len(text), self._settings.kind.configuration, text.decode(), SMALL, extra), text)

    async def discover(self) -> Discovery:
        """Return what the certificate directories hold, judged by content."""
        return await self._discovered(await self._read(await self._directories.files()))

    async def _discovered(self, contents: Contents) -> Discovery:
        return await offload(_size(contents), discover, contents, clock.calendar(), self._parsed_files)

    # Files

    async def _in_scope(self, configuration: Configuration) -> list[Reference]:
        """Return the watched references; log the others once, since they cannot be materialised."""
        references = configuration.references
        inside = await self._files.call(self._watched_references, configuration)
        outside = sorted({reference.path for reference in references} - {reference.path for reference in inside})
        if outside:
            text = (
                f"not watched, so read by each epoch at its own start: {', '.join(outside)}; add --watch to change that"
            )
            self.reports.once("files.unwatched", text)
        return inside

    async def _watch(self) -> None:
        await self._files.watch(await self._files.call(self._watched_paths))

    def _watched_references(self, configuration: Configuration) -> list[Reference]:
        return [each for each in configuration.references if self._is_watched(each.path, configuration)]

    def _is_watched(self, path: str, configuration: Configuration) -> bool:
        """Return whether a file is under a watched path or named by a resource file; without --certs all are."""
        if path in configuration.resource_references or not self._settings.certificates:
            return True
        return self._scopes.contain(path)

    def _watched_paths(self) -> list[str]:
        paths = [*map(str, self._settings.scopes), *self._directories.below]
        if not self._settings.writes_configuration:
            named = filter(None, [self._settings.config, self._settings.override])
            paths += [*map(str, named), *self._resources]
        if self._settings.restart_on_binary or self.programs.current is None:
            paths.append(str(self.programs.path))
        sources = filter(None, (self._source, self._served))
        for source in {id(each.configuration): each for each in sources}.values():
            paths += source.resources
            paths += [each.path for each in self._watched_references(source.configuration)]
        return paths

    async def _read(self, paths: Sequence[str]) -> Contents:
        return self._noted(await self._files.read(list(dict.fromkeys(paths)), self._settings.settle_timeout))

    def _noted(self, contents: Contents) -> Contents:
        """Note whether the machine lacked a resource in a read, and return what was read."""
        self._is_short |= any(isinstance(each, Unreadable) and each.passes for each in contents.values())
        return contents

    async def _digest_watched(self, judged: Collection[str]) -> bytes:
        """Return the digest of all files under --watch: any change there makes a new epoch.

        Paths in `judged` are excluded: of those the used content counts, which may be the last good one.
        """
        paths: list[str] = []
        for path in map(str, self._settings.watched):
            entries = await self._files.list(path)
            paths += [path] if isinstance(entries, Unreadable) else entries
        paths = [path for path in paths if path not in judged]
        if not paths:
            return b""
        digests = self._noted(await self._files.digests(paths, self._settings.settle_timeout))
        return await offload(len(paths) * _LINE, _digest_of_all, digests)

    # Reports

    async def _what_is_missing(self, source: Source | None) -> tuple[str, ...]:
        missing = []
        if source is None:
            missing.append(
                f"a certificate with its key in {await self._directories.where()}"
                if self._settings.writes_configuration
                else self.configuration_name
            )
        if self.programs.current is None:
            missing.append(str(self.programs.path))
        return tuple(missing)

    def _report(self, selection: Selection) -> float | None:
        """Log the findings; return when to load again."""
        now = clock.monotonic()
        again = self.reports.refuse((*selection.refused, *self._pairing.unpaired), now)
        stray = self.reports.caution((*selection.cautions, *self._pairing.beside), now)
        turns = [_monotonic_of(each) for each in (selection.look_again, self._pairing.turn) if each is not None]
        return min((time for time in (again, stray, *turns) if time is not None), default=None)

    def _report_nothing(self) -> float | None:
        """Log why there is nothing to run; return when to load again."""
        again = self.reports.refuse(self._pairing.unpaired, clock.monotonic())
        retry = clock.monotonic() + _TRY_AGAIN if self.programs.current is None else None
        return min((time for time in (again, retry) if time is not None), default=None)

    async def report_strays(self) -> None:
        """Log a warning, once, for each certificate and key that the configuration does not use."""
        if self._source is not None and not self._settings.writes_configuration:
            configuration = self._source.configuration
            references = configuration.references
            used = [each.path for each in await self._in_scope(configuration)]
            contents = await self._read([*await self._directories.files(), *used])
            for stray in await offload(_size(contents), strays, contents, references):
                log_event(logging.WARNING, "certificate.stray", stray.message)


def _size(contents: Contents) -> int:
    return sum(len(content) for content in contents.values() if isinstance(content, bytes))


def _digest_of_all(digests: Contents) -> bytes:
    """Return one digest of the paths and the digests of their contents; a file that is unreadable has none."""
    whole = hashlib.sha256()
    for path, digest in sorted(digests.items()):
        whole.update(path.encode(errors="surrogateescape") + b"\0")
        whole.update(digest if isinstance(digest, bytes) else b"")
    return whole.digest()


def _required(path: str, content: bytes | Unreadable) -> bytes:
    """Return the content of a file of the configuration.

    Raises `BadInput` if it cannot be read, `MachineError` if that may pass.
    """
    if isinstance(content, Unreadable):
        if content.passes:
            message = f"cannot read {path}: {content.reason}"
            raise MachineError(message)
        remedy = "write it" if content.fault is Fault.MISSING else "name a file that the agent can read"
        message = f"cannot read {path}: {content.reason}; {remedy}"
        raise BadInput(message)
    return content


def _monotonic_of(moment: datetime) -> float:
    """Convert a date to monotonic time."""
    return clock.monotonic() + max(0.0, (moment - clock.calendar()).total_seconds())


async def wait_for_change(changed: asyncio.Event, again_at: float | None) -> None:
    """Wait until a watched file changes, at most until `again_at`."""
    timeout = None if again_at is None else max(0.0, again_at - clock.monotonic())
    try:
        await asyncio.wait_for(changed.wait(), timeout)
    except TimeoutError:
        return
