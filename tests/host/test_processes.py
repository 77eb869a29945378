import asyncio
import fcntl
import os
import resource
import signal
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from agent.core.errors import MachineError, UsageError
from agent.host.processes import (
    Command,
    Process,
    User,
    boot,
    clean_environment,
    connections_at,
    created_at,
    describe_exit,
    has_socket,
    owner_of,
    run,
)
from tests.host.conftest import NOBODY
from tests.system.eventually import PATIENCE

SHELL = Path("/bin/sh")


@pytest.fixture
def shell() -> Iterator[int]:
    descriptor = os.open(SHELL, os.O_RDONLY | os.O_CLOEXEC)
    yield descriptor
    os.close(descriptor)


def command(shell: int, script: str, **more: object) -> Command:
    return Command(shell, ["sh", "-c", script], **more)  # type: ignore[arg-type]


async def end_of(made: Command) -> int | None:
    """Run a command to its end; return its exit code."""
    ended: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
    Process.start(made, ended.set_result)
    return await asyncio.wait_for(ended, PATIENCE)


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", -9), ("kill -15 $$", -15)])
async def test_the_exit_is_reported_once_with_its_code(shell: int, script: str, code: int) -> None:
    codes: list[int | None] = []
    done = asyncio.Event()

    def heard(each: int | None) -> None:
        codes.append(each)
        done.set()

    process = Process.start(command(shell, script), heard)
    await asyncio.wait_for(done.wait(), PATIENCE)
    process.signal(signal.SIGKILL)  # harmless: the process has exited
    assert codes == [code]
    with pytest.raises(ChildProcessError):
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG)  # noqa: ASYNC222  # it has exited already


async def test_a_signal_reaches_the_process_and_no_other_of_that_number(shell: int) -> None:
    ended: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
    process = Process.start(command(shell, "exec sleep 1000"), ended.set_result)
    process.signal(signal.SIGTERM)
    assert await asyncio.wait_for(ended, PATIENCE) == -signal.SIGTERM
    process.signal(signal.SIGTERM)


async def test_it_has_a_group_of_its_own_so_that_ctrl_c_is_the_agents(shell: int) -> None:
    code, output = await run(command(shell, "cut -d' ' -f5 /proc/$$/stat; echo $$"), 10)
    group, pid = output.split()
    assert (code, group) == (0, pid)
    assert int(group) != os.getpgrp()


async def test_it_inherits_the_descriptors_that_are_named_and_no_other(shell: int) -> None:
    kept, other = os.memfd_create("kept"), os.memfd_create("other")  # the agent's own are CLOEXEC; so are these
    os.set_inheritable(other, True)
    code, output = await run(command(shell, "ls /proc/$$/fd", descriptors=[kept]), 10)
    os.close(kept)
    os.close(other)
    found = {int(word) for word in output.split()}
    assert code == 0
    assert {0, 1, 2, kept, shell} <= found
    assert other not in found


async def test_its_environment_has_nothing_that_is_meant_for_the_agent(
    shell: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS", "AGENT_CERTS", "KEPT"):
        monkeypatch.setenv(name, "x")
    _, output = await run(command(shell, "env", environment={"ADDED": "y"}), 10)
    names = {row.partition("=")[0] for row in output.splitlines()}
    assert {"KEPT", "ADDED"} <= names
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS", "AGENT_CERTS"} & names
    assert "KEPT" in clean_environment()


@pytest.mark.parametrize(
    "name",
    [
        "NOTIFY_SOCKET",
        "WATCHDOG_PID",
        "WATCHDOG_USEC",
        "LISTEN_PID",
        "LISTEN_FDS",
        "LISTEN_FDNAMES",
        "AGENT_",
        "AGENT_X",
    ],
)
def test_a_variable_for_the_agent_alone_is_not_passed_on(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "x")
    monkeypatch.setenv(f"NOT_{name}", "kept")
    assert name not in clean_environment()
    assert clean_environment()[f"NOT_{name}"] == "kept"


async def test_a_core_dump_is_allowed_only_where_it_is_wanted(shell: int) -> None:
    limits = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, limits[1]))
    try:
        forbidden = await run(command(shell, "ulimit -S -c; ulimit -H -c"), 10)
        allowed = await run(command(shell, "ulimit -S -c; ulimit -H -c", dumps_core=True), 10)
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, limits)
    assert forbidden[1].split()[0] == "0"
    assert len(set(allowed[1].split())) == 1


async def test_nothing_can_be_typed_at_it(shell: int) -> None:
    assert await run(command(shell, "read x; echo $?"), 10) == (0, "1\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="wants root")
async def test_it_runs_as_another_user_with_no_group_of_ours(shell: int) -> None:
    _, output = await run(command(shell, "id -u; id -g; id -G", user=User(NOBODY, NOBODY)), 10)
    assert output.split() == [str(NOBODY)] * 3


async def test_a_script_runs_through_its_descriptor_with_its_file_gone(tmp_path: Path) -> None:
    script = tmp_path / "proxy"
    script.write_text("#!/bin/sh\necho $1\n")
    script.chmod(0o755)
    descriptor = os.open(script, os.O_RDONLY | os.O_CLOEXEC)
    script.unlink()
    assert await run(Command(descriptor, ["proxy", "hello"]), 10) == (0, "hello\n")
    os.close(descriptor)


@pytest.mark.parametrize("content", [b"", b"#!/no/such/interpreter\n", b"\x7fELF garbage"])
async def test_what_cannot_be_executed_is_a_machine_error(tmp_path: Path, content: bytes) -> None:
    program = tmp_path / "proxy"
    program.write_bytes(content)
    program.chmod(0o755)
    descriptor = os.open(program, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with pytest.raises(MachineError, match="cannot start proxy"):
            await run(Command(descriptor, ["proxy"]), 10)
    finally:
        os.close(descriptor)


async def test_both_outputs_of_a_short_command_are_returned(shell: int) -> None:
    assert await run(command(shell, "echo out; echo err >&2; exit 7"), 10) == (7, "out\nerr\n")


async def test_much_output_does_not_block_and_is_cut(shell: int) -> None:
    code, output = await run(command(shell, "head -c 3000000 /dev/zero | tr '\\0' x"), 10)
    assert code == 0
    assert len(output) == 1 << 20


async def test_output_that_is_no_text_is_returned_all_the_same(shell: int) -> None:
    assert (await run(command(shell, r"printf '\377a'"), 10))[1] == "\N{REPLACEMENT CHARACTER}a"


async def test_a_command_that_does_not_end_is_killed_and_named(shell: int, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    with pytest.raises(MachineError, match=r"cannot wait for sh -c: it did not end within 0.1 s"):
        await run(command(shell, f"echo $$ > {pid}; exec sleep 1000"), 0.1)
    for _ in range(1000):
        await asyncio.sleep(0.001)
        if pid.exists() and not Path(f"/proc/{pid.read_text().strip()}").exists():
            return
    pytest.fail("it still runs")


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "exited with 0"), (1, "exited with 1"), (-9, "was killed by SIGKILL"), (-99, "was killed by signal 99")],
)
def test_an_exit_is_described_in_words(code: int, words: str) -> None:
    assert describe_exit(code) == words


def test_users_are_known_by_name_and_by_number() -> None:
    assert User.named("root") == User.named("0") == User(0, 0)
    assert User(1, 2).owner == (1, 2)
    assert User.named("4294967294") == User(4294967294, 4294967294), "in a container, a user may have no name"
    with pytest.raises(UsageError, match="there is no such user"):
        User.named("nobody-of-that-name")
    with pytest.raises(UsageError, match="there is no such user"):
        User.named("4294967295")


@pytest.mark.parametrize("name", ["99999999999999999999", "²"])
def test_a_number_that_is_none_is_no_user(name: str) -> None:
    with pytest.raises(UsageError, match="there is no such user"):
        User.named(name)


def test_a_process_is_seen_to_have_a_socket_or_not() -> None:
    with socket.socket() as one:
        inode = os.fstat(one.fileno()).st_ino
        assert has_socket(os.getpid(), [inode, 1]) is True
    assert has_socket(os.getpid(), [inode]) is False
    assert has_socket(os.getpid(), []) is False
    assert has_socket(2**22 + 1, [inode]) is None


async def test_many_concurrent_exits_are_all_reported(shell: int) -> None:
    ends = (end_of(command(shell, f"exit {number}")) for number in range(20))
    codes: Sequence[int | None] = await asyncio.gather(*ends)
    assert codes == list(range(20))


async def test_a_short_command_is_the_first_to_go_where_memory_runs_out(shell: int) -> None:
    until = "until grep -q '^1000$' /proc/$$/oom_score_adj; do :; done"
    assert (await run(command(shell, until), PATIENCE))[0] == 0
    assert await end_of(command(shell, "exit $(cat /proc/$$/oom_score_adj)")) == 0, "a proxy is not"


# Adoption. The process that is adopted is the one that runs the tests, so nothing is started.

NOBODY_HAS = 2**22 + 1  # above the largest pid_max


def own_start() -> int:
    """Return the start of this process in clock ticks, from its 22nd field; its name has no bracket."""
    return int(Path("/proc/self/stat").read_text().partition(") ")[2].split()[19])


def test_a_process_is_identified_by_when_it_began() -> None:
    assert created_at(os.getpid()) == own_start()
    assert created_at(1) is not None
    assert created_at(NOBODY_HAS) is None


def test_a_name_with_brackets_and_blanks_does_not_move_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    stat = "7 (a) b) S (c) 1 2 3 (x) " + " ".join(str(number) for number in range(1, 60))
    monkeypatch.setattr(Path, "read_text", lambda _: stat)
    assert created_at(7) == 20


async def test_a_process_of_another_agent_is_adopted_and_its_exit_has_no_code() -> None:
    codes: list[int | None] = []
    process = Process.adopt(os.getpid(), own_start(), codes.append)
    assert process.pid == os.getpid()
    assert owner_of(os.getpid()) == process.reap
    process.signal(signal.SIGCHLD)  # it is ignored, and reaches it
    process.reap()  # as when its pidfd is readable: it is no child of this process
    assert codes == [None]
    assert owner_of(os.getpid()) is None
    process.signal(signal.SIGKILL)  # it is not known any more


@pytest.mark.parametrize("moved", [-1, 1, -(10**6)])
async def test_a_process_that_began_at_another_time_is_another_one(moved: int) -> None:
    """Its number has been given anew. The fixture of the folder finds a descriptor that is left open."""
    with pytest.raises(MachineError, match=rf"{os.getpid()}.*another"):
        Process.adopt(os.getpid(), own_start() + moved, lambda _: pytest.fail("told"))
    assert owner_of(os.getpid()) is None


async def test_a_process_that_is_gone_cannot_be_adopted() -> None:
    with pytest.raises(MachineError, match=rf"{NOBODY_HAS}: No such process"):
        Process.adopt(NOBODY_HAS, 1, lambda _: pytest.fail("told"))


async def test_a_process_that_has_just_exited_is_sent_no_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> None:
        raise ProcessLookupError

    process = Process.adopt(os.getpid(), own_start(), lambda _: None)
    with monkeypatch.context() as patched:
        patched.setattr(signal, "pidfd_send_signal", gone)
        process.signal(signal.SIGTERM)
    process.reap()


async def test_a_child_that_cannot_be_supervised_is_ended(shell: int, monkeypatch: pytest.MonkeyPatch) -> None:
    children: list[int] = []

    def refuse(pid: int) -> int:
        children.append(pid)
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    with pytest.raises(MachineError, match="sh: Too many open files"):
        Process.start(command(shell, "exec sleep 1000"), lambda _: pytest.fail("told"))
    (pid,) = children
    with pytest.raises(ChildProcessError):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)  # noqa: ASYNC222  # it is gone already


def test_an_exit_that_nobody_saw_is_told_as_such() -> None:
    assert "unknown" in describe_exit(None)


def test_the_boot_has_an_identity_and_none_where_it_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    assert boot() == Path("/proc/sys/kernel/random/boot_id").read_text().strip() != ""

    def refuse(_: Path) -> str:
        raise PermissionError

    monkeypatch.setattr(Path, "read_text", refuse)
    assert boot() == ""


def test_connections_at_a_port_are_counted_without_its_listener() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_server(("127.0.0.1", 0)) as other:
        port, quiet = listener.getsockname()[1], other.getsockname()[1]
        assert connections_at(os.getpid(), [port]) == 0
        with socket.create_connection(("127.0.0.1", port)):
            served, _ = listener.accept()
            with served:
                assert connections_at(os.getpid(), [port]) == 1
                assert connections_at(os.getpid(), [quiet]) == 0
                assert connections_at(os.getpid(), [quiet, port]) == 1
                assert connections_at(os.getpid(), []) == 0
    assert connections_at(NOBODY_HAS, [port]) is None


# Sockets as systemd passes them

LISTENS = "echo $LISTEN_PID = $$, $LISTEN_FDS, $LISTEN_FDNAMES; for n in 3 4 5; do readlink /proc/self/fd/$n; done"


async def test_listening_sockets_are_passed_from_the_third_descriptor_on(shell: int) -> None:
    """Whatever numbers they have here, even those of one another."""
    with socket.socket() as first, socket.socket() as second:
        inodes = [os.fstat(each.fileno()).st_ino for each in (second, first)]
        listening = (("web", second.fileno()), ("admin", first.fileno()))
        code, output = await run(command(shell, LISTENS, listening=listening), PATIENCE)
    line, *links = output.splitlines()
    pid, _, rest = line.partition(" = ")
    assert rest == f"{pid}, 2, web:admin"
    assert links[:2] == [f"socket:[{inode}]" for inode in inodes]
    assert code != 0 or not links[2].startswith("socket:")


async def test_the_numbers_may_overlap(shell: int) -> None:
    """As when the agent itself was passed sockets."""
    low = fcntl.fcntl(shell, fcntl.F_DUPFD_CLOEXEC, 3)
    made = [os.pipe() for _ in range(3)]
    numbers = sorted([low, *(end for pipe in made for end in pipe)])[:3]
    try:
        wanted = [Path(f"/proc/self/fd/{number}").readlink() for number in reversed(numbers)]
        listening = [(f"n{number}", number) for number in reversed(numbers)]
        _, output = await run(command(shell, LISTENS, listening=listening), PATIENCE)
    finally:
        for number in [low, *(end for pipe in made for end in pipe)]:
            os.close(number)
    assert output.splitlines()[1:] == [str(each) for each in wanted]


async def test_a_program_that_cannot_be_executed_with_sockets_is_said_why(tmp_path: Path) -> None:
    script = tmp_path / "server"
    script.write_text("#!/nowhere\n")
    script.chmod(0o755)
    descriptor = os.open(script, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with socket.socket() as passed, pytest.raises(MachineError, match="cannot start server: No such file"):
            Process.start(
                Command(descriptor, ["server"], executable=str(script), listening=(("web", passed.fileno()),)),
                lambda _: None,
            )
    finally:
        os.close(descriptor)
