"""Leftovers of an earlier agent: adopted, terminated, or of other programs; system tests adopt real proxies."""

import os
import signal
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any, cast

import psutil
import pytest

from agent.core.epochs import State
from agent.core.errors import MachineError
from agent.handoff.segment import HotRestartVersion, Segment
from agent.handoff.socket_store import ListenAddress
from agent.host.binaries import Binary
from agent.host.carried import Carried
from agent.host.memfds import Memfds
from agent.host.processes import boot, created_at
from agent.host.run_directory import RunDirectory
from agent.inputs.revisions import LoadedRevision, RevisionStore
from agent.metrics.shared_counters import SharedCounters, make_room
from agent.processes import adoption as module
from agent.processes.adoption import Adoption, clear, recover
from agent.processes.manifest import Manifest
from agent.processes.state_file import StateFile
from agent.processes.survivor import Survivor
from agent.proxies.envoy.options import Flags
from agent.proxies.envoy.proxy import Envoy
from agent.stats.writer import Writer
from tests import pki
from tests.processes.fakes import PUSHING, Revisions
from tests.processes.pushed_into import pushed_into
from tests.processes.test_manifest import CHAIN, KEY, LDS, TEXT
from tests.stats.segments import STARTED, nonce_of
from tests.system.eventually import PATIENCE

KIND = Envoy(Flags(), 1.0)


@contextmanager
def epoch(carries: tuple[int, ...] = (), deaf_to: str = "HUP") -> "Iterator[subprocess.Popen[bytes]]":
    """Run a process that resembles an epoch which outlived its agent; yield it when it can be identified."""
    program = ["/bin/sh", "-c", f"trap '' {deaf_to}; echo; read line"]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={}, pass_fds=carries) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


@pytest.fixture
def memory() -> Iterator[int]:
    """Return a descriptor of sealed memory, as for a manifest."""
    memfds = Memfds()
    yield memfds.hold("epoch 3", b"{}")
    memfds.close()


def entry(process: "subprocess.Popen[bytes]", **more: object) -> dict[str, Any]:
    created = created_at(process.pid)
    return {"number": 3, "pid": process.pid, "created": created, "nonce": "f" * 16, "base_id": None} | more


def come_back(directory: RunDirectory, *entries: object, **more: object) -> StateFile:
    """Start an agent with these entries in its state: none of them can be adopted."""
    directory.remember({"epochs": list(entries)} | more)
    state_file = StateFile(directory)
    adoption = Adoption(KIND, state_file, directory, RevisionStore(), SharedCounters(directory))
    assert list(adoption.epochs()) == []
    adoption.remove_stale(frozenset())
    return state_file


def test_an_epoch_that_outlived_its_agent_is_ended_and_what_it_left_removed(
    directory: RunDirectory, base_id: int
) -> None:
    segment = Segment(base_id)
    assert segment.claim(HotRestartVersion(11, 104))
    home = directory.make_epoch(3, None)
    with epoch() as process:
        come_back(directory, entry(process, base_id=base_id))
        process.wait(PATIENCE)
        assert not psutil.pid_exists(process.pid)
    assert not segment.path.exists()
    assert not home.exists()


def test_a_socket_that_a_killed_agent_had_half_made_is_removed(directory: RunDirectory) -> None:
    half = directory.path / "~abc"
    half.mkdir()
    (half / "s").touch()
    come_back(directory)
    assert not half.exists()


def test_a_process_that_ignores_sigterm_is_killed(directory: RunDirectory) -> None:
    with epoch(deaf_to="TERM") as process:
        come_back(directory, entry(process))
        process.wait(PATIENCE)
        assert not psutil.pid_exists(process.pid)


@pytest.mark.parametrize(
    "difference",
    [{"created": 1.0}, {"created": None}, {"pid": "x"}, {"pid": None}, {"pid": None, "manifest": {"inode": 1}}],
    ids=str,
)
def test_a_stranger_with_the_number_of_a_dead_epoch_is_safe(
    directory: RunDirectory, difference: dict[str, object]
) -> None:
    with epoch() as stranger:
        come_back(directory, entry(stranger, **difference))
        assert stranger.poll() is None


def test_a_process_with_the_number_and_the_start_of_one_before_a_reboot_is_a_stranger(directory: RunDirectory) -> None:
    """Machines start the same programs in the same order."""
    with epoch() as stranger:
        come_back(directory, entry(stranger), boot="another")
        assert stranger.poll() is None


def test_an_epoch_whose_pid_could_not_be_noted_any_more_is_found_by_its_manifest(
    directory: RunDirectory, memory: int
) -> None:
    with epoch((memory,)) as process:
        come_back(directory, entry(process, pid=None, manifest=asdict(Carried.of(memory))))
        process.wait(PATIENCE)


def test_a_stranger_with_another_file_under_the_number_of_the_manifest_is_safe(
    directory: RunDirectory, memory: int
) -> None:
    manifest = Carried.of(memory)
    with epoch((memory,)) as stranger:
        different = replace(manifest, inode=manifest.inode + 1)
        come_back(directory, entry(stranger, pid=None, manifest=asdict(different)))
        assert stranger.poll() is None


def test_the_agent_itself_is_no_epoch_though_it_holds_the_manifest(directory: RunDirectory, memory: int) -> None:
    with epoch() as process:
        come_back(directory, entry(process, pid=None, manifest=asdict(Carried.of(memory))))


def test_what_a_dead_epoch_left_is_removed_too(directory: RunDirectory, base_id: int) -> None:
    segment = Segment(base_id)
    assert segment.claim(HotRestartVersion(11, 104))
    with epoch() as process:
        gone = entry(process, base_id=base_id)
    come_back(directory, gone)
    assert not segment.path.exists()


NEGATIVE = pytest.param([{"pid": -1, "created": 1, "base_id": "x"}])


@pytest.mark.parametrize("epochs", ["x", {"a": 1}, None, [1, None, "x", {}], NEGATIVE])
def test_an_invalid_manifest_has_no_effect(directory: RunDirectory, epochs: object) -> None:
    directory.remember({"epochs": epochs})
    list(Adoption(KIND, StateFile(directory), directory, RevisionStore(), SharedCounters(directory)).epochs())


def test_directories_of_epochs_go_and_everything_else_stays(directory: RunDirectory) -> None:
    for name in ("3", "17", "other"):
        (directory.path / name).mkdir()
    come_back(directory)
    assert {path.name for path in directory.path.iterdir()} == {"lock", "other", "state.json"}


def test_a_name_that_only_looks_like_a_number_is_left_alone(directory: RunDirectory) -> None:
    (directory.path / "²").mkdir()
    come_back(directory)


def test_what_was_dealt_with_is_not_remembered_any_more(directory: RunDirectory) -> None:
    with epoch() as process:
        assert come_back(directory, entry(process)).inherited == []


@pytest.mark.parametrize("manifest", [None, 0, 999_999, "x"])
def test_an_epoch_whose_manifest_cannot_be_read_is_ended(directory: RunDirectory, manifest: object) -> None:
    with epoch() as process:
        come_back(directory, entry(process, stage="serving", manifest=manifest, places=[["tcp://127.0.0.1:1", "", 0]]))
        process.wait(PATIENCE)


# Adopted

LEAF = pki.Authority.create("ca").issue(["a.test"])


class Left:
    """What an earlier agent started: its revision, and memory with the manifest."""

    def __init__(self, revisions: Revisions) -> None:
        self.loaded: LoadedRevision = revisions.load(
            TEXT, {CHAIN: LEAF.chain_pem, KEY: LEAF.key_pem}, {LDS: b"resources: []"}
        )
        self._memfds = Memfds()
        self.manifest = Manifest.of(self.loaded)

    def held(self, **changes: Any) -> int:  # noqa: ANN401  # as `replace` has it
        """Hold a manifest that differs in some fields."""
        return self._memfds.hold("manifest", replace(self.manifest, **changes).to_bytes())

    def carries(self, manifest: int) -> tuple[int, ...]:
        """The descriptors that an epoch has."""
        return (manifest, self.loaded.program.binary.descriptor, *self.loaded.descriptors.values())

    def close(self) -> None:
        self._memfds.close()


@pytest.fixture
def left(revisions: Revisions) -> Iterator[Left]:
    made = Left(revisions)
    yield made
    made.close()


def whole(process: "subprocess.Popen[bytes]", manifest: int, **more: object) -> dict[str, Any]:
    """The entry of an epoch that can be adopted."""
    told = {"stage": "serving", "base_id": 77, "places": [["tcp://127.0.0.1:1", "", 0]]}
    return entry(process, **told, manifest=asdict(Carried.of(manifest))) | more


class Back:
    """An agent that came back to these entries."""

    def __init__(self, directory: RunDirectory, *entries: object, **more: object) -> None:
        directory.remember({"epochs": list(entries)} | more)
        self.state_file, self.revisions = StateFile(directory), RevisionStore()
        self.counters = SharedCounters(directory)
        self._binaries: dict[int, Binary] = {}
        self.adoption = Adoption(KIND, self.state_file, directory, self.revisions, self.counters)

    def take(self) -> list[int]:
        """Adopt what can be; the numbers."""
        return [found.number for found, _ in self.epochs()]

    def _kept(self, adopted: Iterable[tuple[Survivor, LoadedRevision]]) -> Iterator[tuple[Survivor, LoadedRevision]]:
        for found, loaded in adopted:
            self._binaries[id(loaded)] = loaded.program.binary
            yield found, loaded

    def epochs(self) -> Iterator[tuple[Survivor, LoadedRevision]]:
        """Adopt what can be."""
        return self._kept(self.adoption.epochs())

    def close(self) -> None:
        for binary in self._binaries.values():
            binary.close()
        self.revisions.keep_only([])


def test_an_epoch_that_serves_is_adopted_with_its_revision(directory: RunDirectory, left: Left) -> None:
    manifest = left.held()
    with epoch(left.carries(manifest)) as process:
        back = Back(directory, whole(process, manifest))
        [(found, loaded)] = back.epochs()
        assert process.poll() is None
    assert (found.number, found.state, found.pid) == (3, State.SERVING, process.pid)
    assert found.places == {ListenAddress("tcp://127.0.0.1:1")}
    assert loaded.revision == left.loaded.revision
    assert loaded.selection.files == {CHAIN: LEAF.chain_pem, KEY: LEAF.key_pem}
    assert loaded.source.text == TEXT.encode()
    assert loaded.source.resources == {LDS: b"resources: []"}
    assert loaded.configuration.name == "/etc/envoy.yaml"
    program = loaded.program
    assert (program.version, str(program.handoff), program.reads_json) == ("1.40.0", "11.104", True)
    assert program.binary.identity == left.loaded.program.binary.identity
    assert str(program.binary.path) == "/bin/true"
    back.close()


def test_an_entry_is_remembered_until_its_epoch_is_adopted(directory: RunDirectory, left: Left) -> None:
    """An agent that is killed in between leaves it to the next one."""
    manifest = left.held()
    with epoch(left.carries(manifest)) as process:
        back = Back(directory, whole(process, manifest))
        for _ in back.epochs():
            assert len(back.state_file.inherited) == 1
        assert back.state_file.inherited == []
        back.close()


def test_the_oldest_is_adopted_first_and_the_others_are_ended_after_all(directory: RunDirectory, left: Left) -> None:
    manifest = left.held()
    carries = left.carries(manifest)
    with epoch(carries) as ten, epoch(carries) as nine, epoch() as candidate:
        entries = [whole(ten, manifest, number=10), entry(candidate, number=1), whole(nine, manifest, number=9)]
        back = Back(directory, *entries)
        seen = []
        for found, _ in back.epochs():
            seen.append((found.number, candidate.poll()))
        assert seen == [(9, None), (10, None)]
        assert candidate.poll() == -signal.SIGKILL
        assert (nine.poll(), ten.poll()) == (None, None)
        back.close()


@pytest.mark.parametrize(
    "changes", [{"identity": (1, 2, 3, 4)}, {"handoff": "12.104"}, {"text": "listeners: ["}], ids=str
)
def test_an_epoch_whose_revision_cannot_be_made_again_is_ended_and_told(
    directory: RunDirectory, left: Left, caplog: pytest.LogCaptureFixture, changes: dict[str, object]
) -> None:
    manifest = left.held(**changes)
    with epoch(left.carries(manifest)) as process:
        back = Back(directory, whole(process, manifest))
        assert back.take() == []
        assert process.poll() == -signal.SIGKILL
        back.close()
    assert [cast(Any, record).event for record in caplog.records] == ["epoch.not_adopted", "epoch.left_over"]
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 1
    assert "epoch 3" in errors[0]
    assert str(process.pid) in errors[0]


def test_two_epochs_of_one_revision_share_its_files_and_its_program(directory: RunDirectory, left: Left) -> None:
    """As after `agent restart`, while the first one drains."""
    manifest = left.held()
    carries = left.carries(manifest)
    with epoch(carries) as one, epoch(carries) as two:
        back = Back(directory, whole(one, manifest, number=3, stage="draining"), whole(two, manifest, number=4))
        (_, first), (_, second) = back.epochs()
        assert first is second
        os.fstat(first.program.binary.descriptor)
        back.close()


def test_without_memory_for_its_files_an_epoch_is_ended(
    directory: RunDirectory, left: Left, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> LoadedRevision:
        raise MachineError("cannot keep /c/tls.key in memory: no memory")

    manifest = left.held()
    with epoch(left.carries(manifest)) as process:
        back = Back(directory, whole(process, manifest))
        monkeypatch.setattr(back.revisions, "adopt", fail)
        assert back.take() == []
        assert process.poll() == -signal.SIGKILL


def test_a_file_that_the_epoch_read_by_itself_is_no_part_of_its_revision(directory: RunDirectory, left: Left) -> None:
    """It is not watched, so it was not copied."""
    manifest = left.held(files={})
    with epoch(left.carries(manifest)) as process:
        back = Back(directory, whole(process, manifest))
        [(_, loaded)] = back.epochs()
        assert (loaded.selection.files, loaded.selection.complete) == ({}, True)
        assert set(loaded.descriptors) == {LDS}
        back.close()


def test_an_epoch_without_its_files_is_ended(directory: RunDirectory, left: Left) -> None:
    manifest = left.held()
    with epoch((manifest,)) as process:
        back = Back(directory, whole(process, manifest))
        assert back.take() == []
        assert process.poll() == -signal.SIGKILL
        back.close()


def test_the_directory_of_an_adopted_epoch_stays_and_those_of_others_go(directory: RunDirectory) -> None:
    homes = {number: directory.make_epoch(number, None) for number in (3, 4, 33)}
    Back(directory).adoption.remove_stale(frozenset({3, 33}))
    assert {number: home.exists() for number, home in homes.items()} == {3: True, 4: False, 33: True}


def test_what_an_epoch_counted_after_its_agent_was_killed_is_kept(directory: RunDirectory) -> None:
    home = directory.make_epoch(3, None)
    make_room(home, None)
    writer = Writer.create(home / "stats", epoch=3, pid=1, started_at=STARTED, nonce=nonce_of(3))
    writer.counter("http.in.rq_total").add(5)
    writer.close()
    back = Back(directory)
    back.adoption.remove_stale(frozenset())
    assert not home.exists()
    assert back.counters.read().counters == {"http.in.rq_total": 5}
    assert SharedCounters(directory).read().counters == {"http.in.rq_total": 5}


@pytest.mark.parametrize("name", ["spare", "upcoming"])
def test_memory_that_was_reserved_for_the_next_epoch_is_released(
    directory: RunDirectory, base_id: int, name: str
) -> None:
    segment = Segment(base_id)
    assert segment.claim(HotRestartVersion(11, 104))
    Back(directory, boot=boot(), **{name: base_id}).take()
    assert not segment.path.exists()


# Ended


def test_a_killed_process_is_gone_when_its_pid_is_told(directory: RunDirectory) -> None:
    with epoch() as process:
        assert clear(entry(process)) == process.pid
        assert process.poll() == -signal.SIGKILL


def test_a_stranger_is_neither_killed_nor_told(base_id: int) -> None:
    segment = Segment(base_id)
    assert segment.claim(HotRestartVersion(11, 104))
    with epoch() as stranger:
        assert clear(entry(stranger, created=1, base_id=base_id)) is None
        assert stranger.poll() is None
    assert not segment.path.exists(), "the base id was the dead epoch's"


def test_a_pid_that_is_reused_while_it_is_looked_at_is_not_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pidfd is open by then: it is looked at once more, and cannot change any more."""
    with epoch() as stranger:
        looks = iter([stranger.pid, None])
        monkeypatch.setattr(module, "pid_of", lambda _: next(looks))
        clear(entry(stranger))
        assert stranger.poll() is None
        assert next(looks, "no look") == "no look"


def test_a_process_that_ends_while_it_is_looked_at_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "pid_of", lambda _: (1 << 22) + 1)
    assert clear({"base_id": None}) == (1 << 22) + 1


def test_the_end_of_an_epoch_without_clients_is_told_with_its_pid(
    directory: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    with epoch() as process:
        come_back(directory, entry(process, stage="starting"))
    [text] = [record.getMessage() for record in caplog.records]
    assert "epoch 3" in text
    assert str(process.pid) in text
    come_back(directory, entry(process))
    assert len(caplog.records) == 1, "it has exited before"
    assert os.getpid() != process.pid


# Pushes


@pytest.mark.parametrize(("times", "is_torn"), [(0, False), (0, True), (1, False), (2, True)])
def test_what_was_pushed_into_an_epoch_is_what_it_runs(times: int, is_torn: bool, no_descriptor_leaks: None) -> None:
    with pushed_into() as epoch:
        for _ in range(times):
            epoch.push()
        store = RevisionStore()
        loaded = recover(PUSHING, epoch.found(is_torn=is_torn), store)
        assert loaded.revision == epoch.loaded.revision
        assert loaded.revision.push_base == epoch.loaded.revision.push_base
        assert loaded.selection.files == epoch.loaded.selection.files
        assert loaded.pushable == epoch.loaded.pushable
        loaded.program.binary.close()
        store.keep_only([])
