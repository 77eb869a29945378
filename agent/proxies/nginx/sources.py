"""The files of an NGINX configuration: the main one and all that it includes, each parsed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from posixpath import dirname, isabs, join, normpath

from agent.core.errors import BadInput
from agent.proxies.nginx.directives import Directive, directives

_WILD = frozenset("*?[")


@dataclass(slots=True)
class Source:
    """A file. `included` maps each of its include directives (by place) to the files that it stands for."""

    name: str
    text: str
    directives: list[Directive]
    included: "dict[int, list[Source]]" = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Found:
    """A directive with its file, and the directives whose blocks it is in, the outermost first."""

    directive: Directive
    source: Source
    parents: tuple[Directive, ...]

    @property
    def context(self) -> tuple[str, ...]:
        """The names of the blocks that it is in."""
        return tuple(each.name for each in self.parents)


class Sources:
    """Reads a configuration from its text and `resources`, see `Configuration.unread`.

    `base` is the directory that relative paths start from. Raises `BadInput`.
    """

    def __init__(self, text: str, name: str, base: str, resources: Mapping[str, bytes]) -> None:
        self.unread: list[str] = []
        self._base = base
        self._resources = resources
        self.main = self._parsed(name, text, ())

    def absolute(self, path: str) -> str:
        """Return a path as NGINX understands it; one that begins with a variable is not relative."""
        return path if isabs(path) or path.startswith("$") else normpath(join(self._base, path))

    def _parsed(self, name: str, text: str, within: tuple[str, ...]) -> Source:
        """Parse a file and what it includes. `within`: the files that include it, the outermost first."""
        if name in within:
            message = f"cannot use {name}: {within[-1]} includes it, and it is included by itself; remove that include"
            raise BadInput(message)
        source = Source(name, text, directives(text, name))
        for each in _all(source.directives):
            if each.name == "include" and len(each.words) > 1:
                paths = self._included(self.absolute(each.values[0]))
                source.included[each.start] = [
                    self._parsed(path, _decoded(path, self._resources[path]), (*within, name))
                    for path in paths
                    if path in self._resources
                ]
        return source

    def _included(self, path: str) -> list[str]:
        """Return the files that an include stands for, as far as they are known; note what is not."""
        if _WILD.isdisjoint(path):
            found = [path]
        else:
            self._need(path)
            found = [each for each in self._resources.get(path, b"").decode().split("\n") if each and each[-1] != "/"]
        for each in found:
            self._need(each)
        return found

    def _need(self, name: str) -> None:
        if name not in self._resources and name not in self.unread:
            self.unread.append(name)

    def walk(self) -> Iterator[Found]:
        """Yield every directive in the order in which NGINX reads them, without the includes themselves."""
        yield from _walk(self.main, self.main.directives, ())


def _all(found: list[Directive]) -> Iterator[Directive]:
    for each in found:
        yield each
        yield from _all(each.block)


def _walk(source: Source, found: list[Directive], parents: tuple[Directive, ...]) -> Iterator[Found]:
    for each in found:
        if each.start in source.included and each.name == "include":
            for inner in source.included[each.start]:
                yield from _walk(inner, inner.directives, parents)
            continue
        yield Found(each, source, parents)
        yield from _walk(source, each.block, (*parents, each))


def _decoded(name: str, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        message = f"cannot read {name}: byte {error.start} is not UTF-8; save it as UTF-8"
        raise BadInput(message) from error


def directory_of(name: str, working: str) -> str:
    """Return the directory of a configuration file, which relative paths in it start from."""
    return normpath(join(working, dirname(name)))
