"""A revision in the flesh: the bytes an epoch runs from, held open for as long as anybody may need them."""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from agent.core.errors import MachineError
from agent.core.revision import Revision
from agent.core.transaction import Outcome
from agent.dialects.configuration import Configuration, Copies
from agent.dialects.flags import Flags
from agent.handoff.segment import HotRestartVersion
from agent.host.binaries import Binary
from agent.host.memfds import Memfds, digest_of


@dataclass(frozen=True, slots=True)
class Program:
    """A binary that was opened and asked what it is."""

    binary: Binary
    version: str
    handoff: HotRestartVersion


@dataclass(frozen=True, slots=True)
class Source:
    """A configuration that could be parsed, and the text it was parsed from."""

    configuration: Configuration
    text: bytes


@dataclass(frozen=True, slots=True)
class Material:
    """One revision. `descriptors`: the sealed memory behind each materialised path."""

    revision: Revision
    source: Source
    copies: Copies
    outcome: Outcome
    program: Program
    descriptors: Mapping[str, int]

    @property
    def configuration(self) -> Configuration:
        """What the operator wrote."""
        return self.source.configuration

    @property
    def paths(self) -> dict[int, str]:
        """Which path a descriptor stands for."""
        return {descriptor: path for path, descriptor in self.descriptors.items()}


class Storeroom:
    """Keeps the materials in use, and lets the memory of the others go."""

    def __init__(self) -> None:
        self._memfds = Memfds()
        self._materials: dict[Revision, Material] = {}

    def __getitem__(self, revision: Revision) -> Material:
        return self._materials[revision]

    def make(self, source: Source, flags: Flags, outcome: Outcome, program: Program, extra: bytes) -> Material:
        """Materialise; the same bytes give the material that is already here. Raises `MachineError`.

        `extra` is the digest of whatever else shall make a new revision.
        """
        files = outcome.files
        revision = _identify(source.text, flags, files, program.binary, extra)
        if revision not in self._materials:
            copies = source.configuration.copies(files)
            descriptors = self._hold(files)
            self._materials[revision] = Material(revision, source, copies, outcome, program, descriptors)
        return self._materials[revision]

    def adopt(self, revision: Revision, source: Source, outcome: Outcome, program: Program) -> Material:
        """Keep what an epoch of an earlier agent runs from, under the name it has. Raises `MachineError`."""
        if revision not in self._materials:
            files = outcome.files
            copies = source.configuration.copies(files)
            self._materials[revision] = Material(revision, source, copies, outcome, program, self._hold(files))
        return self._materials[revision]

    def _hold(self, files: Mapping[str, bytes]) -> dict[str, int]:
        held: dict[str, int] = {}
        try:
            for path, data in files.items():
                held[path] = self._memfds.hold(path, data)
        except MachineError:
            for path in held:
                self._memfds.release(files[path])
            raise
        return held

    def keep_only(self, used: Collection[Revision]) -> None:
        """Forget every other revision."""
        for revision in self._materials.keys() - set(used):
            for data in self._materials.pop(revision).outcome.files.values():
                self._memfds.release(data)


def _identify(text: bytes, flags: Flags, files: Mapping[str, bytes], binary: Binary, extra: bytes) -> Revision:
    """Name the bytes. The binary counts by its file's identity: to read 107 MB for a digest would cost every start."""
    shape = hashlib.sha256()
    for part in (text, repr(flags).encode(), repr(binary.identity).encode(), extra):
        shape.update(len(part).to_bytes(8) + part)
    whole = shape.copy()
    for path in sorted(files):
        whole.update(f"{path}\0{digest_of(files[path])}\n".encode())
    return Revision(whole.hexdigest(), shape.hexdigest())
