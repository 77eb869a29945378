"""`agent certs`: every certificate on disk, compared with what each listener serves."""

import json
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.status_client import look, place, run_dir
from agent.control_client.duration import seconds
from agent.core.errors import AgentError

if TYPE_CHECKING:
    from agent.cli.certs_files import Inventory

_UNKNOWN = 3
_SECOND_LOOK = 1.0  # seconds until the second check, as the first may have hit a rotation
_EPILOG = """\
Exit codes, as for monitoring plugins: 0 ok; 1 warning: less life left than --min-days, a file is refused, or the files
on disk are not served yet, for a stated reason; 2 critical: expired, a listener is unreachable or shows another
certificate than the disk without a stated reason (also: wrong usage of this command); 3 unknown: no agent, or it does
not answer. Without --min-days, the warning limit is a tenth of the certificate's life.

Serials are printed as openssl x509 -serial does; with --json in lower case, as in all other outputs.
"""


class _Days(click.ParamType):  # type: ignore[type-arg]  # click before 8.4 has no ParamType[...]
    """A number of days, or a duration."""

    name = "days"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:  # noqa: ANN401
        """Parse 7, 0.5 or 12h."""
        if isinstance(value, timedelta):
            return value
        try:
            return _span(str(value))
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is neither a number of days nor a span; write it like 7 or 12h", param, ctx)


def _span(text: str) -> timedelta:
    number = text.replace(".", "", 1)
    return timedelta(days=float(text)) if number.isdecimal() else timedelta(seconds=seconds(text))


@click.command(epilog=_EPILOG)
@run_dir
@click.option("--min-days", type=_Days(), metavar="N|SPAN", help="Warn below this remaining life: 7 for days, or 12h.")
@click.option("--json", "raw", is_flag=True, help="Print everything as one JSON object.")
@click.pass_context
def certs(ctx: click.Context, /, run_dir: Path | None, min_days: timedelta | None, *, raw: bool) -> int:
    """Compare the certificates, keys and bundles on disk with the ones that each listener serves.

    Opens a short TLS connection to each listener for every server name of a certificate.
    """
    try:
        inventory = _settled(place(ctx, run_dir), min_days)
    except AgentError as error:
        click.echo(f"agent: {error}", err=True)
        return _UNKNOWN
    if raw:
        from agent.status.model import to_json

        click.echo(json.dumps(to_json(inventory)))
    else:
        _print(inventory)
    return inventory.level


def _settled(directory: str, least: timedelta | None) -> "Inventory":
    """Take the inventory; if it is critical, take it a second time."""
    from agent.cli.certs_files import Level

    inventory = _take(directory, least)
    if inventory.level < Level.CRITICAL:
        return inventory
    time.sleep(_SECOND_LOOK)
    return _take(directory, least)


def _take(directory: str, least: timedelta | None) -> "Inventory":
    from agent.cli.certs_compare import compare
    from agent.cli.certs_files import read_files
    from agent.cli.certs_listeners import ask_all

    overview = look(directory)
    files = {each.name: read_files(each) for each in overview.certificates}
    leaves = [each.served for each in overview.certificates]
    leaves += [each.chain.leaf for each in files.values() if each.chain is not None]
    names = [name.removeprefix("DNS:") for leaf in leaves if leaf for name in leaf.names if name.startswith("DNS:")]
    addresses = dict.fromkeys(each.address for each in overview.listeners)
    key_types = [leaf.key_type for leaf in leaves if leaf]
    return compare(overview, files, ask_all(addresses, names, key_types), least)


def _print(inventory: "Inventory") -> None:
    from agent.cli.certs_view import draw
    from agent.cli.table import Table, console

    sheet = Table(console())
    draw(inventory, sheet)
    sheet.print()
