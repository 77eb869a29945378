import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from agent.core.errors import AddressHeld
from agent.handoff.socket_store import ListenAddress
from agent.host.processes import User
from agent.processes.epoch_process import EpochProcess
from agent.processes.listeners import Listeners
from agent.proxies.envoy.configuration import Configuration
from tests.handoff.test_reuseport_filter import arrivals, group
from tests.processes.harness import descriptors_of, harness, place, until
from tests.proxies.envoy.envoys import wants_envoy

HOLDER = """
import socket, sys
with socket.create_server(("127.0.0.1", 0), reuse_port=True) as made:
    print(made.getsockname()[1], flush=True)
    sys.stdin.read()
"""
NOTHING = Configuration("{}", "x.yaml")


@contextmanager
def holder() -> Iterator[tuple[int, int]]:
    """Let another process listen on a port."""
    command = [sys.executable, "-I", "-S", "-c", HOLDER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline())
        process.kill()


@contextmanager
def reserved() -> Iterator[int]:
    """Reserve a port without listening; a socket with reuse_port can bind it as well."""
    with socket.socket() as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(("127.0.0.1", 0))
        yield made.getsockname()[1]


def bootstrap(*addresses: Mapping[str, object], **more: object) -> str:
    """Return a bootstrap whose listeners accept connections and send no data."""
    echo = {"@type": "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo"}
    chains = [{"filters": [{"name": "echo", "typed_config": echo}]}]
    listeners = [
        {"name": f"l{number}", "address": address, "filter_chains": chains, **more}
        for number, address in enumerate(addresses)
    ]
    return json.dumps({"static_resources": {"listeners": listeners}})


def tcp(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def test_a_foreign_holder_is_named_and_no_socket_is_passed() -> None:
    ports = Listeners(None, list)
    with holder() as (pid, port), pytest.raises(AddressHeld, match=f"pid {pid}"):
        ports.get(place(port), NOTHING)


def test_a_socket_of_an_epoch_of_ours_is_no_foreign_holder() -> None:
    with holder() as (pid, port):
        assert Listeners(None, lambda: [pid]).get(place(port), NOTHING) is None


def test_a_stored_socket_is_passed_without_a_request() -> None:
    ports = Listeners(None, list)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        there = place(listening.getsockname()[1])
        ports.store.put(there, os.dup(listening.fileno()))
    assert ports.get(there, NOTHING) == ports.store.get(there)
    assert ports.get(ListenAddress(there.address, worker=1), NOTHING) is None  # one more worker: it binds itself
    ports.store.close_all()


def low_port() -> int:
    """Return an unused port below 1024."""
    for port in range(1023, 600, -1):
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(("127.0.0.1", port))
            return port
    raise AssertionError("every low port is taken")


@pytest.mark.skipif(os.getuid() != 0, reason="wants root")
def test_a_low_port_that_no_configuration_names_is_bound_only_where_that_is_allowed() -> None:
    """A compromised proxy requests the port of another service: it gets none, and cannot bind it itself."""
    port = low_port()
    named = Configuration(bootstrap(tcp(port)), "x.json")
    for allowed, configuration, is_bound in ((set(), NOTHING, False), ({port}, NOTHING, True), (set(), named, True)):
        ports = Listeners(User(65534, 65534), list, allowed)
        assert (ports.get(place(port), configuration) is not None) is is_bound
        ports.unstage()


def test_a_path_that_a_proxy_of_another_user_thinks_of_is_not_tried(tmp_path: Path) -> None:
    """With the agent's rights it would reach sockets that the proxy cannot; a connection starts some services."""
    with socket.socket(socket.AF_UNIX) as victim:
        victim.bind(str(tmp_path / "victim"))
        victim.listen()
        victim.setblocking(False)
        asked = ListenAddress(f"unix://{tmp_path}/victim")
        assert Listeners(User(65534, 65534), list).get(asked, NOTHING) is None
        with pytest.raises(BlockingIOError):
            victim.accept()
        with pytest.raises(AddressHeld):
            Listeners(None, list).get(asked, NOTHING)


@pytest.mark.parametrize("address", ["unix://@agent-test", "udp://127.0.0.1:53"])
def test_what_is_not_tcp_is_bound_by_the_proxy(address: str) -> None:
    assert Listeners(None, list).get(ListenAddress(address), NOTHING) is None


def test_another_network_namespace_is_not_looked_into() -> None:
    with holder() as (_, port):
        assert Listeners(None, list).get(ListenAddress(f"tcp://127.0.0.1:{port}", "/run/netns/x"), NOTHING) is None


@wants_envoy
async def test_the_sockets_of_the_first_epoch_are_those_of_the_second() -> None:
    with reserved() as port:
        text = bootstrap(tcp(port))
        async with harness() as stage:
            first = await stage.serving(text)
            inodes = stage.listeners.store.inodes()
            second = stage.start(text)
            await second.serve(first)
            assert stage.listeners.store.inodes() == inodes
            assert not second.process.parent or not second.process.parent.bound_itself
            assert {f"socket:[{inode}]" for inode in inodes} <= set(descriptors_of(second.pid).values())


@wants_envoy
async def test_clients_are_steered_to_the_workers_of_a_smaller_epoch_and_to_all_of_the_next() -> None:
    """Until the old epoch is gone, its sockets are in the group, too."""
    made = Listeners(None, list)
    with group(4) as members:
        name = f"tcp://127.0.0.1:{members[0].getsockname()[1]}"
        places = [ListenAddress(name, worker=worker) for worker in range(4)]

        def keep_all() -> None:
            for place, member in zip(places, members, strict=True):
                made.store.put(place, os.dup(member.fileno()))

        keep_all()
        await made.hand_over(cast("EpochProcess", SimpleNamespace(asked=set(places[:2]))), None)
        assert made.store.places() == places[:2]
        counts = arrivals(members)
        assert counts[2:] == [0, 0]
        assert all(counts[:2])
        keep_all()
        await made.hand_over(cast("EpochProcess", SimpleNamespace(asked=set(places))), None)
        assert all(arrivals(members, 200))
        made.store.close_all()


async def test_a_listener_with_one_socket_is_held_once(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with harness() as stage:
        await stage.serving(bootstrap(tcp(port), enable_reuse_port=False))
        assert stage.listeners.store.places() == [place(port)]


@wants_envoy
async def test_unix_sockets_are_handed_over_by_path_and_by_name(tmp_path: Path) -> None:
    pipes = [f"/tmp/agent-test-{os.getpid()}", f"@agent-test-{os.getpid()}"]
    text = bootstrap(*({"pipe": {"path": pipe}} for pipe in pipes))
    try:
        async with harness() as stage:
            first = await stage.serving(text)
            inodes = stage.listeners.store.inodes()
            assert stage.listeners.store.listeners() == {ListenAddress(f"unix://{pipe}") for pipe in pipes}
            await stage.start(text).serve(first)
            assert stage.listeners.store.inodes() == inodes
            for name in (pipes[0], "\0" + pipes[1][1:]):
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(name)
    finally:
        Path(pipes[0]).unlink(missing_ok=True)


@wants_envoy
async def test_a_port_that_the_kernel_chose_is_not_held() -> None:
    async with harness() as stage:
        await stage.serving(bootstrap(tcp(0)))
        assert not stage.listeners.store.places()


@wants_envoy
async def test_a_candidate_that_lacks_a_served_listener_is_found_out_unless_the_operator_took_it_away() -> None:
    with reserved() as one, reserved() as two:
        both, less = bootstrap(tcp(one), tcp(two)), bootstrap(tcp(one))
        async with harness() as stage:
            first = await stage.serving(both)
            before = first.process.material.configuration
            shell = stage.start(less)
            await shell.reach_gate()
            assert stage.listeners.missing(shell.process, before) == []


@wants_envoy
async def test_a_listener_whose_address_was_written_otherwise_can_be_taken_away() -> None:
    with reserved() as one, socket.socket(socket.AF_INET6) as six:
        six.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        six.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        six.bind(("::1", 0))
        other = {"socket_address": {"address": "0:0:0:0:0:0:0:1", "port_value": six.getsockname()[1]}}
        async with harness() as stage:
            first = await stage.serving(bootstrap(tcp(one), other))
            shell = stage.start(bootstrap(tcp(one)))
            await shell.reach_gate()
            missing = stage.listeners.missing(shell.process, first.process.material.configuration)
    assert missing == []


@wants_envoy
async def test_a_held_address_gets_no_answer_and_is_reported(tmp_path: Path) -> None:
    with holder() as (pid, port):
        async with harness() as stage:
            candidate = stage.start(bootstrap(tcp(port)))
            await candidate.process.launch(0)
            await until(lambda: candidate.held)
            assert str(pid) in str(candidate.held[0])
            assert not candidate.reached_gate.is_set()
