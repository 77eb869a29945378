"""Defines each option once, also as environment variable: --drain-time, AGENT_DRAIN_TIME."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from agent.cli.duration import Span, SpanOrAuto

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
    option("--config", type=_PATH, metavar="FILE", help="The proxy's bootstrap; without it a small one is made."),
    option("--certs", type=_PATH, multiple=True, metavar="DIR", help="A directory of certificates; may be repeated."),
    option("--watch", type=_PATH, multiple=True, metavar="PATH", help="Something else that a new epoch is due for."),
    option("--listen", default="0.0.0.0:15443", metavar="ADDR", help="Where the small bootstrap takes TLS."),
    option("--forward", default="127.0.0.1:8080", metavar="ADDR", help="Where the small bootstrap sends it."),
    option("--proxy-user", metavar="USER", help="Run the proxy as this user; the agent binds low ports for it."),
]

RUNNING: list[Decorator] = [
    option("--run-dir", type=_PATH, metavar="DIR", help="Sockets and state; by default /run/proxy-agent or the like."),
    option(
        "--allow-listen",
        type=click.IntRange(1, 65535),
        multiple=True,
        metavar="PORT",
        help="A low port that a listener by LDS may have: the agent binds it for --proxy-user.",
    ),
    option(
        "--proxy-core-dumps/--no-proxy-core-dumps",
        default=False,
        help="Let a proxy that crashes leave a core dump; there are private keys in it.",
    ),
    option("--status-port", type=click.IntRange(0, 65535), default=15020, help="Answers /healthz/ready; 0 for none."),
    option("--status-host", metavar="HOST", help="Where that listens; everywhere, or loopback under systemd."),
    option(
        "--status-name",
        multiple=True,
        metavar="HOST",
        help="A name by which that may be asked at a loopback address, beside localhost.",
    ),
    option("--http-actions/--no-http-actions", default=False, help="Take POST /drain there, from this machine only."),
    option("--app-metrics", metavar="URL", help="The application's metrics, to be told there with the agent's."),
    option(
        "--metrics-merge",
        type=click.Choice(["on", "off"]),
        default="on",
        help="Whether /metrics has everybody's metrics, or the serving proxy's as they are.",
    ),
    option("--drain-time", type=_SPAN, default="45s", help="For how long clients of an old epoch are asked to leave."),
    option("--drain-deadline", type=_SPAN, default="10m", help="When what is left of an old epoch is cut."),
    option("--stop-deadline", type=_SPAN, default="30s", help="The same after SIGTERM."),
    option("--drain-delay", type=_SPAN_OR_NONE, default="0s", help="After SIGTERM, not ready but serving for so long."),
    option("--min-drain", type=_SPAN_OR_NONE, default="0s", help="How long the drain after it takes at least."),
    option(
        "--drain-direction",
        type=click.Choice(["all", "inbound"]),
        default="all",
        help="Which listeners close at the end: all, or only those with traffic_direction INBOUND.",
    ),
    option("--start-deadline", type=_SPAN, default="30s", help="How long a new epoch may take until it serves."),
    option("--hold", type=_SPAN, default="5s", help="How long clients wait while nothing serves."),
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
        help="Changes wait for these hours, local time, unless the certificate that is served is about to end.",
    ),
    option(
        "--jitter",
        type=_SPAN_OR_AUTO,
        default="0s",
        metavar="SPAN|auto",
        help="Over how long a fleet spreads a change; auto: a hundredth of the certificate's life, 10m at most.",
    ),
    option(
        "--replace-hung",
        type=_SPAN,
        help="Replace a serving proxy that answers nobody for so long, 5s at least; it is always reported.",
    ),
    option("--proof/--no-proof", default=True, help="After each rotation, look at its certificates as a client would."),
    option(
        "--kubernetes-events/--no-kubernetes-events",
        default=False,
        help="Tell the cluster what the log warns of: events of this pod, for kubectl describe.",
    ),
    option(
        "--low-memory",
        type=click.Choice(["wait", "replace"]),
        default="wait",
        help="Without memory for two: keep what serves, or near expiry stop it first and hold clients meanwhile.",
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
        help="Let the proxies live on when the agent is killed, for the next agent to adopt.",
    ),
    option("--wait/--no-wait", default=True, help="Wait for usable files at the first start, or exit with 78."),
    option("--log-format", type=click.Choice(["text", "json"]), default="text", help="One line an event."),
    option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", help="How much."),
]


def apply(options: list[Decorator]) -> Decorator:
    """Add options to a command, in the order in which --help shows them."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for each in reversed(options):
            command = each(command)
        return command

    return decorate
