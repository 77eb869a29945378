"""The placeholders in the arguments and the configuration of a server: `{fd:NAME}`, `{cert:NAME}`."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from agent.core.errors import UsageError

_PLACEHOLDER = re.compile(r"\{(fd|cert|key|file|config)(?::([^{}\s]+))?\}")
_NAMED = re.compile(r"\{(fd|cert|key|file):([^{}\s]+)\}")
"""Those in a configuration: a server's own language may have `{file}` and the like."""


@dataclass(frozen=True, slots=True)
class Placeholder:
    """A word of a kind: `fd` with the name of a listener, `cert` and `key` with a pair's, `file` with a path."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{{{self.kind}:{self.name}}}" if self.name else f"{{{self.kind}}}"

    @property
    def is_path(self) -> bool:
        """Whether the name is the path of a file, and not the name of a pair in the directories."""
        return "/" in self.name


def placeholders(texts: Iterable[str], *, of_configuration: bool = False) -> Iterator[Placeholder]:
    """Yield the placeholders in arguments, or in a configuration."""
    for text in texts:
        for found in (_NAMED if of_configuration else _PLACEHOLDER).finditer(text):
            yield Placeholder(found[1], found[2] or "")


def replaced(text: str, value: Callable[[Placeholder], str], *, of_configuration: bool = False) -> str:
    """Return the text with a value for each placeholder."""
    pattern = _NAMED if of_configuration else _PLACEHOLDER
    return pattern.sub(lambda found: value(Placeholder(found[1], found[2] or "")), text)


def require_known(found: Iterable[Placeholder], listeners: Iterable[str], *, has_config: bool) -> None:
    """Raise `UsageError` for a placeholder that nothing can replace."""
    names = list(listeners)
    for each in found:
        if each.kind == "fd" and each.name not in names:
            known = ", ".join(names) or "none"
            message = f"cannot use {each}: there is no listener of that name; the names given by --listen are: {known}"
            raise UsageError(message)
        if each.kind == "config" and not has_config:
            message = "cannot use {config}: there is no configuration; name one by --config"
            raise UsageError(message)
        if each.kind == "file" and not each.is_path:
            message = f"cannot use {each}: it is no path; write an absolute one"
            raise UsageError(message)
