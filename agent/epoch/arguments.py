"""Parses the part of Envoy's command line that an epoch needs; rejects every other flag.

A value follows its flag or an equals sign. Flags that only print something raise `Answer`.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from agent import __version__
from agent.core.errors import UsageError
from agent.handoff.segment import KNOWN_MAJOR, HotRestartVersion

_HEADER_AND_FLAGS = 24  # bytes of the shared memory around its two mutexes
_MUTEX_SIZES = {"aarch64": 48}  # sizeof(pthread_mutex_t), glibc's bits/pthreadtypes-arch.h; 40 on other 64-bit machines
_MODES = ("serve", "validate", "init_only")
_STRATEGIES = ("gradual", "immediate")
_LEVELS = ("trace", "debug", "info", "warning", "warn", "error", "critical", "off")
_LARGEST = (1 << 32) - 1  # Envoy's numbers have 32 bits
_SHORT = {"-c": "--config-path", "-l": "--log-level", "-h": "--help"}


class Answer(Exception):
    """Raised when the command line only requests `text` on stdout; the exit code is 0."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


@dataclass(frozen=True, slots=True)
class Arguments:
    """The parsed command line, with Envoy's defaults. Durations are in seconds."""

    config_path: str | None = None
    config_yaml: str | None = None
    mode: str = "serve"
    restart_epoch: int = 0
    base_id: int = 0
    socket_path: str = "@envoy_domain_socket"
    socket_mode: int = 0o600
    drain_time: float = 600
    drain_strategy: str = "gradual"
    parent_shutdown_time: float = 900
    admin_address_path: str | None = None
    concurrency: int = 1
    log_level: str = "info"
    log_format: str | None = None
    log_path: str | None = None
    service_node: str = ""
    service_cluster: str = ""
    disable_hot_restart: bool = False
    given: frozenset[str] = field(default=frozenset())
    """The names of the fields that the command line set."""


def parse(arguments: Sequence[str], program: str, version: str | None = None) -> Arguments:
    """Parse the arguments after the program's name, which is `program` in messages.

    Raises `Answer` for --version, --hot-restart-version and --help, `UsageError` for an unknown or repeated flag, a
    missing or invalid value, and more than one worker.
    """
    values: dict[str, Any] = {}
    remaining = list(arguments)
    while remaining:
        name, value = _split(remaining.pop(0))
        _answer(name, program, version)
        flag = _FLAGS.get(name)
        if flag is None:
            raise UsageError(f"cannot use {name}: {_why_not(name)}not supported by {program}; see {program} --help")
        if flag.field in values:
            raise UsageError(f"cannot use {name} twice: give it once")
        if flag.read is None:
            values[flag.field] = _switch(name, value)
        else:
            text = value if value is not None else _next(name, remaining)
            values[flag.field] = _read(name, text, flag.read)
    _check_workers(values, program)
    return Arguments(**values, given=frozenset(values))


def hot_restart_version() -> str:
    """Return what `--hot-restart-version` prints: the protocol and shared-memory size in bytes."""
    mutex = _MUTEX_SIZES.get(os.uname().machine, 40)
    return str(HotRestartVersion(KNOWN_MAJOR, _HEADER_AND_FLAGS + 2 * mutex))


@dataclass(frozen=True, slots=True)
class _Flag:
    """A flag: the field it sets, how to parse its value (None: no value), and its --help text."""

    field: str
    read: Callable[[str], object] | None
    about: str


def _split(argument: str) -> tuple[str, str | None]:
    if not argument.startswith("-"):
        return argument, None
    name, equals, value = argument.partition("=")
    return _SHORT.get(name, name), value if equals else None


def _why_not(name: str) -> str:
    return "" if name.startswith("-") else "arguments without a flag are "


def _answer(name: str, program: str, version: str | None) -> None:
    if name == "--version":
        raise Answer(f"{program}  version: {version or __version__}")
    if name == "--hot-restart-version":
        raise Answer(hot_restart_version())
    if name == "--help":
        raise Answer(_help(program))


def _switch(name: str, value: str | None) -> bool:
    if value is not None:
        raise UsageError(f"cannot use {name}={value}: it has no value")
    return True


def _next(name: str, remaining: list[str]) -> str:
    if not remaining:
        raise UsageError(f"cannot use {name}: its value is missing")
    return remaining.pop(0)


def _read(name: str, text: str, read: Callable[[str], object]) -> object:
    try:
        return read(text)
    except ValueError as error:
        raise UsageError(f"cannot use {name} {text}: {error}") from None


def _check_workers(values: Mapping[str, Any], program: str) -> None:
    workers = values.get("concurrency", 1)
    if workers != 1:
        raise UsageError(
            f"cannot use --concurrency {workers}: more than one worker is not supported by {program}; give 1"
        )


def _text(text: str) -> str:
    return text


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= _LARGEST):
        raise ValueError(f"it is not a number from 0 to {_LARGEST}")
    return int(text)


def _mode_bits(text: str) -> int:
    try:
        bits = int(text, 8)
    except ValueError:
        bits = -1
    if not 0 <= bits <= 0o777:
        raise ValueError("it is not a file mode in octal digits, like 600")
    return bits


def _one_of(*choices: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in choices:
            raise ValueError(f"it is not one of {', '.join(choices)}")
        return text

    return read


def _level(text: str) -> str:
    level = _one_of(*_LEVELS)(text)
    return "warning" if level == "warn" else level


_FLAGS = {
    "--config-path": _Flag("config_path", _text, "the configuration file (-c)"),
    "--config-yaml": _Flag("config_yaml", _text, "more configuration, merged over the file's"),
    "--mode": _Flag("mode", _one_of(*_MODES), "serve, validate or init_only"),
    "--restart-epoch": _Flag("restart_epoch", _number, "0 for the first process of a chain, one more for each next"),
    "--base-id": _Flag("base_id", _number, "distinguishes chains on one machine"),
    "--socket-path": _Flag("socket_path", _text, "prefix of the handoff sockets' names; abstract with @"),
    "--socket-mode": _Flag("socket_mode", _mode_bits, "their file mode, in octal digits"),
    "--drain-time-s": _Flag("drain_time", _number, "how long clients are asked to disconnect"),
    "--drain-strategy": _Flag("drain_strategy", _one_of(*_STRATEGIES), "gradual or immediate"),
    "--parent-shutdown-time-s": _Flag("parent_shutdown_time", _number, "when the predecessor must exit"),
    "--admin-address-path": _Flag("admin_address_path", _text, "a file for the admin interface's address"),
    "--concurrency": _Flag("concurrency", _number, "1: there is one worker"),
    "--log-level": _Flag("log_level", _level, f"one of {', '.join(_LEVELS)} (-l)"),
    "--log-format": _Flag("log_format", _text, "format of a log line"),
    "--log-path": _Flag("log_path", _text, "a file for the log"),
    "--service-node": _Flag("service_node", _text, "this node's id"),
    "--service-cluster": _Flag("service_cluster", _text, "this node's cluster"),
    "--disable-hot-restart": _Flag("disable_hot_restart", None, "use no sockets and no shared memory for a handoff"),
}
assert {flag.field for flag in _FLAGS.values()} == {each.name for each in fields(Arguments)} - {"given"}


def _help(program: str) -> str:
    lines = [f"usage: {program} [FLAG VALUE | FLAG=VALUE]...", ""]
    lines += [f"  {name:26} {flag.about}" for name, flag in _FLAGS.items()]
    lines += [f"  {name:26} {about}" for name, about in _ANSWERS.items()]
    return "\n".join(lines)


_ANSWERS = {
    "--version": "print the version",
    "--hot-restart-version": "print what must be the same in all processes of a chain",
    "--help": "print this (-h)",
}
