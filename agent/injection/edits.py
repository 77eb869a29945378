"""Edits of an API object: what injection changes, apart from how it is written.

Edits apply in order, each to the result of the ones before it. Two programs apply them: `text` splices them into a
file, and the webhook writes them as a JSON patch (RFC 6902).
"""

from dataclasses import dataclass

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]
"""A value of JSON, as the parsers of JSON and YAML return it."""

Path = tuple[str | int, ...]
"""The keys and indices that lead from the document to a value."""


@dataclass(frozen=True, slots=True)
class Append:
    """Append the value to the list at the path. The list exists, or an earlier `Set` makes it."""

    path: Path
    value: JsonValue


@dataclass(frozen=True, slots=True)
class Insert:
    """Insert the value into a list, before the index that ends the path."""

    path: Path
    value: JsonValue


@dataclass(frozen=True, slots=True)
class Set:
    """Set a key, new or not, of a mapping that exists, or replace an item of a list."""

    path: Path
    value: JsonValue


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove a key of a mapping or an item of a list."""

    path: Path


Edit = Append | Insert | Set | Remove
