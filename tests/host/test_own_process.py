import os
import resource
import time

import psutil
import pytest

from agent.host.own_process import own_use


def test_the_use_is_that_of_this_process() -> None:
    before = psutil.Process()
    use = own_use()
    assert use is not None
    assert use.resident == pytest.approx(before.memory_info().rss, rel=0.1)
    assert use.virtual >= use.resident
    assert use.started_at == pytest.approx(before.create_time(), abs=0.1)
    assert use.processor == pytest.approx(time.process_time(), abs=0.2)


def test_the_limit_of_descriptors_is_the_one_in_force() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
    try:
        use = own_use()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert use is not None
    assert use.descriptor_limit == soft - 1


def test_each_open_descriptor_counts() -> None:
    before = own_use()
    descriptor = os.memfd_create("x")
    try:
        after = own_use()
    finally:
        os.close(descriptor)
    assert before is not None
    assert after is not None
    assert after.descriptors == before.descriptors + 1


def test_without_a_view_of_processes_there_is_no_use(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_: psutil.Process) -> int:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil.Process, "num_fds", denied)
    assert own_use() is None
