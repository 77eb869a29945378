"""Writes values as YAML that every parser reads in the same way."""

import json
import re
from typing import Final

from agent.injection.edits import JsonValue

_PLAIN = re.compile(r"(?:-{1,2}[A-Za-z]|[A-Za-z/$])[\w./:=,@$()+-]*(?<!:)|\d+(?:m|[KMGT]i)", re.ASCII)
_WORDS: Final = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null", "none", "nan", "inf"})
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


def flow(value: JsonValue) -> str:
    """Return a value on one line, as JSON, which is YAML as well."""
    text = json.dumps(value, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def scalar(value: JsonValue) -> str:
    """Return a scalar or an empty collection, in quotes unless every parser reads a text."""
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    if isinstance(value, str) and '"' in value and value.isprintable():
        return "'" + value.replace("'", "''") + "'"
    return flow(value)


class Block:
    """Writes in block style; the dashes of a list are `offset` columns behind its key."""

    def __init__(self, offset: int) -> None:
        self._offset = offset

    def pair(self, key: str, value: JsonValue, column: int) -> list[str]:
        """Return the lines of a key and its value."""
        start = " " * column + scalar(key) + ":"
        if value and isinstance(value, dict):
            return [start, *self.mapping(value, column + 2)]
        if value and isinstance(value, list):
            return [start, *self.sequence(value, column + self._offset)]
        return [f"{start} {scalar(value)}"]

    def mapping(self, value: dict[str, JsonValue], column: int) -> list[str]:
        """Return the lines of a mapping that is not empty."""
        return [line for key, each in value.items() for line in self.pair(key, each, column)]

    def sequence(self, value: list[JsonValue], column: int) -> list[str]:
        """Return the lines of a list that is not empty."""
        return [line for each in value for line in self.item(each, column)]

    def item(self, value: JsonValue, column: int) -> list[str]:
        """Return the lines of an item of a list; its dash is at the column."""
        if value and isinstance(value, dict):
            lines = self.mapping(value, column + 2)
        elif value and isinstance(value, list):
            lines = self.sequence(value, column + 2)
        else:
            lines = [" " * (column + 2) + scalar(value)]
        return [" " * column + "- " + lines[0].lstrip(" "), *lines[1:]]
