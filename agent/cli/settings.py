"""Converts options to settings; raises `UsageError` for invalid ones before any side effect."""

import math
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.control_client.run_dir import default
from agent.core.errors import UsageError
from agent.core.policy import LowMemory, Policy, Restart
from agent.core.schedule import Window
from agent.handoff.socket_paths import check_room
from agent.host.processes import User
from agent.host.sockets import Endpoint
from agent.inputs.settings import OnCertificate, Settings
from agent.metrics.application import Application
from agent.proxies.envoy.options import Flags
from agent.proxies.envoy.proxy import Envoy
from agent.proxies.envoy.push_contexts import PushMode

if TYPE_CHECKING:
    from agent.core.app_probes import Probe

DRAIN_TIME = 45.0  # seconds, where a command has no --drain-time


def inputs(options: Mapping[str, Any], arguments: Sequence[str]) -> dict[str, Any]:
    """Return the settings for every command that reads the operator's files."""
    config, document = options["config"], options.get("document")
    if config is None and document is None and not options["certs"]:
        message = "cannot start: neither --config nor --certs is given; see agent --help"
        raise UsageError(message)
    override = options["config_override"]
    if override is not None and config is None and document is None:
        message = "cannot use --config-override without --config: there is nothing that it could be merged over"
        raise UsageError(message)
    for name in ("listen", "forward"):
        Endpoint.parse(f"tcp://{options[name]}")
    return {
        "proxy": options["proxy_bin"],
        "certificates": tuple(options["certs"]),
        "config": config,
        "document": None if document is None else document.encode(),
        "override": override,
        "override_values": _override_values(override),
        "watched": tuple(options["watch"]),
        "listen": f"tcp://{options['listen']}",
        "forward": f"tcp://{options['forward']}",
        "user": None if options["proxy_user"] is None else User.named(options["proxy_user"]),
        "kind": Envoy(
            Flags.parse(arguments),
            options.get("drain_time", DRAIN_TIME),
            logs_json=options.get("log_format") == "json",
            push=_push_mode(options),
            push_drain=_push_drain(options) or 0.0,
        ),
    }


def _override_values(override: Path | None) -> dict[str, str]:
    """Return the one placeholder that Istio replaces in an override. Raises `UsageError` if its value is no address."""
    address = os.environ.get("HOST_IP")
    if override is None or not address:
        return {}
    try:
        return {"$(HOST_IP)": str(ip_address(address))}
    except ValueError:
        message = f"cannot use HOST_IP={address!r}: it is not an IP address"
        raise UsageError(message) from None


def _push_mode(options: Mapping[str, Any]) -> PushMode | None:
    """Return how certificates are pushed; None for a command that runs no proxy, or if every change is a restart."""
    if options.get("on_certificate", OnCertificate.RESTART) == OnCertificate.RESTART:
        return None
    is_sidecar = Path(options["proxy_bin"]).name == "sidecar"
    return PushMode(drains=_push_drain(options) is not None and not is_sidecar)


def _push_drain(options: Mapping[str, Any]) -> float | None:
    """Return after how many seconds a push ends old connections; None if it never does."""
    drain: float | None = options.get("push_drain")
    seconds: float = options.get("drain_deadline", 0.0) if drain is None else drain
    return None if seconds == math.inf else seconds


def running(options: Mapping[str, Any], arguments: Sequence[str]) -> Settings:
    """Return the settings to run the agent."""
    words: Sequence[str] | None = options.get("pilot_words")
    directory: Path = options["run_dir"] or Path(default())
    check_room(directory.absolute())
    return Settings(
        **inputs(options, arguments),
        run_directory=directory.absolute(),
        renew_document=None if words is None else _renewal(words),
        policy=_policy(options),
        core_dumps=options["proxy_core_dumps"],
        status_names=frozenset(options["status_name"]),
        allowed_ports=frozenset(options["allow_listen"]),
        restart_on_binary=options["on_binary"] == "restart",
        on_certificate=OnCertificate(options["on_certificate"]),
        inbound_only=options["drain_direction"] == "inbound",
        survive=options["survive"],
        window=None if options["rotate_window"] is None else Window.parse(options["rotate_window"]),
        jitter=options["jitter"],
        replace_hung=options["replace_hung"],
        prove=options["proof"],
        http_actions=options["http_actions"],
        application=None if options["app_metrics"] is None else Application.parse(options["app_metrics"]),
        merge_metrics=options["metrics_merge"] == "on",
        app_probes=_app_probes(options),
        app_address=_app_address(options["app_address"]),
        kubernetes_events=options["kubernetes_events"],
        status_port=options["status_port"],
        status_host=options["status_host"] or _status_host(),
    )


def _app_probes(options: Mapping[str, Any]) -> "Mapping[str, Probe]":
    if not options["app_probers"]:
        return {}
    from agent.core.app_probes import parse  # an agent without probes does not hold it

    probes = parse(options["app_probers"])
    if probes and not options["status_port"]:
        message = "cannot use --app-probers without a status port; give another --status-port than 0"
        raise UsageError(message)
    return probes


def _app_address(text: str | None) -> str | None:
    try:
        return None if not text else str(ip_address(text))
    except ValueError as error:
        message = f"cannot use --app-address {text!r}: it is not an IP address"
        raise UsageError(message) from error


def _renewal(words: Sequence[str]) -> Callable[[], bytes]:
    """Return what makes the bootstrap of these arguments of pilot-agent anew."""
    from agent.host.pod_machine import machine
    from agent.istio import proxy_command

    def renew() -> bytes:
        document = proxy_command.translate(words, os.environ, machine()).document
        assert document is not None, "these arguments have made one before"
        return proxy_command.as_json(document).encode()

    return renew


def _policy(options: Mapping[str, Any]) -> Policy:
    return Policy(
        start_timeout=options["start_deadline"],
        drain_timeout=options["drain_deadline"],
        drain_patience=options["drain_time"],
        stop_timeout=options["stop_deadline"],
        hold_timeout=options["hold"],
        drain_delay=options["drain_delay"],
        keeps_outbound=options["drain_direction"] == "inbound",
        min_drain=options["min_drain"],
        restart=Restart(options["restart"]),
        low_memory=LowMemory(options["low_memory"]),
        give_up=options["give_up"],
        wait=options["wait"],
    )


def _status_host() -> str:
    """Return loopback under a service manager, else any address: a kubelet probes from outside."""
    return "127.0.0.1" if "NOTIFY_SOCKET" in os.environ else every_interface()


def every_interface() -> str:
    """Return the address of all interfaces, of both families if there are two."""
    return "::" if socket.has_dualstack_ipv6() else "0.0.0.0"  # noqa: S104  # health only, no actions
