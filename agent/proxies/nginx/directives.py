"""Splits an NGINX configuration into directives, each with its place in the text.

The rules are those of `ngx_conf_read_token()` in NGINX's ngx_conf_file.c: white space separates words, `;`, `{` and `}`
end them, `#` begins a comment where a word could begin, quotes group, a backslash escapes, `${` belongs to a word. A
block of Lua (`content_by_lua_block`) is skipped as a whole. NGINX's own parser for Python, crossplane, reads files
itself and has no places in the text, so that a copy would be a rewritten one.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from agent.core.errors import BadInput

_BLANK = " \t\r\n"
_ESCAPES = {"t": "\t", "r": "\r", "n": "\n"}
_RAW = "_by_lua_block"
_LONG = re.compile(r"(?:--)?\[(=*)\[")  # a long string or comment of Lua, which ends with as many "="
_DEEPEST = 64  # blocks within one another


@dataclass(frozen=True, slots=True)
class Word:
    """A word and its place in the text: `text[start:end]`, quotes included."""

    value: str
    start: int
    end: int


@dataclass(slots=True)
class Directive:
    """A directive with the directives of its block, if it has one.

    `end` is behind its semicolon or its closing brace, `closing` the place of that brace, `line` counts from 1.
    """

    words: tuple[Word, ...]
    line: int
    start: int
    end: int = 0
    closing: int | None = None
    block: "list[Directive]" = field(default_factory=list)

    @property
    def name(self) -> str:
        """The first word."""
        return self.words[0].value

    @property
    def values(self) -> tuple[str, ...]:
        """The words behind the first."""
        return tuple(word.value for word in self.words[1:])


def directives(text: str, name: str) -> list[Directive]:
    """Parse a configuration. Raises `BadInput` naming the file and the line."""
    reader = _Reader(text)
    try:
        return list(reader.block(is_top=True))
    except ValueError as error:
        message = f"cannot use {name}: line {reader.line} cannot be parsed: {error}; correct it"
        raise BadInput(message) from None


def quoted(text: str) -> str:
    """Return a text as one word."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0
        self._counted = 0  # where `_line` was counted
        self._line = 1

    @property
    def line(self) -> int:
        """The line of the current place."""
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line

    def block(self, *, is_top: bool = False) -> Iterator[Directive]:
        """Yield the directives up to the closing brace, or to the end of the text."""
        while True:
            self._skip()
            if self._at >= len(self._text):
                if not is_top:
                    message = 'a block is not closed by "}"'
                    raise ValueError(message)
                return
            if self._text[self._at] == "}":
                if is_top:
                    message = 'there is no block that this "}" could close'
                    raise ValueError(message)
                return
            yield self._directive()

    def _directive(self) -> Directive:
        words: list[Word] = []
        start, line = self._at, self.line
        while True:
            self._skip()
            if self._at >= len(self._text):
                message = 'a directive is not ended by ";"'
                raise ValueError(message)
            character = self._text[self._at]
            if character in ";{}":
                break
            words.append(self._word())
        if not words or character == "}":
            message = f'"{character}" is not expected here'
            raise ValueError(message)
        found = Directive(tuple(words), line, start)
        self._at += 1
        if character == "{":
            self._read_block(found)
        found.end = self._at
        return found

    def _read_block(self, found: Directive) -> None:
        if found.name.endswith(_RAW):
            self._skip_raw()
        else:
            self._depth += 1
            if self._depth > _DEEPEST:
                message = f"more than {_DEEPEST} blocks are within one another"
                raise ValueError(message)
            found.block = list(self.block())
            self._depth -= 1
        found.closing = self._at
        self._at += 1

    def _skip(self) -> None:
        while self._at < len(self._text):
            if self._text[self._at] in _BLANK:
                self._at += 1
            elif self._text[self._at] == "#":
                end = self._text.find("\n", self._at)
                self._at = len(self._text) if end < 0 else end
            else:
                return

    def _word(self) -> Word:
        start = self._at
        if self._text[start] in "\"'":
            return Word(self._quoted(self._text[start]), start, self._at)
        parts: list[str] = []
        while self._at < len(self._text):
            character = self._text[self._at]
            if character in f"{_BLANK};" or (character == "{" and parts[-1:] != ["$"]):
                break
            if character == "\\":
                parts.append(self._escaped())
                continue
            parts.append(character)
            self._at += 1
        return Word("".join(parts), start, self._at)

    def _quoted(self, quote: str) -> str:
        parts: list[str] = []
        self._at += 1
        while self._at < len(self._text):
            character = self._text[self._at]
            if character == quote:
                self._at += 1
                return "".join(parts)
            if character == "\\":
                parts.append(self._escaped())
                continue
            parts.append(character)
            self._at += 1
        message = "a quote is not closed"
        raise ValueError(message)

    def _escaped(self) -> str:
        following = self._text[self._at + 1 : self._at + 2]
        self._at += 2
        if following in {'"', "'", "\\"}:
            return following
        return _ESCAPES.get(following, f"\\{following}")

    def _skip_raw(self) -> None:
        """Go to the brace that closes a block of Lua; its strings and comments may contain braces."""
        depth = 1
        while self._at < len(self._text):
            character = self._text[self._at]
            if character in "\"'":
                self._quoted(character)
                continue
            if (opened := _LONG.match(self._text, self._at)) is not None:
                self._skip_to(f"]{opened[1]}]")
                continue
            if self._text.startswith("--", self._at):
                self._skip_to("\n")
                continue
            depth += {"{": 1, "}": -1}.get(character, 0)
            if depth == 0:
                return
            self._at += 1
        message = "a block of Lua is not closed"
        raise ValueError(message)

    def _skip_to(self, closing: str) -> None:
        end = self._text.find(closing, self._at)
        self._at = len(self._text) if end < 0 else end + len(closing)
