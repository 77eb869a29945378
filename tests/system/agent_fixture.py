"""An agent with its configuration, certificates and run directory, started as an operator would start it."""

import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tests.system.bare import bare_start, serial_served
from tests.system.bootstrap import TYPES, Bootstrap, Secured, address, listener
from tests.system.certificates import Mint, Pair, serial
from tests.system.eventually import PATIENCE, eventually
from tests.system.journal import Journal
from tests.system.layouts import CHAIN, IN_PLACE, KEY, Layout
from tests.system.listening import holds
from tests.system.room import Process, Room, alive, sockets_below
from tests.system.state import CANDIDATE, SERVING, Epoch, State, read_state
from tests.system.wire import Target

QUICK = ("--drain-time", "1s", "--stop-deadline", "2s")
FAR = ("--start-deadline", "5m", "--drain-deadline", "5m", "--hold", "5m")
"""Long enough to start a proxy, to hold clients, and to end a drain with its last client, on a slow machine too: a
test of one of these deadlines sets its own.
"""
HOST = "127.0.0.1"
T = TypeVar("T")


@dataclass
class AgentFixture:
    """All files of one agent, in one directory of a sandbox. `more_flags` come last and have precedence."""

    room: Room
    name: str
    binary: Path
    mint: Mint = field(default_factory=Mint)
    layout: Layout = IN_PLACE
    cell: Sequence[str] = ()
    program: Sequence[str] = (sys.executable, "-m", "agent")
    more_flags: list[str] = field(default_factory=list)
    proxy_args: list[str] = field(default_factory=lambda: ["--concurrency", "2", "-l", "warning"])
    agent: Process | None = None
    is_small: bool = False
    """Whether the agent generates the configuration, so that every pair in the directory is served."""

    def __post_init__(self) -> None:
        self.directory = self.room.directory / self.name
        self.directory.mkdir()
        self.certs, self.config, self.run_dir = (self.directory / word for word in ("certs", "envoy.yaml", "run"))
        self.tls = Target(HOST, self.room.port(), tls=True)
        self.plain = Target(HOST, self.room.port())
        self.status = Target(HOST, self.room.port())
        self.twin = Target(HOST, self.room.ports(2), tls=True)
        secured = [Secured(self.certs / CHAIN, self.certs / KEY)]
        self.bootstrap = Bootstrap(self.tls.port, self.plain.port, secured)
        self.journal = Journal(self.directory / "agent.log")

    def prepare(self) -> None:
        """Write the configuration and the first certificate."""
        self.bootstrap.write(self.config)
        self.layout.first(self.certs, self.mint.leaf())

    def forward(self, port: int, origin: int) -> None:
        """Add a listener that forwards TCP connections to a port of this machine."""
        proxy = {"@type": f"{TYPES}.filters.network.tcp_proxy.v3.TcpProxy", "stat_prefix": "raw", "cluster": "echo"}
        endpoint = {"endpoint": {"address": address(HOST, origin)}}
        self.bootstrap.more = [listener("raw", HOST, port, [{"filters": [{"name": "tcp", "typed_config": proxy}]}])]
        self.bootstrap.clusters = [
            {
                "name": "echo",
                "type": "STATIC",
                "connect_timeout": "1s",
                "load_assignment": {"cluster_name": "echo", "endpoints": [{"lb_endpoints": [endpoint]}]},
            }
        ]

    def command(self) -> list[str]:
        """Return the command line of the agent."""
        files = ["--certs", str(self.certs), "--run-dir", str(self.run_dir)]
        if self.is_small:
            files += ["--listen", f"{HOST}:{self.tls.port}", "--forward", f"{HOST}:{self.plain.port}"]
        else:
            files += ["--config", str(self.config)]
        flags = ["--status-port", str(self.status.port), "--log-format", "json", *QUICK, *FAR, *self.more_flags]
        return [*self.program, "--proxy-bin", str(self.binary), *files, *flags, "--", *self.proxy_args]

    def launch(self) -> Process:
        """Start the agent without waiting."""
        self.agent = self.room.spawn(self.command(), log=self.journal.path, cell=self.cell)
        return self.agent

    def start(self) -> None:
        """Start the agent with a new certificate and wait until it is ready and the proxy answers."""
        self.prepare()
        self.launch()
        self.ready()

    def ready(self) -> None:
        """Wait until the agent is ready, serves the newest certificate and holds the sockets."""
        eventually(self._is_ready, what="the agent is ready")
        targets = [self.tls] if self.is_small else [self.tls, self.plain]
        eventually(lambda: all(map(self.holds, targets)), what="the vault is complete")

    def holds(self, target: Target) -> bool:
        """Return whether the agent holds every socket that listens there."""
        return holds(self.agent_pid, target.port)

    def _is_ready(self) -> bool:
        assert self.agent is not None
        assert self.agent.poll() is None, f"the agent ended with {self.agent.returncode}"
        state = self.state()  # possibly still that of a killed agent
        return state.agent_pid == self.agent_pid and state.ready and self.serial_served() == serial(self.mint.newest)

    @property
    def agent_pid(self) -> int:
        """The process id of the running agent."""
        assert self.agent is not None, "the agent was started"
        return self.agent.pid

    def state(self) -> State:
        """Return the agent's state file; OSError before there is one."""
        return read_state(self.run_dir)

    def epochs(self) -> tuple[Epoch, ...]:
        """Return the running epochs."""
        return self.state().epochs

    def serving(self) -> Epoch:
        """Return the serving epoch; AssertionError if none runs."""
        serving = self.state().among(SERVING)
        assert len(serving) == 1, f"serving: {serving}"
        assert alive(serving[0].pid), f"{serving[0]} is dead"
        return serving[0]

    def serving_pid(self) -> int:
        """Return the process id of the serving epoch."""
        return self.serving().pid

    def serial_served(self) -> int:
        """Return the serial of the certificate that a new client receives; ConnectionError if there is none."""
        return serial_served(self.tls)

    def rotate(self, layout: Layout | None = None, pair: Pair | None = None) -> float:
        """Write a pair (by default a new one) into the directory; return the monotonic time of its last byte."""
        return (layout or self.layout).again(self.certs, pair or self.mint.leaf())

    def served(self, pair: Pair | None = None) -> None:
        """Wait until new clients receive this pair (by default the newest one)."""
        wanted = serial(pair or self.mint.newest)
        eventually(lambda: self.serial_served() == wanted, what=f"serial {wanted:x} is served")

    def committed(self) -> None:
        """Wait until no candidate exists: it serves its certificate before the agent is informed."""
        eventually(lambda: not self.state().among(CANDIDATE), what="no candidate is on its way")

    def settled(self) -> None:
        """Wait until one epoch serves and no other runs."""
        eventually(lambda: [one.state for one in self.epochs()] == [SERVING], what="one epoch serves")

    def bare_start(self, times: int = 5) -> float:
        """Return exec → first response of a bare proxy with this configuration on ports of its own, in seconds.

        It has its own certificate as well: a rotation in between has no effect on it.
        """
        config, certs = self.directory / "bare.yaml", self.directory / "bare"
        if not certs.exists():
            IN_PLACE.first(certs, self.mint.spare())
        Bootstrap(self.twin.port, self.twin.port + 1, [Secured(certs / CHAIN, certs / KEY)]).write(config)
        return bare_start(self.room, self.binary, config, self.twin, times, self.proxy_args)

    def ten_starts(self) -> str:
        """Return a span in which a proxy starts and for which a test can wait, in the format of the agent's options."""
        return f"{10 * self.bare_start(times=3):.3f}s"

    def while_starting(self, measure: Callable[[], T]) -> tuple[float, T]:
        """Start a bare proxy while `measure` runs: both run under the same conditions.

        Return the duration of the start, in seconds, and the result of `measure`.
        """
        with ThreadPoolExecutor(1) as pool:
            start = pool.submit(self.bare_start, times=1)
            measured = measure()
            return start.result(), measured

    def beside_starts(self, times: int, measure: Callable[[], float]) -> tuple[list[float], list[float]]:
        """Alternate starts of a bare proxy with `measure`, under the same conditions; return both durations."""
        pairs = [(self.bare_start(times=1), measure()) for _ in range(times)]
        return [start for start, _ in pairs], [span for _, span in pairs]

    def stop(self) -> None:
        """Ask the agent to stop; it must exit with 0 and remove all its files."""
        if self.agent is None:
            return
        if self.agent.poll() is None:
            self.agent.send_signal(signal.SIGTERM)
        assert self.agent.wait(timeout=PATIENCE) == 0, f"the agent ended with {self.agent.returncode}"
        self.agent = None
        left = sockets_below(self.run_dir) if self.run_dir.exists() else []
        assert not left, f"sockets left in the run directory: {left}"
        bugs = self.journal.bugs()
        assert not bugs, f"the agent tells of bugs in itself: {bugs}"

    def kill_agent(self) -> None:
        """Kill the agent, and wait for its exit."""
        assert self.agent is not None
        self.agent.send_signal(signal.SIGKILL)
        self.agent.wait(timeout=PATIENCE)

    def exited(self) -> int:
        """Wait for the exit of an agent that stops by itself and return its exit code."""
        assert self.agent is not None
        code, self.agent = self.agent.wait(timeout=PATIENCE), None
        return code


def workers(pid: int) -> int:
    """Count the workers that this Envoy has started: none before its gate is open."""
    names = (Path(task, "comm").read_text(encoding="ascii") for task in Path(f"/proc/{pid}/task").iterdir())
    return sum(name.startswith("wrk:") for name in names)
