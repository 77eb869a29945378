"""Policy routes and the address of the proxy's own calls, in a network namespace."""

import subprocess

import pytest

from agent.core.errors import MachineError
from agent.interception import routes
from agent.interception.options import Options
from agent.interception.rules import Family

pytestmark = pytest.mark.usefixtures("network")

BOTH = list(Family)


def listed(*command: str) -> str:
    return subprocess.run(["ip", *command], capture_output=True, text=True, check=True).stdout


def test_routes_are_added_once_and_removed_whole() -> None:
    before = [listed(f"-{family.value}", "rule") for family in BOTH]
    assert routes.add(Options(), BOTH)
    assert not routes.add(Options(), BOTH)
    assert listed("-4", "rule").count("fwmark 0x539 lookup 133") == 1
    assert "local default dev lo" in listed("-6", "route", "show", "table", "133")
    assert routes.remove(Options(), BOTH)
    assert not routes.remove(Options(), BOTH)
    assert [listed(f"-{family.value}", "rule") for family in BOTH] == before


def test_repetitions_that_others_made_are_removed_as_well() -> None:
    for priority in ("100", "101", "102"):
        listed("-4", "rule", "add", "fwmark", "1337", "lookup", "133", "priority", priority)
    assert not routes._policies(Family.V6, 1337, 133)
    assert routes.remove(Options(), [Family.V4])
    assert "fwmark" not in listed("-4", "rule")


def test_other_marks_stay() -> None:
    listed("-4", "rule", "add", "fwmark", "7", "lookup", "133", "priority", "100")
    assert not routes.remove(Options(), [Family.V4])
    assert "fwmark 0x7" in listed("-4", "rule")


def test_the_address_is_added_once_and_removed() -> None:
    assert routes.add_passthrough_address()
    assert not routes.add_passthrough_address()
    assert "inet6 ::6/128" in listed("-6", "address", "show", "dev", "lo")
    assert routes.remove_passthrough_address()
    assert not routes.remove_passthrough_address()


def test_what_the_kernel_refuses_is_an_error() -> None:
    with pytest.raises(MachineError, match="ip says"):
        routes.add(Options(route_table=2**32 - 1 + 1), [Family.V4])
