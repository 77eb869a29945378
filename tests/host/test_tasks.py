"""Background tasks: kept while they run, ended by close, and a failure of one is logged as a bug."""

import asyncio
import gc
import logging
import weakref

import pytest

from agent.host.tasks import Tasks


def bugs(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if getattr(record, "event", "") == "bug"]


async def test_a_task_runs_under_its_name_and_leaves_nothing(caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []

    async def work() -> None:
        current = asyncio.current_task()
        assert current is not None
        done.append(current.get_name())

    tasks = Tasks()
    await tasks.spawn(work(), "sweep")
    assert done == ["sweep"]
    await tasks.close()
    assert not caplog.records


async def test_a_task_that_nothing_else_refers_to_is_not_collected() -> None:
    """A loop has weak references to its tasks: one that waits for what only it knows would vanish."""
    ended: list[str] = []

    async def wait_alone() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append("ended")

    tasks = Tasks()
    tasks.spawn(wait_alone(), "alone")
    await asyncio.sleep(0)
    gc.collect()
    assert not ended
    await tasks.close()
    assert ended == ["ended"]


async def test_an_exception_is_logged_with_the_name_of_the_task_and_the_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    tasks = Tasks()
    with pytest.raises(ZeroDivisionError):
        await tasks.spawn(fail(), "the sweep")
    await asyncio.sleep(0)
    (record,) = bugs(caplog)
    assert record.levelno == logging.ERROR
    assert "the sweep" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


async def test_close_cancels_every_task_and_waits_until_each_has_cleaned_up(caplog: pytest.LogCaptureFixture) -> None:
    cleaned: list[int] = []

    async def clean_up_late(number: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(3):
                await asyncio.sleep(0)
            cleaned.append(number)

    tasks = Tasks()
    for number in range(3):
        tasks.spawn(clean_up_late(number), f"task {number}")
    await asyncio.sleep(0)
    await tasks.close()
    assert sorted(cleaned) == [0, 1, 2]
    assert not caplog.records


async def test_a_task_that_fails_while_it_is_cancelled_does_not_keep_close_from_ending_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ended: list[str] = []

    async def fail_at_the_end() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ZeroDivisionError

    async def end_well() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("well")

    tasks = Tasks()
    tasks.spawn(fail_at_the_end(), "bad end")
    tasks.spawn(end_well(), "good end")
    await asyncio.sleep(0)
    await tasks.close()
    assert ended == ["well"]
    assert ["bad end" in record.getMessage() for record in bugs(caplog)] == [True]


async def test_close_of_nothing_and_a_second_close_return() -> None:
    tasks = Tasks()
    await tasks.close()
    await tasks.close()


async def test_a_task_that_has_ended_is_not_kept() -> None:
    async def work() -> None:
        return

    tasks = Tasks()
    ended = weakref.ref(tasks.spawn(work(), "short"))
    for _ in range(3):
        await asyncio.sleep(0)
    gc.collect()
    assert ended() is None


async def test_a_task_that_has_ended_is_not_cancelled() -> None:
    async def work() -> None:
        return

    tasks = Tasks()
    task = tasks.spawn(work(), "short")
    await task
    await tasks.close()
    assert not task.cancelled()
