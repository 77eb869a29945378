"""`agent demo`: a demonstration on this machine that needs no preparation."""

import asyncio
from typing import Any

import click

from agent.cli.duration import Span
from agent.cli.options import option


@click.command()
@option("--proxy-bin", default="sidecar", metavar="NAME|PATH", help="The proxy: sidecar, envoy, or the path of one.")
@option("--every", type=Span(), default="2s", help="The time between two rotations.")
@option("--for", type=Span(), default="30s", help="How long it goes on.")
def demo(**options: Any) -> int:  # noqa: ANN401  # click's values
    """Run a proxy under the agent with clients at full speed, rotate its certificate, and break things.

    Everything is made for it and removed after it: a certificate authority, a service, the clients. Now and then the
    certificate on disk is garbage, a key does not fit, a proxy is killed or frozen; what happens is told as it does.
    Exit 1 if a request failed, other than in a proxy that was killed, or if nothing was proved.
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
