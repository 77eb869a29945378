"""Chains without an agent, each step under load: an Envoy, then a server of the library or the sidecar, and so on."""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from tests.system.bare import body_of, first_answer
from tests.system.bootstrap import http, listener
from tests.system.conftest import envoy, loads, room
from tests.system.eventually import PATIENCE, eventually
from tests.system.loads import Loads, nothing_failed
from tests.system.room import Process, Room
from tests.system.wire import Target

__all__ = ["envoy", "loads", "room"]

TINY = Path(__file__).with_name("minimal_epoch.py")
BASE_ID = 7
QUICK = ("--drain-time-s", "1", "--drain-strategy", "immediate", "--parent-shutdown-time-s", "1")


@dataclass
class Chain:
    """A stock chain in a sandbox: each process follows the previous one, which exits."""

    room: Room
    envoy: Path
    socket_path: str
    processes: list[Process] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.target = Target("127.0.0.1", self.room.port())
        self.log = self.room.directory / "chain.log"

    def start(self, command: list[str | Path]) -> Process:
        """Start the next process of the chain."""
        place = ["--restart-epoch", str(len(self.processes)), "--base-id", str(BASE_ID)]
        flags = [*place, "--socket-path", self.socket_path, "-l", "warning", *QUICK]
        self.processes.append(self.room.spawn([*command, *flags], log=self.log))
        return self.processes[-1]

    def start_envoy(self) -> Process:
        """Start an Envoy as the successor, with two workers."""
        return self.start([self.envoy, "--concurrency", "2", "-c", self.bootstrap("envoy")])

    def start_sidecar(self) -> Process:
        """Start a sidecar as the successor."""
        return self.start([sys.executable, "-m", "agent.sidecar", "-c", self.bootstrap("sidecar")])

    def bootstrap(self, name: str) -> Path:
        """Write the configuration of Envoy and sidecar, and return its path; each answers with its name."""
        config = self.room.directory / f"{name}.yaml"
        made = listener("web", self.target.host, self.target.port, [{"filters": [http(f"{name}\n")]}])
        config.write_text(yaml.safe_dump({"static_resources": {"listeners": [made]}}))
        return config

    def start_tiny(self) -> Process:
        """Start a tiny server as the successor."""
        config = self.room.directory / "tiny.yaml"
        config.write_text(f'body: "tiny\\n"\nlisten: [{{port: {self.target.port}}}]\n')
        return self.start([sys.executable, TINY, "-c", config])

    def follow(self, start: Callable[[], Process], body: bytes) -> None:
        """Start a successor; check that only it serves and that its predecessor exited with 0."""
        start()
        eventually(lambda: body_of(self.target) == body, what=f"{body!r} answers")
        before = self.processes[-2]
        eventually(lambda: before.poll() is not None, what="the predecessor ends")
        assert before.returncode == 0, self.log.read_text()
        assert self.processes[-1].poll() is None, self.log.read_text()
        assert body_of(self.target) == body


@pytest.fixture
def chain(names: str, room: Room, envoy: Path) -> Chain:
    if names == "abstract":
        return Chain(room, envoy, "@chain" if room.private else f"@chain-{os.getpid()}")
    (room.directory / "hr").mkdir()
    return Chain(room, envoy, str(room.directory / "hr" / "s"))


@pytest.mark.long
@pytest.mark.parametrize(
    ("names", "follower"),
    [
        ("abstract", "sidecar"),
        pytest.param("path", "tiny", marks=pytest.mark.long),
        pytest.param("abstract", "tiny", marks=pytest.mark.long),
        pytest.param("path", "sidecar", marks=pytest.mark.long),
    ],
)
def test_envoy_and_another_follow_each_other_and_no_request_fails(chain: Chain, follower: str, loads: Loads) -> None:
    starts = {"tiny": chain.start_tiny, "sidecar": chain.start_sidecar}
    other, body = starts[follower], f"{follower}\n".encode()
    chain.start_envoy()
    first_answer(chain.target)
    loads.start("keepalive", chain.target, clients=3, pace=0.005)
    loads.start("bursts", chain.target, clients=30, pace=0.05)
    chain.follow(other, body)
    chain.follow(chain.start_envoy, b"envoy\n")
    chain.follow(other, body)
    loads.more(20)
    nothing_failed(loads.finish())
    last = chain.processes[-1]
    last.send_signal(signal.SIGTERM)
    assert last.wait(timeout=PATIENCE) == 0, chain.log.read_text()
    assert not chain.room.shared_memory(), "the last of a chain removes its memory"
    shutil.rmtree(chain.room.directory / "hr", ignore_errors=True)  # Envoy leaves the files of its sockets
