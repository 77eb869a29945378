"""Checks whether there is memory for another proxy, and whether an exit was an OOM kill."""

from collections.abc import Callable
from signal import SIGKILL

from agent.host import memory
from agent.host.memory import Footprint, Free, OomWatch

_MIB = 1 << 20
_SHARE = 8  # an eighth more, for the growth of the serving proxy in the meantime
_FIXED = 4 * _MIB  # the kernel's memory for a process and the agent's for a rotation: measured 0.7 to 3.5 MiB


class MemoryCheck:
    """Compares the free memory with the peak use of the serving proxy."""

    def __init__(
        self,
        free: Callable[[], Free] = memory.free,
        footprint: Callable[[int], Footprint | None] = memory.footprint,
        watch: OomWatch | None = None,
    ) -> None:
        self._free = free
        self._footprint = footprint
        self._watch = watch or OomWatch()

    def shortage(self, like: int, what: str = "proxy") -> str | None:
        """Return why memory is too short for a second such process; None if it is not, or unknown.

        `like`: the pid of the first one.
        """
        footprint = self._footprint(like)
        if footprint is None:
            return None
        needed = footprint.of_one_more + footprint.of_one_more // _SHARE + _FIXED
        free = self._free()
        if free.bytes >= needed:
            return None
        has, wants = free.bytes / _MIB, needed / _MIB
        return f"{has:.0f} MiB are free by {free.limit_name}, and a second {what} needs up to {wants:.0f} MiB"

    def describe_death(self, code: int | None, *, by_agent: bool) -> str:
        """Return a suffix for an exit message; empty if the exit was not caused by lack of memory.

        `by_agent`: the agent itself killed the process. The kernel's counters are read at every exit, so that an older
        kill is not attributed to this one.
        """
        if self._watch.kills() == 0 or by_agent:
            return ""
        if code == -SIGKILL:
            return ": out of memory"
        return "; the kernel has killed a process for lack of memory since" if code is None else ""
