"""Writes one text for a configuration with all its includes, and finds the original line of each of its lines."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from agent.proxies.nginx.sources import Source


@dataclass(frozen=True, slots=True)
class Replaced:
    """A part of a file that the copy replaces by another text."""

    start: int
    end: int
    text: str = ""


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of the copy, and the line of the file that it begins with."""

    text: str
    name: str
    line: int


class Copy:
    """The copy of `main`, with `replaced` parts, by the identity of a file's source."""

    def __init__(self, main: Source, replaced: Mapping[int, list[Replaced]]) -> None:
        pieces = list(_pieces(main, replaced))
        self.text = "".join(piece.text for piece in pieces)
        self._starts: list[int] = []
        self._pieces = pieces
        line = 1
        for piece in pieces:
            self._starts.append(line)
            line += piece.text.count("\n")

    def original(self, line: int) -> str:
        """Return the file and the line that a line of the copy comes from, as `file:line`."""
        number = bisect_right(self._starts, line) - 1
        piece = self._pieces[max(0, number)]
        return f"{piece.name}:{piece.line + line - self._starts[max(0, number)]}"


def _pieces(source: Source, replaced: Mapping[int, list[Replaced]]) -> Iterator[_Piece]:
    changes: list[Replaced | _Include] = [*_includes(source), *replaced.get(id(source), [])]
    at = 0
    for change in sorted(changes, key=lambda each: each.start):
        yield _Piece(source.text[at : change.start], source.name, 1 + source.text.count("\n", 0, at))
        if isinstance(change, Replaced):
            yield _Piece(change.text, source.name, 1 + source.text.count("\n", 0, change.start))
        else:
            for inner in source.included[change.start]:
                yield from _pieces(inner, replaced)
                yield _Piece("\n", inner.name, 1 + inner.text.count("\n"))
        at = change.end
    yield _Piece(source.text[at:], source.name, 1 + source.text.count("\n", 0, at))


@dataclass(frozen=True, slots=True)
class _Include:
    start: int
    end: int


def _includes(source: Source) -> Iterator[_Include]:
    stack = list(source.directives)
    while stack:
        each = stack.pop()
        if each.name == "include" and each.start in source.included:
            yield _Include(each.start, each.end)
        stack.extend(each.block)
