"""What was found on the disk, said once: a finding is a line when it appears and a line when it is gone."""

import logging
from collections.abc import Iterable

from agent.certificates.findings import FileWarning, Rejection, WarningKind
from agent.host.log import log_event

_Key = tuple[str, str, str]  # unit, path, fault


class FindingLog:
    """Remembers what was said. `alarm_timeout`: the seconds for which half of a rotation is not called refused."""

    def __init__(self, alarm_timeout: float) -> None:
        self._alarm_timeout = alarm_timeout
        self._since: dict[_Key | Rejection, float] = {}
        self._refused: dict[_Key, Rejection] = {}
        self._stray_since: dict[str, float] = {}
        self._cautioned: set[str] = set()
        self._said: dict[str, str] = {}

    @property
    def refusals(self) -> list[Rejection]:
        """What is refused now and was said to be."""
        return list(self._refused.values())

    def refuse(self, refusals: Iterable[Rejection], at: float) -> float | None:
        """Say what is newly refused, and what no longer is; return when to look again at what may still resolve."""
        now = {(each.unit, each.path, each.fault.value): each for each in refusals}
        concerned = {name for each in now.values() for name in (each.unit, each.path)}
        for gone in self._refused.keys() - now.keys():
            refusal = self._refused.pop(gone)
            if not {refusal.unit, refusal.path} & concerned:  # else it is refused for another reason
                log_event(logging.INFO, "certificate.repaired", f"{refusal.path} is no longer refused")
        seen: tuple[_Key | Rejection, ...] = (*now.keys(), *now.values())
        self._since = {each: self._since.get(each, at) for each in seen}
        due = {key: self._due(key, each) for key, each in now.items()}
        new = [key for key, each in now.items() if self._refused.get(key) != each]
        for key in [key for key in new if due[key] <= at]:
            refusal = self._refused[key] = now[key]
            facts = {"fault": refusal.fault.value, "unit": refusal.unit}
            log_event(logging.WARNING, "certificate.refused", refusal.message, None, **facts)
        return min((due[key] for key in new if due[key] > at), default=None)

    def _due(self, key: _Key, refusal: Rejection) -> float:
        """When to say it: of what was said before, the same fault for another reason is given its own time."""
        since = self._since[refusal if key in self._refused else key]
        return since + (self._alarm_timeout if refusal.may_resolve else 0.0)

    def caution(self, cautions: Iterable[FileWarning], at: float) -> float | None:
        """Say what is new to worry about; return when to look again at what may be half of a pair under way."""
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
        """Say something unless it is what was said last under this name; an empty text only forgets."""
        if text and self._said.get(event) != text:
            log_event(level, event, text)
        self._said[event] = text
