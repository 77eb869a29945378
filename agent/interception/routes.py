"""Routes and addresses that an interception needs beside its rules."""

import re
import shutil
from collections.abc import Iterable

from agent.core.errors import MachineError
from agent.interception.iptables import run
from agent.interception.options import Options
from agent.interception.rules import Family

_PRIORITY = 30_133  # of the policy rule: fixed, so that it cannot be added twice


def are_possible() -> bool:
    """Return whether the program that changes them is installed."""
    return shutil.which("ip") is not None


def add(options: Options, families: Iterable[Family]) -> bool:
    """Lead marked connections to this machine, once; return whether anything differs. Raises `MachineError`."""
    changed = False
    for family in families:
        ip = ["ip", f"-{family.value}"]
        if not _policies(family, options.mark, options.route_table):
            mark = ["fwmark", str(options.mark), "lookup", str(options.route_table)]
            run([*ip, "rule", "add", *mark, "priority", str(_PRIORITY)])
            changed = True
        if not _has_route(family, options.route_table):
            run([*ip, "route", "replace", "local", "default", "dev", "lo", "table", str(options.route_table)])
            changed = True
    return changed


def remove(options: Options, families: Iterable[Family]) -> bool:
    """Remove all that `add` has made, and repetitions that others made of it; return whether there were any."""
    changed = False
    for family in families:
        ip = ["ip", f"-{family.value}"]
        for priority in _policies(family, options.mark, options.route_table):
            mark = ["fwmark", str(options.mark), "lookup", str(options.route_table)]
            run([*ip, "rule", "del", *mark, "priority", priority])
            changed = True
        if _has_route(family, options.route_table):
            run([*ip, "route", "del", "local", "default", "dev", "lo", "table", str(options.route_table)])
            changed = True
    return changed


def _policies(family: Family, mark: int, table: int) -> list[str]:
    """Return the priority of each policy rule that leads this mark to this table."""
    listed = run(["ip", f"-{family.value}", "rule", "show"])
    return re.findall(rf"^(\d+):.*\bfwmark {mark:#x} lookup {table}\b", listed, re.MULTILINE)


def _has_route(family: Family, table: int) -> bool:
    try:
        listed = run(["ip", f"-{family.value}", "route", "show", "table", str(table)])
    except MachineError:  # there is no such table
        return False
    return "local default dev lo" in listed


def add_passthrough_address() -> bool:
    """Give loopback the address from which the proxy calls the application; return whether it was new."""
    if Family.V6.passthrough in run(["ip", "-6", "address", "show", "dev", "lo"]):
        return False
    run(["ip", "-6", "address", "add", Family.V6.passthrough, "dev", "lo"])
    return True


def remove_passthrough_address() -> bool:
    """Take that address from loopback; return whether it had it."""
    if Family.V6.passthrough not in run(["ip", "-6", "address", "show", "dev", "lo"]):
        return False
    run(["ip", "-6", "address", "del", Family.V6.passthrough, "dev", "lo"])
    return True
