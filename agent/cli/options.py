"""Defines each option once, also as environment variable: --drain-time, AGENT_DRAIN_TIME."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from agent.cli.duration import Span, SpanOrAuto, SpanOrOff
from agent.cli.kinds import KINDS

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
_SPAN = Span()
_SPAN_OR_NONE = Span(may_be_none=True)
_SPAN_OR_AUTO = SpanOrAuto()
_Parameter = click.Parameter | None


class _Name(click.Path):
    """The path of a file or directory that is not checked: its file system may never answer."""

    def convert(self, value: Any, param: _Parameter, ctx: click.Context | None) -> Path:  # noqa: ANN401, ARG002
        """Convert it without checks."""
        return Path(value)


_PATH = _Name()


def option(name: str, **attributes: Any) -> Decorator:  # noqa: ANN401  # arguments of click.option
    """Define an option with its environment variable, and show its default in --help."""
    variable = "AGENT_" + name.partition("/")[0].lstrip("-").replace("-", "_").upper()
    decorate: Decorator = click.option(name, envvar=variable, show_default=True, **attributes)
    return decorate


INPUTS: list[Decorator] = [
    option(
        "--proxy-bin", default="envoy", metavar="NAME|PATH", help="The proxy: sidecar, envoy, or the path of a program."
    ),
    option(
        "--proxy-kind",
        type=click.Choice(["auto", *KINDS]),
        default="auto",
        help="What kind of program it is; auto: by its name, and envoy for an unknown one.",
    ),
    option("--config", type=_PATH, metavar="FILE", help="The proxy's bootstrap; without it the agent generates one."),
    option(
        "--config-override",
        type=_PATH,
        metavar="FILE",
        help="A document to merge over --config, by protobuf's rules; watched as well.",
    ),
    option(
        "--certs",
        type=_PATH,
        multiple=True,
        metavar="DIR",
        help="A directory of certificates, searched 3 levels deep; may be repeated.",
    ),
    option("--watch", type=_PATH, multiple=True, metavar="PATH", help="Another path whose changes start a new epoch."),
    option(
        "--listen",
        default=["0.0.0.0:15443"],
        multiple=True,
        metavar="[NAME=]ADDR",
        help="Where the generated configuration accepts TLS; with a name, a socket that a server gets.",
    ),
    option("--forward", default="127.0.0.1:8080", metavar="ADDR", help="Where the generated bootstrap forwards to."),
    option("--check", metavar="REQUEST", help="What a server answers when it is ready: 'GET /health'."),
    option(
        "--ready",
        type=click.Choice(["connect", "notify"]),
        default="connect",
        help="How a server tells that it is ready: it accepts, or it says READY=1 as well (sd_notify).",
    ),
    option(
        "--drain-signal",
        type=click.Choice(["TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "WINCH"]),
        default="TERM",
        help="The signal on which a server finishes its connections and exits.",
    ),
    option("--proxy-user", metavar="USER", help="Run the proxy as this user; the agent binds low ports for it."),
]

RUNNING: list[Decorator] = [
    option("--run-dir", type=_PATH, metavar="DIR", help="Sockets and state; by default /run/proxy-agent or similar."),
    option(
        "--allow-listen",
        type=click.IntRange(1, 65535),
        multiple=True,
        metavar="PORT",
        help="A low port that an LDS listener may use: the agent binds it for --proxy-user.",
    ),
    option(
        "--proxy-core-dumps/--no-proxy-core-dumps",
        default=False,
        help="Allow core dumps of a proxy that crashes; they contain private keys.",
    ),
    option("--status-port", type=click.IntRange(0, 65535), default=15020, help="Port of the status page; 0 for none."),
    option("--status-host", metavar="HOST", help="Its address; all interfaces, or loopback under systemd."),
    option(
        "--status-name",
        multiple=True,
        metavar="HOST",
        help="A Host header that it accepts at a loopback address, beside localhost.",
    ),
    option(
        "--http-actions/--no-http-actions",
        default=False,
        help="Accept POST /drain and /quitquitquit there, from this machine only.",
    ),
    option("--app-metrics", metavar="URL", help="The application's metrics, to add to /metrics."),
    option(
        "--app-probers",
        metavar="JSON",
        help="Probes of the application that the status port answers at /app-health/…, as in ISTIO_KUBE_APP_PROBERS.",
    ),
    option("--app-address", metavar="IP", help="The pod's address, where these probes connect; default is loopback."),
    option(
        "--metrics-merge",
        type=click.Choice(["on", "off"]),
        default="on",
        help="Whether /metrics merges all sources, or passes on the serving proxy's metrics unchanged.",
    ),
    option("--drain-time", type=_SPAN, default="45s", help="How long an old epoch asks clients to disconnect."),
    option("--drain-deadline", type=_SPAN, default="10m", help="When remaining connections of an old epoch are cut."),
    option("--stop-deadline", type=_SPAN, default="30s", help="The same after SIGTERM."),
    option("--drain-delay", type=_SPAN_OR_NONE, default="0s", help="After SIGTERM, how long to serve while not ready."),
    option("--min-drain", type=_SPAN_OR_NONE, default="0s", help="Minimum duration of the drain after SIGTERM."),
    option(
        "--drain-direction",
        type=click.Choice(["all", "inbound"]),
        default="all",
        help="Which listeners close at a stop: all, or only those with traffic_direction INBOUND.",
    ),
    option("--start-deadline", type=_SPAN, default="30s", help="How long a new epoch may take until it serves."),
    option("--hold", type=_SPAN, default="5s", help="How long clients wait while no epoch serves."),
    option(
        "--restart",
        type=click.Choice(["always", "on-failure", "never"]),
        default="always",
        help="Whether a proxy that exits is started again.",
    ),
    option("--give-up", type=click.IntRange(min=1), metavar="N", help="Exit 1 after N failures in 5m with none up."),
    option(
        "--rotate-window",
        metavar="HH:MM-HH:MM",
        help="Changes wait for these hours, local time, unless the served certificate expires soon.",
    ),
    option(
        "--jitter",
        type=_SPAN_OR_AUTO,
        default="0s",
        metavar="SPAN|auto",
        help="Time over which a fleet spreads a change; auto: a hundredth of the certificate's life, 10m at most.",
    ),
    option(
        "--replace-hung",
        type=_SPAN,
        help="Replace a serving proxy that hangs for this time, 5s at least; a hang is always reported.",
    ),
    option("--proof/--no-proof", default=True, help="After each rotation, check its certificates as a client."),
    option(
        "--kubernetes-events/--no-kubernetes-events",
        default=False,
        help="Send the warnings of the log as Kubernetes events of this pod, for kubectl describe.",
    ),
    option(
        "--low-memory",
        type=click.Choice(["wait", "replace"]),
        default="wait",
        help="Without memory for two epochs: wait, or near expiry stop the serving one first and hold clients.",
    ),
    option(
        "--on-certificate",
        type=click.Choice(["restart", "push", "auto"]),
        default="restart",
        help="What a change of certificates alone does: a new epoch, or a push into the running one where that is "
        "possible. auto pushes as well, but replaces an epoch whose memory has doubled.",
    ),
    option(
        "--push-drain",
        type=SpanOrOff(),
        help="When a push cuts connections that use the old certificate; off leaves them open. "
        "By default, as --drain-deadline says.",
    ),
    option(
        "--on-binary",
        type=click.Choice(["ignore", "restart"]),
        default="ignore",
        help="What to do when the proxy's program is replaced.",
    ),
    option(
        "--survive/--no-survive",
        default=False,
        help="Keep the proxies running when the agent is killed, for the next agent to adopt.",
    ),
    option("--wait/--no-wait", default=True, help="Wait for usable files at the first start, or exit with 78."),
    option("--log-format", type=click.Choice(["text", "json"]), default="text", help="One line per event."),
    option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", help="Threshold."),
]


def apply(options: list[Decorator]) -> Decorator:
    """Add options to a command, in the order in which --help shows them."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for each in reversed(options):
            command = each(command)
        return command

    return decorate
