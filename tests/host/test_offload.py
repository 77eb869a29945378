"""Work in a thread: its result, its exception, and what is set while it is large."""

import asyncio
import gc
import sys
import threading
from collections.abc import Iterator

import pytest

from agent.host.offload import offload

SMALL = 262_143
LARGE = 262_144  # 256 KiB


@pytest.fixture(autouse=True)
def usual_settings() -> Iterator[float]:
    """Compare the settings of the interpreter before and after, and thaw what was frozen."""
    gc.enable()
    usual = sys.getswitchinterval()
    yield usual
    assert sys.getswitchinterval() == usual
    assert gc.isenabled()
    gc.unfreeze()


def settings() -> tuple[bool, float]:
    return gc.isenabled(), sys.getswitchinterval()


@pytest.mark.parametrize("size", [0, SMALL, LARGE, 1 << 40])
async def test_the_work_runs_in_another_thread_with_its_arguments_and_its_result_returns(size: int) -> None:
    def work(*args: int, key: str) -> tuple[tuple[int, ...], str, int]:
        return args, key, threading.get_ident()

    args, key, thread = await offload(size, work, 1, 2, key="three")
    assert (args, key) == ((1, 2), "three")
    assert thread != threading.get_ident()


async def test_small_work_changes_no_setting(usual_settings: float) -> None:
    assert await offload(SMALL, settings) == (True, usual_settings)
    assert gc.get_freeze_count() == 0


async def test_large_work_runs_without_the_collector_and_yields_often(usual_settings: float) -> None:
    collects, interval = await offload(LARGE, settings)
    assert not collects
    assert interval == pytest.approx(0.0005)
    assert interval < usual_settings


async def test_what_large_work_made_is_not_scanned_by_the_collector() -> None:
    made = await offload(LARGE, lambda: [[number] for number in range(1000)])
    assert gc.get_freeze_count() >= len(made)


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_an_exception_of_the_work_is_raised_and_the_settings_are_restored(size: int) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await offload(size, fail)


async def test_the_settings_are_restored_when_the_last_of_several_ends(usual_settings: float) -> None:
    first_ends, second_ends = threading.Event(), threading.Event()
    first = asyncio.ensure_future(offload(LARGE, first_ends.wait, 30))
    second = asyncio.ensure_future(offload(LARGE, second_ends.wait, 30))
    await asyncio.sleep(0)
    first_ends.set()
    await first
    during = settings()
    second_ends.set()
    await second
    assert not during[0]
    assert during[1] < usual_settings
    assert settings() == (True, usual_settings)


async def test_work_of_which_the_caller_is_cancelled_does_not_leave_the_collector_off() -> None:
    ends = threading.Event()
    task = asyncio.ensure_future(offload(LARGE, ends.wait, 30))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gc.isenabled()
    ends.set()
