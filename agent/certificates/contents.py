"""What was found where a file is expected."""

from collections.abc import Mapping
from dataclasses import dataclass

from agent.certificates.findings import Fault, Unusable


@dataclass(frozen=True, slots=True)
class Unreadable:
    """There are no bytes: the file is not there, or cannot be read.

    `reason` ends the sentence `cannot use <path>: …` for an operator: "no such file or directory". `passes`: it is the
    machine that is short of something, and the same file may be read a moment later.
    """

    reason: str
    fault: Fault = Fault.MISSING
    passes: bool = False


Contents = Mapping[str, bytes | Unreadable]
"""Path to what one consistent look found there."""


def require(contents: Contents, path: str) -> bytes:
    """Return the bytes at `path`, which was looked at; raises Unusable if there are none."""
    content = contents[path]
    if isinstance(content, Unreadable):
        remedy = "write it where the agent can read it, or name another file"
        if content.passes:
            remedy = "the agent tries again"
        elif content.fault is Fault.UNREADABLE:
            remedy = "let the agent read it, or name another file"
        raise Unusable(path, content.fault, content.reason, remedy)
    return content
