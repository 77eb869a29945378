"""Parses the operator's arguments for Envoy; flags that the agent sets itself are rejected."""

from collections.abc import Sequence
from dataclasses import dataclass

from agent.core.errors import UsageError

_OWNED = {
    "-c": "--config of the agent names the configuration",
    "--config-path": "--config of the agent names the configuration",
    "--restart-epoch": "the agent numbers the epochs",
    "--base-id": "the agent gives every epoch a base id of its own",
    "--base-id-path": "the agent gives every epoch a base id of its own",
    "--use-dynamic-base-id": "the agent gives every epoch a base id of its own",
    "--socket-path": "the agent keeps the sockets in its run directory",
    "--socket-mode": "the agent keeps the sockets in its run directory",
    "--drain-time-s": "--drain-time of the agent sets it",
    "--parent-shutdown-time-s": "the agent ends an epoch when its last connection has closed",
    "--admin-address-path": "the admin address is the one the configuration names",
    "--disable-hot-restart": "the agent needs the hot-restart protocol",
    "--skip-hot-restart-on-no-parent": "the agent is the parent of every epoch",
    "--skip-hot-restart-parent-stats": "the agent is the parent of every epoch",
    "--hot-restart-version": "use: agent version",
    "--version": "use: agent version",
    "--mode": "use: agent check",
    "--": "it would hide the agent's own flags from the proxy",
    "--ignore_rest": "it would hide the agent's own flags from the proxy",
}
_LEVELS = ("-l", "--log-level")
_MERGED = frozenset({"--config-yaml", "--log-format", "--service-node", "--service-cluster"})


@dataclass(frozen=True, slots=True)
class Flags:
    """The arguments after `--`: flags that the agent merges with its own, and the others."""

    config_yaml: str | None = None
    log_format: str | None = None
    service_node: str | None = None
    service_cluster: str | None = None
    rest: tuple[str, ...] = ()

    @property
    def has_log_level(self) -> bool:
        """Whether the operator chooses how much the proxy logs."""
        return any(each.partition("=")[0] in _LEVELS for each in self.rest)

    @property
    def has_drain_strategy(self) -> bool:
        """Whether the operator chooses how a drain asks clients to leave."""
        return any(each.partition("=")[0] == "--drain-strategy" for each in self.rest)

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> "Flags":
        """Parse the arguments. Raises `UsageError` for an agent's own flag or a missing value."""
        merged: dict[str, str] = {}
        rest: list[str] = []
        remaining = list(arguments)
        while remaining:
            argument = remaining.pop(0)
            name, equals, value = argument.partition("=")
            _check_owned(name)
            if name not in _MERGED:
                rest.append(argument)
                continue
            merged[name[2:].replace("-", "_")] = value if equals else _next(name, remaining)
        return cls(**merged, rest=tuple(rest))


def _check_owned(name: str) -> None:
    if name in _OWNED:
        message = f"cannot pass {name} to the proxy: {_OWNED[name]}"
        raise UsageError(message)


def _next(name: str, remaining: list[str]) -> str:
    if not remaining:
        message = f"cannot pass {name} to the proxy: its value is missing"
        raise UsageError(message)
    return remaining.pop(0)
