"""The application log in Envoy's format, written to standard error or `--log-path`.

SIGUSR1 reopens the file. The pattern is spdlog's, with the flags that Envoy's documentation lists:
https://github.com/gabime/spdlog/wiki, Custom formatting. Loggers are the standard library's, with Envoy's names: main,
connection, upstream …
"""

import json
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
_PACKAGE = "/agent/"  # the path before it depends on the installation
_FLAG = re.compile(r"%([-=]?\d*)(.)")


class Log:
    """Sets up logging. Raises `UsageError` for an invalid level, or a path it cannot write."""

    def __init__(self, level: str, pattern: str | None, path: str | None) -> None:
        if level not in LEVELS:
            message = f"cannot log at the level {level}: there is no such level; choose one of {', '.join(LEVELS)}"
            raise UsageError(message)
        self._path = path
        self._descriptor = 2 if path is None else _open(path)
        self._handler = NonBlockingHandler(self._descriptor)
        self.use(DEFAULT_FORMAT if pattern is None else pattern)
        root = logging.getLogger()
        root.handlers[:] = [self._handler]
        root.setLevel(LEVELS[level])

    def use(self, pattern: str) -> None:
        """Format lines by `pattern` from now on."""
        self._handler.setFormatter(Pattern(pattern))

    def reopen(self) -> None:
        """Reopen the file at the path, after a rotation; do nothing for standard error."""
        if self._path is None:
            return
        try:
            fresh = _open(self._path)
        except UsageError as error:
            logging.getLogger("main").warning("%s; the old file stays in use", error)
            return
        os.dup2(fresh, self._descriptor, inheritable=False)
        os.close(fresh)


class Pattern(logging.Formatter):
    """Formats each record as one line.

    Widths (`%8l`, `%-8l`, `%=8l`) are supported; an unknown flag stays as it is.
    """

    def __init__(self, pattern: str) -> None:
        super().__init__()
        self._pattern = pattern

    def format(self, record: logging.LogRecord) -> str:
        """Return the pattern with its flags filled in."""

        def flag(match: re.Match[str]) -> str:
            return _padded(match[1], _FLAGS[match[2]](record)) if match[2] in _FLAGS else match[0]

        return _FLAG.sub(flag, self._pattern)


def _message(record: logging.LogRecord) -> str:
    text = record.getMessage()
    return f"{text}\n{logging.Formatter().formatException(record.exc_info)}" if record.exc_info else text


def _date(flag: str) -> Flag:
    """Return a flag of strftime(3), in local time as in Envoy; aware, so that %z is right."""
    return lambda record: datetime.fromtimestamp(record.created).astimezone().strftime(f"%{flag}")


def _offset(record: logging.LogRecord) -> str:
    """Return the offset from UTC as +02:00; strftime(3) has no colon."""
    offset = datetime.fromtimestamp(record.created).astimezone().strftime("%z")
    return f"{offset[:3]}:{offset[3:5]}"


def _fraction(digits: int) -> Flag:
    return lambda record: f"{record.created % 1:.9f}"[2 : 2 + digits]


_FLAGS: Mapping[str, Flag] = {
    **{flag: _date(flag) for flag in "aAbBcdDHImMprRSTxXyY"},
    "C": _date("y"),  # the year in two digits; strftime(3) has the century here
    "z": _offset,
    "v": _message,
    "_": lambda record: _message(record).replace("\n", "\\n"),
    "j": lambda record: json.dumps(_message(record))[1:-1],
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
    "^": lambda _: "",  # start of colours
    "$": lambda _: "",  # end of colours
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
