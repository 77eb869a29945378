"""Splits an HAProxy configuration into lines of words, each with its place in the text.

The rules are those of `parse_line()` in HAProxy 2.6 (tools.c; configuration manual, section 2.2): spaces separate
words, a backslash escapes some characters and stands for itself before others, also at the end of a line, quotes group,
a variable is replaced in double quotes only, `#` begins a comment. Branches of `.if` that are not taken are left out.
A word's place includes its quotes, so that a replacement leaves everything else as it is.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from agent.core.errors import BadInput
from agent.proxies.haproxy.conditions import Branches

_VARIABLE = re.compile(
    r"\$(?:\{(?P<braced>[A-Za-z_.]\w*)(?P<is_list>\[\*])?(?:-(?P<default>[^}]*))?\}|(?P<plain>[A-Za-z_.]\w*))",
    re.ASCII,
)
_ESCAPED = {" ": " ", "\\": "\\", "t": "\t", "n": "\n", "r": "\r", "#": "#", "'": "'", '"': '"'}
_HEX = re.compile(r"[0-9A-Fa-f]{2}")
_BLANK = " \t\v\f"


@dataclass(frozen=True, slots=True)
class Word:
    """A word and its place in the text: `text[start:end]`, quotes included.

    `is_shared`: a variable that holds a list made several words of one place.
    """

    value: str
    start: int
    end: int
    is_shared: bool = False


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
    earlier: list[str] = field(default_factory=list)  # words of the same place
    is_word: bool = False  # an empty word needs quotes, and no list in them

    def words(self) -> Iterator[Word]:
        """Yield the words. Raises `ValueError` for a quote, a brace or an escape without an end."""
        while True:
            while self.at < self.end and self.text[self.at] in _BLANK:
                self.at += 1
            if self.at >= self.end or self.text[self.at] == "#":
                return
            yield from self._word()

    def _word(self) -> Iterator[Word]:
        start = self.at
        self.parts, self.earlier, self.is_word = [], [], False
        while self.at < self.end and self.text[self.at] not in f"{_BLANK}#":
            self._piece()
        if not self.is_word and not self.parts and not self.earlier:
            return
        values = [*self.earlier, "".join(self.parts)]
        for value in values:
            yield Word(value, start, self.at, len(values) > 1)

    def _piece(self) -> None:
        match self.text[self.at]:
            case "\\":
                self.parts.append(self._escaped())
            case "'":
                closing = self._closing("'")
                self.parts.append(self.text[self.at + 1 : closing])
                self.is_word = True
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

    def _escaped(self, further: str = "") -> str:
        """Return what a backslash and the next character stand for: both, if it escapes nothing."""
        following = self.text[self.at + 1 : min(self.at + 2, self.end)]
        if following == "x":
            return self._hexadecimal()
        meant = following if following and following in further else _ESCAPED.get(following)
        self.at += 1 if meant is None else 2
        return "\\" if meant is None else meant

    def _hexadecimal(self) -> str:
        digits = self.text[self.at + 2 : min(self.at + 4, self.end)]
        if not _HEX.fullmatch(digits):
            message = f"\\x needs two hexadecimal digits, not {digits!r}"
            raise ValueError(message)
        self.at += 4
        return chr(int(digits, 16))

    def _double_quoted(self) -> None:
        self.at += 1
        is_word = True
        while self.at < self.end and self.text[self.at] != '"':
            match self.text[self.at]:
                case "\\":
                    self.parts.append(self._escaped("$"))
                case "$":
                    is_word = not self._variable() and is_word
                case character:
                    self.parts.append(character)
                    self.at += 1
        if self.at >= self.end:
            message = "a quote is not closed"
            raise ValueError(message)
        self.is_word = self.is_word or is_word
        self.at += 1

    def _variable(self) -> bool:
        """Read a variable; return whether it is a list, whose elements become words."""
        found = _VARIABLE.match(self.text, self.at, self.end)
        if found is None:
            message = "a variable has no name, or a brace is not closed"
            raise ValueError(message)
        self.at = found.end()
        value = self.environment.get(found["braced"] or found["plain"], found["default"] or "")
        if found["is_list"] is None:
            self.parts.append(value)
            return False
        first, *others = re.split(f"[{_BLANK}\n\r]+", value)
        self.parts.append(first)
        for each in others:
            self.earlier.append("".join(self.parts))
            self.parts = [each]
        return True


def lines(text: str, name: str, environment: Mapping[str, str], sections: Collection[str] = ()) -> Iterator[Line]:
    """Yield the lines that have words. Raises `BadInput` naming the file and the line.

    `environment`: the process's; `setenv`, `presetenv` and `unsetenv` in the text change it for later lines.
    `sections`: the words that begin one.
    """
    known = {**environment, ".FILE": name, ".SECTION": ""}
    branches = Branches(known)
    start = 0
    for number, whole in enumerate(text.split("\n"), 1):
        end = start + len(whole.partition("\r")[0])
        known[".LINE"] = str(number)
        try:
            words = tuple(_Reader(text, start, end, known).words())
        except ValueError as error:
            message = f"cannot use {name}: line {number} cannot be parsed: {error}; correct it"
            raise BadInput(message) from None
        start += len(whole) + 1
        line = Line(number, words)
        if not words or not words[0].value or branches.leave_out(line.values):
            continue
        if line.values[0] in sections:
            known[".SECTION"] = next(iter(line.values[1:]), line.values[0])
        _note_variables(line, known)
        yield line


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
