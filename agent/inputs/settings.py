"""What the operator decided on the command line, checked and in the agent's own types."""

from dataclasses import dataclass, field
from pathlib import Path

from agent.core.policy import Policy
from agent.core.schedule import Window
from agent.host.processes import User
from agent.metrics.application import Application
from agent.proxies.interface import Proxy


@dataclass(frozen=True, slots=True)
class Settings:
    """Every option of `agent`. `proxy` is the program, `kind` knows its kind. Durations are seconds."""

    proxy: str
    kind: Proxy
    certificates: tuple[Path, ...]
    config: Path | None
    watched: tuple[Path, ...]
    run_directory: Path
    listen: str
    forward: str
    policy: Policy = field(default_factory=Policy)
    user: User | None = None
    allowed_ports: frozenset[int] = frozenset()  # low ones that listeners by LDS may have, bound by the agent
    restart_on_binary: bool = False
    inbound_only: bool = False  # at the end, only inbound listeners are closed
    survive: bool = False  # the proxies outlive an agent that is killed
    window: Window | None = None  # the hours in which a change may take the place of what serves
    jitter: float | None = 0.0  # over how long a fleet spreads a change; None: by the life of the certificate
    replace_hung: float | None = None  # for how long the serving epoch may be hung until it is replaced; None: for ever
    prove: bool = True  # look at what is served as a client would
    status_port: int = 0
    status_host: str = "127.0.0.1"
    core_dumps: bool = False
    status_names: frozenset[str] = frozenset()
    http_actions: bool = False  # POST /drain and /quitquitquit by TCP, from this machine only
    application: Application | None = None  # whose metrics are told with the agent's
    merge_metrics: bool = True
    kubernetes_events: bool = False  # what the log warns of is told the cluster
    settle_timeout: float = 1.0  # how long a file that is being written is waited for
    alarm_timeout: float = 2.0  # how long what may be half of a rotation is not yet called refused
    sync_interval: float = 0.5  # how often a serving epoch with dynamic listeners is asked whether they changed

    @property
    def scopes(self) -> tuple[Path, ...]:
        """Where a file must lie to be watched and materialised."""
        return (*self.certificates, *self.watched)
