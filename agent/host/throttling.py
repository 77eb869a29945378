"""CPU throttling of this process's control group.

The files are those of the kernel's admin-guide/cgroup-v2.rst (cpu.stat) and scheduler/sched-bwc.rst (version 1). A
limit on any group above ours also applies to ours, so all of them count. Unreadable files count as no throttling.
"""

from dataclasses import dataclass
from pathlib import Path

from agent.host import control_groups
from agent.host.control_groups import PROC

_SECONDS = {"throttled_usec": 1e-6, "throttled_time": 1e-9}  # of version 2, and of version 1


@dataclass(frozen=True, slots=True)
class Throttled:
    """The periods in which the group, or one above it, was throttled, and for how many seconds.

    The seconds are the sum over all processors.
    """

    periods: int = 0
    seconds: float = 0.0


def read(*, proc: Path = PROC) -> Throttled:
    """Return the counters so far; only differences are meaningful."""
    group = control_groups.find("cpu", proc=proc)
    tables = [control_groups.table(directory / "cpu.stat") for directory in (group.directories if group else ())]
    periods = sum(table.get("nr_throttled", 0) for table in tables)
    return Throttled(periods, sum(table.get(name, 0) * unit for table in tables for name, unit in _SECONDS.items()))
