"""Which processes survive the agent. The filter cannot be removed, so each test runs a program of its own."""

import ctypes
import errno
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from agent.core.errors import MachineError
from agent.host import parent_death_filter
from tests.epoch.envoy_console import EnvoyConsole
from tests.host import keeper
from tests.proxies.envoy.envoys import ENVOY, wants_envoy
from tests.system.eventually import PATIENCE, eventually

MACHINE = parent_death_filter._MACHINES.get(os.uname().machine)

pytestmark = pytest.mark.skipif(MACHINE is None, reason="no filter is known for this machine")

BOOTSTRAP = '{{"admin": {{"address": {{"pipe": {{"path": "{}"}}}}}}}}'

DYING = """
import ctypes, signal, sys
ctypes.CDLL(None).prctl(1, ctypes.c_ulong(signal.SIGTERM), 0, 0, 0)
print("asked", flush=True)
signal.pause()
"""
"""Requests to die with its parent, as Envoy does."""

PREAMBLE = """
import ctypes, errno, os, signal, subprocess, sys, threading
from agent.core.errors import MachineError
from agent.host import parent_death_filter
from agent.host.parent_death_filter import children_are_kept_alive, keep_children_alive
libc = ctypes.CDLL(None, use_errno=True)
def prctl(option, *arguments):
    given = [ctypes.c_ulong(each) for each in (*arguments, 0, 0, 0, 0)[:4]]
    return libc.prctl(option, *given)
def status(name):
    return next(line.split()[1] for line in open("/proc/self/status") if line.startswith(name))
"""


def run(script: str) -> list[str]:
    """Run a script after the preamble; return the lines it printed."""
    command = [sys.executable, "-c", PREAMBLE + script]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout.splitlines()


@contextmanager
def killed_keeper(way: str, program: Sequence[str], started: str = "") -> Iterator[int]:
    """Yield a pidfd of a program whose parent was SIGKILLed after `started`; end the program if it lives."""
    command = [sys.executable, "-m", keeper.__name__, way, *program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pidfd = os.pidfd_open(int(parent.stdout.readline()))
        try:
            if started:
                assert parent.stdout.readline() == f"{started}\n"
            yield pidfd
        finally:
            parent.kill()
            if not has_ended(pidfd, within=0):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                assert has_ended(pidfd, within=PATIENCE)
            os.close(pidfd)


def has_ended(pidfd: int, within: float) -> bool:
    return bool(select.select([pidfd], [], [], within)[0])


def kill_parent(pidfd: int) -> None:
    """SIGKILL the parent of a process, and return when it has exited."""
    pid = next(row.split()[1] for row in Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines() if "Pid:" in row)
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    parent_fd = os.pidfd_open(parent)
    signal.pidfd_send_signal(parent_fd, signal.SIGKILL)
    assert has_ended(parent_fd, within=PATIENCE)
    os.close(parent_fd)


@pytest.mark.parametrize(("way", "dies"), [("keep", False), ("leave", True)])
def test_a_child_that_wants_to_die_with_its_parent_outlives_it(way: str, dies: bool) -> None:
    with killed_keeper(way, [sys.executable, "-c", DYING], "asked") as pidfd:
        kill_parent(pidfd)
        assert has_ended(pidfd, within=PATIENCE if dies else 0.1) is dies


@wants_envoy
@pytest.mark.parametrize(("way", "dies"), [("keep", False), ("leave", True)])
def test_envoy_lives_and_serves_after_a_sigkill_of_its_parent(way: str, dies: bool, tmp_path: Path) -> None:
    console = EnvoyConsole(tmp_path / "admin")
    bootstrap = BOOTSTRAP.format(console.path)
    base_id = 1_000_000 + os.getpid()
    command = [str(ENVOY), "--config-yaml", bootstrap, "--base-id", str(base_id), "-l", "off", "--concurrency", "1"]
    try:
        with killed_keeper(way, command) as pidfd:
            eventually(console.is_there)
            kill_parent(pidfd)
            assert has_ended(pidfd, within=PATIENCE if dies else 0.1) is dies
            if not dies:
                assert console.is_there()
    finally:
        Path(f"/dev/shm/envoy_shared_memory_{base_id}0").unlink(missing_ok=True)


def test_the_agents_own_calls_are_answered_by_the_kernel() -> None:
    assert run("""
keep_children_alive()
print(prctl(36, 1), libc.prctl(37, ctypes.byref(word := ctypes.c_int())), word.value)  # child sub-reaper
print(prctl(4, 1), prctl(3))  # dumpable
print(prctl(39), status("Seccomp:"), status("NoNewPrivs:"))
print(prctl(999), errno.errorcode[ctypes.get_errno()])
print(os.getpid() == os.getpgid(0) or os.getppid() > 0)
""") == ["0 0 1", "0 1", "1 2 1", "-1 EINVAL", "True"]


def test_the_wish_itself_is_answered_and_not_granted() -> None:
    assert run("""
keep_children_alive()
print(prctl(1, signal.SIGTERM), libc.prctl(2, ctypes.byref(word := ctypes.c_int())), word.value)
print(prctl(1 | 1 << 32, signal.SIGTERM), word.value)  # the kernel looks at the lower half
""") == ["0 0 0", "0 0"]


def test_a_second_call_adds_no_second_filter_and_an_exec_loses_none() -> None:
    assert run("""
print(children_are_kept_alive())
keep_children_alive()
keep_children_alive()
print(children_are_kept_alive(), status("Seccomp_filters:"), flush=True)
os.execv(sys.executable, [sys.executable, "-c",
    "from agent.host.parent_death_filter import *; keep_children_alive(); print(children_are_kept_alive());"
    "print([line.split()[1] for line in open('/proc/self/status') if line.startswith('Seccomp_filters:')])"])
""") == ["False", "True 1", "True", "['1']"]


def test_asking_changes_nothing() -> None:
    assert run("""
prctl(1, signal.SIGUSR1)
children_are_kept_alive()
libc.prctl(2, ctypes.byref(word := ctypes.c_int()))
print(word.value == signal.SIGUSR1, status("Seccomp:"))
""") == ["True 0"]


def test_threads_that_ran_before_and_those_started_later_are_under_it() -> None:
    assert run("""
def note(): found.append((children_are_kept_alive(), status("NoNewPrivs:")))
def early():
    go.wait()
    note()
found, go = [], threading.Event()
first = threading.Thread(target=early, daemon=True)
first.start()
keep_children_alive()
go.set()
first.join()
second = threading.Thread(target=note)
second.start()
second.join()
print(found == [(True, "1")] * 2)
""") == ["True"]


@pytest.mark.skipif(os.geteuid() != 0, reason="wants root")
@pytest.mark.root
def test_an_ordinary_user_may_have_it_and_gains_nothing_from_a_setuid_program(ordinary: Path) -> None:
    program = ordinary / "id"
    os.seteuid(0)
    shutil.copy("/usr/bin/id", program)
    program.chmod(0o4755)
    assert run(f"""
os.setgroups([])
os.setresuid(65534, 65534, 65534)
print(subprocess.check_output(["{program}", "-u"], text=True).strip())
keep_children_alive()
print(subprocess.check_output(["{program}", "-u"], text=True).strip())
""") == ["0", "65534"]


@pytest.mark.skipif(os.geteuid() != 0, reason="wants root")
def test_root_can_still_start_a_program_as_another_user() -> None:
    assert run("""
keep_children_alive()
print(subprocess.check_output(["id", "-u"], text=True, user=65534, group=65534, extra_groups=[]).strip())
""") == ["65534"]


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        ("parent_death_filter._MACHINES.clear()", f"there is no filter for {os.uname().machine}"),
        (f"parent_death_filter._install(machine, 38, answer={errno.EPERM})", "operation not permitted"),
        ("parent_death_filter._FLAG_SPEC_ALLOW = 1 << 20", "invalid argument"),
        ("parent_death_filter._install = lambda *_, **__: None", "the filter has no effect"),
    ],
    ids=["machine", "sandbox", "old kernel", "no effect"],
)
def test_if_it_is_not_available_the_reason_is_reported(spoil: str, why: str) -> None:
    assert run(f"""
machine = parent_death_filter._MACHINES[os.uname().machine]
{spoil}
try:
    keep_children_alive()
except MachineError as error:
    print(error)
""") == [f"cannot keep the proxies running if the agent is killed: {why}"]


def test_a_thread_with_a_filter_of_its_own_stands_in_the_way_and_is_named() -> None:
    (line,) = run("""
def own_filter():
    prctl(38, 1)
    parent_death_filter._FLAG_TSYNC = 0
    parent_death_filter._install(parent_death_filter._MACHINES[os.uname().machine], 36, answer=0)
    parent_death_filter._FLAG_TSYNC = 1
    ready.set()
    end.wait()
ready, end = threading.Event(), threading.Event()
thread = threading.Thread(target=own_filter, daemon=True)
thread.start()
ready.wait()
try:
    keep_children_alive()
except MachineError as error:
    print(str(error).replace(str(thread.native_id), "N"))
end.set()
""")
    assert line == "cannot keep the proxies running if the agent is killed: thread N has a filter of its own"


@pytest.mark.parametrize("machine", parent_death_filter._MACHINES.values(), ids=parent_death_filter._MACHINES.keys())
@pytest.mark.parametrize("answer", [0, errno.EPERM])
def test_the_program_picks_one_option_of_one_call_of_one_architecture(
    machine: parent_death_filter._Machine, answer: int
) -> None:
    program = parent_death_filter._program(machine, 1, answer)
    allow, refuse = parent_death_filter._ALLOW, parent_death_filter._ERRNO | answer
    other = next(each for each in parent_death_filter._MACHINES.values() if each != machine)
    assert outcome(program, machine.audit, machine.prctl, 1) == refuse
    assert outcome(program, machine.audit, machine.prctl, 1 | 7 << 32) == refuse
    assert outcome(program, machine.audit, machine.prctl, 2) == allow
    assert outcome(program, machine.audit, machine.prctl, 1 << 32) == allow
    assert outcome(program, machine.audit, machine.prctl | 0x40000000, 1) == allow  # x32
    assert outcome(program, machine.audit, machine.seccomp, 1) == allow
    assert outcome(program, other.audit, machine.prctl, 1) == allow
    assert outcome(program, 0x40000003, machine.prctl, 1) == allow  # i386


def outcome(program: bytes, audit: int, number: int, option: int) -> int:
    """Interpret the three kinds of instructions in use, by the kernel's rules (networking/filter.rst)."""
    data = struct_of(audit, number, option)
    at, accumulator = 0, 0
    while True:
        code = int.from_bytes(program[8 * at : 8 * at + 2], "little")
        equal, differs = program[8 * at + 2], program[8 * at + 3]
        value = int.from_bytes(program[8 * at + 4 : 8 * at + 8], "little")
        at += 1
        if code == 0x20:
            accumulator = int.from_bytes(data[value : value + 4], "little")
        elif code == 0x15:
            at += equal if accumulator == value else differs
        else:
            assert code == 0x06
            return value


def struct_of(audit: int, number: int, option: int) -> bytes:
    """Lay out `struct seccomp_data`: the call's number, the architecture, the instruction pointer, six arguments."""
    words = [(number, 4), (audit, 4), (0, 8), (option, 8), *[(0, 8)] * 5]
    return b"".join(value.to_bytes(size, "little") for value, size in words)


# The filter in this process: a C library in the place of the kernel's.


class Library:
    """A C library whose calls answer as they are told to, and write down their numbers."""

    def __init__(self, *, accepts: list[bool], no_new_privs: int = 0, seccomp: int = 0) -> None:
        self._accepts = accepts
        self._no_new_privs = no_new_privs
        self._seccomp = seccomp
        self.calls: list[tuple[int, ...]] = []

    def prctl(self, option: int, *arguments: ctypes.c_ulong) -> int:
        self.calls.append((option, *(each.value for each in arguments)))
        if option == 38:  # PR_SET_NO_NEW_PRIVS
            return self._no_new_privs
        return 0 if self._accepts.pop(0) else -1

    def syscall(self, number: ctypes.c_long, operation: ctypes.c_ulong, flags: ctypes.c_ulong, _: bytes) -> int:
        self.calls.append((number.value, operation.value, flags.value))
        return self._seccomp


def install(monkeypatch: pytest.MonkeyPatch, library: Library) -> list[tuple[int, ...]]:
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: library)
    monkeypatch.setattr(ctypes, "get_errno", lambda: errno.EACCES)
    parent_death_filter.keep_children_alive()
    return library.calls


ASKED = (1, 1 << 16, 0, 0, 0)


def test_a_filter_is_installed_for_all_threads_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MACHINE is not None
    calls = install(monkeypatch, Library(accepts=[False, True]))
    assert calls == [ASKED, (38, 1, 0, 0, 0), (MACHINE.seccomp, 1, 5), ASKED]
    assert install(monkeypatch, Library(accepts=[True])) == [ASKED]


@pytest.mark.parametrize(
    ("library", "words"),
    [
        (Library(accepts=[False], no_new_privs=-1), "permission denied"),
        (Library(accepts=[False], seccomp=-1), "permission denied"),
        (Library(accepts=[False], seccomp=77), "thread 77"),
        (Library(accepts=[False, False]), "no effect"),
    ],
    ids=["no_new_privs", "seccomp", "a thread", "no effect"],
)
def test_a_filter_that_cannot_be_installed_is_an_error_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, library: Library, words: str
) -> None:
    with pytest.raises(MachineError, match=words):
        install(monkeypatch, library)


def test_a_machine_of_another_kind_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine="riscv64"))
    with pytest.raises(MachineError, match="riscv64"):
        install(monkeypatch, Library(accepts=[False]))


def test_nothing_has_been_installed_by_these_tests() -> None:
    assert not parent_death_filter.children_are_kept_alive()
