"""Reads one message of a document by typed members; every error has the member's full path.

A wrong member is reported, then treated as absent, so that one pass finds all errors.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from agent.core.errors import BadInput
from agent.sidecar.config.subset import KINDS

Value = TypeVar("Value")

NOT_SUPPORTED = "not supported by sidecar"
_SPAN = re.compile(r"-?\d{1,12}(\.\d{1,9})?s", re.ASCII)
_LONGEST = 315_576_000_000.0  # seconds: the maximum of a protobuf Duration
_NUMBER = re.compile(r"-?\d{1,19}(\.\d{0,19})?([eE][+-]?\d{1,2})?|0[xX][0-9a-fA-F]{1,16}", re.ASCII)
_TRUTHS = dict.fromkeys(("true", "t", "yes", "y", "1"), True) | dict.fromkeys(("false", "f", "no", "n", "0"), False)
_NOT_IN_HEADERS = re.compile("[\0\r\n]")
_SHOWN = 5
_UINT32 = (1 << 32) - 1


class Refusals:
    """Collects the errors of a document."""

    def __init__(self) -> None:
        self._reasons: list[str] = []

    def add(self, path: str, why: str) -> None:
        """Add the error `why` for the value at `path`."""
        self._reasons.append(f"{path}: {why}" if path else why)

    def check(self, name: str) -> None:
        """Raise BadInput with the first `_SHOWN` errors, if there are any."""
        if not self._reasons:
            return
        told = "; ".join(self._reasons[:_SHOWN])
        more = len(self._reasons) - _SHOWN
        raise BadInput(f"cannot use {name}: {told}{f'; and {more} more' if more > 0 else ''}")


class Message:
    """A message of one kind; rejects members that are not supported fields of that kind."""

    def __init__(self, tree: object, path: str, kind: str, refusals: Refusals) -> None:
        self.path = path
        self.refusals = refusals
        self._members: dict[str, Any] = {}
        self._flawed = False  # a reported error may be the reason why another field is missing
        if not isinstance(tree, dict):
            self._flawed = True
            refusals.add(path, "it should be a mapping")
            return
        fields = KINDS[kind]
        for name, value in tree.items():
            if name in fields.heeded:
                if value is not None:
                    self._members[name] = value
            elif name in fields.refused:
                self._flawed = True
                self.unsupported(name)
            elif name != "@type":
                self._flawed = True
                self.refuse(name, f"no such field in {kind}")

    def at(self, field: str) -> str:
        """Return the full path of a field."""
        return f"{self.path}.{field}" if self.path else field

    def refuse(self, field: str, why: str) -> None:
        """Report an error in a field."""
        self.refusals.add(self.at(field), why)

    def unsupported(self, field: str) -> None:
        """Report a field that Envoy accepts, but the sidecar does not support."""
        self.refuse(field, NOT_SUPPORTED)

    def missing(self, field: str) -> None:
        """Report a missing field, unless a reported error may be the reason."""
        if not self._flawed:
            self.refuse(field, "it is missing")

    def has(self, field: str) -> bool:
        """Return whether a field is present."""
        return field in self._members

    # Single values

    def text(self, field: str, default: str = "", *, required: bool = False) -> str:
        """Return a text; a required text must not be empty."""
        value: object = self._members.get(field, default)
        if not isinstance(value, str):
            self.refuse(field, f"it should be a text, not {_told(value)}; put it between quotes")
            return default
        if required and field not in self._members:
            self.missing(field)
        elif required and not value:
            self.refuse(field, "it is empty")
        return value

    def header(self, field: str) -> str:
        """Return a text that is valid in a header."""
        value = self.text(field)
        if _NOT_IN_HEADERS.search(value):
            self.refuse(field, "it holds characters that a header cannot have")
        return value

    def truth(self, field: str, *, default: bool) -> bool:
        """Return a truth value; in quotes, more spellings are valid."""
        given: object = self._members.get(field, default)
        value = _TRUTHS.get(given.lower()) if isinstance(given, str) else given
        if not isinstance(value, bool):
            self.refuse(field, f"it should be true or false, not {_told(given)}")
            return default
        return value

    def number(self, field: str, default: int = 0, *, low: int = 0, high: int = _UINT32) -> int:
        """Return a whole number from `low` to `high`, both included."""
        value = self._members.get(field, default)
        number = _whole(value)
        if number is None:
            self.refuse(field, f"it should be a whole number, not {_told(value)}")
            return default
        if field in self._members and not low <= number <= high:
            self.refuse(field, f"{number} is not between {low} and {high}")
            return default
        return number

    def span(self, field: str, default: float, *, positive: bool = False) -> float:
        """Return a duration in seconds, written `0.25s`."""
        value = self._members.get(field)
        if value is None:
            return default
        if not isinstance(value, str) or _SPAN.fullmatch(value) is None or abs(float(value[:-1])) > _LONGEST:
            self.refuse(field, f"it should be a span such as 0.25s, not {_told(value)}")
            return default
        span = float(value[:-1])
        if span < 0 or (positive and span == 0):
            self.refuse(field, f"{value} is too short")
            return default
        return span

    def choice(self, field: str, values: Mapping[str, int], heeded: Mapping[str, Value], default: Value) -> Value:
        """Return the meaning of an enumeration's value, given by name or by number.

        `values`: all names and their numbers. `heeded`: the supported names and their meanings.
        """
        if field not in self._members:
            return default
        given = self._members[field]
        names = {name.upper(): number for name, number in values.items()}
        number = names.get(given.upper()) if isinstance(given, str) and not given.isdigit() else _whole(given)
        word = next((name for name, own in values.items() if own == number), None)
        if number is None:
            self.refuse(field, f"it should be one of {', '.join(values)}, not {_told(given)}")
        elif word is None or word not in heeded:
            self.refuse(field, f"{word or number} is {NOT_SUPPORTED}, only {', '.join(heeded)}")
        else:
            return heeded[word]
        return default

    def only(self, field: str, *, value: bool) -> None:
        """Reject a truth value other than `value`, the only supported one."""
        if self.truth(field, default=value) is not value:
            self.refuse(field, f"{str(not value).lower()} is {NOT_SUPPORTED}")

    # Lists and messages

    def texts(self, field: str) -> tuple[str, ...]:
        """Return a list of texts."""
        found = []
        for path, value in self._listed(field):
            if not isinstance(value, str):
                self.refusals.add(path, f"it should be a text, not {_told(value)}; put it between quotes")
            else:
                found.append(value)
        return tuple(found)

    def messages(self, field: str, kind: str) -> list["Message"]:
        """Return a list of messages."""
        return [Message(value, path, kind, self.refusals) for path, value in self._listed(field)]

    def tree(self, field: str) -> dict[str, Any]:
        """Return a mapping whose keys are not field names."""
        value = self._members.get(field, {})
        if isinstance(value, dict):
            return value
        self.refuse(field, "it should be a mapping")
        return {}

    def message(self, field: str, kind: str, *, required: bool = False) -> "Message | None":
        """Return a message; None if the field is absent."""
        if field in self._members:
            return Message(self._members[field], self.at(field), kind, self.refusals)
        if required:
            self.missing(field)
        return None

    def one_of(self, *fields: str) -> str | None:
        """Return which of some exclusive fields is present; reject none or several."""
        present = [field for field in fields if field in self._members]
        if len(present) > 1:
            self.refuse(present[1], f"it cannot stand beside {present[0]}")
        elif not present and not self._flawed:
            self.refusals.add(self.path, f"one of {', '.join(fields)} is missing")
        return present[0] if present else None

    def typed(self, kinds: Iterable[str]) -> "tuple[str, Message] | None":
        """Return the kind and message of `typed_config`, which must be one of `kinds`."""
        tree = self._members.get("typed_config")
        path = self.at("typed_config")
        if not isinstance(tree, dict):
            if tree is None:
                self.missing("typed_config")
            else:
                self.refuse("typed_config", "it should be a mapping")
            return None
        kind = tree.get("@type")
        if not isinstance(kind, str) or "/" not in kind:
            self.refusals.add(path, "it has no @type such as type.googleapis.com/envoy…")
            return None
        name = kind.rpartition("/")[2]
        if name not in kinds:
            self.refusals.add(f"{path}.@type", f"{name} is {NOT_SUPPORTED} here")
            return None
        return name, Message(tree, path, name, self.refusals)

    def _listed(self, field: str) -> list[tuple[str, Any]]:
        value = self._members.get(field, [])
        if not isinstance(value, list):
            self.refuse(field, "it should be a list")
            return []
        return [(f"{self.at(field)}[{number}]", each) for number, each in enumerate(value)]


def _whole(value: object) -> int | None:
    """Return a whole number as protobuf's JSON accepts it, else None.

    1.0 and 1e3 are valid, and so are numbers in quotes, where 0x10 is valid too.
    """
    if isinstance(value, str):
        if _NUMBER.fullmatch(value) is None:
            return None
        value = int(value, 16) if value[:2].lower() == "0x" else float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if isinstance(value, int) or value.is_integer() else None


def _told(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    told = str(value)
    return told if len(told) <= 40 else f"{told[:40]}…"  # enough to recognise it
