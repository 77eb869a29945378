"""Typed access to a parsed JSON or YAML mapping; an error names the key, never the value of a secret."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import yaml

from agent.core.errors import UsageError
from agent.istio import go_durations, go_flags

_T = TypeVar("_T")


def loaded(text: str, where: str) -> dict[str, Any]:
    """Parse JSON or YAML whose root is a mapping; nothing at all is an empty one. Raises `UsageError`."""
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f", line {mark.line + 1}"
        message = f"cannot read {where}{place}: it is neither JSON nor YAML; correct it"
        raise UsageError(message) from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        message = f"cannot read {where}: it is not a mapping; write it like {{drainDuration: 45s}}"
        raise UsageError(message)
    return {str(key): value for key, value in document.items()}


def camel(key: str) -> str:
    """Return a key in camelCase: protobuf's JSON allows both spellings."""
    first, *others = key.split("_")
    return first + "".join(each[:1].upper() + each[1:] for each in others)


class Fields:
    """The keys of one mapping. Each reader returns None for a key that is missing or null."""

    def __init__(self, mapping: Mapping[str, Any], where: str) -> None:
        self._mapping = {camel(key): value for key, value in mapping.items()}
        self._where = where
        self.keys = frozenset(self._mapping)

    def text(self, key: str) -> str | None:
        """Return a text; a number is one, too."""
        return self._read(key, _text)

    def duration(self, key: str) -> float | None:
        """Return a duration in seconds."""
        return self._read(key, lambda value: go_durations.seconds(_text(value)))

    def port(self, key: str) -> int | None:
        """Return a port, 0 included."""
        return self._read(key, lambda value: go_flags.port(_text(value)))

    def count(self, key: str) -> int | None:
        """Return a number that is not negative."""
        return self._read(key, _count)

    def texts(self, key: str) -> tuple[str, ...] | None:
        """Return a list of texts."""
        return self._read(key, _texts)

    def mapping(self, key: str) -> dict[str, Any] | None:
        """Return a mapping."""
        return self._read(key, _mapping)

    def texts_by_name(self, key: str) -> dict[str, str] | None:
        """Return a mapping of texts."""
        return self._read(key, lambda value: {name: _text(each) for name, each in _mapping(value).items()})

    def fields(self, key: str) -> "Fields":
        """Return the fields of a nested mapping; none if it is missing."""
        return Fields(self.mapping(key) or {}, f"{key} of {self._where}")

    def choice(self, key: str, words: Mapping[object, str]) -> str | None:
        """Return a word of an enumeration, which protobuf's JSON allows as a number as well."""
        return self._read(key, lambda value: _word(value, words))

    def _read(self, key: str, convert: Callable[[Any], _T]) -> _T | None:
        value = self._mapping.get(key)
        if value is None:
            return None
        try:
            return convert(value)
        except ValueError as error:
            message = f"cannot use {key} of {self._where}: {error}"
            raise UsageError(message) from None


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, int, float)):
        return str(value)
    message = "it is not a text"
    raise ValueError(message)


def _count(value: object) -> int:
    text = _text(value)
    if not text.isascii() or not text.isdigit():
        message = "it is not a whole number from 0"
        raise ValueError(message)
    return int(text)


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        message = "it is not a list"
        raise ValueError(message)  # noqa: TRY004  # a fault of the input, which the caller names
    return tuple(_text(each) for each in value)


def _mapping(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        message = "it is not a mapping"
        raise ValueError(message)  # noqa: TRY004  # as above
    return {str(key): each for key, each in value.items()}


def _word(value: object, words: Mapping[object, str]) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value not in words:
        message = f"it is not one of {', '.join(dict.fromkeys(words.values()))}"
        raise ValueError(message)
    return words[value]
