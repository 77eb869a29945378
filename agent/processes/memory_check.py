"""Whether there is memory for one more proxy, and whether one was killed for want of it."""

from collections.abc import Callable
from signal import SIGKILL

from agent.host import memory
from agent.host.memory import Footprint, Free, OomWatch

_MIB = 1 << 20
_SHARE = 8  # an eighth of a proxy more, for what the one that serves grows by meanwhile
_FIXED = 4 * _MIB  # what the kernel keeps for a process, and what the agent takes for a rotation: measured 0.7 to 3.5


class MemoryCheck:
    """Holds what is free against what the serving proxy took at its peak."""

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
        """Say what is missing to start a second process like this one; None if nothing is, or nobody knows."""
        footprint = self._footprint(like)
        if footprint is None:
            return None
        needed = footprint.of_one_more + footprint.of_one_more // _SHARE + _FIXED
        free = self._free()
        if free.bytes >= needed:
            return None
        has, wants = free.bytes / _MIB, needed / _MIB
        return f"{has:.0f} MiB are free by {free.limit_name}, and a second {what} takes up to {wants:.0f} MiB"

    def describe_death(self, code: int | None, *, by_agent: bool) -> str:
        """What to add to the words about an exit; empty if memory had nothing to do with it.

        `by_agent`: the agent killed it itself. The kernel's counters are read at every death, so that an older kill is
        not taken for this one.
        """
        if self._watch.kills() == 0 or by_agent:
            return ""
        if code == -SIGKILL:
            return ": out of memory"
        return "; the kernel has killed for want of memory meanwhile" if code is None else ""
