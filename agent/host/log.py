"""The log: one line for each event, as text or as JSON with OpenTelemetry's field names.

The names are those of OpenTelemetry's log data model (Timestamp, SeverityText, SeverityNumber, Body, Attributes), in
lower camel case as in its JSON file exporter. The logger is the standard library's, so messages of watchdog and asyncio
have the same format.
"""

import asyncio
import errno
import json
import logging
import os
import select
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Literal

_SEVERITY = {"DEBUG": ("DEBUG", 5), "INFO": ("INFO", 9), "WARNING": ("WARN", 13), "ERROR": ("ERROR", 17)}
_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))  # syslog's; sd-daemon(3)
_DEBUG = 7
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}  # a file name may contain any of them
LOGGER = logging.getLogger("agent")
_SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def configure(style: Literal["text", "json"], level: str, descriptor: int = 2) -> None:
    """Set the format, the level and the descriptor of the log, standard error by default.

    Where systemd's journal reads it, each line begins with its priority (sd-daemon(3)).
    """
    handler = NonBlockingHandler(descriptor)
    formatter = _Json() if style == "json" else _Text()
    handler.setFormatter(_Prioritised(formatter) if _is_journal(descriptor) else formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One log event: its level, its dotted name, a sentence, and the epoch that it is about, if any."""

    level: int
    name: str
    text: str
    epoch: int | None = None


_subscribers: list[Callable[[LogEvent], None]] = []


def log_event(
    level: int,
    event: str,
    text: str,
    error: BaseException | None = None,
    stated: Mapping[str, object] = MappingProxyType({}),
    **facts: object,
) -> None:
    """Log one event: its dotted name, a sentence, its facts, and the traceback of `error`.

    `stated`: facts that the sentence states already, so that only JSON has them as attributes too. A fact that is None
    is left out. Subscribers receive an event at any level, whatever the log shows.
    """
    known = {name: value for name, value in facts.items() if value is not None}
    LOGGER.log(level, "%s", text, exc_info=error, extra={"event": event, "facts": known, "stated": stated})
    epoch = known.get("epoch")
    for receive in tuple(_subscribers):
        receive(LogEvent(level, event, text, epoch if isinstance(epoch, int) else None))


@contextmanager
def subscribe(receive: Callable[[LogEvent], None]) -> Iterator[None]:
    """Call `receive` with each event that is logged within the block, in the thread that logs it."""
    _subscribers.append(receive)
    try:
        yield
    finally:
        _subscribers.remove(receive)


def tell(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Handle a loop's exception: log a resource shortage as an event, anything else as a bug."""
    error = context.get("exception")
    if isinstance(error, OSError) and error.errno in _SHORT:
        log_event(logging.WARNING, "machine.short", f"{context['message']}: {error.strerror}; retrying")
    else:
        loop.default_exception_handler(context)


class NonBlockingHandler(logging.Handler):
    """Writes log lines without blocking: a full pipe loses lines, which are counted in the log.

    The descriptor's flags are not changed, since the proxies share it. poll(2) guarantees room for PIPE_BUF bytes.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, or count it as lost."""
        lost = f"({self._lost} lines were lost: the reader of the log was too slow)\n" if self._lost else ""
        data = f"{lost}{self.format(record)}\n".encode(errors="backslashreplace")
        self._lost = 0 if self._write(data) else self._lost + 1

    def _write(self, data: bytes) -> bool:
        for start in range(0, len(data), select.PIPE_BUF):
            try:
                if not self._poll.poll(0):
                    return False
                os.write(self._descriptor, data[start : start + select.PIPE_BUF])
            except OSError:  # it was closed: there is no other place to report this
                return False
        return True


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        stamp = _stamp(record).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        name = getattr(record, "event", record.name)
        facts: dict[str, object] = getattr(record, "facts", {})
        shown = "".join(f" {key}={value}" for key, value in facts.items() if key != "epoch").translate(_CONTROLS)
        text = record.getMessage().translate(_CONTROLS)
        if record.exc_info:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        severity, _ = _SEVERITY.get(record.levelname, (record.levelname, 0))
        return f"{stamp} {severity:<5} {name:<20} {text}{shown}"


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        severity, number = _SEVERITY.get(record.levelname, (record.levelname, 0))
        facts: dict[str, object] = {**getattr(record, "facts", {}), **getattr(record, "stated", {})}
        if record.exc_info:
            facts["exception.stacktrace"] = self.formatException(record.exc_info)
        line = {
            "timestamp": _stamp(record).isoformat().replace("+00:00", "Z"),
            "severityText": severity,
            "severityNumber": number,
            "eventName": getattr(record, "event", record.name),
            "body": record.getMessage(),
            "attributes": facts,
        }
        return json.dumps(line, default=str)


class _Prioritised(logging.Formatter):
    """Puts the priority that the journal reads before each line."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        priority = next((each for level, each in _PRIORITIES if record.levelno >= level), _DEBUG)
        return "\n".join(f"<{priority}>{line}" for line in self._inner.format(record).splitlines())


def _is_journal(descriptor: int) -> bool:
    """Return whether this descriptor is the stream that systemd names in JOURNAL_STREAM (systemd.exec(5))."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _stamp(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)
