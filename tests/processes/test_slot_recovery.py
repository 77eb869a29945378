"""What an earlier agent pushed is read from the epoch itself, and believed only if it is what was recorded."""

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest

from agent.core.errors import BadInput, MachineError
from agent.host.carried import Carried
from agent.processes.manifest import Manifest
from agent.processes.slot_recovery import contents_of, digest_of_files, regain_slots, revision_of
from agent.processes.survivor import Pushed, Survivor
from tests.processes.pushed_into import CHAIN, KEY, OTHER, Epoch, pushed_into, read


@pytest.fixture
def epoch(no_descriptor_leaks: None) -> Iterator[Epoch]:
    with pushed_into() as made:
        yield made


def manifest_of(found: Survivor) -> Manifest:
    return Manifest.carried_by(os.getpid(), found.manifest)


def test_without_a_push_it_runs_what_it_was_started_from(epoch: Epoch) -> None:
    found = epoch.found()
    manifest = manifest_of(found)
    assert found.pushed is None
    assert revision_of(found, manifest) == manifest.revision == epoch.loaded.revision
    assert contents_of(found, manifest) == epoch.loaded.selection.files


@pytest.mark.parametrize("times", [1, 2, 3])
def test_after_pushes_it_runs_what_was_pushed_last(epoch: Epoch, times: int) -> None:
    first = epoch.loaded.revision
    for _ in range(times):
        epoch.push()
    found = epoch.found()
    manifest = manifest_of(found)
    revision = revision_of(found, manifest)
    assert (revision, revision.config_digest) == (epoch.loaded.revision, first.config_digest)
    assert revision.can_be_pushed_over(first)
    assert contents_of(found, manifest) == epoch.loaded.selection.files
    assert found.pushed is not None
    assert (found.pushed.used, found.pushed.is_torn) == (("11", "22", "11")[times - 1], False)


def test_a_push_that_was_under_way_does_not_count(epoch: Epoch) -> None:
    before = epoch.push()
    epoch.target.write(epoch.renewed(), before)
    found = epoch.found(is_torn=True)
    assert found.pushed is not None
    assert found.pushed.is_torn
    assert revision_of(found, manifest_of(found)) == before.revision
    assert contents_of(found, manifest_of(found)) == before.selection.files


def test_the_first_push_that_was_under_way_does_not_count(epoch: Epoch) -> None:
    epoch.target.write(epoch.renewed(), epoch.loaded)
    found = epoch.found(is_torn=True)
    assert found.pushed is not None
    assert (found.pushed.used, found.pushed.digest) == ("00", epoch.loaded.revision.digest)
    assert contents_of(found, manifest_of(found)) == epoch.loaded.selection.files


def test_a_slot_in_use_that_was_changed_is_not_believed(epoch: Epoch) -> None:
    """The proxy has it open and could write to it."""
    epoch.push()
    found = epoch.found()
    os.pwrite(epoch.target.slots.of(KEY)[0], b"X", 0)
    with pytest.raises(BadInput, match=f"process {os.getpid()}: the certificates pushed into it were changed"):
        contents_of(found, manifest_of(found))


def test_a_slot_that_is_not_in_use_may_hold_anything(epoch: Epoch) -> None:
    epoch.push()
    found = epoch.found()
    os.pwrite(epoch.target.slots.of(KEY)[1], b"X", 0)
    assert contents_of(found, manifest_of(found)) == epoch.loaded.selection.files


@pytest.mark.parametrize("used", ["1", "111", "13", "1x", "1\u0661", "-1"])
def test_a_record_that_makes_no_sense_is_not_believed(epoch: Epoch, used: str) -> None:
    loaded = epoch.push()
    found = epoch.found(Pushed(loaded.revision.digest, used, "x"))
    for recover in (contents_of, regain_slots):
        with pytest.raises(BadInput, match=f"process {os.getpid()}: the record of what was pushed into it is invalid"):
            recover(found, manifest_of(found))


def test_of_a_process_that_has_exited_nothing_is_read(epoch: Epoch) -> None:
    epoch.push()
    found = replace(epoch.found(), pid=2**22 + 1)
    manifest = manifest_of(replace(found, pid=os.getpid()))
    with pytest.raises(MachineError):
        contents_of(found, manifest)
    with pytest.raises(MachineError):
        regain_slots(found, manifest)


# The slots


@pytest.mark.parametrize("times", [0, 1, 2])
def test_the_next_agent_writes_where_the_process_does_not_read(epoch: Epoch, times: int) -> None:
    for _ in range(times):
        epoch.push()
    found = epoch.found()
    slots = regain_slots(found, manifest_of(found))
    try:
        assert slots.used == epoch.target.slots.used
        assert slots.offered == epoch.target.slots.offered
        assert slots.descriptors.isdisjoint(epoch.target.slots.descriptors), "they are our own"
        before = {path: read(number) for path, number in slots.offered.items()}
        in_use = dict(slots.offered)
        slots.write({KEY: b"new"})
        assert {path: read(number) for path, number in in_use.items()} == before
        assert read(slots.offered[KEY]) == b"new", "the process sees it under its own number"
        assert slots.offered[CHAIN] == in_use[CHAIN]
    finally:
        slots.close()


@pytest.mark.parametrize("failing", range(4))
def test_slots_that_cannot_all_be_opened_leave_no_descriptor(
    epoch: Epoch, failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fixture compares the descriptors."""
    found = epoch.found()
    manifest, opened = manifest_of(found), list[int]()
    really = Carried.open

    def limited(self: Carried, pid: int, flags: int = os.O_RDONLY) -> int:
        if len(opened) == failing:
            message = "cannot open it"
            raise MachineError(message)
        opened.append(really(self, pid, flags))
        return opened[-1]

    with monkeypatch.context() as patched:
        patched.setattr(Carried, "open", limited)
        with pytest.raises(MachineError, match="cannot open it"):
            regain_slots(found, manifest)
    assert len(opened) == failing
    for descriptor in opened:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


# Digests


def test_a_digest_depends_on_each_path_and_content_and_on_nothing_else() -> None:
    files = {"/a": b"1", "/b": b"2", "/c": b"3"}
    digest = digest_of_files(files, ["/a", "/b"])
    assert digest == digest_of_files(dict(reversed(files.items())), ["/b", "/a"])
    assert digest == digest_of_files(files | {"/c": b"4"}, {"/a", "/b"})
    others = [({"/a": b"2", "/b": b"1"}, ["/a", "/b"]), (files, ["/a"]), (files, ["/a", "/c"]), (files, [])]
    assert len({digest, *(digest_of_files(*each) for each in others)}) == 5
    assert OTHER not in digest
