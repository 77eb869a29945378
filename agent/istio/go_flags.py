"""Parses a command line by the rules of Go's pflag, as pilot-agent does, with unknown flags accepted.

`--name value` and `--name=value`; a boolean takes a value only after `=`; the last one of a repeated flag counts; `--`
ends the flags. An unknown flag without `=` takes the next argument with it, unless that begins with a dash: so the
arguments `--new router` name no role.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from agent.core.errors import UsageError
from agent.istio import go_durations

_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})
_LARGEST_PORT = 65535


class Kind(Enum):
    """The type of a flag's value."""

    TEXT = auto()
    LIST = auto()  # repeatable; of comma-separated texts
    BOOLEAN = auto()
    INTEGER = auto()
    PORT = auto()  # 0 is none
    DURATION = auto()  # in seconds


Value = str | bool | int | float | tuple[str, ...]


@dataclass(slots=True)
class CommandLine:
    """A parsed command line; `unknown` has each unknown flag with the argument that it took, if any."""

    values: dict[str, Value] = field(default_factory=dict)
    arguments: list[str] = field(default_factory=list)
    unknown: list[tuple[str, str | None]] = field(default_factory=list)


def parse(words: Sequence[str], flags: Mapping[str, Kind], shorts: Mapping[str, str] | None = None) -> CommandLine:
    """Parse the words after the program's name; `shorts` is letter to name of a flag.

    Raises `UsageError` naming the flag.
    """
    line, remaining = CommandLine(), list(words)
    while remaining:
        word = remaining.pop(0)
        if word == "--":
            line.arguments += remaining
            break
        if word.startswith("--"):
            _long(word[2:], remaining, flags, line)
        elif word.startswith("-") and len(word) > 1:
            _short(word[1:], remaining, flags, shorts or {}, line)
        else:
            line.arguments.append(word)
    return line


def _long(word: str, remaining: list[str], flags: Mapping[str, Kind], line: CommandLine) -> None:
    name, equals, value = word.partition("=")
    if not name or name.startswith("-"):
        message = f"cannot read the flag --{word}: a flag has a name, as in --name=value"
        raise UsageError(message)
    if name not in flags:
        line.unknown.append((f"--{name}", None if equals else _swallowed(remaining)))
        return
    _set(line, name, flags[name], value if equals else _taken(name, flags[name], remaining))


def _short(
    letters: str, remaining: list[str], flags: Mapping[str, Kind], shorts: Mapping[str, str], line: CommandLine
) -> None:
    """Parse one or more flags of one letter: -s, -so yaml, -o=yaml, -oyaml."""
    while letters:
        letter, letters = letters[0], letters[1:]
        if letter not in shorts:
            has_value = len(letters) > 1 and letters.startswith("=")
            line.unknown.append((f"-{letter}", None if has_value else _swallowed(remaining)))
            letters = "" if has_value else letters
            continue
        name = shorts[letter]
        if letters.startswith("=") or (letters and flags[name] is not Kind.BOOLEAN):
            value, letters = letters.removeprefix("="), ""
        else:
            value = _taken(name, flags[name], remaining)
        _set(line, name, flags[name], value)


def _swallowed(remaining: list[str]) -> str | None:
    """Return the argument that an unknown flag takes with it, if any."""
    return remaining.pop(0) if remaining and not remaining[0].startswith("-") else None


def _taken(name: str, kind: Kind, remaining: list[str]) -> str:
    if kind is Kind.BOOLEAN:
        return "true"
    if not remaining:
        message = f"cannot read the flag --{name}: its value is missing"
        raise UsageError(message)
    return remaining.pop(0)


def _set(line: CommandLine, name: str, kind: Kind, text: str) -> None:
    try:
        value = converted(kind, text)
    except ValueError as error:
        message = f"cannot use --{name}: {error}"
        raise UsageError(message) from None
    if kind is Kind.LIST:
        known = line.values.get(name, ())
        assert isinstance(known, tuple), "a list's values are tuples"
        assert isinstance(value, tuple), "a list's values are tuples"
        value = (*known, *value)
    line.values[name] = value


def converted(kind: Kind, text: str) -> Value:
    """Return the value of a flag's text. Raises `ValueError` with the reason."""
    match kind:
        case Kind.TEXT:
            return text
        case Kind.LIST:
            return tuple(each.strip() for each in text.split(",") if each.strip())
        case Kind.BOOLEAN:
            return boolean(text)
        case Kind.INTEGER:
            return _integer(text)
        case Kind.PORT:
            return port(text)
        case Kind.DURATION:
            return go_durations.seconds(text)


def boolean(text: str) -> bool:
    """Return the boolean that Go reads here. Raises `ValueError` with the reason."""
    if text not in _TRUE | _FALSE:
        message = f"{text!r} is not a boolean; write true or false"
        raise ValueError(message)
    return text in _TRUE


def port(text: str) -> int:
    """Return a port, 0 included. Raises `ValueError` with the reason."""
    if not text.isascii() or not text.isdigit() or int(text) > _LARGEST_PORT:
        message = f"{text!r} is not a port; write a number from 0 to {_LARGEST_PORT}"
        raise ValueError(message)
    return int(text)


def _integer(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        message = f"{text!r} is not a whole number"
        raise ValueError(message) from None
