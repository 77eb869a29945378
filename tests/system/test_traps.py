"""Known faults of hot restart and of a process between two Envoys, and the test that covers each.

A name without a path is a test of this file; `handoff/`, `proxies/envoy/` and so on are packages of `tests/`.

Envoy's hot restart:

| fault | covered by |
|---|---|
| abstract names are open to every user, and can be stolen | `handoff/test_socket_paths`, `host/test_run_directory` |
| every process with write permission may send | `handoff/test_channel`: only the epoch's pid counts |
| `base_id * 10` wraps in 32 bits | `handoff/test_socket_paths::test_no_base_id_wraps_in_32_bits` |
| a wrong length, a foreign cmsg, a truncated datagram abort | `handoff/test_framing`, `handoff/test_channel` |
| the sender blocks if the peer does not read | `handoff/test_channel::test_a_peer_that_does_not_read_…` |
| every process with write permission may inject an answer | `handoff/test_child::test_an_answer_from_a_third_…` |
| unknown requests, TestConnection | `handoff/test_parent` |
| the admin socket is never passed | `test_the_admin_interface_is_the_epochs_own` |
| a SIGTERM to a candidate ends the old one | `test_a_candidate_that_ends_…`, `test_candidate` |
| a flag stays set after the exit | the same, and `test_bad_input` |
| ShutdownAdmin ends the admin server and the stats of the old one | the same: the old admin interface answers |
| PDEATHSIG depends on the thread | `processes/test_epoch_process::test_an_epoch_is_a_child_of_…` |
| a missing or stale segment, one that is never removed | `test_a_foreign_leftover_…`, `handoff/test_segment` |
| a Stats request removes counts from the sinks | `handoff/test_child::test_stats_are_never_asked_…` |
| fewer workers strand clients | `handoff/test_reuseport_filter`, `test_workers` |
| a blocking socket hangs a worker | `test_a_socket_bound_for_…`, `host/test_sockets` |
| an answer without a receiver aborts the proxy | `test_a_question_that_was_given_up_…` |
| a child that does not read blocks the main thread | `handoff/test_child::test_one_question_at_a_time` |
| an address that cannot be parsed aborts | `test_only_what_the_proxy_names_itself_is_asked` |
| a bound child name stops the next epoch | `test_two_candidates_in_a_row_…`: a base id for each epoch |
| a message of 3 bytes aborts | only `framing.cut` sends |
| a child that exits after DrainListeners leaves closed listeners | `test_crash`: the socket store holds them |
| a child without a parent aborts | `test_a_serving_epoch_needs_no_parent_at_its_sockets` (long) |
| the old one exits during its drain: the new one aborts | `test_the_new_one_outlives_the_old_one` (long) |
| a removed listener hangs its clients | `test_a_listener_that_is_gone_refuses_its_clients`, `test_lds` |
| a plain epoch 0 beside held sockets | no epoch is 0: `proxies/envoy/test_proxy` |
| a second restart cuts the drain of the first (issue 15099) | `test_bursts` |

A process between two Envoys:

| fault | covered by |
|---|---|
| without a gate, a candidate serves at once | `test_candidate::test_no_client_is_answered_by_a_candidate_…` |
| REST xDS needs a node | `proxies/envoy/test_proxy::test_the_node_is_given_only_…`, every test here (no node) |
| a missing socket file aborts at once | `test_an_epoch_is_not_asked_when_its_answer_would_find_no_name` |
| after Terminate no message is sent to the parent | `test_a_serving_epoch_needs_no_parent_at_its_sockets` |
| an epoch without listeners looks ready | `processes/test_listeners`, `test_lds` |
| `shutdown()` refuses, `listen()` revives | `handoff/test_socket_store` |
| two programs share a port silently | `host/test_sockets`, `test_places` |
| invalid files on disk and a crash | `test_crash`; certificates with removed files: `test_files_removed_after_…` |
| the binary is unlinked | `test_an_unlinked_program_runs_on` |
| serials as `0abc`, `01` | `proxies/envoy/test_admin_client` |
| a pipe between proxy and log | `test_an_epoch_writes_where_the_agent_writes` |
| inherited descriptors | `test_an_epoch_inherits_what_is_meant_for_it_and_nothing_else` |
| the agent's own flags, `--config-yaml` twice | `proxies/envoy/test_proxy`, `proxies/envoy/test_bootstrap` |
| `allow_paths` blocks the agent's admin requests | `test_allowed_paths_bind_the_operators_address_only` |
| a socket path of 94 bytes | `handoff/test_socket_paths` |
| admin requests count as clients | `proxies/envoy/test_admin_client` |
| drains without an end | `test_rotation`, `test_bursts`: the deadline |
| UDP | not guaranteed; `handoff/test_udp_relay` |
| watchdog, torn counters | `host/test_watching`, `stats/test_torn_reads` |

The tests here drive the real Envoy with the agent's own classes.
"""

import asyncio
import itertools
import json
import os
import random
import shutil
import signal
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest

from agent.core.errors import MachineError
from agent.handoff.segment import Segment
from agent.handoff.socket_paths import BASE_ID_LIMIT
from agent.host.sockets import Endpoint, bind_for_proxy
from agent.http import client
from tests.pki import Authority
from tests.processes.harness import EpochHandle, Harness, alive, descriptors_of, happens, harness, place, until
from tests.processes.links import link_of, parent_of, segment_of
from tests.system.bare import body_of, envoy_binary
from tests.system.bootstrap import Bootstrap, Secured, address
from tests.system.eventually import PATIENCE, throughout
from tests.system.room import Room
from tests.system.wire import Target

pytestmark = pytest.mark.skipif(envoy_binary() is None, reason="no Envoy")
Play = Callable[[Harness], Coroutine[None, None, None]]


def on_stage(play: Play, binary: Path | None = None) -> None:
    """Run a test coroutine to its end."""

    async def run() -> None:
        async with harness(binary) as stage:
            await play(stage)

    asyncio.run(run())


@pytest.fixture
def text(room: Room) -> str:
    """Return a plain bootstrap on the first port of the sandbox."""
    return plain(room.port())


def plain(port: int, body: str = "ok\n") -> str:
    """Return a bootstrap with one plain listener."""
    made = Bootstrap(1, port, [], body=body)
    tree = made.tree()
    tree["static_resources"]["listeners"].pop(0)
    return json.dumps(tree)


def port_of(role: EpochHandle) -> int:
    """Return the port of its only listener."""
    return int(role.process.loaded.configuration.listeners[0].place.address.rpartition(":")[2])


async def body(role: EpochHandle) -> bytes:
    """Return the response of its listener."""
    return await asyncio.to_thread(body_of, Target("127.0.0.1", port_of(role)))


async def state(role: EpochHandle) -> str:
    """Return its state from the admin interface."""
    _, said = await client.fetch(role.process.admin.path, "/server_info", timeout=PATIENCE)
    return str(json.loads(said)["state"])


def flags(role: EpochHandle) -> bytes:
    """Return the flags of its shared memory: zero unless a process initialises."""
    return segment_of(role.process).path.read_bytes()[96:]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_candidate_that_ends_leaves_nothing_behind_and_nothing_touched(how: signal.Signals, text: str) -> None:
    """With stock hot restart, the old one loses its admin interface, its flag stays set, and a SIGTERM ends both."""

    async def play(stage: Harness) -> None:
        old = await stage.serving(text)
        candidate = stage.start(text)
        await candidate.reach_gate()
        assert flags(candidate) != bytes(8)
        candidate.process.signal(how)
        await happens(candidate.exited)
        await candidate.cleanup()
        assert not segment_of(candidate.process).path.exists()
        assert not link_of(candidate.process).names.directory.exists()
        assert await state(old) == "LIVE"
        assert flags(old) == bytes(8)
        assert await body(old) == b"ok\n"
        await stage.start(text).serve(old)

    on_stage(play)


def test_two_candidates_in_a_row_and_an_epoch_that_stays_do_not_share_a_name(text: str) -> None:
    async def play(stage: Harness) -> None:
        roles = [await stage.serving(text)]
        for _ in range(2):
            roles.append(stage.start(text))
            await roles[-1].reach_gate()
        assert len({segment_of(role.process).base_id for role in roles}) == 3
        assert all([await state(role) for role in roles])

    on_stage(play)


def test_a_question_that_was_given_up_does_not_abort_the_proxy(text: str) -> None:
    """A reply without a receiver aborts Envoy after 10 s; here the agent receives and discards it."""

    async def play(stage: Harness) -> None:
        serving = await stage.serving(text)
        child, asked = link_of(serving.process).child, place(port_of(serving))
        assert child is not None
        serving.process.signal(signal.SIGSTOP)
        with pytest.raises(MachineError, match="no answer"):
            await child.ask(asked, 0.05)
        serving.process.signal(signal.SIGCONT)
        descriptor = await child.ask(asked, 5)
        assert descriptor is not None
        assert stage.listeners.store.same(asked, descriptor)
        os.close(descriptor)
        assert await child.ask(place(1), 5) is None
        assert await state(serving) == "LIVE"

    on_stage(play)


def test_an_epoch_is_not_asked_when_its_answer_would_find_no_name(text: str) -> None:
    """The run directory is emptied: Envoy would abort when it answers."""

    async def play(stage: Harness) -> None:
        serving = await stage.serving(text)
        link_of(serving.process).names.agent_as_child.unlink()
        with pytest.raises(MachineError, match="would abort it"):
            await serving.process.duplicate(place(port_of(serving)))
        assert await state(serving) == "LIVE"

    on_stage(play)


@pytest.mark.long
def test_a_serving_epoch_needs_no_parent_at_its_sockets(text: str) -> None:
    """After Terminate Envoy sends no more messages to its parent: neither retries nor the next Stats abort it."""

    async def play(stage: Harness) -> None:
        serving = await stage.serving(text)
        for _ in range(3):  # Terminate follows DrainListeners in the next iteration of its main thread
            await state(serving)
        parent_of(serving.process).close()
        throughout(lambda: alive(serving.pid), span=16, what="it lives without a parent", every=0.5)
        assert await body(serving) == b"ok\n"

    on_stage(play)


@pytest.mark.long
def test_the_new_one_outlives_the_old_one(text: str) -> None:
    """With stock hot restart, the new one aborts 14.8 s after the old one exited during its drain."""

    async def play(stage: Harness) -> None:
        old = await stage.serving(text)
        new = stage.start(text)
        await new.serve(old)
        old.process.signal(signal.SIGKILL)
        await happens(old.exited)
        throughout(lambda: alive(new.pid), span=16, what="the new one lives", every=0.5)
        assert await body(new) == b"ok\n"

    on_stage(play)


def test_the_new_one_serves_on_at_the_moment_the_old_one_dies(text: str) -> None:
    async def play(stage: Harness) -> None:
        old = await stage.serving(text)
        new = stage.start(text)
        await new.serve(old)
        old.process.signal(signal.SIGKILL)
        await happens(old.exited)
        assert await body(new) == b"ok\n"
        assert await state(new) == "LIVE"

    on_stage(play)


def test_a_foreign_leftover_of_a_base_id_is_passed_by(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Envoy never removes its segment: an old one of root blocks the same base id."""
    taken, free = random.SystemRandom().sample(range(1, BASE_ID_LIMIT), 2)  # the machine has one /dev/shm
    leftover = Segment(taken).path
    leftover.write_bytes(b"root's")
    numbers = itertools.chain([taken, free], itertools.count(free + 1))
    monkeypatch.setattr("agent.processes.reserved_segments.secrets.randbelow", lambda _: next(numbers) - 1)

    async def play(stage: Harness) -> None:
        serving = await stage.serving(text)
        assert segment_of(serving.process).base_id == free

    try:
        on_stage(play)
        assert leftover.read_bytes() == b"root's"
    finally:
        leftover.unlink()
    assert not Segment(free).path.exists()


def test_a_socket_bound_for_the_proxy_is_served(text: str) -> None:
    """A blocking one hangs the worker in accept; Envoy calls listen on one that does not listen yet."""

    async def play(stage: Harness) -> None:
        role = stage.start(text)
        port = port_of(role)
        for worker in range(2):
            bound = bind_for_proxy(Endpoint("127.0.0.1", port), reuse_port=True, dual_stack=False)
            stage.listeners.store.put(place(port, worker), bound.detach())
        await role.serve()
        assert not parent_of(role.process).bound_itself
        assert [await body(role) for _ in range(8)] == [b"ok\n"] * 8

    on_stage(play)


def test_only_what_the_proxy_names_itself_is_asked(text: str) -> None:
    """Any other address aborts it. The socket store holds one socket for each worker, the same ones as Envoy."""

    async def play(stage: Harness) -> None:
        serving = await stage.serving(text)
        port = port_of(serving)
        assert stage.listeners.store.places() == [place(port, 0), place(port, 1)]
        sockets = {f"socket:[{inode}]" for inode in stage.listeners.store.inodes()}
        assert sockets <= set(descriptors_of(serving.pid).values())

    on_stage(play)


def test_a_listener_that_is_gone_refuses_its_clients(text: str, room: Room) -> None:
    """If the socket store held its socket, its clients would hang."""
    other = plain(room.port())

    async def play(stage: Harness) -> None:
        old = await stage.serving(text)
        new = stage.start(other)
        await new.serve(old)
        closed = port_of(old)

        async def refused() -> bool:
            return await asyncio.to_thread(_is_refused, closed)

        await until(refused)
        assert stage.listeners.store.listeners() == {place(port_of(new))}

    on_stage(play)


def _is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE).close()
    except ConnectionResetError:
        return False  # removed between the two halves of a handshake
    except ConnectionRefusedError:
        return True
    return False


def test_files_removed_after_the_check_are_not_needed(room: Room) -> None:
    """They are sealed memory, passed as `/dev/fd/N`."""
    leaf = Authority.create("ca").issue(["a.test"])
    chain, key = "/gone/tls.crt", "/gone/tls.key"
    made = Bootstrap(room.port(), room.port(), [Secured(Path(chain), Path(key))])

    async def play(stage: Harness) -> None:
        role = stage.start(made.text(), {chain: leaf.chain_pem, key: leaf.key_pem})
        await role.serve()
        loaded = await role.process.admin.certificates()
        assert [each.serial for each in loaded] == [leaf.certificate.serial_number]
        assert loaded[0].path.startswith("/dev/fd/")

    on_stage(play)


def test_an_unlinked_program_runs_on(text: str, tmp_path: Path) -> None:
    original = envoy_binary()
    assert original is not None
    copy = tmp_path / "envoy"
    shutil.copy2(original, copy)

    async def play(stage: Harness) -> None:
        copy.unlink()
        assert await body(await stage.serving(text)) == b"ok\n"

    on_stage(play, copy)


def test_an_epoch_writes_where_the_agent_writes(text: str) -> None:
    """A pipe that is not read blocks the application log, and with it the proxy."""

    async def play(stage: Harness) -> None:
        serving = await stage.serving(text)
        own, its = descriptors_of(os.getpid()), descriptors_of(serving.pid)
        assert (its[1], its[2]) == (own[1], own[2])
        assert its[0] == "/dev/null"

    on_stage(play)


def test_an_epoch_inherits_what_is_meant_for_it_and_nothing_else(text: str, room: Room) -> None:
    """Not the socket store, the lock, the gate or the memory of another epoch."""
    leaf = Authority.create("ca").issue(["a.test"])
    chain, key = "/gone/tls.crt", "/gone/tls.key"
    made = Bootstrap(room.port(), room.port(), [Secured(Path(chain), Path(key))])

    async def play(stage: Harness) -> None:
        first = stage.start(made.text(), {chain: leaf.chain_pem, key: leaf.key_pem})
        await first.serve()
        second = stage.start(text)
        await second.reach_gate()
        ours = set(descriptors_of(os.getpid()).values()) - {"/dev/null"}
        binary = str(second.process.loaded.program.binary.path.resolve())
        held = {f"socket:[{inode}]" for inode in stage.listeners.store.inodes()}
        shared = {target for fd, target in descriptors_of(second.pid).items() if fd > 2} & ours
        shared = {target for target in shared if not target.startswith("anon_inode:")}
        manifest = f"/memfd:epoch {second.process.number} (deleted)"  # the files of its revision, for a restarted agent
        copy = "/memfd:envoy.yaml (deleted)"  # its private copy of the configuration
        assert shared == {binary, manifest, copy}
        assert not held & set(descriptors_of(second.pid).values())

    on_stage(play)


def test_the_admin_interface_is_the_epochs_own(room: Room) -> None:
    """The admin socket is never passed from epoch to epoch, and a second one on the same port would end the proxy."""
    tree = json.loads(plain(room.port()))
    tree["admin"] = {"address": address("127.0.0.1", room.port())}

    async def play(stage: Harness) -> None:
        old = await stage.serving(json.dumps(tree))
        new = stage.start(json.dumps(tree))
        await new.reach_gate()
        assert await state(old) == "LIVE"
        assert await state(new) != "LIVE"
        assert old.process.admin.path != new.process.admin.path

    on_stage(play)


def test_allowed_paths_bind_the_operators_address_only(room: Room) -> None:
    """`allow_paths: [/ready]` would forbid /listeners and /certs to the agent."""
    tree = json.loads(plain(room.port()))
    tree["admin"] = {"address": address("127.0.0.1", room.port()), "allow_paths": [{"exact": "/ready"}]}

    async def play(stage: Harness) -> None:
        serving = await stage.serving(json.dumps(tree))
        assert await serving.process.admin.listeners() == {place(port_of(serving))}

    on_stage(play)
