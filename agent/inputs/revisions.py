"""A revision in the flesh: the bytes an epoch runs from, held open for as long as anybody may need them."""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from agent.certificates.selection import Selection
from agent.core.errors import AgentError
from agent.core.revision import Revision
from agent.handoff.segment import HotRestartVersion
from agent.host.binaries import Binary
from agent.host.memfds import Memfds, digest_of
from agent.proxies.interface import Configuration, Copies, Proxy


@dataclass(frozen=True, slots=True)
class Program:
    """A proxy's program, opened and asked for its versions, and the kind of proxy that it is."""

    binary: Binary
    kind: Proxy
    version: str
    handoff: HotRestartVersion
    reads_json: bool = True  # from a descriptor, whose name has no suffix


@dataclass(frozen=True, slots=True)
class Source:
    """A configuration that could be parsed, and what it was parsed from: its text, and its files of resources."""

    configuration: Configuration
    text: bytes
    resources: Mapping[str, bytes] = field(default_factory=dict)

    def same(self, other: "Source") -> bool:
        """Whether both were parsed from the same bytes."""
        return self.text == other.text and self.resources == other.resources


@dataclass(frozen=True, slots=True)
class LoadedRevision:
    """One revision. `descriptors`: the sealed memory behind each materialised path; `held`: what is in there."""

    revision: Revision
    source: Source
    copies: Copies
    outcome: Selection
    program: Program
    descriptors: Mapping[str, int]
    held: tuple[bytes, ...]

    @property
    def configuration(self) -> Configuration:
        """What the operator wrote."""
        return self.source.configuration

    @property
    def paths(self) -> dict[int, str]:
        """Which path a descriptor stands for."""
        return {descriptor: path for path, descriptor in self.descriptors.items()}


class RevisionStore:
    """Keeps the materials in use, and lets the memory of the others go."""

    def __init__(self) -> None:
        self._memfds = Memfds()
        self._materials: dict[Revision, LoadedRevision] = {}
        self._tried: set[Revision] = set()

    def __getitem__(self, revision: Revision) -> LoadedRevision:
        return self._materials[revision]

    def make(self, source: Source, outcome: Selection, program: Program, extra: bytes) -> LoadedRevision:
        """Materialise; the same bytes give the material that is already here. Raises `MachineError`.

        `extra` is the digest of whatever else shall make a new revision.
        """
        return self.adopt(_identify(source, outcome.files, program, extra), source, outcome, program)

    def adopt(self, revision: Revision, source: Source, outcome: Selection, program: Program) -> LoadedRevision:
        """Keep what an epoch of an earlier agent runs from, under the name it has. Raises `MachineError`."""
        if revision not in self._materials:
            copies = source.configuration.copies(outcome.files)
            descriptors, held = self._hold(outcome.files, copies)
            self._materials[revision] = LoadedRevision(revision, source, copies, outcome, program, descriptors, held)
        return self._materials[revision]

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

    def _release(self, held: Iterable[bytes]) -> None:
        for data in held:
            self._memfds.release(data)

    @contextmanager
    def trying(self, material: LoadedRevision) -> Iterator[LoadedRevision]:
        """Keep a material that no epoch runs from for as long as something is tried with it."""
        self._tried.add(material.revision)
        try:
            yield material
        finally:
            self._tried.discard(material.revision)

    def keep_only(self, used: Collection[Revision]) -> None:
        """Forget every other revision, unless it is being tried."""
        for revision in self._materials.keys() - {*used, *self._tried}:
            self._release(self._materials.pop(revision).held)


def _identify(source: Source, files: Mapping[str, bytes], program: Program, extra: bytes) -> Revision:
    """Name the bytes. The binary counts by its file's identity: to read 107 MB for a digest would cost every start."""
    config_digest = hashlib.sha256()
    resources = [part for path in sorted(source.resources) for part in (path.encode(), source.resources[path])]
    for part in (source.text, *resources, program.kind.identity, repr(program.binary.identity).encode(), extra):
        config_digest.update(len(part).to_bytes(8) + part)
    whole = config_digest.copy()
    for path in sorted(files):
        whole.update(f"{path}\0{digest_of(files[path])}\n".encode())
    return Revision(whole.hexdigest(), config_digest.hexdigest())
