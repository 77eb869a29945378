"""`agent demo`: a demonstration on this machine that needs no preparation."""

import asyncio
from typing import Any

import click

from agent.cli.duration import Span
from agent.cli.options import option


@click.command()
@option(
    "--proxy-bin", default="sidecar", metavar="NAME|PATH", help="The proxy: sidecar, envoy, haproxy, nginx or a path."
)
@option("--every", type=Span(), default="2s", help="The time between two rotations.")
@option("--for", type=Span(), default="30s", help="How long the demo runs.")
def demo(**options: Any) -> int:  # noqa: ANN401  # click's values
    """Run a proxy under the agent with clients at full speed, rotate its certificate, and inject faults.

    The demo creates a certificate authority, a service and clients, and removes them at the end. From time to time the
    certificate on disk is garbage, a key does not fit, a proxy is killed or frozen; each fault is reported.
    Exit 1 if a request failed, other than in a proxy that was killed, or if the run proved nothing.
    """
    from agent.demo.run import Run
    from agent.demo.settings import Settings
    from agent.demo.views import view
    from agent.host.binaries import find

    proxy = options["proxy_bin"]
    found = find(proxy)
    settings = Settings(str(found.absolute()) if "/" in proxy else proxy, options["every"], options["for"])

    async def play() -> bool:
        return await Run(settings, view()).run()

    try:
        return 0 if asyncio.run(play()) else 1
    except asyncio.CancelledError:
        raise click.Abort from None
