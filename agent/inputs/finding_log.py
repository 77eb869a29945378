"""Logs findings about files once: a line when one appears, and one when it is resolved."""

import logging
from collections.abc import Iterable

from agent.certificates.findings import FileWarning, Rejection, WarningKind
from agent.host.log import log_event

_Key = tuple[str, str, str]  # certificate group, path, fault


class FindingLog:
    """Remembers what was logged.

    `alarm_timeout`: seconds until what may be half of a rotation is logged as refused.
    """

    def __init__(self, alarm_timeout: float) -> None:
        self._alarm_timeout = alarm_timeout
        self._since: dict[_Key | Rejection, float] = {}
        self._refused: dict[_Key, Rejection] = {}
        self._stray_since: dict[str, float] = {}
        self._cautioned: set[str] = set()
        self._said: dict[str, str] = {}

    @property
    def refusals(self) -> list[Rejection]:
        """The current refusals that were logged."""
        return list(self._refused.values())

    def refuse(self, refusals: Iterable[Rejection], at: float) -> float | None:
        """Log new refusals and resolved ones; return when to check again those that may resolve."""
        now = {(each.group, each.path, each.fault.value): each for each in refusals}
        concerned = {name for each in now.values() for name in (each.group, each.path)}
        for gone in self._refused.keys() - now.keys():
            refusal = self._refused.pop(gone)
            if not {refusal.group, refusal.path} & concerned:  # else it is still refused, for another reason
                log_event(logging.INFO, "certificate.repaired", f"{refusal.path} is no longer refused")
        seen: tuple[_Key | Rejection, ...] = (*now.keys(), *now.values())
        self._since = {each: self._since.get(each, at) for each in seen}
        due = {key: self._due(key, each) for key, each in now.items()}
        new = [key for key, each in now.items() if self._refused.get(key) != each]
        for key in [key for key in new if due[key] <= at]:
            refusal = self._refused[key] = now[key]
            fault, group = refusal.fault.value, refusal.group
            log_event(logging.WARNING, "certificate.refused", refusal.message, fault=fault, unit=group)
        return min((due[key] for key in new if due[key] > at), default=None)

    def _due(self, key: _Key, refusal: Rejection) -> float:
        """Return when to log it; once logged, the same fault for another reason waits again."""
        since = self._since[refusal if key in self._refused else key]
        return since + (self._alarm_timeout if refusal.may_resolve else 0.0)

    def caution(self, cautions: Iterable[FileWarning], at: float) -> float | None:
        """Log new warnings; return when to check again files that may be half of a pair."""
        now = {each.message: each for each in cautions}
        strays = [message for message, each in now.items() if each.worry is WarningKind.STRAY]
        self._stray_since = {message: self._stray_since.get(message, at) for message in strays}
        due = {message: since + self._alarm_timeout for message, since in self._stray_since.items()}
        self._cautioned &= now.keys()
        for message in [message for message in now if message not in self._cautioned and due.get(message, at) <= at]:
            self._cautioned.add(message)
            log_event(logging.WARNING, "certificate.caution", message, worry=now[message].worry.value)
        return min((due[message] for message in due if message not in self._cautioned), default=None)

    def once(self, event: str, text: str, level: int = logging.WARNING) -> None:
        """Log a text unless it was the last one under this event; an empty text only resets that."""
        if text and self._said.get(event) != text:
            log_event(level, event, text)
        self._said[event] = text
