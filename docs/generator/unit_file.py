"""Reads a unit file of systemd with its comments."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True)
class Block:
    """Settings that stand together below a comment. `section` is theirs, empty at the head of the file."""

    section: str
    comment: str = ""
    settings: list[str] = field(default_factory=list)


def read_unit(path: Path) -> list[Block]:
    """Return the blocks of a file in order; the first one has the comment about the whole file."""
    blocks = [Block("")]
    for line in path.read_text(encoding="utf-8").splitlines():
        last = blocks[-1]
        if line.startswith("["):
            blocks.append(Block(line))
        elif line.startswith("#") and last.settings:
            blocks.append(Block(last.section, line.strip("# ")))
        elif line.startswith("#"):
            last.comment = f"{last.comment} {line.strip('# ')}".strip()
        elif not line and last.settings:
            blocks.append(Block(last.section))
        elif line:
            last.settings.append(line)
    return [block for block in blocks if block.comment or block.settings]
