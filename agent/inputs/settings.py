"""The operator's settings from the command line, validated and in the agent's own types."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from agent.core.policy import Policy
from agent.core.schedule import Window
from agent.host.processes import User
from agent.metrics.application import Application
from agent.proxies.interface import Proxy

if TYPE_CHECKING:
    from agent.core.app_probes import Probe


class OnCertificate(StrEnum):
    """The effect of a change of certificates alone."""

    RESTART = "restart"  # a new epoch
    PUSH = "push"  # a push into the running epoch, where that is possible
    AUTO = "auto"  # the same, unless a new epoch is better


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting of `agent`. `proxy` names the program, `kind` its kind. Durations are in seconds."""

    proxy: str
    kind: Proxy
    certificates: tuple[Path, ...]
    config: Path | None  # None: the agent has `document`, or writes a configuration over the certificates
    watched: tuple[Path, ...]
    run_directory: Path
    listen: str
    forward: str
    document: bytes | None = None  # the configuration, as JSON
    renew_document: Callable[[], bytes] | None = None  # makes it anew, from inputs that nothing watches
    override: Path | None = None  # a document that is merged over the configuration
    override_values: Mapping[str, str] = field(default_factory=dict)  # placeholders in it, and their values
    policy: Policy = field(default_factory=Policy)
    user: User | None = None
    allowed_ports: frozenset[int] = frozenset()  # low ports for LDS listeners, bound by the agent
    restart_on_binary: bool = False
    on_certificate: OnCertificate = OnCertificate.RESTART
    inbound_only: bool = False  # at shutdown, only inbound listeners are closed
    survive: bool = False  # the proxies outlive a killed agent
    window: Window | None = None  # the hours in which a change may replace what serves
    jitter: float | None = 0.0  # over how long a fleet spreads a change; None: derived from the certificate's life
    replace_hung: float | None = None  # how long the serving epoch may hang before it is replaced; None: forever
    prove: bool = True  # verify with a TLS client what is served
    status_port: int = 0
    status_host: str = "127.0.0.1"
    core_dumps: bool = False
    status_names: frozenset[str] = frozenset()
    http_actions: bool = False  # POST /drain and /quitquitquit over TCP, from this machine only
    application: Application | None = None  # its metrics are exposed with the agent's
    merge_metrics: bool = True
    app_probes: "Mapping[str, Probe]" = field(default_factory=dict)  # of the application, by request path
    app_address: str | None = None  # where they connect; None: loopback
    kubernetes_events: bool = False  # send warnings as Kubernetes events
    settle_timeout: float = 1.0  # how long to wait for a file that is being written
    alarm_timeout: float = 2.0  # how long what may be half of a rotation is not logged as refused
    sync_interval: float = 0.5  # how often a serving epoch's dynamic listeners are checked for changes

    @property
    def writes_configuration(self) -> bool:
        """Whether the agent itself writes the configuration, over the certificates that it finds."""
        return self.config is None and self.document is None

    @property
    def has_other_users(self) -> bool:
        """Whether processes of other users go through the run directory."""
        return self.user is not None or self.kind.is_multi_user

    @property
    def scopes(self) -> tuple[Path, ...]:
        """The paths under which files are watched and materialised."""
        return (*self.certificates, *self.watched)
