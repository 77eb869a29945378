"""Chooses the kind of proxy by the program's name, and loads only that one."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent.proxies.envoy.push_contexts import PushMode
    from agent.proxies.interface import Proxy

KINDS = ("envoy", "haproxy", "nginx", "server")
"""The values of --proxy-kind besides `auto`."""

DRAIN_TIME = 45.0  # seconds, where a command has no --drain-time
_RESTART = "restart"


def kind_of(options: Mapping[str, Any], arguments: Sequence[str]) -> "Proxy":
    """Return the kind of proxy with the operator's arguments for it. Raises `UsageError`."""
    match _name(options):
        case "haproxy":
            from agent.proxies.haproxy.proxy import HAProxy

            return HAProxy.parse(arguments, pushes=_pushes(options))
        case "nginx":
            from agent.proxies.nginx.proxy import Nginx

            return Nginx.parse(arguments)
        case "server":
            from agent.proxies.server.proxy import Server

            return Server.parse(
                arguments,
                [each for each in options["listen"] if "=" in each],
                check=options.get("check"),
                notifies=options.get("ready") == "notify",
                drain_signal=f"SIG{options.get('drain_signal', 'TERM')}",
                has_config=options["config"] is not None,
            )
        case _:
            return _envoy(options, arguments)


def _name(options: Mapping[str, Any]) -> str:
    named = options.get("proxy_kind", "auto")
    if named != "auto":
        return str(named)
    if any("=" in each for each in options.get("listen", ())):
        return "server"
    program = Path(options["proxy_bin"]).name
    return next((each for each in KINDS if program == each or program.startswith(f"{each}-")), "envoy")


def _envoy(options: Mapping[str, Any], arguments: Sequence[str]) -> "Proxy":
    from agent.proxies.envoy.options import Flags
    from agent.proxies.envoy.proxy import Envoy

    return Envoy(
        Flags.parse(arguments),
        options.get("drain_time", DRAIN_TIME),
        logs_json=options.get("log_format") == "json",
        push=_push_mode(options),
        push_drain=_push_drain(options) or 0.0,
    )


def _pushes(options: Mapping[str, Any]) -> bool:
    return bool(options.get("on_certificate", _RESTART) != _RESTART)


def _push_mode(options: Mapping[str, Any]) -> "PushMode | None":
    """Return how certificates are pushed; None for a command that runs no proxy, or if every change is a restart."""
    from agent.proxies.envoy.push_contexts import PushMode

    if not _pushes(options):
        return None
    is_sidecar = Path(options["proxy_bin"]).name == "sidecar"
    return PushMode(drains=_push_drain(options) is not None and not is_sidecar)


def _push_drain(options: Mapping[str, Any]) -> float | None:
    """Return after how many seconds a push ends old connections; None if it never does."""
    drain: float | None = options.get("push_drain")
    seconds: float = options.get("drain_deadline", 0.0) if drain is None else drain
    return None if seconds == math.inf else seconds
