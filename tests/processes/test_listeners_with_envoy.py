"""Listening sockets of the real proxy, from epoch to epoch."""

import os
import socket
from pathlib import Path

from agent.handoff.socket_store import ListenAddress
from tests.processes.harness import descriptors_of, harness, place, until
from tests.processes.holders import bootstrap, holder, reserved, tcp
from tests.processes.links import parent_of
from tests.proxies.envoy.envoys import wants_envoy

pytestmark = wants_envoy


async def test_the_sockets_of_the_first_epoch_are_those_of_the_second() -> None:
    with reserved() as port:
        text = bootstrap(tcp(port))
        async with harness() as stage:
            first = await stage.serving(text)
            inodes = stage.listeners.store.inodes()
            second = stage.start(text)
            await second.serve(first)
            assert stage.listeners.store.inodes() == inodes
            assert not parent_of(second.process).bound_itself
            assert {f"socket:[{inode}]" for inode in inodes} <= set(descriptors_of(second.pid).values())


async def test_a_listener_with_one_socket_is_held_once(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with harness() as stage:
        await stage.serving(bootstrap(tcp(port), enable_reuse_port=False))
        assert stage.listeners.store.places() == [place(port)]


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


async def test_a_port_that_the_kernel_chose_is_not_held() -> None:
    async with harness() as stage:
        await stage.serving(bootstrap(tcp(0)))
        assert not stage.listeners.store.places()


async def test_a_candidate_that_lacks_a_served_listener_is_found_out_unless_the_operator_took_it_away() -> None:
    with reserved() as one, reserved() as two:
        both, less = bootstrap(tcp(one), tcp(two)), bootstrap(tcp(one))
        async with harness() as stage:
            first = await stage.serving(both)
            before = first.process.loaded.configuration
            shell = stage.start(less)
            await shell.reach_gate()
            assert stage.listeners.missing(shell.process, before) == []


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
            missing = stage.listeners.missing(shell.process, first.process.loaded.configuration)
    assert missing == []


async def test_a_held_address_gets_no_answer_and_is_told(tmp_path: Path) -> None:
    with holder() as (pid, port):
        async with harness() as stage:
            candidate = stage.start(bootstrap(tcp(port)))
            await candidate.process.launch(0)
            await until(lambda: candidate.held)
            assert str(pid) in str(candidate.held[0])
            assert not candidate.reached_gate.is_set()
