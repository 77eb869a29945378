"""What was found where a file is expected."""

from collections.abc import Mapping
from dataclasses import dataclass

from agent.core.findings import Fault, Unusable


@dataclass(frozen=True, slots=True)
class Missing:
    """There are no bytes: the file is not there, or cannot be read.

    `reason` ends the sentence `cannot use <path>: …` for an operator: "no such file or directory".
    """

    reason: str


Contents = Mapping[str, bytes | Missing]
"""Path to what one consistent look found there."""


def present(contents: Contents, path: str) -> bytes:
    """Return the bytes at `path`, which was looked at; raises Unusable if there are none."""
    content = contents[path]
    if isinstance(content, Missing):
        remedy = "write it where the agent can read it, or name another file"
        raise Unusable(path, Fault.MISSING, content.reason, remedy)
    return content
