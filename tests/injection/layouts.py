"""Writes a value as YAML in a drawn layout: block or flow style, quotes, comments, blank lines, line endings."""

import json
import random
from dataclasses import dataclass, field
from typing import Any

PLAIN = {"Always", "Never", "HTTP", "HTTPS", "http", "RuntimeDefault", "apps/v1", "v1", "batch/v1", "Memory"}
WORDS = {"true", "false", "yes", "no", "null"}


@dataclass
class Layout:
    """The choices of one document; each is drawn from `random` as it is needed."""

    random: random.Random
    comments: float = 0.2
    flow: float = 0.15
    offset: int = field(init=False)

    def __post_init__(self) -> None:
        self.offset = self.random.choice([0, 2])

    def document(self, value: dict[str, Any]) -> str:
        """Return a document without a separator."""
        kind = self.random.random()
        if kind < 0.1:
            return json.dumps(value, indent=self.random.choice([None, 2, 4, "\t"])) + self._choice("\n", "")
        text = "\n".join([*self._comment_lines(0), *self._mapping(value, 0), *self._comment_lines(0)])
        text += self._choice("\n", "\n", "", "\n\n# the end\n")
        return text.replace("\n", self._choice("\n", "\n", "\r\n"))

    def _choice(self, *texts: str) -> str:
        return self.random.choice(texts)

    def _has(self, chance: float) -> bool:
        return self.random.random() < chance

    def _scalar(self, value: object) -> str:
        if not isinstance(value, str):
            return json.dumps(value)
        plain = value in PLAIN or (value.replace("-", "").isalpha() and value not in WORDS)
        styles = [json.dumps(value), "'" + value.replace("'", "''") + "'", *([value] * 6 if plain else [])]
        return self.random.choice(styles)

    def _flow(self, value: object) -> str:
        if isinstance(value, dict):
            inner = ", ".join(f"{self._scalar(key)}: {self._flow(each)}" for key, each in value.items())
            return self._choice("{%s}", "{ %s }") % inner
        if isinstance(value, list):
            return self._choice("[%s]", "[ %s ]") % ", ".join(map(self._flow, value))
        return self._scalar(value)

    def _trail(self) -> str:
        return self._choice(" # why", "   # a: b", " #'\"{") if self._has(self.comments) else ""

    def _comment_lines(self, column: int) -> list[str]:
        if not self._has(self.comments):
            return []
        other = max(0, column + self.random.choice([0, 0, 0, 2, -2]))
        return [self._choice(" " * other + "# a comment", " " * column + "# - name: x", "", "   ")]

    def _mapping(self, value: dict[str, Any], column: int) -> list[str]:
        lines = []
        for number, (key, each) in enumerate(value.items()):
            lines += self._comment_lines(column) if number else []
            lines += self._pair(key, each, column)
        return lines

    def _pair(self, key: str, value: object, column: int) -> list[str]:
        plain = key.replace("/", "").replace(".", "").replace("-", "").isalnum()
        start = " " * column + (key if plain and not self._has(0.05) else json.dumps(key)) + ":"
        if isinstance(value, dict | list) and value and not self._has(self.flow):
            head = [start + self._trail(), *self._comment_lines(column + 2)]
            if isinstance(value, dict):
                return [*head, *self._mapping(value, column + 2)]
            return [*head, *self._sequence(value, column + self.offset)]
        if value is None:
            return [start + self._choice("", " ~", " null", "  null") + self._trail()]
        if isinstance(value, str) and value and value.isalnum() and self._has(0.05):
            return self._block_scalar(start, value, column)
        return [f"{start}{self._choice(' ', ' ', '  ')}{self._flow(value)}{self._trail()}"]

    def _block_scalar(self, start: str, value: str, column: int) -> list[str]:
        return [f"{start} {self._choice('|-', '>-')}", " " * (column + 2) + value]

    def _sequence(self, value: list[Any], column: int) -> list[str]:
        lines = []
        for number, each in enumerate(value):
            lines += self._comment_lines(column) if number else []
            dash = " " * column + "-"
            if isinstance(each, dict) and each and not self._has(self.flow):
                inner = self._mapping(each, column + 2)
                if self._has(0.1):
                    lines += [dash + self._trail(), *inner]
                else:
                    lines += [dash + " " + inner[0].lstrip(" "), *inner[1:]]
            else:
                lines.append(f"{dash} {self._flow(each)}{self._trail()}")
        return lines
