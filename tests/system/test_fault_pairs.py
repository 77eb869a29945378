"""Pairs of a fault and an action during it: no client is lost.

During the fault, the serving epoch continues; afterwards the agent recovers without help.
"""

import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest

from tests.cli.agents import agent
from tests.system.agent_fixture import AgentFixture
from tests.system.bare import body_of
from tests.system.eventually import eventually, pass_time
from tests.system.loads import Loads
from tests.system.room import kill, stopped
from tests.system.silence import silence
from tests.system.test_bad_input import GARBAGE
from tests.system.test_disk import Disk, Frozen
from tests.system.test_memory import ENTER, MIB, UNLIMITED, Group, group_named
from tests.system.test_silent_disk import lead

pytestmark = [pytest.mark.root, pytest.mark.long]

Fault = Callable[[AgentFixture], AbstractContextManager[None]]
Deed = Callable[[AgentFixture], None]

GOOD = "good"  # the directory with the link to the certificates
LASTS = 1.0  # seconds of each fault after the action in it


@contextmanager
def bad_certificate(instance: AgentFixture) -> Iterator[None]:
    """The pair on disk is invalid."""
    (instance.certs / "tls.crt").write_bytes(GARBAGE)
    yield


@contextmanager
def frozen_run_directory(instance: AgentFixture) -> Iterator[None]:
    """No entry can be created, renamed or removed in the run directory."""
    frozen = Frozen(instance.run_dir)
    frozen.fill()
    try:
        yield
    finally:
        frozen.clear()


def full(disk: Disk) -> Fault:
    """No file can be created or written on a disk."""

    @contextmanager
    def filled(_: AgentFixture) -> Iterator[None]:
        disk.fill()
        yield
        disk.clear()

    return filled


@contextmanager
def stopped_agent(instance: AgentFixture) -> Iterator[None]:
    """The agent is stopped (SIGSTOP)."""
    with stopped(instance.agent_pid):
        yield


@contextmanager
def killed_agent(instance: AgentFixture) -> Iterator[None]:
    """The agent is killed, and restarted."""
    instance.kill_agent()
    yield
    instance.launch()


@contextmanager
def no_descriptors(instance: AgentFixture) -> Iterator[None]:
    """The agent cannot open descriptors."""
    _, hard = before = resource.prlimit(instance.agent_pid, resource.RLIMIT_NOFILE)
    count = len(list(Path(f"/proc/{instance.agent_pid}/fd").iterdir()))
    resource.prlimit(instance.agent_pid, resource.RLIMIT_NOFILE, (count, hard))
    yield
    with suppress(ProcessLookupError):
        resource.prlimit(instance.agent_pid, resource.RLIMIT_NOFILE, before)


@contextmanager
def silent_certificates(instance: AgentFixture) -> Iterator[None]:
    """The file system of the certificates does not answer."""
    with silence(instance.directory / "silent") as silent:
        lead(instance.certs, silent.path)
        pass_time(LASTS)
        yield
        lead(instance.certs, Path(GOOD))


def low_memory(group: Group) -> Fault:
    """There is no memory for a second proxy."""

    @contextmanager
    def low(_: AgentFixture) -> Iterator[None]:
        group.limit(group.used() + 8 * MIB)
        yield
        group.limit(UNLIMITED)

    return low


LIBFAKETIME = Path(f"/usr/lib/{os.uname().machine}-linux-gnu/faketime/libfaketimeMT.so.1")
"""Debian's `faketime`: a file shifts the agent's calendar; deadlines use the true clock."""


def shifted_clock(shift: str, file: Path) -> Fault:
    """The calendar is set to another day, and back."""

    @contextmanager
    def shifted(_: AgentFixture) -> Iterator[None]:
        set_clock(shift, file)
        yield
        set_clock("+0", file)

    return shifted


def faked_by(calendar: Path) -> list[str]:
    """Return the environment of an agent whose calendar a file shifts."""
    clock = [f"FAKETIME_TIMESTAMP_FILE={calendar}", "FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1"]
    return [f"LD_PRELOAD={LIBFAKETIME}", *clock]


def without_faking(binary: Path, script: Path) -> Path:
    """Write a script that starts a proxy with the true calendar: Envoy's allocator deadlocks in the library."""
    script.write_text(f'#!/bin/sh\nexec env -u LD_PRELOAD {binary} "$@"\n')
    script.chmod(0o755)
    return script


def set_clock(shift: str, file: Path) -> None:
    """Shift the calendar of a fixture; the kernel reports a step of its clock, although the time stays the same."""
    file.write_text(shift)
    time.clock_settime(time.CLOCK_REALTIME, time.time())


FAULTS: dict[str, Fault] = {
    "bad certificate": bad_certificate,
    "frozen run directory": frozen_run_directory,
    "stopped agent": stopped_agent,
    "killed agent": killed_agent,
    "no descriptors": no_descriptors,
    "silent certificates": silent_certificates,
}
LOST = {"crash": frozenset({"reset", "eof"})}  # only requests in the killed proxy
FULL_RUN, FULL_SHM, LOW_MEMORY = "full run directory", "full shared memory", "low memory"
CLOCKS = {"clock a day ahead": "+1d", "clock a day back": "-1d"}
"""Faults that need preparation before the agent starts."""


def rotate(instance: AgentFixture) -> None:
    """Write a new certificate, to its usual path, readable or not."""
    instance.layout.again(instance.directory / GOOD, instance.mint.leaf())


def burst(instance: AgentFixture) -> None:
    """Write ten in half a second."""
    for _ in range(10):
        rotate(instance)
        pass_time(0.05)


def crash(instance: AgentFixture) -> None:
    """Kill the serving proxy."""
    kill(instance.serving_pid())


def reconfigure(instance: AgentFixture) -> None:
    """Write another configuration."""
    instance.bootstrap.body = "another\n"
    instance.bootstrap.write(instance.config)


def upgrade(instance: AgentFixture) -> None:
    """Request an upgrade; executed or refused, it is answered."""
    agent("upgrade", "--run-dir", instance.run_dir)


def restart(instance: AgentFixture) -> None:
    """Request an epoch of the program on disk; executed or refused, it is answered."""
    agent("restart", "--binary", "--run-dir", instance.run_dir)


def stop(instance: AgentFixture) -> None:
    """Stop the agent."""
    assert instance.agent is not None
    instance.agent.send_signal(signal.SIGTERM)


DEEDS: dict[str, Deed] = {
    "rotation": rotate,
    "crash": crash,
    "upgrade": upgrade,
    "stop": stop,
    "restart": restart,
    "configuration": reconfigure,
    "burst": burst,
}


@pytest.fixture
def fault(request: pytest.FixtureRequest, unstarted: AgentFixture) -> Iterator[Fault]:
    """Yield a fault by its name, with its preparation."""
    instance, name = unstarted, request.param
    instance.more_flags += ["--survive"]
    with ExitStack() as stack:
        if name in {FULL_RUN, FULL_SHM}:
            disk = Disk(instance.run_dir if name == FULL_RUN else instance.room.shm)
            stack.callback(disk.close)
            yield full(disk)
        elif name == LOW_MEMORY:
            group = stack.enter_context(group_named(f"agent-test-{instance.directory.parent.name}"))
            instance.program = [*ENTER, str(group.path), sys.executable, "-m", "agent"]
            yield low_memory(group)
            instance.stop()
        elif name in CLOCKS:
            if not LIBFAKETIME.exists():
                pytest.skip(f"there is no {LIBFAKETIME} (Debian: faketime)")
            calendar = instance.directory / "calendar"
            calendar.write_text("+0")
            instance.mint.lasts = timedelta(hours=12)
            instance.program = ["env", *faked_by(calendar), sys.executable, "-m", "agent"]
            instance.binary = without_faking(instance.binary, instance.directory / "proxy")
            yield shifted_clock(CLOCKS[name], calendar)
        else:
            yield FAULTS[name]
        instance.stop()


@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize("fault", [*FAULTS, FULL_RUN, FULL_SHM, LOW_MEMORY, *CLOCKS], indirect=True)
def test_whatever_comes_together_no_client_is_lost_to_it(
    fault: Fault, deed: str, unstarted: AgentFixture, loads: Loads
) -> None:
    instance = unstarted
    (instance.directory / GOOD).mkdir()
    instance.certs.symlink_to(GOOD)
    instance.start()
    loads.gentle(instance.tls, instance.plain)
    orders: list[threading.Thread] = []
    with fault(instance):
        orders.append(threading.Thread(target=DEEDS[deed], args=(instance,)))
        orders[0].start()
        pass_time(LASTS)
    if deed == "stop":
        orders[0].join()
        ends(instance, was_running=fault is not killed_agent)
        return
    eventually(lambda: not orders[0].is_alive(), what="whoever ordered it has an answer")
    instance.rotate()
    instance.served()
    if deed == "configuration":
        eventually(lambda: body_of(instance.plain) == b"another\n", what="the configuration serves")
    instance.committed()
    instance.settled()
    assert instance.state().agent_pid == instance.agent_pid
    reports = loads.finish(at_least=20)
    lost = LOST.get(deed, frozenset())
    if fault is killed_agent and deed == "crash":
        lost |= {"refused"}  # no process holds the sockets any more
    assert [str(report) for report in reports if set(report.reasons()) - lost] == []


def ends(instance: AgentFixture, *, was_running: bool) -> None:
    """Check that the agent stops; one that was not running when it was told to is stopped now."""
    if not was_running:
        instance.ready()
        stop(instance)
    eventually(lambda: instance.journal.named("agent.stopping"), what="it stops")
    assert instance.exited() == 0
    assert instance.journal.bugs() == []
    (instance.run_dir / "control").unlink(
        missing_ok=True
    )  # where no entry can be removed, this one could not be either
