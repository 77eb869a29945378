"""The application log, in Envoy's format: lines go to standard error, or to `--log-path`, which SIGUSR1 opens anew.

The pattern is spdlog's, as far as Envoy's documentation names its flags: https://github.com/gabime/spdlog/wiki, Custom
formatting. Loggers are the standard library's, by the names that Envoy gives its own: main, connection, upstream …
"""

import logging
import os
import re
import threading
from collections.abc import Callable, Mapping
from datetime import datetime

from agent.core.errors import UsageError
from agent.host.log import NonBlockingHandler

DEFAULT_FORMAT = "[%Y-%m-%d %T.%e][%t][%l][%n] [%g:%#] %v"
LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
    "off": logging.CRITICAL + 1,
}

Flag = Callable[[logging.LogRecord], str]
_PACKAGE = "/agent/"  # what stands before it is where the package is installed
_FLAG = re.compile(r"%([-=]?\d*)(.)")


class Log:
    """Where lines go. Raises `UsageError` for a level that is none, or a path that cannot be written."""

    def __init__(self, level: str, pattern: str | None, path: str | None) -> None:
        if level not in LEVELS:
            message = f"cannot log at the level {level}: it is none; choose one of {', '.join(LEVELS)}"
            raise UsageError(message)
        self._path = path
        self._descriptor = 2 if path is None else _open(path)
        self._handler = NonBlockingHandler(self._descriptor)
        self.use(DEFAULT_FORMAT if pattern is None else pattern)
        root = logging.getLogger()
        root.handlers[:] = [self._handler]
        root.setLevel(LEVELS[level])

    def use(self, pattern: str) -> None:
        """Write lines by this pattern from now on."""
        self._handler.setFormatter(Pattern(pattern))

    def reopen(self) -> None:
        """Write to what is at the path now, after somebody moved the file away; standard error stays what it is."""
        if self._path is None:
            return
        try:
            fresh = _open(self._path)
        except UsageError as error:
            logging.getLogger("main").warning("%s; the old file is written to", error)
            return
        os.dup2(fresh, self._descriptor, inheritable=False)
        os.close(fresh)


class Pattern(logging.Formatter):
    """One line a record. Widths (`%8l`, `%-8l`, `%=8l`) are honoured; a flag that is none stays as it is."""

    def __init__(self, pattern: str) -> None:
        super().__init__()
        self._pattern = pattern

    def format(self, record: logging.LogRecord) -> str:
        """Fill the pattern in."""

        def flag(match: re.Match[str]) -> str:
            return _padded(match[1], _FLAGS[match[2]](record)) if match[2] in _FLAGS else match[0]

        return _FLAG.sub(flag, self._pattern)


def _message(record: logging.LogRecord) -> str:
    text = record.getMessage()
    return f"{text}\n{logging.Formatter().formatException(record.exc_info)}" if record.exc_info else text


def _date(flag: str) -> Flag:
    """A flag of strftime(3), of local time, as Envoy writes it; aware, so that %z is right."""
    return lambda record: datetime.fromtimestamp(record.created).astimezone().strftime(f"%{flag}")


def _fraction(digits: int) -> Flag:
    return lambda record: f"{record.created % 1:.9f}"[2 : 2 + digits]


_FLAGS: Mapping[str, Flag] = {
    **{flag: _date(flag) for flag in "aAbBcCdDHImMprRSTxXyYz"},
    "v": _message,
    "_": lambda record: _message(record).replace("\n", "\\n"),
    "l": lambda record: record.levelname.lower(),
    "L": lambda record: record.levelname[0],
    "n": lambda record: record.name,
    "t": lambda _: str(threading.get_native_id()),
    "P": lambda record: str(record.process),
    "e": _fraction(3),
    "f": _fraction(6),
    "F": _fraction(9),
    "E": lambda record: str(int(record.created)),
    "g": lambda record: record.pathname[record.pathname.rfind(_PACKAGE) + 1 :],
    "s": lambda record: record.filename,
    "#": lambda record: str(record.lineno),
    "!": lambda record: record.funcName,
    "%": lambda _: "%",
    "^": lambda _: "",  # where colours begin
    "$": lambda _: "",  # and end
}


def _padded(width: str, text: str) -> str:
    if not width.lstrip("-="):
        return text
    number = int(width.lstrip("-="))
    if width.startswith("="):
        return text.center(number)
    return text.ljust(number) if width.startswith("-") else text.rjust(number)


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    except OSError as error:
        message = f"cannot log to {path}: {error.strerror}"
        raise UsageError(message) from error
