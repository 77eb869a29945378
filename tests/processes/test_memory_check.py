import os
import signal

import pytest

from agent.host.memory import Footprint, Free, OomWatch
from agent.processes.memory_check import MemoryCheck

MIB = 1 << 20
LIMIT = "/sys/fs/cgroup/memory.max"
PROXY = Footprint(peak=100 * MIB, anonymous=40 * MIB, mapped_files=20 * MIB, shared_memory=0)  # one more: 80 MiB
NEEDED = 94


class Watch(OomWatch):
    """Counts the kills that the test sets."""

    def __init__(self, *kills: int) -> None:
        self.left = list(kills)

    def kills(self) -> int:
        return self.left.pop(0)


def room(free: int, footprint: Footprint | None = PROXY) -> MemoryCheck:
    return MemoryCheck(lambda: Free(free, LIMIT), lambda _: footprint)


def test_a_second_proxy_needs_its_peak_with_an_eighth_and_four_mib_more() -> None:
    assert room(NEEDED * MIB).shortage(1) is None
    assert room(NEEDED * MIB - 1).shortage(1) is not None


def test_a_shortage_tells_how_much_is_free_of_which_limit_and_how_much_is_needed() -> None:
    told = room(12 * MIB).shortage(1)
    assert told == f"12 MiB are free by {LIMIT}, and a second proxy needs up to {NEEDED} MiB"


def test_the_thing_that_does_not_fit_is_named() -> None:
    told = room(0).shortage(1, "agent")
    assert told is not None
    assert "a second agent needs" in told


def test_the_process_that_it_is_compared_with_is_the_one_that_was_asked_for() -> None:
    asked: list[int] = []

    def footprint(pid: int) -> Footprint:
        asked.append(pid)
        return PROXY

    MemoryCheck(lambda: Free(0, LIMIT), footprint).shortage(4711)
    assert asked == [4711]


@pytest.mark.parametrize(
    ("footprint", "needed"),
    [
        (Footprint(0, 0, 0, 0), 4 * MIB),
        (Footprint(100 * MIB, 40 * MIB, 90 * MIB, 0), 49 * MIB),
        (Footprint(1 << 40, 0, 0, 0), (1 << 40) + (1 << 37) + 4 * MIB),
        (Footprint(7, 0, 0, 0), 7 + 4 * MIB),
    ],
    ids=["nothing", "mostly its program, which is shared", "huge", "a few bytes"],
)
def test_an_eighth_and_four_mib_are_added_to_whatever_a_proxy_takes(footprint: Footprint, needed: int) -> None:
    assert room(needed, footprint).shortage(1) is None
    assert room(needed - 1, footprint).shortage(1) is not None


def test_a_proxy_that_is_gone_meanwhile_asks_for_nothing() -> None:
    assert room(0, None).shortage(1) is None


def test_this_machine_has_memory_for_one_more_of_this_process() -> None:
    assert MemoryCheck().shortage(os.getpid()) is None


@pytest.mark.parametrize(
    ("code", "kills", "told"),
    [
        (-signal.SIGKILL, 1, ": out of memory"),
        (-signal.SIGKILL, 0, ""),
        (-signal.SIGSEGV, 1, ""),
        (1, 1, ""),
        (None, 1, "; the kernel has killed a process for lack of memory since"),
        (None, 0, ""),
    ],
)
def test_an_exit_is_reported_as_out_of_memory_if_the_kernel_counts_a_kill(
    code: int | None, kills: int, told: str
) -> None:
    assert MemoryCheck(watch=Watch(kills)).describe_death(code, by_agent=False) == told


def test_what_the_agent_killed_itself_did_not_die_for_want_of_memory() -> None:
    assert MemoryCheck(watch=Watch(1)).describe_death(-signal.SIGKILL, by_agent=True) == ""


def test_a_kill_counts_for_the_death_that_it_was_and_for_no_later_one() -> None:
    counted = MemoryCheck(watch=Watch(1, 0))
    counted.describe_death(1, by_agent=False)
    assert counted.describe_death(-signal.SIGKILL, by_agent=False) == ""
