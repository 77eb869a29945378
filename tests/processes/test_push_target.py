"""What takes pushes in one epoch: it writes only what differs, and says what the next agent has to know."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from agent.core.errors import MachineError
from agent.host.carried import Carried
from agent.inputs.revisions import LoadedRevision
from agent.processes import slot_recovery
from agent.processes.manifest import Manifest
from agent.processes.push_target import PushTarget
from agent.processes.survivor import Pushed
from agent.proxies.envoy.subscriptions import LISTENERS
from agent.proxies.interface import Delivered
from tests.processes.fakes import PUSHING, FakeAdmin, Revisions
from tests.processes.pushed_into import CHAIN, KEY, OTHER, TEXT, Epoch, pair, pushed_into, read
from tests.processes.virtual_time import virtual_time

HOME = Path("/run/1")


@pytest.fixture
def epoch(no_descriptor_leaks: None) -> Iterator[Epoch]:
    with pushed_into() as made:
        yield made


def offered(target: PushTarget) -> Mapping[str, int]:
    return target.slots.offered


def with_another_key(epoch: Epoch) -> LoadedRevision:
    """Return a revision in which only the key's file differs."""
    files = epoch.loaded.selection.files
    return epoch.revisions.load(TEXT, {**files, KEY: files[KEY] + b"\n"})


def test_what_cannot_be_pushed_has_no_slots(epoch: Epoch) -> None:
    assert epoch.loaded.pushable == {CHAIN, KEY}
    assert set(epoch.target.slots.used) == {CHAIN, KEY}
    assert PushTarget.make(replace(epoch.loaded, pushable=frozenset())) is None


def test_at_first_the_epoch_reads_the_sealed_files(epoch: Epoch) -> None:
    assert offered(epoch.target) == {path: epoch.loaded.descriptors[path] for path in (CHAIN, KEY)}
    assert epoch.target.delivery is not None
    assert list(epoch.target.delivery.scopes) == [LISTENERS]
    offer = epoch.target.delivery._offers[LISTENERS]  # type: ignore[attr-defined]
    assert offer.version, "its first request is answered at once"
    assert "/run/1/admin" in epoch.main
    assert "edge" not in epoch.main, "it is delivered"
    assert epoch.target.pushed(epoch.loaded, is_torn=False) is None


def test_only_files_that_differ_are_written(epoch: Epoch) -> None:
    changed = with_another_key(epoch)
    epoch.target.write(changed, epoch.loaded)
    assert offered(epoch.target)[CHAIN] == epoch.loaded.descriptors[CHAIN]
    assert read(offered(epoch.target)[KEY]) == changed.selection.files[KEY]


def test_a_file_that_changes_back_is_written_again(epoch: Epoch) -> None:
    first = epoch.loaded
    epoch.push()
    epoch.target.write(first, epoch.loaded)
    assert {path: read(number) for path, number in offered(epoch.target).items()} == {
        path: first.selection.files[path] for path in (CHAIN, KEY)
    }


def test_each_descriptor_is_known_by_its_path(epoch: Epoch) -> None:
    paths = epoch.target.paths
    for path in (CHAIN, KEY):
        numbers = [epoch.loaded.descriptors[path], *epoch.target.slots.of(path)]
        assert [paths[number] for number in numbers] == [path] * 3
    assert paths[epoch.loaded.descriptors[OTHER]] == OTHER
    assert len(paths) == 7


@virtual_time
async def test_what_the_slots_hold_is_delivered() -> None:
    with pushed_into() as epoch:
        delivery = epoch.target.delivery
        assert delivery is not None
        admin, told = FakeAdmin(HOME / "admin"), list[str]()

        def applied() -> Mapping[str, Delivered]:
            newest = delivery._offers[LISTENERS]  # type: ignore[attr-defined]
            told.append(newest.text)
            return {LISTENERS: Delivered(newest.version, 0)}

        admin.answers["deliveries"] = applied
        loaded = epoch.renewed()
        epoch.target.write(loaded, epoch.loaded)
        await epoch.target.deliver(admin, loaded, again=False)
        for path in (CHAIN, KEY):
            assert f'"/dev/fd/{offered(epoch.target)[path]}"' in told[-1]
            assert f'"/dev/fd/{offered(epoch.target)[path]}"' not in told[0]
        assert f'"/dev/fd/{epoch.loaded.descriptors[OTHER]}"' in told[-1]
        version = delivery._offers[LISTENERS].version  # type: ignore[attr-defined]
        await epoch.target.deliver(admin, loaded, again=False)
        assert delivery._offers[LISTENERS].version == version  # type: ignore[attr-defined]
        await epoch.target.deliver(admin, loaded, again=True)
        assert delivery._offers[LISTENERS].version != version  # type: ignore[attr-defined]


# What is recorded


def test_a_push_is_recorded_once_it_is_committed(epoch: Epoch) -> None:
    loaded = epoch.renewed()
    epoch.target.write(loaded, epoch.loaded)
    assert epoch.target.pushed(epoch.loaded, is_torn=False) is None
    epoch.target.commit(loaded)
    digest = slot_recovery.digest_of_files(loaded.selection.files, {CHAIN, KEY})
    expected = Pushed(loaded.revision.digest, "11", digest, is_torn=False)
    assert epoch.target.pushed(loaded, is_torn=False) == expected
    assert epoch.target.pushed(loaded, is_torn=True) == replace(expected, is_torn=True)


def test_contents_are_digested_once_though_the_state_is_written_often(
    epoch: Epoch, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = epoch.push()
    monkeypatch.setattr(slot_recovery, "digest_of_files", lambda *_: pytest.fail("digested again"))
    records = {epoch.target.pushed(loaded, is_torn=is_torn) for is_torn in (False, True, False)}
    assert len(records) == 2


def test_no_content_is_recorded(epoch: Epoch) -> None:
    loaded = epoch.push()
    record = epoch.target.pushed(loaded, is_torn=False)
    assert record is not None
    assert "PRIVATE" not in json.dumps([record.digest, record.used, record.contents])


def test_which_slot_is_used_is_recorded_in_order_of_the_paths(epoch: Epoch) -> None:
    changed = with_another_key(epoch)
    epoch.target.write(changed, epoch.loaded)
    epoch.target.commit(changed)
    record = epoch.target.pushed(changed, is_torn=False)
    assert record is not None
    assert record.used == "01"


# Adopted


def regained(epoch: Epoch) -> PushTarget:
    made = PushTarget.regain(epoch.found(), epoch.loaded, HOME)
    assert made is not None
    return made


@pytest.mark.parametrize("times", [0, 1, 2])
def test_the_next_agent_goes_on_where_the_earlier_one_was(epoch: Epoch, times: int) -> None:
    for _ in range(times):
        epoch.push()
    target = regained(epoch)
    try:
        assert target.slots.used == epoch.target.slots.used
        assert target.paths == epoch.target.paths
        assert target.pushed(epoch.loaded, is_torn=False) == epoch.target.pushed(epoch.loaded, is_torn=False)
        assert target.first_memory is None
        assert target.delivery is not None
        offer = target.delivery._offers[LISTENERS]  # type: ignore[attr-defined]
        assert offer.version == "", "it has what is assumed"
        for path, number in epoch.target.slots.offered.items():
            assert f'"/dev/fd/{number}"' in offer.text, path
    finally:
        target.slots.close()


def test_an_epoch_without_slots_takes_no_pushes(epoch: Epoch) -> None:
    plain = epoch.memory.hold("plain", Manifest.of(epoch.loaded).to_bytes())
    found = replace(epoch.found(), manifest=type(epoch.manifest).in_memory(plain))
    assert PushTarget.regain(found, epoch.loaded, HOME) is None


@pytest.mark.parametrize("pushable", [frozenset(), frozenset({CHAIN}), frozenset({CHAIN, KEY, OTHER})], ids=len)
def test_an_epoch_with_other_slots_than_the_configuration_can_push_takes_none(
    epoch: Epoch, pushable: frozenset[str]
) -> None:
    """This agent may have been started with other options, or be of another version."""
    assert PushTarget.regain(epoch.found(), replace(epoch.loaded, pushable=pushable), HOME) is None


def test_an_agent_that_pushes_nothing_does_not_read_the_manifest(epoch: Epoch) -> None:
    found = replace(epoch.found(), manifest=Carried(0, 0, 0))
    assert PushTarget.regain(found, replace(epoch.loaded, pushable=frozenset()), HOME) is None
    with pytest.raises(MachineError):
        PushTarget.regain(found, epoch.loaded, HOME)


def test_slots_that_cannot_be_made_are_a_machine_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(24, "Too many open files")

    revisions = Revisions(PUSHING)
    try:
        loaded = revisions.load(TEXT, pair() | {OTHER: b"ticket"})
        with monkeypatch.context() as patched:
            patched.setattr("os.memfd_create", refuse)
            with pytest.raises(MachineError, match="2 files that may be pushed"):
                PushTarget.make(loaded)
    finally:
        revisions.close()
