"""The proof of an interception; with one it is proven by the tests of operations."""

import pytest

from agent.core.errors import MachineError
from agent.interception import validation
from agent.interception.options import Mode, Options
from agent.interception.rules import Family

pytestmark = pytest.mark.usefixtures("network")


@pytest.mark.parametrize("mode", [Mode.REDIRECT, Mode.TPROXY])
def test_without_rules_nothing_is_proven(mode: Mode) -> None:
    with pytest.raises(MachineError, match="cannot prove the interception of IPv4: Connection refused"):
        validation.prove(Options(mode=mode), Family.V4, 15002, 1.0)


def test_a_port_that_is_taken_is_an_error() -> None:
    with (
        validation._listener(Options(), Family.V4, 15006),
        pytest.raises(MachineError, match="cannot prove the interception of IPv4: Address already in use"),
    ):
        validation.prove(Options(), Family.V4, 15002, 1.0)
