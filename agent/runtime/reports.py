"""What was found on the disk, said once: a finding is a line when it appears and a line when it is gone."""

import logging
from collections.abc import Iterable

from agent.core.findings import Caution, Refusal
from agent.host.log import say


class Reports:
    """Remembers what was said. `alarm_timeout`: the seconds for which half of a rotation is not called refused."""

    def __init__(self, alarm_timeout: float) -> None:
        self._alarm_timeout = alarm_timeout
        self._since: dict[tuple[str, str, str], float] = {}
        self._refused: dict[tuple[str, str, str], Refusal] = {}
        self._cautioned: set[str] = set()
        self._said: dict[str, str] = {}

    @property
    def refusals(self) -> list[Refusal]:
        """What is refused now and was said to be."""
        return list(self._refused.values())

    def refuse(self, refusals: Iterable[Refusal], at: float) -> float | None:
        """Say what is newly refused, and what no longer is; return when to look again at what may still resolve."""
        now = {(each.unit, each.path, each.fault.value): each for each in refusals}
        for gone in self._refused.keys() - now.keys():
            say(logging.INFO, "certificate.repaired", f"{self._refused.pop(gone).path} is usable again")
        self._since = {key: self._since.get(key, at) for key in now}
        waiting = []
        for key, refusal in now.items():
            due = self._since[key] + (self._alarm_timeout if refusal.may_resolve else 0.0)
            if key in self._refused:
                continue
            if due <= at:
                self._refused[key] = refusal
                say(
                    logging.WARNING,
                    "certificate.refused",
                    refusal.message,
                    fault=refusal.fault.value,
                    unit=refusal.unit,
                )
            else:
                waiting.append(due)
        return min(waiting, default=None)

    def caution(self, cautions: Iterable[Caution]) -> None:
        """Say what is new to worry about."""
        now = {each.message: each for each in cautions}
        for message in [message for message in now if message not in self._cautioned]:
            say(logging.WARNING, "certificate.caution", message, worry=now[message].worry.value)
        self._cautioned = set(now)

    def once(self, event: str, text: str, level: int = logging.WARNING) -> None:
        """Say something unless it is what was said last under this name; an empty text only forgets."""
        if text and self._said.get(event) != text:
            say(level, event, text)
        self._said[event] = text
