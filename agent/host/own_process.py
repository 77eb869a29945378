"""The resources that this process uses, for the standard metrics of a process."""

import resource
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class OwnUse:
    """Memory in bytes, the start as seconds since 1970, CPU time in seconds, and descriptors."""

    virtual: int
    resident: int
    started_at: float
    processor: float
    descriptors: int
    descriptor_limit: int


def own_use() -> OwnUse | None:
    """Return the use of this process; None if the system does not show it."""
    process = psutil.Process()
    try:
        with process.oneshot():
            memory, times = process.memory_info(), process.cpu_times()
            return OwnUse(
                virtual=memory.vms,
                resident=memory.rss,
                started_at=process.create_time(),
                processor=times.user + times.system,
                descriptors=process.num_fds(),
                descriptor_limit=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            )
    except (psutil.Error, OSError):
        return None
