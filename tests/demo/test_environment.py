"""The environment of a demonstration; its programs are fakes, as real ones are started by the system's tests."""

import asyncio
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from agent.cli.run import agent as command_line
from agent.cli.settings import running
from agent.core.errors import MachineError
from agent.demo import environment as module
from agent.demo.environment import Environment
from agent.demo.settings import Settings


class Input:
    """A process's standard input."""

    def __init__(self, closes: Callable[[], None]) -> None:
        self.close = closes


@dataclass
class Process:
    """A process that exits as it is told to: at the end of its input, at SIGTERM, or only when killed."""

    command: tuple[str, ...]
    more: dict[str, Any]
    ends_at: str
    code: int = 0
    returncode: int | None = None
    done: list[str] = field(default_factory=list)
    stdout: asyncio.StreamReader = field(default_factory=asyncio.StreamReader)

    def __post_init__(self) -> None:
        self.stdin = Input(lambda: self._hear("input"))
        self._ended = asyncio.Event()

    def _hear(self, what: str) -> None:
        self.done.append(what)
        if what == self.ends_at:
            self.returncode = self.code
            self._ended.set()

    def terminate(self) -> None:
        self._hear("terminate")

    def kill(self) -> None:
        self.done.append("kill")
        self.returncode = -signal.SIGKILL
        self._ended.set()

    async def wait(self) -> int:
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode


@dataclass
class Machine:
    """Starts processes that are none."""

    started: list[Process] = field(default_factory=list)
    code: int = 0  # of the agent
    error: OSError | None = None

    async def start(self, *command: str, **more: Any) -> Process:  # noqa: ANN401  # as asyncio's
        if self.error is not None and "agent" in command:
            raise self.error
        is_agent = command[2] == "agent"
        made = Process(command, more, "terminate" if is_agent else "input", self.code if is_agent else 0)
        self.started.append(made)
        return made

    def named(self, name: str) -> Process:
        return next(each for each in self.started if each.command[2] == name)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    made = Machine()
    monkeypatch.setattr(asyncio, "create_subprocess_exec", made.start)
    monkeypatch.setattr(module, "_SHORT", (str(tmp_path / "none"), str(tmp_path)))
    monkeypatch.setattr(module, "_STOP_TIMEOUT", 0.01)
    monkeypatch.setattr(module, "_END_TIMEOUT", 0.01)
    return made


def settings(every: float = 2.0) -> Settings:
    return Settings("/bin/proxy", every, 30.0)


async def test_the_files_of_an_operator_are_there_and_go_at_the_end(machine: Machine, tmp_path: Path) -> None:
    async with Environment(settings()) as made:
        assert made.directory.parent == tmp_path
        assert {oct(each.stat().st_mode & 0o777) for each in (made.certs, made.run_directory)} == {"0o700"}
        tree = yaml.safe_load((made.directory / "proxy.yaml").read_text())
        assert tree["static_resources"]["listeners"][0]["address"]["socket_address"]["port_value"] == made.port
        assert str(made.certs) in (made.directory / "proxy.yaml").read_text()
        assert len([*made.certs.iterdir()]) >= 2
        assert made.authority.pem in [each.read_bytes() for each in made.directory.iterdir() if each.is_file()]
        assert made.log.path.parent.is_dir()
    assert [*tmp_path.iterdir()] == []


async def test_the_agent_runs_over_these_files(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_CERTS", "/elsewhere")
    monkeypatch.setenv("OTHER", "1")
    async with Environment(settings()) as made:
        agent = machine.named("agent")
        assert made.agent is cast("object", agent)
        assert {each.command[:2] for each in machine.started} == {(sys.executable, "-m")}
        context = command_line.make_context("agent", [*agent.command[3:]])
        parsed = running(context.params, context.obj)
        assert (parsed.proxy, parsed.config, parsed.certificates) == (
            "/bin/proxy",
            Path("proxy.yaml"),
            (Path("certs"),),
        )
        assert (context.params["run_dir"], context.params["log_format"]) == (Path("run"), "json")
        policy = parsed.policy
        assert (policy.drain_patience, policy.drain_timeout, policy.stop_timeout) == (1, 10, 2)
        assert (parsed.status_port, context.obj) == (0, ("--concurrency", "1", "-l", "error"))
        assert (agent.more["cwd"], agent.more["process_group"]) == (made.directory, 0)
        assert "AGENT_CERTS" not in agent.more["env"]
        assert agent.more["env"]["OTHER"] == "1"
    assert agent.done == ["terminate"]


@pytest.mark.parametrize(("every", "immediate"), [(1.4, True), (1.5, False)])
async def test_short_turns_need_short_drains(every: float, immediate: bool, machine: Machine) -> None:
    async with Environment(settings(every)):
        assert ("immediate" in machine.named("agent").command) is immediate


async def test_the_port_is_kept_for_those_who_share_it(machine: Machine) -> None:
    async with Environment(settings()) as made:
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", made.port))
        with socket.socket() as proxy:
            proxy.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            proxy.bind(("127.0.0.1", made.port))


async def test_the_origin_inherits_a_listening_socket_that_the_proxy_is_led_to(machine: Machine) -> None:
    async with Environment(settings()) as made:
        origin = machine.named("agent.demo.origin")
        assert origin.more["pass_fds"] == (int(origin.command[3]),)
        tree = yaml.safe_load((made.directory / "proxy.yaml").read_text())
        (endpoints,) = tree["static_resources"]["clusters"][0]["load_assignment"]["endpoints"]
        port = endpoints["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]["port_value"]
        assert 0 < port != made.port
    assert origin.done == ["input"]


async def test_clients_are_told_the_port_and_the_authority_and_end_when_asked(machine: Machine) -> None:
    async with Environment(settings()) as made:
        made.stop_clients()
        reports = await made.start_clients()
        clients = machine.named("agent.demo.load")
        assert clients.command[:2] == (sys.executable, "-m")
        assert (clients.command[3], clients.more["stdout"]) == (str(made.port), asyncio.subprocess.PIPE)
        assert Path(clients.command[4]).read_bytes() == made.authority.pem
        assert reports is clients.stdout
        made.stop_clients()
        assert clients.done == ["input"]
    assert "kill" not in clients.done


async def test_processes_end_in_the_opposite_order(machine: Machine) -> None:
    order: list[str] = []
    async with Environment(settings()) as made:
        await made.start_clients()
        for each in machine.started:
            each.done = cast("list[str]", Noting(order, each.command[2]))
    assert order == ["agent.demo.load", "agent", "agent.demo.origin"]


class Noting(list[str]):
    """A list that notes in another one that it was appended to."""

    def __init__(self, order: list[str], name: str) -> None:
        super().__init__()
        self._order, self._name = order, name

    def append(self, _: str) -> None:
        self._order.append(self._name)


@pytest.mark.parametrize("name", ["agent.demo.origin", "agent.demo.load"])
async def test_a_program_that_does_not_end_is_killed(name: str, machine: Machine) -> None:
    async with Environment(settings()) as made:
        await made.start_clients()
        machine.named(name).ends_at = "never"
    assert machine.named(name).done == ["input", "kill"]


async def test_an_agent_that_had_to_be_killed_leaves_the_rest_to_another(machine: Machine) -> None:
    async with Environment(settings()):
        machine.named("agent").ends_at = "never"
    first, second = [each for each in machine.started if each.command[2] == "agent"]
    assert (first.done, second.done, second.command) == (["terminate", "kill"], ["terminate"], first.command)


async def test_an_agent_that_failed_leaves_the_rest_to_another_and_is_not_terminated(machine: Machine) -> None:
    async with Environment(settings()):
        agent = machine.named("agent")
        agent.code = 1
        agent.terminate()
        agent.done.clear()
    assert agent.done == []
    assert len([each for each in machine.started if each.command[2] == "agent"]) == 2


async def test_an_agent_that_stopped_well_leaves_nothing(machine: Machine) -> None:
    async with Environment(settings()):
        pass
    assert len([each for each in machine.started if each.command[2] == "agent"]) == 1


async def test_a_program_that_cannot_be_started_is_named_and_nothing_is_left(machine: Machine, tmp_path: Path) -> None:
    machine.error = OSError(12, "Cannot allocate memory")
    with pytest.raises(MachineError, match=r"agent.*Cannot allocate memory"):
        async with Environment(settings()):
            pass
    assert [*tmp_path.iterdir()] == []
    assert [(each.command[2], each.done) for each in machine.started] == [("agent.demo.origin", ["input"])]


async def test_a_wait_that_is_cancelled_kills(machine: Machine) -> None:
    process = Process((), {}, "never")
    waiting = asyncio.create_task(module._ended(cast("Any", process), 3600.0))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert process.done == ["kill"]


def test_without_a_short_place_the_usual_one_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SHORT", (str(tmp_path / "none"),))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made = module._make_directory()
    assert (made.parent, made.is_dir(), oct(made.stat().st_mode & 0o777)) == (tmp_path, True, "0o700")
    shutil.rmtree(made)
