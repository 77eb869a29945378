"""Many groups: one bad among them, the files they share, and invariants under random changes on disk."""

from dataclasses import dataclass
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.certificates import groups
from agent.certificates.contents import Unreadable
from agent.certificates.findings import Fault
from agent.certificates.groups import Pin
from agent.certificates.pem import PemFile, parse
from agent.certificates.references import Reference, Role
from agent.certificates.selection import LastGood, select_files
from tests.certificates.disk import (
    BUNDLE,
    DAY,
    GONE,
    NOW,
    PAIR,
    Disk,
    faults,
    leaf,
    new,
    old,
    other_root,
    root,
    serving,
)
from tests.pki import Authority, Leaf


def test_a_bundle_that_lost_the_authority_of_our_own_leaf_is_held_back() -> None:
    disk = Disk((*PAIR, BUNDLE))
    both = root().pem + other_root().pem
    disk.serve(chain=old().chain_pem, key=old().key_pem, bundle=both)
    selection = disk.select(bundle=other_root().pem)
    assert faults(selection) == [("bundle", Fault.LOST_OWN_CA)]
    assert selection.files["bundle"] == both


def test_a_bundle_may_lose_what_never_issued_our_leaf() -> None:
    disk = Disk((*PAIR, BUNDLE))
    disk.serve(chain=old().chain_pem, key=old().key_pem, bundle=root().pem + other_root().pem)
    assert disk.select(bundle=root().pem).files["bundle"] == root().pem


def test_a_bundle_that_never_contained_our_authority_need_not_contain_it() -> None:
    disk = Disk((*PAIR, BUNDLE))
    disk.serve(chain=old().chain_pem, key=old().key_pem, bundle=other_root().pem)
    third = Authority.create("third")
    assert disk.select(bundle=third.pem).files["bundle"] == third.pem


def test_an_authority_may_go_together_with_the_last_leaf_it_issued() -> None:
    disk = Disk((*PAIR, BUNDLE))
    disk.serve(chain=old().chain_pem, key=old().key_pem, bundle=root().pem)
    moved = leaf(by=other_root())
    selection = disk.select(bundle=other_root().pem, chain=moved.chain_pem, key=moved.key_pem)
    assert (selection.refused, selection.files["bundle"]) == ((), other_root().pem)


def test_an_authority_stays_while_the_leaf_that_moves_away_is_held_back() -> None:
    disk = Disk((*PAIR, BUNDLE))
    disk.serve(chain=old().chain_pem, key=old().key_pem, bundle=root().pem)
    selection = disk.select(bundle=other_root().pem, chain=leaf(by=other_root()).chain_pem, key=GONE)
    assert faults(selection) == [("key", Fault.MISSING), ("bundle", Fault.LOST_OWN_CA)]
    assert selection.files["bundle"] == root().pem


def test_a_bundle_in_the_group_of_a_pair_changes_only_with_it() -> None:
    disk = Disk((*PAIR, Reference("bundle", Role.BUNDLE, "a")))
    disk.serve(chain=old().chain_pem, key=old().key_pem, bundle=root().pem)
    selection = disk.select(bundle=root().pem + other_root().pem, chain=new().chain_pem)
    assert selection.files == {"chain": old().chain_pem, "key": old().key_pem, "bundle": root().pem}


def test_groups_that_share_a_file_use_the_same_bytes_of_it() -> None:
    twin = (Reference("twin", Role.CHAIN, "b"), Reference("key", Role.KEY, "b"))
    disk = Disk((*PAIR, *twin))
    disk.serve(chain=old().chain_pem, twin=old().chain_pem, key=old().key_pem)
    selection = disk.select(chain=new().chain_pem, key=new().key_pem)
    assert sorted(faults(selection)) == [("key", Fault.MISMATCH), ("key", Fault.TIED)]
    assert selection.files == {"chain": old().chain_pem, "twin": old().chain_pem, "key": old().key_pem}


def test_a_shared_file_holds_back_as_far_as_the_sharing_goes() -> None:
    second = (Reference("chain2", Role.CHAIN, "b"), Reference("key", Role.KEY, "b"))
    third = (Reference("chain2", Role.OTHER, "c"), Reference("other", Role.OTHER, "c"))
    disk = Disk((*PAIR, *second, *third))
    served = disk.serve(chain=old().chain_pem, key=old().key_pem, chain2=old().chain_pem, other=b"1").files
    selection = disk.select(chain=b"garbage", key=new().key_pem, chain2=new().chain_pem, other=b"2")
    assert [refusal.group for refusal in selection.refused] == ["a", "b", "c"]
    assert selection.files == served


def many(count: int) -> tuple[Reference, ...]:
    names = [str(number) for number in range(count)]
    return tuple(Reference(f"{role.name}{name}", role, name) for name in names for role in (Role.CHAIN, Role.KEY))


def written(pair: Leaf, count: int) -> dict[str, bytes | Unreadable]:
    chains: dict[str, bytes | Unreadable] = {f"CHAIN{number}": pair.chain_pem for number in range(count)}
    return chains | {f"KEY{number}": pair.key_pem for number in range(count)}


def test_one_bad_pair_among_fifty_keeps_its_last_good_and_the_others_go_on() -> None:
    disk = Disk(many(50))
    disk.serve(**written(old(), 50))
    selection = disk.select(**written(new(), 50) | {"KEY7": b"garbage"})
    assert [refusal.group for refusal in selection.refused] == ["7"]
    assert selection.files["CHAIN7"] == old().chain_pem
    assert sum(content == new().chain_pem for content in selection.files.values()) == 49


def test_only_what_changed_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []

    def counting(path: str, content: bytes, role: Role | None = None) -> PemFile:
        parsed.append(path)
        return parse(path, content, role)

    monkeypatch.setattr(groups, "parse", counting)
    disk = Disk(many(1000))
    disk.serve(**written(old(), 1000))
    parsed.clear()
    selection = disk.select(CHAIN7=new().chain_pem, KEY7=new().key_pem, CHAIN8=GONE)
    assert parsed == ["CHAIN7", "KEY7", "KEY8"]
    assert len(selection.leaves) == 1000


def test_private_keys_stay_out_of_what_may_be_printed() -> None:
    selection = serving().select()
    assert "PRIVATE" not in repr(selection)
    assert "PRIVATE" not in repr(serving().last_good)


@given(st.sampled_from(["chain", "key"]), st.data())
def test_a_damaged_file_never_makes_a_pair_that_does_not_fit(path: str, data: st.DataObject) -> None:
    whole = {"chain": new().chain_pem, "key": new().key_pem}
    position = data.draw(st.integers(0, len(whole[path]) - 1))
    damaged = bytearray(whole[path])
    damaged[position] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.sampled_from([len(damaged), position]))
    selection = serving().select(**whole | {path: bytes(damaged[:cut])})
    assert selection.files["key"] == old().key_pem or _same_leaf(selection.files["chain"], new())


def _same_leaf(chain: bytes, pair: Leaf) -> bool:
    leaf_key = parse("chain", chain).certificates[0].public_key()
    return leaf_key == pair.key.public_key()


STATES = st.sampled_from(["old", "new", "late", "cut", "gone", "noise"])


@dataclass(frozen=True)
class Step:
    """A write on a certain day, and whether its result serves; None leaves a file unchanged."""

    chain: str | None
    key: str | None
    day: int
    served: bool


STEPS = st.lists(
    st.builds(Step, st.none() | STATES, st.none() | STATES, st.sampled_from([-200, 0, 120, 300]), st.booleans()),
    max_size=12,
)


@cache
def states() -> dict[str, dict[str, bytes | Unreadable]]:
    """The content of chain and key for each state."""
    pairs = {"old": old(), "new": new(), "late": leaf(-20, -10)}
    whole: dict[str, dict[str, bytes | Unreadable]] = {
        name: {"chain": pair.chain_pem, "key": pair.key_pem} for name, pair in pairs.items()
    }
    cut: dict[str, bytes | Unreadable] = {"chain": new().chain_pem[:200], "key": new().key_pem[:100]}
    noise: dict[str, bytes | Unreadable] = {"chain": b"noise", "key": b"noise"}
    return {**whole, "cut": cut, "gone": {"chain": GONE, "key": GONE}, "noise": noise}


@given(STEPS)
def test_after_any_change_on_disk_a_group_uses_a_complete_pair_or_its_last_good(steps: list[Step]) -> None:
    disk = Disk(contents={"chain": GONE, "key": GONE})
    whole = [states()[name] for name in ("old", "new", "late")]
    for step in steps:
        disk.now = NOW + step.day * DAY
        written = {"chain": step.chain, "key": step.key}
        selection = disk.select(**{path: states()[state][path] for path, state in written.items() if state})
        before = disk.last_good.groups.get("a")
        assert selection.complete or not before, "what has served is never lost"
        assert not selection.files or selection.files in whole
        assert not selection.files or selection.files == disk.contents or (before and selection.files == before.files)
        assert selection.refused or selection.files == disk.contents, "what is not taken is refused"
        if step.served:
            disk.last_good = LastGood.after(selection)


def test_what_the_proxy_refused_keeps_its_last_good_until_other_bytes_are_there() -> None:
    disk = Disk(many(3))
    disk.serve(**written(old(), 3))
    first = disk.select(**written(new(), 3))
    pins = {"1": Pin(first.groups["1"], "CHAIN1", "it is too short")}
    selection = select_files(disk.references, disk.contents, disk.last_good, disk.now, pins)
    assert faults(selection) == [("CHAIN1", Fault.PROXY)]
    assert [selection.files[f"CHAIN{number}"] for number in range(3)] == [
        new().chain_pem,
        old().chain_pem,
        new().chain_pem,
    ]
    disk.select(**written(leaf(-1, 50), 3))
    assert faults(select_files(disk.references, disk.contents, disk.last_good, disk.now, pins)) == []


@pytest.mark.parametrize(("refused", "looked", "held"), [(0, 88, True), (0, 90, False), (90, 95, True)])
def test_what_the_proxy_refused_is_tried_once_more_when_the_last_good_grows_old(
    refused: int, looked: int, held: bool
) -> None:
    """The last tenth of its life begins after 89 days."""
    disk = serving()
    group = disk.select(chain=new().chain_pem, key=new().key_pem).groups["a"]
    pin = Pin(group, "chain", "it is too short", since=NOW + refused * DAY)
    selection = select_files(disk.references, disk.contents, disk.last_good, NOW + looked * DAY, {"a": pin})
    assert faults(selection) == ([("chain", Fault.PROXY)] if held else [])
    assert (selection.groups["a"] is disk.last_good.groups["a"]) is held


def test_what_serves_is_not_refused_for_what_the_proxy_said_once() -> None:
    disk = serving()
    pin = Pin(disk.last_good.groups["a"], "chain", "it is too short")
    assert faults(select_files(disk.references, disk.contents, disk.last_good, disk.now, {"a": pin})) == []


def test_a_renewal_is_of_the_groups_whose_files_differ_from_the_last_good_ones() -> None:
    disk = Disk(many(3))
    disk.serve(**written(old(), 3))
    assert disk.select().renewed(disk.last_good) == ()
    selection = disk.select(CHAIN1=new().chain_pem, KEY1=new().key_pem, CHAIN2=b"garbage")
    assert [group.name for group in selection.renewed(disk.last_good)] == ["1"]
    assert [group.name for group in selection.renewed(LastGood())] == ["0", "1", "2"]


def test_every_leaf_may_be_served_also_two_of_one_group() -> None:
    disk = Disk((*PAIR, Reference("copy", Role.CHAIN, "a"), *many(1)))
    first, second = old(), new()
    disk.serve(chain=first.chain_pem, key=first.key_pem, copy=first.chain_pem, **written(second, 1))
    selection = disk.select()
    ours, theirs = (selection.leaves[name].serial_hex for name in ("a", "0"))
    assert sorted(each.serial_hex for each in selection.served_leaves) == sorted([ours, ours, theirs])


def test_a_configuration_without_certificates_is_complete() -> None:
    selection = Disk(()).select()
    assert (selection.complete, selection.files, selection.leaves, selection.look_again) == (True, {}, {}, None)


def test_a_reference_that_comes_twice_counts_once() -> None:
    disk = Disk((*PAIR, *PAIR))
    assert disk.select(chain=GONE, key=GONE).missing == ("a",)
    assert faults(disk.select()) == [("chain", Fault.MISSING), ("key", Fault.MISSING)]
