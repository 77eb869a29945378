"""One epoch's link, with the real NGINX: sockets in and out, the gate, service, drain."""

import asyncio
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from agent.core.errors import AddressHeld, MachineError
from agent.handoff.socket_store import ListenAddress
from agent.host.memfds import Memfds
from agent.proxies.link import EpochContext, Launch, LinkEvents
from agent.proxies.nginx.link import NginxLink
from tests.proxies.nginx.configurations import parsed, wants_nginx
from tests.system.eventually import PATIENCE
from tests.system.nginxes import children, nginx_binary

TEXT = """
worker_processes 2;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path "{home}/a"; proxy_temp_path "{home}/b"; fastcgi_temp_path "{home}/c";
    uwsgi_temp_path "{home}/d"; scgi_temp_path "{home}/e";
    server {{ {listens} location / {{ return 200 "ok"; }} }}
}}
"""


class Owner:
    """Records what a link reports, and holds sockets."""

    def __init__(self) -> None:
        self.gate, self.service = asyncio.Event(), asyncio.Event()
        self.held: dict[ListenAddress, int] = {}
        self.is_free = True

    @property
    def events(self) -> LinkEvents:
        return LinkEvents(
            reached_gate=self.gate.set,
            serves=self.service.set,
            held=lambda _: None,
            broken=lambda _: None,
            get_socket=self._get,
            sockets=lambda: dict(self.held),
            bound=self._bound,
            is_serving=lambda: False,
        )

    def _get(self, place: ListenAddress) -> int | None:
        if not self.is_free:
            raise AddressHeld(f"cannot listen on {place.address}: another process already does")
        return None

    def _bound(self, place: ListenAddress, descriptor: int) -> None:
        if place in self.held:
            os.close(self.held[place])
        self.held[place] = descriptor

    def close(self) -> None:
        for each in self.held.values():
            os.close(each)


@pytest.fixture
def home() -> Iterator[Path]:
    """An epoch's directory, with a short name and characters that mean something to NGINX."""
    with tempfile.TemporaryDirectory(prefix="a [b] ", dir="/tmp") as name:
        yield Path(name)


@pytest.fixture
def port() -> int:
    """A port that is free at this moment, and bound by NGINX a moment later."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def started(launch: Launch, descriptors: Collection[int]) -> "subprocess.Popen[bytes]":
    """Start NGINX as a link wants it."""
    return subprocess.Popen(
        [str(nginx_binary()), *launch.arguments],
        env=dict(launch.environment),
        pass_fds=[*launch.descriptors, *descriptors],
        start_new_session=True,
    )


class Epoch:
    """A link and its process."""

    def __init__(self, owner: Owner, home: Path, listens: str, places: frozenset[ListenAddress] | None = None) -> None:
        text = TEXT.format(home=home, listens=listens)
        self.owner, self.home = owner, home
        self.configuration = parsed(text)
        self.link = NginxLink(EpochContext(1, home, None, self.configuration, None, places), owner.events, ())
        self.process: subprocess.Popen[bytes] | None = None
        self._memory = Memfds()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    async def start(self) -> None:
        await self.link.open(0, None, serves=False)
        text, _ = self.configuration.copies(()).fill(str(self.home), 1, {})
        launch = self.link.launch(self._memory.hold("copy", text.encode()), None)
        self.process = started(launch, self._memory.descriptors)
        self.link.attend(self.process.pid, self.process.send_signal)

    async def serve(self) -> None:
        async with asyncio.timeout(PATIENCE):
            await self.start()
            await self.owner.gate.wait()
            self.link.open_gate()
            await self.owner.service.wait()

    async def exits(self) -> int:
        assert self.process is not None
        return await asyncio.wait_for(asyncio.to_thread(self.process.wait), PATIENCE)

    async def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            for pid in (*children(self.pid), self.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait()
        self.link.clear()
        await self.link.close()
        self._memory.close()


@asynccontextmanager
async def epoch(owner: Owner, home: Path, listens: str) -> AsyncIterator[Epoch]:
    made = Epoch(owner, home, listens)
    try:
        yield made
    finally:
        await made.close()
        owner.close()


async def answer(address: tuple[str, int] | str) -> bytes:
    family = asyncio.open_unix_connection(address) if isinstance(address, str) else asyncio.open_connection(*address)
    reader, writer = await family
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    try:
        return (await reader.read()).rpartition(b"\r\n")[2]
    finally:
        writer.close()
        await writer.wait_closed()


@wants_nginx
async def test_it_waits_at_its_gate_then_serves_and_its_sockets_are_taken(home: Path, port: int) -> None:
    async with epoch(Owner(), home, f"listen 127.0.0.1:{port};") as made:
        await made.start()
        async with asyncio.timeout(PATIENCE):
            await made.owner.gate.wait()
        assert children(made.pid) == []
        assert not await made.link.admin.is_live()
        assert not made.link.is_open
        made.link.open_gate()
        async with asyncio.timeout(PATIENCE):
            await made.owner.service.wait()
        place = ListenAddress(f"tcp://127.0.0.1:{port}")
        assert made.owner.held.keys() == made.link.asked == made.link.bound_itself == {place}
        assert await answer(("127.0.0.1", port)) == b"ok"
        assert set(made.link.workers()) == set(children(made.pid))
        duplicate = await made.link.duplicate(place)
        assert duplicate is not None
        assert os.path.sameopenfile(duplicate, made.owner.held[place])
        os.close(duplicate)
        assert await made.link.duplicate(ListenAddress("tcp://127.0.0.1:1")) is None


@wants_nginx
async def test_it_gets_the_sockets_that_the_agent_holds_and_listens_on_one_that_does_not(home: Path, port: int) -> None:
    owner = Owner()
    with socket.socket() as made:
        made.bind(("127.0.0.1", port))
        made.setblocking(False)
        place = ListenAddress(f"tcp://127.0.0.1:{port}")
        owner.held[place] = os.dup(made.fileno())
        inode = os.fstat(made.fileno()).st_ino
    async with epoch(owner, home, f"listen 127.0.0.1:{port};") as running:
        await running.serve()
        assert await answer(("127.0.0.1", port)) == b"ok"
        assert os.fstat(owner.held[place]).st_ino == inode


@wants_nginx
async def test_the_workers_of_a_reuseport_group_keep_their_order(home: Path, port: int) -> None:
    """The agent's descriptors have any numbers."""
    owner = Owner()
    sockets = []
    for _ in range(2):
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(("127.0.0.1", port))
        made.listen()
        made.setblocking(False)
        sockets.append(made)
    inodes = [os.fstat(each.fileno()).st_ino for each in sockets]
    places = [ListenAddress(f"tcp://127.0.0.1:{port}", worker=number) for number in range(2)]
    owner.held = {place: os.dup(each.fileno()) for place, each in reversed([*zip(places, sockets, strict=True)])}
    owner.held = {place: owner.held[place] for place in places}
    for each in sockets:
        each.close()
    async with epoch(owner, home, f"listen 127.0.0.1:{port} reuseport;") as running:
        await running.serve()
        assert [os.fstat(owner.held[place]).st_ino for place in places] == inodes


@wants_nginx
async def test_a_unix_socket_is_bound_for_it_even_over_a_stale_one(home: Path) -> None:
    path = home / "x.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    async with epoch(Owner(), home, f'listen "unix:{path}";') as running:
        await running.serve()
        assert path.stat().st_mode & 0o777 == 0o666
        assert await answer(str(path)) == b"ok"
        running.link.stop_accepting()
        assert await running.exits() == 0
        assert path.exists()
        running.owner.close()
        running.owner.held.clear()
        running.link.clear()
        assert not path.exists()


@wants_nginx
async def test_an_address_of_another_process_stops_the_launch(home: Path) -> None:
    owner = Owner()
    owner.is_free = False
    async with epoch(owner, home, "listen 127.0.0.1:1;") as running:
        with pytest.raises(AddressHeld, match="another process"):
            await running.start()


@wants_nginx
async def test_a_drain_ends_with_its_last_client(home: Path, port: int) -> None:
    async with epoch(Owner(), home, f"listen 127.0.0.1:{port};") as running:
        await running.serve()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\n")
        assert await answer(("127.0.0.1", port)) == b"ok"  # it has accepted the first one too
        running.link.stop_accepting()
        writer.write(b"Host: x\r\n\r\n")
        assert b" 200 " in await reader.read()
        writer.close()
        await writer.wait_closed()
        assert await running.exits() == 0


@wants_nginx
@pytest.mark.parametrize("ends", [signal.SIGKILL, signal.SIGTERM])
async def test_one_that_ends_at_its_gate_leaves_nothing_that_waits(home: Path, port: int, ends: signal.Signals) -> None:
    async with epoch(Owner(), home, f"listen 127.0.0.1:{port};") as running:
        await running.start()
        async with asyncio.timeout(PATIENCE):
            await running.owner.gate.wait()
        os.kill(running.pid, ends)
        await running.exits()
        assert not running.owner.service.is_set()


async def test_one_that_never_reaches_its_gate_leaves_nothing_that_waits(home: Path) -> None:
    async with epoch(Owner(), home, "listen 127.0.0.1:1;") as running:
        await running.link.open(0, None, serves=False)


async def test_a_directory_that_cannot_be_used(home: Path) -> None:
    (home / "reached").touch()
    async with epoch(Owner(), home, "listen 127.0.0.1:1;") as running:
        with pytest.raises(MachineError, match=r"^cannot make the gate of an epoch in .*: File exists$"):
            await running.link.open(0, None, serves=False)


@wants_nginx
async def test_an_adopted_one_is_let_through_its_gate(home: Path, port: int) -> None:
    """Its agent exited between its decision and the gate."""
    async with epoch(Owner(), home, f"listen 127.0.0.1:{port};") as first:
        await first.start()
        async with asyncio.timeout(PATIENCE):
            await first.owner.gate.wait()
        owner = Owner()
        second = Epoch(owner, home, "listen 127.0.0.1:1;", frozenset())
        await second.link.open(0, None, serves=True)
        second.link.attend(first.pid, lambda _: None)
        assert second.link.is_open
        async with asyncio.timeout(PATIENCE):
            assert await second.link.resume()
        assert owner.service.is_set()
        assert owner.held.keys() == {ListenAddress(f"tcp://127.0.0.1:{port}")}
        await second.link.close()
        owner.close()


@wants_nginx
async def test_the_workers_of_a_master_whose_parent_has_exited_drain_first(home: Path) -> None:
    """It would unlink the path of its Unix socket, at which its successor serves."""
    path = home / "x.sock"
    async with epoch(Owner(), home, f'listen "unix:{path}";') as first:
        await first.serve()
        place = ListenAddress(f"unix://{path}")
        second = Epoch(Owner(), home, f'listen "unix:{path}";', frozenset({place}))
        second.link.attend(first.pid, first.process.send_signal if first.process is not None else lambda _: None)
        second.link._unlinks_paths = lambda: True  # type: ignore[method-assign]  # this test is its parent
        second.link.stop_accepting()
        assert await first.exits() == -signal.SIGKILL
        assert path.exists()
        await second.link.close()
