"""Splits an HAProxy configuration into lines of words, each with its place in the text.

The rules are those of `parse_line()` in HAProxy's tools.c (configuration manual, section 2.2): spaces separate words, a
backslash escapes the next character, quotes group, a variable is replaced in double quotes only, `#` begins a comment.
A word's place includes its quotes, so that a replacement leaves everything else as it is.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from agent.core.errors import BadInput

_VARIABLE = re.compile(r"\$(?:\{(?P<braced>\w+)(?:\[\*])?(?:-(?P<default>[^}]*))?\}|(?P<plain>\w+))")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}
_BLANK = " \t"


@dataclass(frozen=True, slots=True)
class Word:
    """A word and its place in the text: `text[start:end]`, quotes included."""

    value: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Line:
    """The words of one line that is not empty. `number` counts from 1."""

    number: int
    words: tuple[Word, ...]

    @property
    def values(self) -> tuple[str, ...]:
        """The words without their places."""
        return tuple(word.value for word in self.words)


@dataclass(slots=True)
class _Reader:
    """Reads words from one line. `environment` has the values of variables."""

    text: str
    at: int
    end: int
    environment: Mapping[str, str]
    parts: list[str] = field(default_factory=list)

    def words(self) -> Iterator[Word]:
        """Yield the words. Raises `ValueError` for a quote or an escape without an end."""
        while True:
            while self.at < self.end and self.text[self.at] in _BLANK:
                self.at += 1
            if self.at >= self.end or self.text[self.at] == "#":
                return
            start = self.at
            self.parts = []
            while self.at < self.end and self.text[self.at] not in f"{_BLANK}#":
                self._piece()
            yield Word("".join(self.parts), start, self.at)

    def _piece(self) -> None:
        match self.text[self.at]:
            case "\\":
                self.parts.append(self._escaped())
            case "'":
                closing = self._closing("'")
                self.parts.append(self.text[self.at + 1 : closing])
                self.at = closing + 1
            case '"':
                self._double_quoted()
            case character:
                self.parts.append(character)
                self.at += 1

    def _closing(self, quote: str) -> int:
        closing = self.text.find(quote, self.at + 1, self.end)
        if closing < 0:
            message = "a quote is not closed"
            raise ValueError(message)
        return closing

    def _escaped(self) -> str:
        if self.at + 1 >= self.end:
            message = "a backslash ends it"
            raise ValueError(message)
        following = self.text[self.at + 1]
        if following == "x":
            digits = self.text[self.at + 2 : self.at + 4]
            self.at += 4
            return chr(int(digits, 16))
        self.at += 2
        return _ESCAPES.get(following, following)

    def _double_quoted(self) -> None:
        self.at += 1
        while self.at < self.end and self.text[self.at] != '"':
            if self.text[self.at] == "\\":
                self.parts.append(self._escaped())
            elif self.text[self.at] == "$" and (found := _VARIABLE.match(self.text, self.at, self.end)) is not None:
                name = found["braced"] or found["plain"]
                self.parts.append(self.environment.get(name, found["default"] or ""))
                self.at = found.end()
            else:
                self.parts.append(self.text[self.at])
                self.at += 1
        if self.at >= self.end:
            message = "a quote is not closed"
            raise ValueError(message)
        self.at += 1


def lines(text: str, name: str, environment: Mapping[str, str]) -> Iterator[Line]:
    """Yield the lines that have words. Raises `BadInput` naming the file and the line.

    `environment`: the process's; `setenv`, `presetenv` and `unsetenv` in the text change it for later lines.
    """
    known = dict(environment)
    start = 0
    for number, whole in enumerate(text.split("\n"), 1):
        end = start + len(whole.removesuffix("\r"))
        try:
            words = tuple(_Reader(text, start, end, known).words())
        except ValueError as error:
            message = f"cannot use {name}: line {number} cannot be parsed: {error}; correct it"
            raise BadInput(message) from None
        if words:
            line = Line(number, words)
            _note_variables(line, known)
            yield line
        start += len(whole) + 1


def _note_variables(line: Line, known: dict[str, str]) -> None:
    match line.values:
        case ("setenv", name, *rest):
            known[name] = rest[0] if rest else ""
        case ("presetenv", name, *rest):
            known.setdefault(name, rest[0] if rest else "")
        case ("unsetenv", *names):
            for name in names:
                known.pop(name, None)
        case _:
            pass
