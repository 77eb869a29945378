import pytest

from agent.core.errors import UsageError
from agent.epoch.chain_addresses import ChainAddresses, to_kernel


def test_the_names_are_envoys() -> None:
    own = ChainAddresses("/run/hr", 103, 4)
    assert (own.requests, own.replies) == ("/run/hr_parent_1031", "/run/hr_child_1031")
    assert own.datagrams == ("/run/hr_udp_parent_1031", "/run/hr_udp_child_1031")
    assert (own.predecessor, own.successor) == ("/run/hr_parent_1030", "/run/hr_child_1032")


def test_the_third_follows_the_first_again() -> None:
    assert ChainAddresses("@x", 1, 2).successor == ChainAddresses("@x", 1, 0).replies == "@x_child_10"
    assert ChainAddresses("@x", 1, 3).predecessor == "@x_parent_12"


def test_a_large_base_id_wraps_as_in_envoy() -> None:
    """The name comes from an Envoy with --use-dynamic-base-id, whose memory was envoy_shared_memory_2377894220."""
    assert ChainAddresses("@x", 237789422, 0).replies == "@x_child_18446744071792478540"


def test_an_abstract_name_is_filled_up() -> None:
    name = to_kernel("@x_child_10")
    assert isinstance(name, bytes)
    assert (len(name), name[:11], set(name[11:])) == (108, b"\0x_child_10", {0})


@pytest.mark.parametrize("first", ["/", "@"])
def test_a_prefix_fits_or_is_refused_whole(first: str) -> None:
    ChainAddresses(first + "x" * (107 - 1 - len("_udp_parent_10")), 1, 0).check()
    with pytest.raises(UsageError, match="1 bytes too long"):
        ChainAddresses(first + "x" * (108 - 1 - len("_udp_parent_10")), 1, 0).check()
