"""The contents of expected files, or why they cannot be read."""

from collections.abc import Mapping
from dataclasses import dataclass

from agent.certificates.findings import Fault, Unusable


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file that is missing or cannot be read.

    `reason` completes the message `cannot use <path>: …`: "no such file or directory". `passes`: the error is
    transient, such as a resource shortage, and a retry may succeed.
    """

    reason: str
    fault: Fault = Fault.MISSING
    passes: bool = False


Contents = Mapping[str, bytes | Unreadable]
"""Path to the result of one consistent read."""


def require(contents: Contents, path: str) -> bytes:
    """Return the bytes at `path`, a key of `contents`. Raises `Unusable` if there are none."""
    content = contents[path]
    if isinstance(content, Unreadable):
        remedy = "write it where the agent can read it, or name another file"
        if content.passes:
            remedy = "the agent tries again"
        elif content.fault is Fault.UNREADABLE:
            remedy = "let the agent read it, or name another file"
        raise Unusable(path, content.fault, content.reason, remedy)
    return content
