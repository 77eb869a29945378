"""Whether this process's control group was kept from running, because it had used up its share of processor time.

The files are those of the kernel's admin-guide/cgroup-v2.rst (cpu.stat) and scheduler/sched-bwc.rst (version 1). A
limit on any group above ours holds for ours as well, so all of them count. Where nothing can be read, nothing is
throttled.
"""

from dataclasses import dataclass
from pathlib import Path

from agent.host import control_groups
from agent.host.control_groups import PROC

_SECONDS = {"throttled_usec": 1e-6, "throttled_time": 1e-9}  # of version 2, and of version 1


@dataclass(frozen=True, slots=True)
class Throttled:
    """Up to now: in how many periods the group or one above it was kept from running, and for how many seconds.

    The seconds are those of each processor, added up.
    """

    periods: int = 0
    seconds: float = 0.0


def read(*, proc: Path = PROC) -> Throttled:
    """What was counted up to now; only differences tell anything."""
    group = control_groups.find("cpu", proc=proc)
    tables = [control_groups.table(directory / "cpu.stat") for directory in (group.directories if group else ())]
    periods = sum(table.get("nr_throttled", 0) for table in tables)
    return Throttled(periods, sum(table.get(name, 0) * unit for table in tables for name, unit in _SECONDS.items()))
