"""`agent`: run the agent; also the group of all other commands."""

import os
from typing import Any

import click

from agent import __version__
from agent.cli import environment, start
from agent.cli.bootstrap import bootstrap
from agent.cli.certs import certs
from agent.cli.check import check
from agent.cli.completion import completion
from agent.cli.control import COMMANDS
from agent.cli.demo import demo
from agent.cli.history import history
from agent.cli.inject import inject, uninject
from agent.cli.intercept import intercept
from agent.cli.options import INPUTS, RUNNING, apply
from agent.cli.request import request
from agent.cli.status import status
from agent.cli.sweep import sweep
from agent.cli.systemd import systemd
from agent.cli.version import version
from agent.cli.webhook import webhook

_EPILOG = """\
Examples:

\b
  agent --certs /etc/certs                               TLS on 15443 to 127.0.0.1:8080
  agent --config /etc/envoy.yaml --certs /etc/certs      your own bootstrap
  agent --config envoy.yaml --certs certs -- -l debug    arguments of Envoy after --

Signals: TERM and INT drain, stop and exit, a second one ends the drain at once; HUP starts a new epoch now.

Exit codes: 0 stopped as asked; 1 the proxy could not be kept running; 2 usage; 78 no usable files at the first start
(--no-wait); under --restart never, the proxy's own, 128+n for a signal.
"""


class Agent(click.Group):
    """A group that runs the agent if no command is given. Arguments after `--` are the proxy's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Separate the proxy's arguments: they are neither commands nor options here."""
        ctx.meta[environment.SERVICE_LINKS] = environment.drop_service_links(os.environ, self)
        at = args.index("--") if "--" in args else len(args)
        rest = super().parse_args(ctx, args[:at])
        ctx.obj = tuple(args[at + 1 :])
        if rest:
            ctx.args += args[at:]  # the command parses them itself
        return rest


@click.group(
    cls=Agent,
    invoke_without_command=True,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    options_metavar="[OPTIONS]",
    subcommand_metavar="[COMMAND | -- PROXY_ARGS...]",
)
@apply([*INPUTS, *RUNNING])
@click.version_option(__version__, message="agent %(version)s", help="Show the agent's version and exit.")
@click.pass_context
def agent(ctx: click.Context, /, **options: Any) -> int:  # noqa: ANN401  # click's values
    """Keep a network proxy running, and replace it without interrupting clients.

    The agent watches the certificate files and the configuration. When they change it starts a new epoch of the proxy
    that inherits the listening sockets, checks it before it serves, and then drains the old one. Files
    that cannot be used are reported and change nothing; a proxy that crashes is started again from the last good ones.
    """
    from agent.host.limits import hold_signals, keep_standard_streams, release_signals

    if ctx.invoked_subcommand is not None:
        if ctx.invoked_subcommand != webhook.name:  # it handles them itself
            release_signals()
        return 0

    hold_signals()
    keep_standard_streams()
    ignored = [*ctx.meta.get(environment.SERVICE_LINKS, ()), *environment.unknown(os.environ, ctx.command)]
    return start.execute(start.Invocation(options, ctx.obj, tuple(ignored)))


for _command in (
    bootstrap,
    certs,
    check,
    completion,
    demo,
    history,
    inject,
    intercept,
    request,
    status,
    sweep,
    systemd,
    uninject,
    version,
    webhook,
    *COMMANDS,
):
    agent.add_command(_command)
