"""A revision's files, held open as sealed memfds for as long as they are needed."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from agent.certificates.selection import Selection
from agent.core.errors import AgentError
from agent.core.revision import Revision
from agent.handoff.segment import HotRestartVersion
from agent.host.binaries import Binary
from agent.host.carried import Carried
from agent.host.memfds import Memfds
from agent.host.offload import offload
from agent.inputs.wildcards import is_wildcard
from agent.proxies.interface import Configuration, Copies, Proxy

_STEP = 2000  # known files held before control returns to the loop: a few milliseconds
_NEW = 40  # known files whose work equals that of a new one
_LINE = 64  # bytes that a known file counts as


@dataclass(frozen=True, slots=True)
class Program:
    """An opened binary with the versions that it reported, and the kind of proxy that it is."""

    binary: Binary
    kind: Proxy
    version: str
    handoff: HotRestartVersion | None  # None: it has no hot-restart protocol
    reads_json: bool = True  # from a descriptor, whose name has no suffix

    def __str__(self) -> str:
        protocol = "" if self.handoff is None else f", hot restart {self.handoff}"
        return f"{self.version}{protocol}"


@dataclass(frozen=True, slots=True)
class Source:
    """A parsed configuration, the text it was parsed from, and its resource files."""

    configuration: Configuration
    text: bytes
    resources: Mapping[str, bytes] = field(default_factory=dict)

    def same(self, other: "Source") -> bool:
        """Return whether both were parsed from the same bytes."""
        return self.text == other.text and self.contents == other.contents

    @property
    def contents(self) -> dict[str, bytes]:
        """The resource files without the lists of paths."""
        return {path: data for path, data in self.resources.items() if not is_wildcard(path)}


@dataclass(frozen=True, slots=True)
class LoadedRevision:
    """One revision.

    `descriptors`: a sealed memfd per materialised path; `held`: the contents; `carried`: the selected files as a
    process has them that inherits their descriptors; `pushable`: the paths whose contents can be pushed into an epoch
    that runs another revision with the same base.
    """

    revision: Revision
    source: Source
    copies: Copies
    selection: Selection
    program: Program
    descriptors: Mapping[str, int]
    held: tuple[bytes, ...]
    carried: Mapping[str, Carried] = field(default_factory=dict)
    pushable: frozenset[str] = frozenset()

    @property
    def configuration(self) -> Configuration:
        """The operator's configuration."""
        return self.source.configuration

    @property
    def paths(self) -> dict[int, str]:
        """The path that each descriptor replaces."""
        return {descriptor: path for path, descriptor in self.descriptors.items()}


class RevisionStore:
    """Holds the revisions in use, and releases the memory of the others."""

    def __init__(self) -> None:
        self._memfds = Memfds()
        self._loaded: dict[Revision, LoadedRevision] = {}
        self._tried: set[Revision] = set()

    def __getitem__(self, revision: Revision) -> LoadedRevision:
        return self._loaded[revision]

    @asynccontextmanager
    async def holding(self, files: Mapping[str, bytes]) -> AsyncIterator[None]:
        """Hold files during the block, step by step. Raises `MachineError`."""
        held, work = list[bytes](), 0
        try:
            for path, data in files.items():
                work += 1 if self._memfds.holds(data) else _NEW
                if work >= _STEP:
                    work = 0
                    await asyncio.sleep(0)
                self._memfds.hold(path, data)
                held.append(data)
            yield
        finally:
            self._release(held)

    async def materialise(self, source: Source, selection: Selection, program: Program, extra: bytes) -> LoadedRevision:
        """Do what `make` does, without a long silence of the loop. Raises `MachineError`."""
        files = selection.files
        async with self.holding(files):
            revision = await offload(len(files) * _LINE, self._identify, source, selection, program, extra)
            return self.adopt(revision, source, selection, program)

    def make(self, source: Source, selection: Selection, program: Program, extra: bytes) -> LoadedRevision:
        """Materialise a revision; the same bytes give the existing one. Raises `MachineError`.

        `extra`: the digest of anything else that makes a new revision.
        """
        return self.adopt(self._identify(source, selection, program, extra), source, selection, program)

    def adopt(self, revision: Revision, source: Source, selection: Selection, program: Program) -> LoadedRevision:
        """Hold an earlier agent's revision under its existing name. Raises `MachineError`."""
        if revision not in self._loaded:
            files = selection.files
            copies = source.configuration.copies(files)
            descriptors, held = self._hold(files, copies)
            carried = {
                path: Carried.in_memory(descriptors[path], self._memfds.inode(data)) for path, data in files.items()
            }
            pushable = _pushable(source, selection)
            self._loaded[revision] = LoadedRevision(
                revision, source, copies, selection, program, descriptors, held, carried, pushable
            )
        return self._loaded[revision]

    def _hold(self, files: Mapping[str, bytes], copies: Copies) -> tuple[dict[str, int], tuple[bytes, ...]]:
        held: list[bytes] = []

        def hold(name: str, data: bytes) -> int:
            descriptor = self._memfds.hold(name, data)
            held.append(data)
            return descriptor

        try:
            descriptors = {path: hold(path, data) for path, data in files.items()}
            copies.hold_resources(descriptors, hold)
        except AgentError:
            self._release(held)
            raise
        return descriptors, tuple(held)

    def _identify(self, source: Source, selection: Selection, program: Program, extra: bytes) -> Revision:
        """Name the revision by a digest of its bytes.

        The binary counts by file identity: hashing 107 MB would slow each start.
        """
        config_digest = hashlib.sha256()
        resources = [part for path, data in sorted(source.contents.items()) for part in (path.encode(), data)]
        for part in (source.text, *resources, program.kind.identity, repr(program.binary.identity).encode(), extra):
            config_digest.update(len(part).to_bytes(8) + part)
        files, pushable = selection.files, _pushable(source, selection)
        whole, base = config_digest.copy(), config_digest.copy()
        base.update(program.kind.push_form)
        for path in sorted(files):
            digest = self._memfds.digest(files[path])
            whole.update(f"{path}\0{digest}\n".encode())
            base.update(f"{path}\0{'' if path in pushable else digest}\n".encode())
        return Revision(whole.hexdigest(), config_digest.hexdigest(), base.hexdigest() if pushable else "")

    def _release(self, held: Iterable[bytes]) -> None:
        for data in held:
            self._memfds.release(data)

    @contextmanager
    def trying(self, loaded: LoadedRevision) -> Iterator[LoadedRevision]:
        """Hold a revision that no epoch uses while something is tried with it."""
        self._tried.add(loaded.revision)
        try:
            yield loaded
        finally:
            self._tried.discard(loaded.revision)

    def keep_only(self, used: Collection[Revision]) -> None:
        """Release every revision that is neither used nor being tried."""
        for revision in self._loaded.keys() - {*used, *self._tried}:
            self._release(self._loaded.pop(revision).held)


def _pushable(source: Source, selection: Selection) -> frozenset[str]:
    """Return the files of the certificate groups that can be pushed whole."""
    files = source.configuration.pushable_files
    groups = [each for each in selection.groups.values() if files]
    pushed = {each.name for each in groups if (each.chains or each.bundles) and each.files.keys() <= files}
    others = {path for each in groups if each.name not in pushed for path in each.files}
    return frozenset(path for each in groups if each.name in pushed for path in each.files) - others
