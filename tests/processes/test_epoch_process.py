"""An epoch's process and all that is its own, from its directory to its last socket; no process is started."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from agent.core.epochs import State
from agent.core.errors import AddressHeld, MachineError
from agent.handoff.segment import Segment
from agent.handoff.socket_store import ListenAddress
from agent.host.carried import Carried
from agent.host.processes import Command, User, created_at
from agent.host.run_directory import RunDirectory
from agent.processes import epoch_process, reserved_segments
from agent.processes.epoch_process import EpochProcess
from agent.processes.manifest import Manifest
from agent.processes.push_target import PushTarget
from agent.processes.reserved_segments import ReservedSegments
from agent.processes.survivor import Survivor
from tests import pki
from tests.handoff.handmade import DRAIN_LISTENERS, SHUTDOWN_ADMIN
from tests.processes import pushed_into
from tests.processes.conftest import MakeEpoch
from tests.processes.fakes import PUSHING, VERSION, Calls, FakeProcess, Kernel, Peer, Revisions, listening
from tests.processes.links import child_of, link_of, parent_of, segment_of
from tests.processes.test_manifest import CHAIN, KEY, TEXT
from tests.processes.virtual_time import now, turns, virtual_time

UDP = """
static_resources:
  listeners: [{name: u, address: {socket_address: {protocol: UDP, address: 127.0.0.1, port_value: 53}}}]
"""
LEAF = pki.Authority.create("ca").issue(["a.test"])
FILES = {CHAIN: LEAF.chain_pem, KEY: LEAF.key_pem}
PLACE = ListenAddress("tcp://127.0.0.1:1")


@pytest.fixture
def found(directory: RunDirectory, base_id: int) -> Survivor:
    """An earlier agent's epoch 3, whose process is this one."""
    directory.make_epoch(3, None)
    return Survivor(3, State.SERVING, os.getpid(), 7, "abc", base_id, Carried(9, 12, 4711), frozenset({PLACE}))


# Its resources


def test_a_new_epoch_has_a_directory_memory_and_a_manifest_of_its_own(
    make_epoch: MakeEpoch, directory: RunDirectory
) -> None:
    epoch = make_epoch(number=4)
    assert epoch.home == directory.path / "4"
    assert segment_of(epoch).path.read_bytes() == VERSION.image()
    assert link_of(epoch).names.directory == epoch.home
    assert link_of(epoch).names.base_id == segment_of(epoch).base_id
    assert epoch.admin.path == epoch.home / "admin"
    assert link_of(epoch).gate.path == epoch.home / "gate"
    assert Manifest.carried_by(os.getpid(), epoch.manifest) == Manifest.of(epoch.loaded)
    assert (epoch.pid, epoch.asked, epoch.bound_itself, epoch.is_adopted()) == (None, set(), set(), False)
    assert not any((epoch.has_served, epoch.drains, epoch.was_asked, epoch.was_killed, epoch.was_starved))


def test_the_program_has_its_own_name_in_a_list_of_processes(make_epoch: MakeEpoch) -> None:
    epoch = make_epoch()
    link = epoch.home / "bin/true"
    assert str(link.readlink()) == f"/proc/self/fd/{epoch.loaded.program.binary.descriptor}"
    assert link.samefile("/bin/true")


def test_each_epoch_has_a_nonce_that_nobody_guesses(make_epoch: MakeEpoch) -> None:
    nonces = {make_epoch(number=number).nonce for number in (1, 2, 3)}
    assert len(nonces) == 3
    assert {len(bytes.fromhex(nonce)) for nonce in nonces} == {16}


def test_the_reserved_memory_is_used(directory: RunDirectory, revisions: Revisions) -> None:
    segments = ReservedSegments(None)
    segments.keep_one(VERSION)
    spare = segments.spare
    epoch = EpochProcess(1, revisions.load(), directory, None, Calls().access, segments=segments)
    epoch.clear()
    assert epoch.segment == spare
    assert segments.spare is None


def test_without_shared_memory_there_is_no_epoch(
    directory: RunDirectory, revisions: Revisions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(reserved_segments, "Segment", lambda number: Segment(number, tmp_path / "gone"))
    with pytest.raises(MachineError, match="gone"):
        EpochProcess(1, revisions.load(), directory, None, Calls().access)


def test_an_adopted_epoch_keeps_what_it_has(
    make_epoch: MakeEpoch, directory: RunDirectory, found: Survivor, base_id: int
) -> None:
    epoch = make_epoch(number=3, found=found)
    assert (epoch.nonce, epoch.manifest, segment_of(epoch).base_id) == ("abc", Carried(9, 12, 4711), base_id)
    assert epoch.home == directory.path / "3"
    assert list(epoch.home.iterdir()) == [], "nothing is made anew"
    assert not segment_of(epoch).path.exists()
    assert epoch.is_adopted()


# Validation


async def test_a_configuration_that_the_proxy_accepts_has_no_complaint(make_epoch: MakeEpoch, kernel: Kernel) -> None:
    epoch = make_epoch()
    assert await epoch.validate(7.0) is None
    [(command, timeout)] = kernel.ran
    assert timeout == 7.0
    assert list(command.arguments)[-2:] == ["--mode", "validate"]
    assert kernel.started == []
    assert command.output is None
    assert not command.dumps_core


async def test_a_complaint_names_files_by_the_operators_paths(make_epoch: MakeEpoch, kernel: Kernel) -> None:
    epoch = make_epoch(TEXT, FILES)
    number = epoch.loaded.descriptors[KEY]
    kernel.results = [(1, f"bad key in /dev/fd/{number}")]
    complaint = await epoch.validate(1)
    assert complaint is not None
    assert complaint.text == f"bad key in {KEY}"
    assert complaint.paths == {KEY}


async def test_the_copy_of_the_configuration_has_the_name_of_the_original_in_a_complaint(
    make_epoch: MakeEpoch, kernel: Kernel
) -> None:
    epoch = make_epoch()
    await epoch.validate(1)
    copy = list(kernel.ran[0][0].arguments)[2]
    kernel.results = [(255, f"no such field in {copy}")]
    complaint = await epoch.validate(1)
    assert complaint is not None
    assert complaint.text == "no such field in /etc/envoy.yaml"


async def test_a_variant_is_validated_with_its_own_files(
    make_epoch: MakeEpoch, kernel: Kernel, revisions: Revisions
) -> None:
    epoch, variant = make_epoch(), revisions.load(TEXT, FILES)
    await epoch.validate(1, variant)
    [(command, _)] = kernel.ran
    assert set(variant.descriptors.values()) <= set(command.descriptors)
    copy = int(list(command.arguments)[2].removeprefix("/dev/fd/"))
    text = os.pread(copy, 1 << 16, 0)
    assert f"/dev/fd/{variant.descriptors[KEY]}".encode() in text
    assert KEY.encode() not in text


async def test_a_validation_that_does_not_end_is_the_machines_error(make_epoch: MakeEpoch, kernel: Kernel) -> None:
    kernel.results = [MachineError("it did not end")]
    with pytest.raises(MachineError):
        await make_epoch().validate(1)


# Launch


@virtual_time
async def test_all_sockets_are_open_before_the_process_starts(make_epoch: MakeEpoch, kernel: Kernel) -> None:
    """A proxy that finds nobody at the other end aborts."""
    epoch = make_epoch()
    seen: list[list[bool]] = []
    paths = (link_of(epoch).names.agent_as_parent, link_of(epoch).names.agent_as_child, link_of(epoch).gate.path)
    kernel.before_start = lambda: seen.append([path.is_socket() for path in paths])
    assert await epoch.launch(0) == os.getpid()
    assert seen == [[True, True, True]]
    assert (epoch.pid, epoch.created) == (os.getpid(), created_at(os.getpid()))
    assert link_of(epoch).relay is None, "it has no datagrams to pass on"
    await epoch.cleanup()


@virtual_time
async def test_the_command_has_the_program_its_descriptors_and_its_identity(
    make_epoch: MakeEpoch, kernel: Kernel
) -> None:
    epoch = make_epoch(TEXT, FILES, number=4)
    await epoch.launch(0, 3, dumps_core=True)
    [command] = kernel.started
    assert command.binary == epoch.loaded.program.binary.descriptor
    assert command.executable == str(epoch.home / "bin/true")
    assert command.arguments[0] == "/bin/true"
    assert command.arguments[command.arguments.index("--parent-shutdown-time-s") + 1] == "3"
    assert command.arguments[command.arguments.index("--base-id") + 1] == str(segment_of(epoch).base_id)
    assert "[epoch 4]" in command.arguments[command.arguments.index("--log-format") + 1]
    assert set(command.descriptors) > {*epoch.loaded.descriptors.values(), epoch.manifest.descriptor}
    assert command.environment["PROXY_AGENT_EPOCH"] == "4"
    assert command.environment["PROXY_AGENT_NONCE"] == epoch.nonce
    assert str(epoch.home / "stats") in command.environment.values()
    assert command.dumps_core
    assert command.user is None
    assert command.output is None, "its log is the agent's"
    await epoch.cleanup()


@virtual_time
async def test_a_launch_does_not_overlap_and_dumps_no_core_by_itself(make_epoch: MakeEpoch, kernel: Kernel) -> None:
    epoch = make_epoch()
    await epoch.launch(0)
    [command] = kernel.started
    assert command.arguments[command.arguments.index("--parent-shutdown-time-s") + 1] == "0"
    assert not command.dumps_core
    await epoch.cleanup()


@pytest.mark.parametrize(("reads_json", "start"), [(True, b"{"), (False, b"static_resources")])
@virtual_time
async def test_the_copy_is_in_the_language_that_the_program_reads(
    make_epoch: MakeEpoch, kernel: Kernel, revisions: Revisions, reads_json: bool, start: bytes
) -> None:
    revisions.program = replace(revisions.program, reads_json=reads_json)
    epoch = make_epoch(UDP.strip())
    await epoch.launch(0)
    copy = int(kernel.started[0].arguments[2].removeprefix("/dev/fd/"))
    assert os.pread(copy, 1 << 16, 0).lstrip().startswith(start)
    await epoch.cleanup()


@virtual_time
async def test_a_proxy_of_another_user_owns_what_it_has_to_open(
    directory: RunDirectory, revisions: Revisions, kernel: Kernel
) -> None:
    own = directory.path.stat()
    user = User(own.st_uid, own.st_gid) if os.geteuid() else User(65534, 65533)
    epoch = EpochProcess(1, revisions.load(UDP), directory, user, Calls().access)
    await epoch.launch(0)
    assert kernel.started[0].user == user
    paths = [
        epoch.home,
        segment_of(epoch).path,
        link_of(epoch).gate.path,
        link_of(epoch).names.agent_as_parent,
        link_of(epoch).names.agent_as_child,
    ]
    assert {(path.stat().st_uid, path.stat().st_gid) for path in paths} == {user.owner}
    await epoch.cleanup()


@virtual_time
async def test_a_program_that_cannot_be_executed_leaves_nothing(make_epoch: MakeEpoch, kernel: Kernel) -> None:
    kernel.refusal = MachineError("cannot start /bin/true")
    epoch = make_epoch()
    with pytest.raises(MachineError):
        await epoch.launch(0)
    assert epoch.pid is None
    await epoch.cleanup()
    assert not epoch.home.exists()


@virtual_time
async def test_only_the_process_itself_is_listened_to(make_epoch: MakeEpoch, kernel: Kernel) -> None:
    epoch = make_epoch(UDP)
    await epoch.launch(0)
    assert link_of(epoch).relay is not None
    parts: list[Any] = [
        parent_of(epoch).channel,
        child_of(epoch).channel,
        link_of(epoch).gate,
        epoch.admin,
        link_of(epoch).relay,
    ]
    assert [each.pid for each in parts] == [os.getpid()] * 5
    await epoch.cleanup()


# What it reports


class Launched:
    """An epoch that was launched, and the proxy's side of it."""

    def __init__(self, epoch: EpochProcess, calls: Calls) -> None:
        self.epoch, self.calls, self.proxy = epoch, calls, Peer(link_of(epoch).names)

    async def close(self) -> None:
        self.proxy.close()
        await self.epoch.cleanup()


async def launched(make_epoch: MakeEpoch, get: Callable[[int, ListenAddress], int | None] | None = None) -> Launched:
    calls = Calls(get) if get is not None else Calls()
    epoch = make_epoch(number=4, calls=calls)
    await epoch.launch(1_600_000_000)
    return Launched(epoch, calls)


@virtual_time
async def test_each_report_has_the_epochs_number(make_epoch: MakeEpoch, kernel: Kernel) -> None:
    run = await launched(make_epoch)
    run.proxy.request(DRAIN_LISTENERS)
    await turns()
    run.proxy.ask("tcp://no.literal:1")
    await turns()
    kernel.processes[0].exit(-9)
    assert run.calls.serving == [4]
    assert [number for number, _ in run.calls.broken] == [4]
    assert run.calls.exits == [(4, -9)]
    await run.close()


@virtual_time
async def test_an_address_that_is_held_is_reported(make_epoch: MakeEpoch, kernel: Kernel) -> None:
    asked: list[tuple[int, ListenAddress]] = []

    def get(number: int, place: ListenAddress) -> int | None:
        asked.append((number, place))
        raise AddressHeld("somebody is there")

    run = await launched(make_epoch, get)
    run.proxy.ask(PLACE.address)
    await turns()
    assert asked == [(4, PLACE)]
    assert [(number, str(error)) for number, error in run.calls.held] == [(4, "somebody is there")]
    assert run.epoch.asked == {PLACE}
    assert run.epoch.bound_itself == set()
    await run.close()


@virtual_time
async def test_what_it_asked_for_and_had_to_bind_is_known(make_epoch: MakeEpoch, kernel: Kernel) -> None:
    [listener] = listening()
    with listener:
        given = ListenAddress("tcp://127.0.0.1:2")
        run = await launched(make_epoch, lambda _, place: listener.fileno() if place == given else None)
        for place in (PLACE, given):
            run.proxy.ask(place.address)
        await turns()
        assert run.epoch.asked == {PLACE, given}
        assert run.epoch.bound_itself == {PLACE}
        await run.close()


@virtual_time
async def test_the_service_began_when_the_agent_says(make_epoch: MakeEpoch, kernel: Kernel) -> None:
    run = await launched(make_epoch)
    run.proxy.request(SHUTDOWN_ADMIN)
    await turns()
    assert b"\x80\xa0\xf8\xfa\x05" in run.proxy.replies[0][0], "1,600,000,000 as a varint"
    await run.close()


async def at_the_gate(epoch: EpochProcess) -> asyncio.StreamWriter:
    """Ask the gate for its routes, as the proxy."""
    _, writer = await asyncio.open_unix_connection(str(link_of(epoch).gate.path))
    writer.write(b"POST /v3/discovery:routes HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
    await turns()
    return writer


@virtual_time
async def test_the_gate_is_reached_once(make_epoch: MakeEpoch, kernel: Kernel) -> None:
    run = await launched(make_epoch)
    for _ in range(2):
        (await at_the_gate(run.epoch)).close()
    assert run.calls.gates == [4]
    await run.close()


# Adoption


@pytest.mark.parametrize(
    ("state", "has_served"), [(State.OPENING, False), (State.SERVING, True), (State.DRAINING, True)]
)
@virtual_time
async def test_an_adopted_process_goes_on_where_it_was(
    make_epoch: MakeEpoch, kernel: Kernel, found: Survivor, state: State, has_served: bool
) -> None:
    found, calls = replace(found, state=state), Calls()
    epoch = make_epoch(number=3, found=found, calls=calls)
    await epoch.take_over(found, 0)
    proxy = Peer(link_of(epoch).names)
    assert (epoch.pid, epoch.created, epoch.has_served) == (os.getpid(), 7, has_served)
    assert (epoch.asked, epoch.bound_itself) == ({PLACE}, {PLACE})
    assert (kernel.adopted, kernel.started) == ([(os.getpid(), 7)], []), "by its pid and its start"
    (await at_the_gate(epoch)).close()
    proxy.request(DRAIN_LISTENERS)
    await turns()
    assert calls.gates == [], "it was there before"
    assert calls.serving == ([] if has_served else [3])
    proxy.close()
    await epoch.cleanup()


@virtual_time
async def test_a_process_that_is_gone_is_not_adopted(make_epoch: MakeEpoch, kernel: Kernel, found: Survivor) -> None:
    kernel.refusal = MachineError("it is another one by now")
    epoch = make_epoch(number=3, found=found)
    with pytest.raises(MachineError):
        await epoch.take_over(found, 0)
    assert (epoch.pid, link_of(epoch).parent, link_of(epoch).child) == (None, None, None)


@virtual_time
async def test_an_adopted_process_whose_sockets_cannot_be_made_can_still_be_killed(
    make_epoch: MakeEpoch, kernel: Kernel, found: Survivor
) -> None:
    epoch = make_epoch(number=3, found=found)
    epoch.home.rmdir()
    with pytest.raises(MachineError):
        await epoch.take_over(found, 0)
    epoch.signal(signal.SIGKILL)
    assert kernel.processes[0].signals == [signal.SIGKILL]


# Signals and the end


@pytest.mark.parametrize(
    ("number", "asked", "killed"),
    [(signal.SIGTERM, True, False), (signal.SIGKILL, False, True), (signal.SIGUSR1, False, False)],
)
def test_a_signal_reaches_the_process_and_is_remembered(
    make_epoch: MakeEpoch, number: signal.Signals, asked: bool, killed: bool
) -> None:
    epoch = make_epoch(pid=1)
    epoch.signal(number)
    assert cast(FakeProcess, epoch.process).signals == [number]
    assert (epoch.was_asked, epoch.was_killed) == (asked, killed)
    epoch.signal(signal.SIGUSR1)
    assert (epoch.was_asked, epoch.was_killed) == (asked, killed)


def test_before_there_is_a_process_a_signal_reaches_nobody(make_epoch: MakeEpoch) -> None:
    epoch = make_epoch()
    epoch.signal(signal.SIGKILL)
    assert epoch.was_killed


@virtual_time
async def test_nothing_of_an_epoch_is_left(make_epoch: MakeEpoch, kernel: Kernel) -> None:
    epoch = make_epoch(UDP)
    await epoch.launch(0)
    await epoch.cleanup()
    assert not epoch.home.exists()
    assert not segment_of(epoch).path.exists()
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(epoch.manifest.descriptor)


# Sockets


@virtual_time
async def test_a_duplicate_of_its_socket_is_the_callers(make_epoch: MakeEpoch, kernel: Kernel) -> None:
    run = await launched(make_epoch)
    [listener] = listening()
    with listener:
        address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        run.proxy.sockets[address, 2] = listener
        descriptor = await run.epoch.duplicate(ListenAddress(address, worker=2))
        assert descriptor is not None
        assert os.fstat(descriptor).st_ino == os.fstat(listener.fileno()).st_ino
        os.close(descriptor)
        assert await run.epoch.duplicate(ListenAddress(address)) is None
    await run.close()


@virtual_time
async def test_a_process_that_does_not_answer_is_waited_for_five_seconds(make_epoch: MakeEpoch, kernel: Kernel) -> None:
    epoch = make_epoch()
    await epoch.launch(0)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(link_of(epoch).names.epoch_as_parent))
        began = now()
        with pytest.raises(MachineError, match=r"127\.0\.0\.1:1"):
            await epoch.duplicate(PLACE)
        assert now() - began == pytest.approx(5.0)
    await epoch.cleanup()


async def test_before_there_is_a_process_it_has_no_socket_and_accepts_nothing(make_epoch: MakeEpoch) -> None:
    epoch = make_epoch()
    assert await epoch.duplicate(PLACE) is None
    epoch.stop_accepting()


@virtual_time
async def test_it_is_told_to_stop_accepting(make_epoch: MakeEpoch, kernel: Kernel) -> None:
    run = await launched(make_epoch)
    run.epoch.stop_accepting()
    await turns()
    assert run.proxy.drains == 1
    await run.close()


@virtual_time
async def test_a_process_that_is_gone_cannot_be_told(make_epoch: MakeEpoch, kernel: Kernel) -> None:
    epoch = make_epoch()
    await epoch.launch(0)
    with pytest.raises(MachineError):
        epoch.stop_accepting()
    await epoch.cleanup()


# Pushes


@pytest.fixture
def pushing(directory: RunDirectory, kernel: Kernel, no_descriptor_leaks: None) -> Iterator[EpochProcess]:
    """An epoch that takes pushes."""
    revisions = Revisions(PUSHING)
    loaded = revisions.load(pushed_into.TEXT, pushed_into.pair())
    made = EpochProcess(1, loaded, directory, None, Calls().access)
    yield made
    if made.home.exists():
        made.clear()
    revisions.close()


async def test_an_epoch_that_takes_pushes_inherits_its_slots(pushing: EpochProcess, kernel: Kernel) -> None:
    assert pushing.takes_pushes
    assert pushing.target is not None
    before = pushing.delivery
    assert before is None, "its configuration is not made yet"
    await pushing.launch(0)
    after: object = pushing.delivery
    assert after is pushing.target.delivery is not None
    [command] = kernel.started
    assert pushing.target.slots.descriptors <= set(command.descriptors)
    arguments = " ".join(command.arguments)
    assert "--drain-strategy immediate" in arguments
    assert pushing.paths == pushing.target.paths
    assert len(pushing.paths) == 6
    copy = int(arguments.partition("-c /dev/fd/")[2].split()[0])
    assert b"lds_config" in os.pread(copy, 1 << 20, 0)
    assert set(Manifest.carried_by(os.getpid(), pushing.manifest).slots) == {CHAIN, KEY}
    await pushing.cleanup()


async def test_its_validation_is_of_the_operators_own_form(pushing: EpochProcess, kernel: Kernel) -> None:
    read: list[bytes] = []

    async def run(command: Command, _: float) -> tuple[int, str]:
        copy = int(" ".join(command.arguments).partition("-c /dev/fd/")[2].split()[0])
        read.append(os.pread(copy, 1 << 20, 0))
        return 0, ""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(epoch_process, "run", run)
        assert await pushing.validate(1) is None
    assert b"lds_config" not in read[0]
    assert b"8443" in read[0]


def test_without_memory_for_slots_an_epoch_takes_no_pushes(
    directory: RunDirectory,
    no_descriptor_leaks: None,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: object) -> PushTarget | None:
        message = "cannot make memory"
        raise MachineError(message)

    revisions = Revisions(PUSHING)
    monkeypatch.setattr(PushTarget, "make", refuse)
    epoch = EpochProcess(1, revisions.load(pushed_into.TEXT, pushed_into.pair()), directory, None, Calls().access)
    assert not epoch.takes_pushes
    assert epoch.delivery is None
    assert [cast(Any, record).event for record in caplog.records] == ["push.unavailable"]
    assert "cannot make memory; epoch 1 takes no pushes" in caplog.text
    epoch.clear()
    revisions.close()


def test_slots_are_closed_where_the_epoch_gets_no_shared_memory(
    directory: RunDirectory, no_descriptor_leaks: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The fixture compares the descriptors."""
    revisions = Revisions(PUSHING)
    loaded = revisions.load(pushed_into.TEXT, pushed_into.pair())
    monkeypatch.setattr(reserved_segments, "Segment", lambda number: Segment(number, tmp_path / "gone"))
    with pytest.raises(MachineError, match="gone"):
        EpochProcess(1, loaded, directory, None, Calls().access)
    revisions.close()
