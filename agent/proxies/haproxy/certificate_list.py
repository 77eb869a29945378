"""Reads a `crt-list` file: a certificate a line, its TLS options in brackets, and the names that it serves.

Source: configuration manual, `crt-list`. A copy has other paths and is otherwise the same, byte for byte.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from posixpath import isabs, join, normpath

_CA = ("ca-file", "ca-verify-file", "crl-file")


@dataclass(frozen=True, slots=True)
class Entry:
    """A file that a line names: its absolute path and its place in the text. `keyword`: `crt`, or a TLS option."""

    keyword: str
    path: str
    start: int
    end: int
    line: int


def entries(text: str, certificates: str, authorities: str) -> Iterator[Entry]:
    """Yield the files that a list names; relative paths start from one of two directories."""
    start = 0
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.strip()
        if stripped and not stripped.startswith("#"):
            yield from _in_line(line, number, start, certificates, authorities)
        start += len(line) + 1


def _in_line(line: str, number: int, start: int, certificates: str, authorities: str) -> Iterator[Entry]:
    begin = len(line) - len(line.lstrip())
    end = begin
    while end < len(line) and line[end] not in " \t[":
        end += 1
    yield Entry("crt", _absolute(line[begin:end], certificates), start + begin, start + end, number)
    opening, closing = line.find("[", end), line.find("]", end)
    if opening < 0 or closing < opening:
        return
    words = list(_words(line, opening + 1, closing))
    for (keyword, _, _), (path, first, last) in pairwise(words):
        if keyword in _CA and not path.startswith("@"):
            yield Entry(keyword, _absolute(path, authorities), start + first, start + last, number)


def _words(line: str, at: int, end: int) -> Iterator[tuple[str, int, int]]:
    while at < end:
        if line[at] in " \t":
            at += 1
            continue
        first = at
        while at < end and line[at] not in " \t":
            at += 1
        yield line[first:at], first, at


def _absolute(path: str, directory: str) -> str:
    return path if isabs(path) else normpath(join(directory, path))
