"""Limits of a process and of its children."""

import os
import resource
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from agent.host import limits as limits_module
from agent.host.limits import (
    core_dumps_allowed,
    forbid_core_dumps,
    hold_signals,
    keep_standard_streams,
    raise_descriptor_limit,
    release_signals,
    reserve_descriptors,
)

_PROGRAM = """
import resource, subprocess, sys
from contextlib import nullcontext
from agent.host.limits import core_dumps_allowed, forbid_core_dumps
resource.setrlimit(resource.RLIMIT_CORE, (4096, resource.getrlimit(resource.RLIMIT_CORE)[1]))
forbid_core_dumps()
show = [sys.executable, "-c", "import resource; print(*resource.getrlimit(resource.RLIMIT_CORE))"]
for around in (nullcontext(), core_dumps_allowed(), nullcontext()):
    with around:
        subprocess.run(show)
"""


def test_neither_we_nor_our_children_leave_a_core_dump_unless_it_is_allowed() -> None:
    """The kernel treats a soft limit of 1 as none, also if a program receives core dumps through a pipe."""
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True)
    forbidden, allowed, again = done.stdout.splitlines()
    assert forbidden == again
    assert forbidden.split()[0] in {"1", "0"}
    soft, hard = allowed.split()
    assert soft == hard


# In this process: what is set is asked for at the edge of the kernel, and put back.


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> dict[int, tuple[int, int]]:
    """Have limits of one's own, which follow the kernel's rules: no soft one above the hard one."""
    made = {resource.RLIMIT_NOFILE: (1024, 4096), resource.RLIMIT_CORE: (0, 1 << 30)}

    def change(kind: int, pair: tuple[int, int]) -> None:
        if pair[0] > pair[1]:
            raise ValueError
        made[kind] = pair

    monkeypatch.setattr(resource, "getrlimit", made.__getitem__)
    monkeypatch.setattr(resource, "setrlimit", change)
    return made


def test_as_many_descriptors_as_may_be_are_allowed(limits: dict[int, tuple[int, int]]) -> None:
    raise_descriptor_limit()
    assert limits[resource.RLIMIT_NOFILE] == (4096, 4096)


@pytest.mark.parametrize("error", [OSError(1, "Operation not permitted"), ValueError("not allowed")])
def test_a_limit_that_may_not_be_changed_is_left(
    limits: dict[int, tuple[int, int]], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(resource, "setrlimit", refuse)
    raise_descriptor_limit()
    forbid_core_dumps()
    assert limits == {resource.RLIMIT_NOFILE: (1024, 4096), resource.RLIMIT_CORE: (0, 1 << 30)}


@pytest.mark.parametrize(("hard", "soft"), [(1 << 30, 1), (1, 1), (0, 0), (resource.RLIM_INFINITY, 1)])
def test_a_core_dump_has_one_byte_at_most_and_none_where_none_is_allowed(
    limits: dict[int, tuple[int, int]], hard: int, soft: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if hard == resource.RLIM_INFINITY:  # -1 for Python, which the kernel takes for the largest number
        monkeypatch.setattr(resource, "setrlimit", limits.__setitem__)
    limits[resource.RLIMIT_CORE] = (0, hard)
    forbid_core_dumps()
    assert limits[resource.RLIMIT_CORE] == (soft, hard)


def test_core_dumps_are_allowed_for_the_time_of_a_block(limits: dict[int, tuple[int, int]]) -> None:
    limits[resource.RLIMIT_CORE] = (1, 1 << 30)
    with core_dumps_allowed():
        assert limits[resource.RLIMIT_CORE] == (1 << 30, 1 << 30)
    assert limits[resource.RLIMIT_CORE] == (1, 1 << 30)
    with pytest.raises(ZeroDivisionError), core_dumps_allowed():
        raise ZeroDivisionError
    assert limits[resource.RLIMIT_CORE] == (1, 1 << 30)


def test_signals_of_the_operator_are_held_and_released() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        hold_signals()
        held = signal.pthread_sigmask(signal.SIG_BLOCK, ()) - before
        release_signals()
        after = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    names = {"SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"}
    assert {signal.Signals(each).name for each in held} == names
    assert after == before


@pytest.mark.parametrize("closed", [[], [0], [1], [2], [0, 1, 2]])
def test_each_standard_stream_that_is_closed_leads_nowhere(closed: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The descriptors are simulated: those of this process belong to the tests."""
    open_ones = {number: "kept" for number in range(3) if number not in closed}
    inheritable: set[int] = set()

    def stat(number: int) -> None:
        if number not in open_ones:
            raise OSError(9, "Bad file descriptor")

    def opened(path: str, flags: int) -> int:
        assert flags == os.O_RDWR
        number = next(each for each in range(10) if each not in open_ones)
        open_ones[number] = path
        return number

    monkeypatch.setattr(limits_module, "os", SimpleNamespace(
        fstat=stat, open=opened, devnull=os.devnull, O_RDWR=os.O_RDWR,
        set_inheritable=lambda number, given: inheritable.add(number) if given else None,
    ))  # fmt: skip
    keep_standard_streams()
    assert open_ones == {number: "/dev/null" if number in closed else "kept" for number in range(3)}
    assert inheritable == set(closed)


_RESERVES = """
import os, sys
from agent.host.limits import reserve_descriptors
os.closerange(3, 20)
os.open("/dev/zero", os.O_RDONLY)
reserve_descriptors(3)
print(*(os.readlink(f"/proc/self/fd/{number}") for number in (3, 4, 5)), os.open("/dev/zero", os.O_RDONLY))
print(*(os.get_inheritable(number) for number in (4, 5)))
"""


def test_free_descriptors_of_those_that_children_get_are_occupied() -> None:
    done = subprocess.run([sys.executable, "-c", _RESERVES], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["/dev/zero /dev/null /dev/null 6", "False False"]


def test_nothing_is_reserved_for_a_program_that_gets_none() -> None:
    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    reserve_descriptors(0)
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208
