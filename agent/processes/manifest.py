"""An epoch's manifest: a sealed memfd that lists its files, for the agent that adopts it.

It is one of the epoch's own descriptors and holds JSON that maps the others to file paths. None of it is on disk; only
the epoch's user and root may open its descriptors (ptrace(2), PTRACE_MODE_READ). The agent's state file identifies the
manifest, so that an epoch cannot substitute another one.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from agent.core.errors import BadInput
from agent.core.revision import Revision
from agent.host.carried import Carried
from agent.host.slots import Slots
from agent.inputs.revisions import LoadedRevision

_FORMAT = 2


@dataclass(frozen=True, slots=True)
class Manifest:
    """The revision, files and program of an epoch.

    `files` (by path) and `program` are descriptors of the epoch, `slots` those of files that can be pushed.
    `push_base` is the revision's. `identity` is the program's, see `Binary`; `resources` is path to text. Fields that
    an older agent did not write have defaults.
    """

    digest: str
    shape: str
    name: str
    text: str
    config_yaml: str | None
    files: Mapping[str, Carried]
    program: Carried
    program_path: str
    identity: tuple[int, ...]
    program_version: str
    handoff: str
    reads_json: bool = True
    resources: Mapping[str, str] = field(default_factory=dict)
    push_base: str = ""
    slots: Mapping[str, tuple[Carried, Carried]] = field(default_factory=dict)

    @classmethod
    def of(cls, loaded: LoadedRevision, slots: Slots | None = None) -> "Manifest":
        """Return the manifest of an epoch that runs this revision."""
        program = loaded.program
        return cls(
            digest=loaded.revision.digest,
            shape=loaded.revision.config_digest,
            name=loaded.configuration.name,
            text=loaded.source.text.decode(),
            config_yaml=loaded.configuration.extra,
            files=loaded.carried,
            program=Carried.of(program.binary.descriptor),
            program_path=str(program.binary.path),
            identity=program.binary.identity,
            program_version=program.version,
            handoff="" if program.handoff is None else str(program.handoff),
            reads_json=program.reads_json,
            resources={path: data.decode() for path, data in loaded.source.resources.items()},
            push_base=loaded.revision.push_base,
            slots={} if slots is None else {path: _carried(slots.of(path)) for path in slots.used},
        )

    @property
    def revision(self) -> Revision:
        """The epoch's revision, as named when it was made."""
        return Revision(self.digest, self.shape, self.push_base)

    def to_bytes(self) -> bytes:
        """Return the content of the memfd."""
        # asdict copies a thousand files in 20 ms, on the loop.
        flat = {each.name: getattr(self, each.name) for each in fields(self)}
        if not self.slots:
            del flat["push_base"], flat["slots"]  # an older agent does not know them, and may adopt this epoch
        return json.dumps({"format": _FORMAT, **flat}, default=_facts).encode()

    @classmethod
    def carried_by(cls, pid: int, carried: Carried) -> "Manifest":
        """Read the manifest of a process. Raises `MachineError` or `BadInput`."""
        try:
            tree = json.loads(carried.read(pid))
            if tree.pop("format") != _FORMAT:
                message = f"cannot adopt the process {pid}: an incompatible agent started it"
                raise BadInput(message)
            files = {path: Carried(**each) for path, each in tree.pop("files").items()}
            slots = {path: (Carried(**one), Carried(**two)) for path, (one, two) in tree.pop("slots", {}).items()}
            program, identity = Carried(**tree.pop("program")), tuple(tree.pop("identity"))
            return cls(files=files, program=program, identity=identity, slots=slots, **tree)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            message = f"cannot adopt the process {pid}: its manifest is invalid ({type(error).__name__})"
            raise BadInput(message) from error


def _carried(descriptors: tuple[int, int]) -> tuple[Carried, Carried]:
    return Carried.in_memory(descriptors[0]), Carried.in_memory(descriptors[1])


def _facts(carried: Carried) -> dict[str, int]:
    return {"descriptor": carried.descriptor, "mount": carried.mount, "inode": carried.inode}
