"""One epoch of a real HAProxy: gate, sockets in both directions, readiness, drain."""

import asyncio
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from agent.handoff.socket_store import ListenAddress
from agent.proxies.haproxy.configuration import Configuration
from agent.proxies.haproxy.console import own_addresses
from agent.proxies.haproxy.link import HAProxyLink
from agent.proxies.link import EpochContext, LinkEvents
from tests.proxies.haproxy.programs import program

TEXT = """\
defaults
 mode http
 timeout client 1m
 timeout connect 1s
 timeout server 1m
frontend x
 bind 127.0.0.1:{port}
 http-request return status 200 content-type text/plain string ok
"""


class Owner:
    """Records what a link reports; holds the sockets in `held`."""

    def __init__(self, held: Mapping[ListenAddress, int]) -> None:
        self.held = dict(held)
        self.reached, self.served = asyncio.Event(), asyncio.Event()
        self.taken: dict[ListenAddress, int] = {}
        self.events = LinkEvents(
            reached_gate=self.reached.set,
            serves=self.served.set,
            held=lambda _: None,
            broken=lambda _: None,
            get_socket=lambda _: None,
            sockets=lambda: self.held,
            bound=self.taken.__setitem__,
            is_serving=lambda: False,
        )


@asynccontextmanager
async def started(home: Path, port: int, owner: Owner) -> AsyncIterator[tuple[HAProxyLink, "subprocess.Popen[bytes]"]]:
    """Start a HAProxy through a link; kill it at the end."""
    configuration = Configuration(TEXT.format(port=port), "h.cfg", "/", {}, {}, pushes=False)
    link = HAProxyLink(EpochContext(1, home, None, configuration, None), owner.events, ())
    await link.open(0, None, serves=False)
    copy = os.memfd_create("copy")
    try:
        os.write(copy, configuration.text.encode())
        launch = link.launch(copy, None)
        command = [str(program()), *launch.arguments]
        with subprocess.Popen(command, pass_fds=(copy, *launch.descriptors)) as process:  # noqa: ASYNC220  # a moment
            link.attend(process.pid, process.send_signal)
            try:
                yield link, process
            finally:
                with suppress(ProcessLookupError):
                    process.kill()
                link.clear()
                await link.close()
    finally:
        os.close(copy)
        for each in owner.taken.values():
            os.close(each)


def descriptors() -> set[int]:
    """Return the open descriptors of this process."""
    return {int(entry.name) for entry in Path("/proc/self/fd").iterdir()}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The directory of an epoch."""
    return tmp_path


async def answer(port: int) -> bytes:
    """Make a request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    try:
        return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


def test_a_held_socket_is_given_at_the_gate_and_not_taken_again(home: Path) -> None:
    async def check() -> None:
        with socket.create_server(("127.0.0.1", 0)) as held:
            port = held.getsockname()[1]
            place = ListenAddress(f"tcp://127.0.0.1:{port}", "")
            owner = Owner({place: held.fileno()})
            async with started(home, port, owner) as (link, process):
                await owner.reached.wait()
                assert not link.is_open
                early = asyncio.create_task(answer(port))
                link.open_gate()
                await owner.served.wait()
                assert (await early).startswith(b"HTTP/1.1 200")
                assert (owner.taken, link.asked, link.bound_itself) == ({}, {place}, {place})
                assert await link.admin.listeners() == {place}
                assert link.workers() == ()
                link.stop_accepting()
                assert await asyncio.to_thread(process.wait) == 0

    asyncio.run(check())


def test_what_it_binds_is_taken(home: Path) -> None:
    async def check() -> None:
        with socket.socket() as reserved:
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            reserved.bind(("127.0.0.1", 0))  # it does not listen: HAProxy joins
            port = reserved.getsockname()[1]
            owner = Owner({})
            async with started(home, port, owner) as (link, process):
                link.open_gate()
                await owner.served.wait()
                place = ListenAddress(f"tcp://127.0.0.1:{port}", "")
                assert owner.taken.keys() == {place}
                duplicate = await link.duplicate(place)
                assert duplicate is not None
                assert os.path.sameopenfile(duplicate, owner.taken[place])
                os.close(duplicate)
                assert await link.duplicate(ListenAddress("tcp://1.2.3.4:5", "")) is None
                process.kill()
                process.wait()
                early = asyncio.create_task(answer(port))  # held: nobody refuses it
                await asyncio.sleep(0)
                early.cancel()

    asyncio.run(check())


def test_another_process_gets_no_socket(home: Path) -> None:
    async def check() -> None:
        owner = Owner({})
        async with started(home, 1, owner) as (link, process):
            link.attend(os.getpid() + 1_000_000, process.send_signal)
            assert await asyncio.to_thread(process.wait) == 1
            assert not owner.reached.is_set()

    asyncio.run(check())


def test_a_number_of_a_closed_socket_is_free_for_the_loop(home: Path) -> None:
    """The loop must forget a socket that a task waits for before its number is used again."""

    async def check() -> None:
        owner = Owner({})
        async with started(home, 1, owner) as (link, _):
            await asyncio.sleep(0)
            before = descriptors()
            link.clear()
            freed = before - descriptors()
            assert freed
            for number in freed:
                first, theirs = socket.socketpair()
                with first, theirs, socket.socket(fileno=os.dup2(first.fileno(), number)) as ours:
                    ours.setblocking(False)
                    waiting = asyncio.create_task(asyncio.get_running_loop().sock_recv(ours, 1))
                    await asyncio.sleep(0)
                    theirs.send(b"x")
                    assert await asyncio.wait_for(waiting, 10) == b"x"

    asyncio.run(check())


def test_consoles_of_the_operator_have_addresses() -> None:
    assert own_addresses(["/run/h.sock", "unix@/x", "127.0.0.1:9", "ipv4@127.0.0.1:10", "ipv6@[::1]:11"]) == {
        "unix:///run/h.sock",
        "unix:///x",
        "tcp://127.0.0.1:9",
        "tcp://127.0.0.1:10",
        "tcp://[::1]:11",
    }
