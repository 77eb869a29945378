"""`agent version`: print the versions of the agent and of the proxy."""

import asyncio

import click

from agent import __version__
from agent.cli.options import option


@click.command()
@option("--proxy-bin", default="envoy", metavar="NAME|PATH", help="The proxy whose version to print.")
def version(proxy_bin: str) -> None:
    """Print the versions of the agent and of the proxy, and the proxy's hot-restart version."""
    click.echo(f"agent {__version__}")
    click.echo(asyncio.run(_describe(proxy_bin)))


async def _describe(proxy_bin: str) -> str:
    from agent.cli.kinds import DRAIN_TIME
    from agent.host.binaries import find
    from agent.inputs.programs import Programs
    from agent.proxies.envoy.options import Flags
    from agent.proxies.envoy.proxy import Envoy

    programs = Programs(find(proxy_bin), Envoy(Flags(), DRAIN_TIME), None)
    await programs.load()
    assert programs.current is not None
    programs.current.binary.close()
    return f"{programs.path} {programs.current}"
