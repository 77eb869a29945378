"""The input of iptables-restore, applied to a model of the packet filter."""

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as some

from agent.interception.options import Mode, Options
from agent.interception.restore import Saved, restore_input, without_counters
from agent.interception.rules import Family, Rule, rules
from tests.interception.kernel import Kernel, RefusedError

_PORTS = some.lists(some.integers(1, 65535), max_size=3, unique=True).map(tuple)
_NETWORKS = some.lists(
    some.sampled_from(["10.0.0.0/8", "127.0.0.0/8", "192.168.1.1/32", "fd00::/8", "::1/128"]).map(ip_network),
    max_size=3,
    unique=True,
).map(tuple)
_INTERFACES = some.lists(some.sampled_from(["net1", "vm+", "eth0"]), max_size=2, unique=True).map(tuple)
_IDS = some.lists(some.integers(1, 5000), min_size=1, max_size=2, unique=True).map(tuple)
OPTIONS = some.builds(
    Options,
    tunnel_port=some.sampled_from([0, 15008]),
    uids=_IDS,
    gids=_IDS,
    mode=some.sampled_from(Mode),
    inbound=some.none() | _PORTS,
    inbound_excluded=_PORTS,
    outbound=_PORTS,
    outbound_excluded=_PORTS,
    networks=some.none() | _NETWORKS,
    networks_excluded=_NETWORKS,
    interfaces_excluded=_INTERFACES,
    virtual_interfaces=_INTERFACES,
    groups=some.none() | _IDS,
    groups_excluded=_IDS | some.just(()),
    dns=some.booleans(),
    dns_servers=some.none() | some.sampled_from([(), ("10.96.0.10",), ("10.96.0.10", "fd00::10")]),
    drop_invalid=some.booleans(),
)
FOREIGN = {
    ("nat", "PREROUTING"): ["-p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.9"],
    ("nat", "KUBE-SERVICES"): ["-d 10.96.0.1/32 -j RETURN"],
    ("mangle", "FORWARD"): ["-m mark --mark 0x1 -j DROP"],
    ("raw", "OUTPUT"): ['-m comment --comment "to ISTIO_OUTPUT" -j ACCEPT'],
}


def kernel() -> Kernel:
    """Return a packet filter with rules of others."""
    made = Kernel()
    for (table, chain), found in FOREIGN.items():
        made.tables[table].setdefault(chain, []).extend(found)
    return made


def apply(there: Kernel, wanted: list[Rule]) -> None:
    there.restore(restore_input(Saved.parse(there.save()), wanted))


@given(OPTIONS, some.sampled_from(Family))
def test_to_apply_twice_changes_nothing(options: Options, family: Family) -> None:
    there = kernel()
    apply(there, rules(options, family))
    once = there.save()
    apply(there, rules(options, family))
    assert there.save() == once


@given(OPTIONS, OPTIONS, some.sampled_from(Family))
def test_other_options_leave_nothing_of_the_earlier_ones(first: Options, second: Options, family: Family) -> None:
    there, fresh = kernel(), kernel()
    apply(there, rules(first, family))
    apply(there, rules(second, family))
    apply(fresh, rules(second, family))
    assert {table: dict(chains) for table, chains in there.tables.items()} == fresh.tables


@given(OPTIONS, some.sampled_from(Family))
def test_a_clean_up_leaves_what_was_there_before(options: Options, family: Family) -> None:
    there = kernel()
    apply(there, rules(options, family))
    apply(there, [])
    assert there.tables == kernel().tables


@given(OPTIONS, some.sampled_from(Family), some.data())
def test_a_run_that_was_cut_off_between_two_tables_is_healed_by_the_next(
    options: Options, family: Family, data: some.DataObject
) -> None:
    there, whole = kernel(), kernel()
    tables = [
        f"{each}COMMIT\n"
        for each in restore_input(Saved.parse(there.save()), rules(options, family)).split("COMMIT\n")[:-1]
    ]
    for each in tables[: data.draw(some.integers(0, len(tables)))]:
        there.restore(each)
    apply(there, rules(options, family))
    apply(whole, rules(options, family))
    assert there.tables == whole.tables


def test_chains_and_jumps_of_an_earlier_version_go() -> None:
    there = kernel()
    there.tables["nat"]["ISTIO_OLD"] = ["-j RETURN"]
    there.tables["nat"]["OUTPUT"] += ["-p tcp -j ISTIO_OLD", "-p tcp -j ISTIO_OLD", "-o eth0 -g ISTIO_OLD"]
    apply(there, [])
    assert there.tables == kernel().tables


def test_where_there_is_nothing_and_nothing_is_wanted_there_is_no_input() -> None:
    assert restore_input(Saved.parse(kernel().save()), []) == ""


def test_a_table_that_is_not_concerned_is_not_touched() -> None:
    text = restore_input(Saved.parse(kernel().save()), rules(Options(), Family.V4))
    assert text.startswith("*nat\n")
    assert text.count("COMMIT") == 1


def test_the_jumps_come_after_the_chains_that_they_lead_to_exist() -> None:
    lines = restore_input(Saved(frozenset(), ()), rules(Options(), Family.V4)).splitlines()
    assert lines.index(":ISTIO_INBOUND - [0:0]") < lines.index("-A PREROUTING -p tcp -j ISTIO_INBOUND")


def test_saved_rules_are_told_apart() -> None:
    there = kernel()
    apply(there, rules(Options(), Family.V4))
    saved = Saved.parse(there.save())
    assert len(saved.own) == len(rules(Options(), Family.V4))
    assert saved.own_chains("nat") == {"ISTIO_INBOUND", "ISTIO_OUTPUT", "ISTIO_REDIRECT", "ISTIO_IN_REDIRECT"}
    assert saved.has_rules("raw")
    assert not Saved.parse(Kernel().save()).has_rules("nat")


def test_counters_and_comments_do_not_count_as_a_change() -> None:
    text = "# Generated on Monday\n*nat\n:OUTPUT ACCEPT [1:60]\n-A OUTPUT -j X\nCOMMIT\n"
    assert without_counters(text) == without_counters(text.replace("[1:60]", "[7:420]").replace("Monday", "Tuesday"))
    assert without_counters(text) != without_counters(text.replace("-j X", "-j Y"))


def test_the_model_refuses_what_the_kernel_refuses() -> None:
    for line in ("-A NOWHERE -j X", "-D OUTPUT -j X", "-A OUTPUT -j ISTIO_GONE", "-Z"):
        with pytest.raises(RefusedError):
            Kernel().restore(f"*nat\n{line}\nCOMMIT\n")
