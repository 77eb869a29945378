"""One certificate group: when its new files are accepted, refused or warned about."""

import pytest

from agent.certificates.contents import Unreadable
from agent.certificates.findings import Fault, WarningKind
from agent.certificates.groups import Pin
from agent.certificates.pem import parse
from agent.certificates.references import Reference, Role
from tests import pki
from tests.certificates.disk import BUNDLE, DAY, GONE, NOW, PAIR, Disk, faults, leaf, new, old, root, serving, worries
from tests.pki import Authority


def test_a_good_pair_is_run_from_at_once() -> None:
    selection = Disk().select(chain=old().chain_pem, key=old().key_pem)
    assert selection.files == {"chain": old().chain_pem, "key": old().key_pem}
    assert selection.leaves["a"].serial == old().certificate.serial_number
    assert (selection.complete, selection.refused, selection.cautions) == (True, (), ())


def test_a_leaf_is_looked_at_again_when_it_grows_old_and_when_it_ends() -> None:
    disk = Disk()
    young = disk.select(chain=old().chain_pem, key=old().key_pem)
    assert young.look_again == young.leaves["a"].old_from
    disk.now = young.leaves["a"].old_from + DAY / 100
    aged = disk.select()
    assert worries(aged) == [WarningKind.SOON_TO_EXPIRE]
    assert aged.look_again == aged.leaves["a"].not_after
    disk.now = aged.leaves["a"].not_after + DAY
    assert (worries(disk.select()), disk.select().look_again) == ([WarningKind.EXPIRED], None)


def test_what_lies_on_the_disk_is_known_though_it_is_refused() -> None:
    selection = serving().select(chain=new().chain_pem)
    assert faults(selection) == [("key", Fault.MISMATCH)]
    assert selection.found["a"].serial == new().certificate.serial_number
    assert selection.leaves["a"].serial == old().certificate.serial_number


def test_a_renewed_pair_takes_over() -> None:
    selection = serving().select(chain=new().chain_pem, key=new().key_pem)
    assert selection.files == {"chain": new().chain_pem, "key": new().key_pem}
    assert selection.leaves["a"].serial == new().certificate.serial_number


def test_a_weighing_never_advances_what_is_last_good() -> None:
    disk = serving()
    disk.select(chain=new().chain_pem, key=new().key_pem)
    assert disk.select(chain=b"garbage").files["chain"] == old().chain_pem


def test_a_chain_whose_key_has_not_come_yet_is_waited_for() -> None:
    disk = serving()
    half = disk.select(chain=new().chain_pem)
    assert faults(half) == [("key", Fault.MISMATCH)]
    assert half.refused[0].may_resolve
    assert half.files == {"chain": old().chain_pem, "key": old().key_pem}
    assert disk.select(key=new().key_pem).files == {"chain": new().chain_pem, "key": new().key_pem}


@pytest.mark.parametrize(
    ("content", "fault", "may_resolve"),
    [
        (GONE, Fault.MISSING, True),
        (b"", Fault.EMPTY, True),
        (b"-----BEGIN CERTIFICATE-----\nAAAA", Fault.INCOMPLETE, True),
        (b"garbage", Fault.UNPARSABLE, False),
    ],
)
def test_a_bad_file_holds_back_its_pair(content: bytes | Unreadable, fault: Fault, may_resolve: bool) -> None:
    selection = serving().select(chain=content, key=new().key_pem)
    assert faults(selection) == [("chain", fault)]
    assert selection.refused[0].may_resolve is may_resolve
    assert selection.files == {"chain": old().chain_pem, "key": old().key_pem}
    assert selection.complete


def test_every_bad_file_of_a_pair_is_named() -> None:
    assert faults(serving().select(chain=b"garbage", key=GONE)) == [
        ("chain", Fault.UNPARSABLE),
        ("key", Fault.MISSING),
    ]


def test_without_last_good_a_bad_pair_leaves_the_outcome_incomplete() -> None:
    selection = Disk().select(chain=old().chain_pem, key=GONE)
    assert (selection.complete, selection.missing, selection.files) == (False, ("a",), {})
    assert selection.refused[0].message.endswith("no proxy starts without it")


def test_a_refusal_says_what_cannot_be_used_why_and_what_next() -> None:
    pair = root().issue(["a.example"], serial=0xABC)
    assert serving().select(chain=pair.chain_pem).refused[0].message == (
        "cannot use key: it does not fit the leaf in chain (serial 0abc);"
        " write the key that belongs to it, the last good files stay in use"
    )


def test_an_expired_leaf_does_not_replace_a_valid_one() -> None:
    late = leaf(-20, -10)
    selection = serving().select(chain=late.chain_pem, key=late.key_pem)
    assert faults(selection) == [("chain", Fault.EXPIRED)]
    assert not selection.refused[0].may_resolve
    assert selection.files["chain"] == old().chain_pem


def test_a_leaf_of_tomorrow_is_looked_at_again_tomorrow() -> None:
    disk, early = serving(), leaf(1, 200)
    selection = disk.select(chain=early.chain_pem, key=early.key_pem)
    assert faults(selection) == [("chain", Fault.NOT_YET_VALID)]
    assert selection.look_again == NOW + DAY
    disk.now = NOW + DAY
    assert disk.select().files["chain"] == early.chain_pem


@pytest.mark.parametrize(("days", "worry"), [((-20, -10), WarningKind.EXPIRED), ((1, 200), WarningKind.NOT_YET_VALID)])
def test_at_the_very_first_start_a_leaf_out_of_its_dates_is_only_a_worry(
    days: tuple[int, int], worry: WarningKind
) -> None:
    pair = leaf(*days)
    selection = Disk().select(chain=pair.chain_pem, key=pair.key_pem)
    assert (selection.complete, worries(selection)) == (True, [worry])


def test_an_expired_leaf_may_replace_an_expired_one() -> None:
    disk, late = serving(), leaf(0, 150)
    disk.now = NOW + 200 * DAY
    selection = disk.select(chain=late.chain_pem, key=late.key_pem)
    assert selection.files["chain"] == late.chain_pem
    assert worries(selection) == [WarningKind.EXPIRED]


def test_an_unchanged_leaf_is_never_refused_for_its_age_but_worried_about() -> None:
    disk = serving()
    disk.now = NOW + 95 * DAY
    assert worries(disk.select()) == [WarningKind.SOON_TO_EXPIRE]
    disk.now = NOW + 200 * DAY
    selection = disk.select()
    assert (selection.refused, worries(selection)) == ((), [WarningKind.EXPIRED])


def test_going_back_in_both_dates_is_a_worry() -> None:
    selection = serving(new()).select(chain=old().chain_pem, key=old().key_pem)
    assert (selection.files["chain"], worries(selection)) == (old().chain_pem, [WarningKind.OLDER])


def test_issuers_out_of_order_are_a_worry() -> None:
    upper = root().intermediate("upper")
    pair = upper.intermediate("lower").issue(["a.example"])
    first, lower, top = parse("chain", pair.chain_pem).certificates
    selection = Disk().select(chain=pki.pem(first, top, lower), key=pair.key_pem)
    assert (selection.complete, worries(selection)) == (True, [WarningKind.CHAIN_ORDER])


def test_an_encrypted_key_is_left_to_the_proxy() -> None:
    selection = Disk().select(chain=old().chain_pem, key=old().encrypted_key_pem())
    assert (selection.complete, selection.refused) == (True, ())


def test_a_file_may_be_a_chain_and_something_else_too() -> None:
    disk = Disk((*PAIR, Reference("chain", Role.OTHER, "a")))
    assert disk.select(chain=old().chain_pem, key=old().key_pem).complete


def test_chain_and_key_may_be_one_file() -> None:
    disk = Disk((Reference("all", Role.CHAIN, "all"), Reference("all", Role.KEY, "all")))
    assert disk.serve(all=old().chain_pem + old().key_pem).complete
    assert faults(disk.select(all=new().chain_pem + old().key_pem)) == [("all", Fault.MISMATCH)]


def test_other_files_are_only_bytes() -> None:
    disk = Disk((Reference("secret", Role.OTHER, "secret"),))
    assert disk.serve(secret=b"").files == {"secret": b""}
    assert faults(disk.select(secret=GONE)) == [("secret", Fault.MISSING)]


def test_an_expired_root_in_a_bundle_is_a_worry() -> None:
    disk = Disk((BUNDLE,))
    expired = Authority.create("expired", not_after=NOW - DAY)
    assert worries(disk.select(bundle=root().pem + expired.pem)) == [WarningKind.EXPIRED_ROOT]


def test_a_group_that_gains_a_file_has_no_last_good_until_it_is_complete() -> None:
    disk = serving()
    disk.references = (*PAIR, Reference("bundle", Role.BUNDLE, "a"))
    assert disk.select(bundle=GONE).missing == ("a",)
    assert disk.select(bundle=root().pem).complete


def test_a_group_is_narrowed_to_what_it_holds_and_to_nothing_else() -> None:
    disk = Disk((*PAIR, Reference("bundle", Role.BUNDLE, "a")))
    group = disk.serve(chain=old().chain_pem, key=old().key_pem, bundle=root().pem).groups["a"]
    assert group.narrowed_to(group.references) is group
    pair = group.narrowed_to(frozenset(PAIR))
    assert pair is not None
    assert (set(pair.files), len(pair.chains), pair.bundles) == ({"chain", "key"}, 1, ())
    alone = group.narrowed_to(frozenset({Reference("bundle", Role.BUNDLE, "a")}))
    assert alone is not None
    assert (alone.leaf, set(alone.files), len(alone.bundles)) == (None, {"bundle"}, 1)
    assert group.narrowed_to(frozenset({*PAIR, Reference("other", Role.OTHER, "a")})) is None
    assert pair.narrowed_to(group.references) is None


def test_a_pin_lies_in_a_directory_that_holds_every_byte_of_it() -> None:
    pin = Pin(serving().last_good.groups["a"], "chain", "it is too short")
    whole = {"chain": old().chain_pem, "key": old().key_pem}
    assert pin.lies_in({**whole, "more": b""})
    assert not pin.lies_in({**whole, "key": new().key_pem})
    assert not pin.lies_in({"chain": old().chain_pem})
    assert not pin.lies_in({**whole, "key": GONE})


def test_a_pin_is_of_the_same_files_in_the_same_roles() -> None:
    group = serving().last_good.groups["a"]
    pin = Pin(group, "chain", "it is too short")
    assert pin.holds(serving().last_good.groups["a"])
    assert not pin.holds(serving(new()).last_good.groups["a"])
    narrowed = group.narrowed_to(frozenset(PAIR[:1]))
    assert narrowed is not None
    assert not pin.holds(narrowed)


def test_a_pin_without_a_date_or_a_served_leaf_is_never_tried_again() -> None:
    group = serving().last_good.groups["a"]
    late = NOW + 1000 * DAY
    assert Pin(group, "chain", "short", since=NOW).is_tried_again(group, late)
    assert not Pin(group, "chain", "short").is_tried_again(group, late)
    assert not Pin(group, "chain", "short", since=NOW).is_tried_again(None, late)
    assert not Pin(group, "chain", "short", since=NOW).is_tried_again(group.narrowed_to(frozenset(PAIR[1:])), late)


@pytest.mark.parametrize("days", [(-2, 50), (-20, 200), (-10, 100)])
def test_going_back_in_one_date_alone_is_no_worry(days: tuple[int, int]) -> None:
    pair = leaf(*days)
    assert worries(serving().select(chain=pair.chain_pem, key=pair.key_pem)) == []


def test_a_unit_that_loses_a_file_falls_back_on_the_rest() -> None:
    disk = Disk((*PAIR, Reference("bundle", Role.BUNDLE, "a")))
    disk.serve(chain=old().chain_pem, key=old().key_pem, bundle=root().pem)
    disk.references = PAIR
    selection = disk.select(chain=GONE)
    assert selection.files == {"chain": old().chain_pem, "key": old().key_pem}
    assert selection.groups["a"].bundles == ()
