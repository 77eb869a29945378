"""The groups at fault are identified, whatever the proxy reports about them, and no other group is blamed."""

import asyncio
from collections.abc import Collection, Iterable
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.certificates.groups import CertificateGroup, Pin
from agent.certificates.references import Reference, Role
from agent.core.errors import MachineError
from agent.core.policy import Policy
from agent.inputs.revisions import LoadedRevision
from agent.processes.bisection import Bisection, NothingToRunError, bisect
from agent.processes.epoch_process import EpochProcess
from agent.proxies.interface import Complaint
from tests import pki
from tests.processes.conftest import MakeEpoch
from tests.processes.fakes import FakeAdmin, Kernel, Revisions
from tests.processes.test_manifest import CHAIN, KEY, TEXT


def group(name: str, content: bytes | None = None) -> CertificateGroup:
    """Return a group of one file."""
    reference = Reference(f"/c/{name}", Role.OTHER, name)
    return CertificateGroup(name, frozenset({reference}), {reference.path: content or name.encode()}, (), ())


class Proxy:
    """Refuses some groups; `names`: whether it names a file of the first one. Counts the validations."""

    def __init__(self, culprits: set[str], *, names: bool) -> None:
        self.culprits = culprits
        self.names = names
        self.asked = 0

    def complaint(self, held: frozenset[str]) -> Complaint | None:
        """Return its message about the others."""
        bad = sorted(self.culprits - held)
        if not bad:
            return None
        return Complaint(f"no {bad[0]}", frozenset({f"/c/{bad[0]}"})) if self.names else Complaint("no")

    async def ask(self, held: frozenset[str]) -> Complaint | None:
        """Validate once more."""
        self.asked += 1
        return self.complaint(held)


def accused(proxy: Proxy, groups: list[CertificateGroup]) -> set[str]:
    """Return the blamed groups."""
    first = proxy.complaint(frozenset())
    assert first is not None
    return {pin.group.name for pin in asyncio.run(bisect(groups, first, proxy.ask))}


@settings(max_examples=30)
@given(st.integers(1, 60), st.data())
def test_without_a_name_every_group_at_fault_is_identified_and_no_other(count: int, data: st.DataObject) -> None:
    names = [f"{number:02}" for number in range(count)]
    culprits = data.draw(st.sets(st.sampled_from(names), min_size=1, max_size=3))
    proxy = Proxy(culprits, names=False)
    assert accused(proxy, [group(name) for name in names]) == culprits
    assert proxy.asked <= 2 + 2 * len(culprits) * count.bit_length()


def test_a_name_is_believed_without_another_question() -> None:
    proxy = Proxy({"b", "c"}, names=True)
    assert accused(proxy, [group("a"), group("b"), group("c")]) == {"b"}, "the next attempt tells of the other one"
    assert proxy.asked == 0


def test_the_same_bytes_under_another_name_are_as_bad() -> None:
    """Memory is shared by content: the name may be that of either."""
    proxy = Proxy({"b"}, names=True)
    assert accused(proxy, [group("a", b"same"), group("b", b"same"), group("c")]) == {"a", "b"}


def test_what_fails_without_the_new_groups_too_is_not_their_fault() -> None:
    proxy = Proxy({"the configuration"}, names=False)
    assert accused(proxy, [group("a"), group("b")]) == set()


@pytest.mark.parametrize("names", [True, False])
def test_no_group_is_blamed_without_a_new_one(names: bool) -> None:
    assert accused(Proxy({"a"}, names=names), []) == set()


async def test_what_cannot_be_held_back_is_not_accused() -> None:
    async def ask(_: frozenset[str]) -> Complaint | None:
        raise NothingToRunError

    assert await bisect([group("a")], Complaint("no"), ask) == ()


async def test_all_groups_are_tried_without_the_new_ones_first() -> None:
    asked: list[list[str]] = []

    async def ask(held: frozenset[str]) -> Complaint | None:
        asked.append(sorted(held))
        return Complaint("no") if "b" not in held else None

    pins = await bisect([group(name) for name in "abcd"], Complaint("no"), ask)
    assert [pin.group.name for pin in pins] == ["b"]
    assert asked[0] == ["a", "b", "c", "d"]
    assert asked[1] == [], "then all of them at once"
    assert all("a" not in held for held in asked[2:]), "a group that is cleared is not held back any more"
    assert asked[-1] == ["b"]


async def test_a_file_that_is_named_in_the_search_ends_it_for_its_group_and_not_for_the_others() -> None:
    culprits = {"a", "d"}
    asked = 0

    async def ask(held: frozenset[str]) -> Complaint | None:
        nonlocal asked
        asked += 1
        bad = sorted(culprits - held)
        return Complaint(f"no {bad[0]}", frozenset({f"/c/{bad[0]}"})) if bad else None

    pins = await bisect([group(name) for name in "abcd"], Complaint("something"), ask)
    assert sorted((pin.group.name, pin.path, pin.why) for pin in pins) == [("a", "/c/a", "no a"), ("d", "/c/d", "no d")]
    assert asked == 4, "without all, with all, without the first, without both"


async def test_a_pin_names_the_file_and_the_proxys_own_words() -> None:
    same = group("b", b"same")
    pins = await bisect([group("a", b"same"), same], Complaint("bad key", frozenset({"/c/b", "/elsewhere"})), _unasked)
    assert [(pin.group.name, pin.path, pin.why) for pin in pins] == [("a", "/c/a", "bad key"), ("b", "/c/b", "bad key")]


async def _unasked(_: frozenset[str]) -> Complaint | None:
    raise AssertionError


# With a proxy and a loader

LEAF = pki.Authority.create("ca").issue(["a.test"])


class Loader:
    """Knows which groups are new, and what is left without some of them."""

    def __init__(self, *new: CertificateGroup) -> None:
        self.new = new
        self.variants: dict[frozenset[str], LoadedRevision | None] = {}
        self.pinned: list[Pin] = []
        self.named: frozenset[str] = frozenset()
        self.asked: list[str] = []

    def renewed(self, _: LoadedRevision) -> tuple[CertificateGroup, ...]:
        return self.new

    async def without(self, _: LoadedRevision, held: Collection[str]) -> LoadedRevision | None:
        return self.variants[frozenset(held)]

    def pin(self, pins: Iterable[Pin]) -> None:
        self.pinned += pins

    def groups_in(self, document: str, _: LoadedRevision) -> frozenset[str]:
        self.asked.append(document)
        return self.named


@pytest.fixture
def epoch(make_epoch: MakeEpoch) -> EpochProcess:
    return make_epoch(TEXT, {CHAIN: LEAF.chain_pem, KEY: LEAF.key_pem})


def own(epoch: EpochProcess) -> CertificateGroup:
    """The epoch's own group: a chain and its key."""
    [found] = epoch.loaded.selection.groups.values()
    return found


def bisection(loader: Loader, revisions: Revisions) -> Bisection:
    settings: Any = type("Settings", (), {"policy": Policy(start_timeout=7.0)})
    return Bisection(settings, cast(Any, loader), revisions)


async def test_a_group_is_found_by_validating_without_it(
    epoch: EpochProcess, kernel: Kernel, revisions: Revisions
) -> None:
    loader, variant = Loader(own(epoch)), revisions.load("{}")
    loader.variants = {frozenset({own(epoch).name}): variant, frozenset(): epoch.loaded}
    kernel.results = [(0, ""), (1, "weak key")]
    pins = await bisection(loader, revisions).accuse(epoch, Complaint("something"))
    assert [(pin.group, pin.path) for pin in pins] == [(own(epoch), CHAIN)]
    assert pins[0].why == "true reports: weak key"
    assert loader.pinned == list(pins)
    assert [timeout for _, timeout in kernel.ran] == [7.0, 7.0]
    assert kernel.ran[0][0].descriptors != kernel.ran[1][0].descriptors, "the first run is without its files"


async def test_a_file_that_the_complaint_names_needs_no_run(
    epoch: EpochProcess, kernel: Kernel, revisions: Revisions
) -> None:
    loader = Loader(own(epoch))
    pins = await bisection(loader, revisions).accuse(epoch, Complaint("weak", frozenset({KEY})))
    assert [(pin.path, pin.why) for pin in pins] == [(KEY, "true reports: weak")]
    assert kernel.ran == []
    assert loader.pinned == list(pins)


async def test_where_nothing_would_be_left_to_run_nobody_is_accused(
    epoch: EpochProcess, kernel: Kernel, revisions: Revisions
) -> None:
    loader = Loader(own(epoch))
    loader.variants = {frozenset({own(epoch).name}): None}
    assert await bisection(loader, revisions).accuse(epoch, Complaint("something")) == ()
    assert loader.pinned == []
    assert kernel.ran == []


async def test_a_variant_is_kept_while_it_is_tried_and_released_afterwards(
    epoch: EpochProcess, kernel: Kernel, revisions: Revisions
) -> None:
    loader, variant = Loader(own(epoch)), revisions.load("{}")
    loader.variants = {frozenset({own(epoch).name}): variant}
    kept: list[bool] = []

    async def validate(_: float, loaded: LoadedRevision) -> Complaint | None:
        revisions.keep_only([epoch.loaded.revision])
        kept.append(revisions[loaded.revision] is loaded)
        return Complaint("still")

    epoch.validate = validate  # type: ignore[method-assign, assignment]
    assert await bisection(loader, revisions).accuse(epoch, Complaint("something")) == ()
    assert kept == [True]
    revisions.keep_only([epoch.loaded.revision])
    with pytest.raises(KeyError):
        revisions[variant.revision]


async def test_a_proxy_that_does_not_end_accuses_nobody(
    epoch: EpochProcess, kernel: Kernel, revisions: Revisions
) -> None:
    loader = Loader(own(epoch))
    loader.variants = {frozenset({own(epoch).name}): revisions.load("{}")}
    kernel.results = [MachineError("it did not end")]
    with pytest.raises(MachineError):
        await bisection(loader, revisions).accuse(epoch, Complaint("something"))
    assert loader.pinned == []


@pytest.mark.parametrize(
    ("paths", "named", "accused"),
    [
        ({"/c/a"}, {"a", "b", "c"}, ["a"]),
        (set(), {"a", "b"}, ["a", "b"]),
        (set(), set(), []),
        ({"/elsewhere"}, {"c"}, ["c"]),
        (set(), {"old"}, []),
    ],
    ids=[
        "the group that the complaint names",
        "without a name, the new groups of the file",
        "no group, where the file itself is new",
        "a name of no group",
        "no group that has served",
    ],
)
def test_a_refused_resource_file_accuses(
    epoch: EpochProcess, revisions: Revisions, paths: set[str], named: set[str], accused: list[str]
) -> None:
    loader = Loader(group("a"), group("b"), group("c"))
    loader.named = frozenset(named)
    pins = bisection(loader, revisions).accuse_in("/d/lds.yaml", epoch, Complaint("no", frozenset(paths)))
    assert [pin.group.name for pin in pins] == accused
    assert [(pin.path, pin.why) for pin in pins] == [(f"/c/{name}", "no") for name in accused]
    assert loader.pinned == list(pins)
    assert loader.asked in ([], ["/d/lds.yaml"])


def test_a_group_is_pinned_at_its_chain_or_else_at_its_first_file(epoch: EpochProcess, revisions: Revisions) -> None:
    files = {"/c/z": b"z", "/c/b": b"b"}
    several = CertificateGroup("several", frozenset(), files, (), ())
    loader = Loader(several, own(epoch))
    loader.named = frozenset({"several", own(epoch).name})
    pins = bisection(loader, revisions).accuse_in("/d/lds.yaml", epoch, Complaint("no"))
    assert [pin.path for pin in pins] == ["/c/b", CHAIN]


def test_a_chain_is_named_before_a_key_whatever_their_names(make_epoch: MakeEpoch, revisions: Revisions) -> None:
    epoch = make_epoch(TEXT.replace(KEY, "/c/a.key"), {CHAIN: LEAF.chain_pem, "/c/a.key": LEAF.key_pem})
    loader = Loader(own(epoch))
    loader.named = frozenset({own(epoch).name})
    [pin] = bisection(loader, revisions).accuse_in("/d/lds.yaml", epoch, Complaint("no"))
    assert pin.path == CHAIN


# What was delivered to a running proxy


def refusing(epoch: EpochProcess, *reasons: str) -> FakeAdmin:
    """Let the epoch's admin interface give these reasons."""
    admin = epoch.admin
    assert isinstance(admin, FakeAdmin)
    admin.answers["rejections"] = list(reasons)
    return admin


async def test_the_running_proxys_own_words_name_the_file(
    epoch: EpochProcess, kernel: Kernel, revisions: Revisions
) -> None:
    number, loader = epoch.loaded.descriptors[KEY], Loader(own(epoch))
    refusing(epoch, f"Failed to load private key from /dev/fd/{number}", "another")
    why, pins = await bisection(loader, revisions).accuse_delivered(epoch, epoch.loaded)
    assert why == f"Failed to load private key from {KEY}; another"
    assert [(pin.path, pin.why) for pin in pins] == [(KEY, f"true reports: {why}")]
    assert loader.pinned == list(pins)
    assert kernel.ran == []


async def test_without_a_file_in_its_words_the_configuration_is_validated(
    epoch: EpochProcess, kernel: Kernel, revisions: Revisions
) -> None:
    number, loader = epoch.loaded.descriptors[KEY], Loader(own(epoch))
    refusing(epoch)
    kernel.results = [(1, f"weak key in /dev/fd/{number}")]
    why, pins = await bisection(loader, revisions).accuse_delivered(epoch, epoch.loaded)
    assert why == f"weak key in {KEY}"
    assert [pin.path for pin in pins] == [KEY]


@pytest.mark.parametrize(("reasons", "why"), [([], "see its log"), (["no"], "no")])
async def test_where_validation_accepts_it_nobody_is_accused(
    reasons: list[str], why: str, epoch: EpochProcess, kernel: Kernel, revisions: Revisions
) -> None:
    loader = Loader(own(epoch))
    loader.variants = {frozenset({own(epoch).name}): revisions.load("{}"), frozenset(): epoch.loaded}
    refusing(epoch, *reasons)
    assert await bisection(loader, revisions).accuse_delivered(epoch, epoch.loaded) == (why, ())
    assert loader.pinned == []


async def test_of_a_push_the_pushed_revision_is_examined(
    epoch: EpochProcess, kernel: Kernel, revisions: Revisions
) -> None:
    leaf = pki.Authority.create("ca").issue(["a.test"])
    pushed = revisions.load(TEXT, {CHAIN: leaf.chain_pem, KEY: leaf.key_pem})
    loader = Loader(own(epoch))
    loader.variants = {frozenset({own(epoch).name}): None}
    refusing(epoch)
    kernel.results = [(1, "something")]
    assert await bisection(loader, revisions).accuse_delivered(epoch, pushed) == ("something", ())
    assert set(pushed.descriptors.values()) <= set(kernel.ran[0][0].descriptors)
