"""The settings of `agent webhook`."""

from dataclasses import dataclass
from pathlib import Path

from agent.injection.options import InjectionOptions


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """The settings of a running webhook.

    `health_port`: for probes and metrics without TLS, None for none. `registration`: the name of the
    MutatingWebhookConfiguration that gets the CAs in `authority_file`, empty for none. `drain_delay`: seconds for which
    it accepts connections after SIGTERM, until no node leads any to it.
    """

    options: InjectionOptions
    certificates: Path
    host: str
    port: int
    health_port: int | None
    authority_file: Path
    registration: str = ""
    denies: bool = True
    drain_delay: float = 0.0
