"""What an epoch runs from, in sealed memory that it carries itself, so that an agent that comes back can read it there.

It is one descriptor of the epoch: JSON that names the others. Nothing of it lies on a disk; whoever may open another
process's descriptors (ptrace(2), PTRACE_MODE_READ) is its user or root.
"""

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from agent.core.errors import BadInput, MachineError
from agent.core.revision import Revision
from agent.runtime.material import Material

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Manifest:
    """`files` and `program` are descriptors of the epoch, by path and by number; the revision is what it was named.

    `resources` is path to text. What an older agent did not write has a default.
    """

    digest: str
    shape: str
    name: str
    text: str
    config_yaml: str | None
    files: Mapping[str, int]
    program: int
    program_path: str
    program_version: str
    handoff: str
    reads_json: bool = True
    resources: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, material: Material, config_yaml: str | None) -> "Manifest":
        """What an epoch of this material will carry."""
        program = material.program
        return cls(
            digest=material.revision.digest,
            shape=material.revision.shape,
            name=material.configuration.name,
            text=material.source.text.decode(),
            config_yaml=config_yaml,
            files={path: material.descriptors[path] for path in material.outcome.files},
            program=program.binary.descriptor,
            program_path=str(program.binary.path),
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
    def carried_by(cls, pid: int, descriptor: int) -> "Manifest":
        """Read what a process carries under this number. Raises `MachineError` or `BadInput`."""
        try:
            tree = json.loads(read(pid, descriptor))
            if tree.pop("format") != _FORMAT:
                message = f"cannot adopt the process {pid}: it was started by an agent of another kind"
                raise BadInput(message)
            return cls(**tree)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            message = f"cannot adopt the process {pid}: what it carries makes no sense ({type(error).__name__})"
            raise BadInput(message) from error


def carried(pid: int, descriptor: int) -> Path:
    """Where another process's descriptor can be opened."""
    return Path(f"/proc/{pid}/fd/{descriptor}")


def read(pid: int, descriptor: int) -> bytes:
    """The whole content of a regular file that a process has open. Raises `MachineError`."""
    try:
        opened = os.open(carried(pid, descriptor), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        with os.fdopen(opened, "rb") as file:
            if not stat.S_ISREG(os.fstat(opened).st_mode):
                message = f"cannot read descriptor {descriptor} of the process {pid}: it is no file"
                raise MachineError(message)
            return file.read()
    except OSError as error:
        message = f"cannot read descriptor {descriptor} of the process {pid}: {error.strerror}"
        raise MachineError(message) from error
