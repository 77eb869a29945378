"""What an epoch runs from, in sealed memory that it carries itself, so that an agent that comes back can read it there.

It is one descriptor of the epoch: JSON that tells of the others which files they are. Nothing of it lies on a disk;
whoever may open another process's descriptors (ptrace(2), PTRACE_MODE_READ) is its user or root. Which file the
manifest is stands in the agent's own state, so that an epoch cannot name another one.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from agent.core.errors import BadInput
from agent.core.revision import Revision
from agent.host.carried import Carried
from agent.inputs.revisions import LoadedRevision

_FORMAT = 2


@dataclass(frozen=True, slots=True)
class Manifest:
    """`files` and `program` are descriptors of the epoch, the files by path; the revision is what it was named.

    `identity` is the program's, see `Binary`; `resources` is path to text. What an older agent did not write has a
    default.
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

    @classmethod
    def of(cls, material: LoadedRevision) -> "Manifest":
        """What an epoch of this material will carry."""
        program = material.program
        return cls(
            digest=material.revision.digest,
            shape=material.revision.config_digest,
            name=material.configuration.name,
            text=material.source.text.decode(),
            config_yaml=material.configuration.extra,
            files={path: Carried.in_memory(material.descriptors[path]) for path in material.outcome.files},
            program=Carried.of(program.binary.descriptor),
            program_path=str(program.binary.path),
            identity=program.binary.identity,
            program_version=program.version,
            handoff=str(program.handoff),
            reads_json=program.reads_json,
            resources={path: data.decode() for path, data in material.source.resources.items()},
        )

    @property
    def revision(self) -> Revision:
        """What the epoch's revision was named when it was made."""
        return Revision(self.digest, self.shape)

    def to_bytes(self) -> bytes:
        """As it lies in memory."""
        return json.dumps({"format": _FORMAT, **asdict(self)}).encode()

    @classmethod
    def carried_by(cls, pid: int, carried: Carried) -> "Manifest":
        """Read the one that a process carries. Raises `MachineError` or `BadInput`."""
        try:
            tree = json.loads(carried.read(pid))
            if tree.pop("format") != _FORMAT:
                message = f"cannot adopt the process {pid}: it was started by an agent of another kind"
                raise BadInput(message)
            files = {path: Carried(**each) for path, each in tree.pop("files").items()}
            program, identity = Carried(**tree.pop("program")), tuple(tree.pop("identity"))
            return cls(files=files, program=program, identity=identity, **tree)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            message = f"cannot adopt the process {pid}: what it carries makes no sense ({type(error).__name__})"
            raise BadInput(message) from error
