import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest

from agent.core.errors import AddressHeld, MachineError
from agent.http.message import Request, Response
from agent.http.server import Server
from agent.processes.epoch_process import EpochProcess
from agent.status.routes import Routes
from agent.supervisor.endpoints import Endpoints
from tests.supervisor.stand_ins import KIND, Process, ask, loaded, logged
from tests.system.eventually import PATIENCE

LOOPBACK = "127.0.0.1"


class Handlers:
    """The routes: they repeat what they were asked."""

    def __init__(self) -> None:
        self.closed = 0

    async def answer(self, request: Request) -> Response:
        return Response(200, request.target.encode())

    async def close(self) -> None:
        self.closed += 1


@asynccontextmanager
async def opened(*names: str) -> AsyncIterator[tuple[Endpoints, Handlers]]:
    """The endpoints, closed at the end."""
    handlers = Handlers()
    endpoints = Endpoints(cast("Routes", handlers), KIND, names)
    try:
        yield endpoints, handlers
    finally:
        await endpoints.close()


def port_of(endpoints: Endpoints) -> int:
    """Return the port of the status server."""
    (descriptor,) = endpoints.bequest().values()
    with socket.socket(fileno=descriptor) as seen:
        return int(seen.getsockname()[1])


def listener(host: str = LOOPBACK) -> socket.socket:
    """A listener at a port that the kernel chose."""
    made = socket.create_server((host, 0))
    made.setblocking(False)
    return made


# The status server


async def test_the_status_server_answers_by_its_routes() -> None:
    async with opened() as (endpoints, _):
        await endpoints.open_status(LOOPBACK, 0)
        assert await ask((LOOPBACK, port_of(endpoints)), "/status?x=1") == (200, "/status?x=1")


@pytest.mark.parametrize(("host", "status"), [("proxy.internal", 200), ("evil.example", 421)])
async def test_at_loopback_only_known_hosts_are_answered(host: str, status: int) -> None:
    async with opened("proxy.internal") as (endpoints, _):
        await endpoints.open_status(LOOPBACK, 0)
        assert (await ask((LOOPBACK, port_of(endpoints)), "/", host=host))[0] == status


async def test_the_status_server_takes_no_body() -> None:
    async with opened() as (endpoints, _):
        await endpoints.open_status(LOOPBACK, 0)
        assert (await ask((LOOPBACK, port_of(endpoints)), "/drain", "POST", body=b"x"))[0] == 413


async def test_an_inherited_listener_of_its_port_is_used() -> None:
    inherited = listener()
    port = inherited.getsockname()[1]
    with socket.create_connection((LOOPBACK, port)) as waiting:  # in the queue of the earlier agent
        async with opened() as (endpoints, _):
            await endpoints.open_status(LOOPBACK, port, inherited.detach())
            assert port_of(endpoints) == port
            waiting.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(waiting, b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert (await loop.sock_recv(waiting, 100)).startswith(b"HTTP/1.1 200")


async def test_an_inherited_listener_of_another_port_is_closed() -> None:
    inherited = listener()
    port = inherited.getsockname()[1]
    async with opened() as (endpoints, _):
        await endpoints.open_status(LOOPBACK, 0, inherited.detach())
        assert port_of(endpoints) != port
        with pytest.raises(ConnectionRefusedError):
            await ask((LOOPBACK, port), "/")


async def test_a_port_of_another_program_is_an_error_that_names_it() -> None:
    with listener() as held:
        port = held.getsockname()[1]
        async with opened() as (endpoints, _):
            with pytest.raises(AddressHeld, match=f"{LOOPBACK}:{port}"):
                await endpoints.open_status(LOOPBACK, port)


async def test_an_address_that_this_machine_does_not_have_is_an_error() -> None:
    async with opened() as (endpoints, _):
        with pytest.raises(MachineError, match=r"192\.0\.2\.1:80"):
            await endpoints.open_status("192.0.2.1", 8080)


async def test_the_successor_inherits_the_status_listener_itself() -> None:
    async with opened() as (endpoints, _):
        await endpoints.open_status(LOOPBACK, 0)
        port = port_of(endpoints)
        bequest = endpoints.bequest()
        assert list(bequest) == ["status"]
    async with opened() as (successor, _):
        await successor.open_status(LOOPBACK, port, bequest["status"])
        assert await ask((LOOPBACK, port), "/") == (200, "/")


async def test_without_a_status_server_there_is_nothing_to_inherit() -> None:
    async with opened() as (endpoints, _):
        assert endpoints.bequest() == {}


# The admin address


@asynccontextmanager
async def epoch(number: int, home: Path, text: str) -> AsyncIterator[EpochProcess]:
    """An epoch whose admin interface says its number."""

    async def answer(request: Request) -> Response:
        return Response(200, f"{number} {request.target}".encode())

    place = home / f"admin{number}"
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(place))
    server = Server(answer)
    await server.start(bound)
    process = Process(number, loaded(f"r{number}", text=text))
    process.admin.place = place
    try:
        yield process.as_epoch
    finally:
        await server.close()


def admin_at(path: Path, *allowed: str) -> str:
    """A configuration with an admin address, and the paths that are allowed there."""
    paths = "".join(f"\n    - exact: {each}" for each in allowed)
    return f"admin:\n  address:\n    pipe:\n      path: {path}\n  allow_paths:{paths or ' []'}"


async def test_the_admin_address_leads_to_the_epoch_that_serves(tmp_path: Path) -> None:
    text = admin_at(tmp_path / "a")
    async with opened() as (endpoints, _), epoch(1, tmp_path, text) as one, epoch(2, tmp_path, text) as two:
        await endpoints.route_to(one)
        assert await ask(tmp_path / "a", "/stats") == (200, "1 /stats")
        await endpoints.route_to(two)
        assert await ask(tmp_path / "a", "/stats") == (200, "2 /stats")


@pytest.mark.parametrize("allowed", [(), ("/x",)])
async def test_connections_outlast_a_change_of_the_epoch(tmp_path: Path, allowed: tuple[str, ...]) -> None:
    text = admin_at(tmp_path / "a", *allowed)
    async with opened() as (endpoints, _), epoch(1, tmp_path, text) as one, epoch(2, tmp_path, text) as two:
        await endpoints.route_to(one)
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "a"))
        await endpoints.route_to(two)
        writer.write(b"GET /x HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        async with asyncio.timeout(PATIENCE):
            assert b"2 /x" in await reader.read()
        writer.close()
        await writer.wait_closed()


async def test_only_the_allowed_paths_are_forwarded(tmp_path: Path) -> None:
    async with opened() as (endpoints, _), epoch(1, tmp_path, admin_at(tmp_path / "a", "/stats")) as one:
        await endpoints.route_to(one)
        assert (await ask(tmp_path / "a", "/stats"))[0] == 200
        assert (await ask(tmp_path / "a", "/quitquitquit", "POST"))[0] == 403


async def test_paths_that_are_forbidden_from_now_on_are_refused(tmp_path: Path) -> None:
    closed = admin_at(tmp_path / "a", "/stats")
    async with (
        opened() as (endpoints, _),
        epoch(1, tmp_path, admin_at(tmp_path / "a")) as one,
        epoch(2, tmp_path, closed) as two,
    ):
        await endpoints.route_to(one)
        assert (await ask(tmp_path / "a", "/logging"))[0] == 200
        await endpoints.route_to(two)
        assert (await ask(tmp_path / "a", "/logging"))[0] == 403


async def test_an_admin_address_that_changes_is_moved(tmp_path: Path) -> None:
    one, two = admin_at(tmp_path / "a"), admin_at(tmp_path / "b")
    async with opened() as (endpoints, _), epoch(1, tmp_path, one) as before, epoch(2, tmp_path, two) as after:
        await endpoints.route_to(before)
        await endpoints.route_to(after)
        assert await ask(tmp_path / "b", "/") == (200, "2 /")
        with pytest.raises(ConnectionRefusedError):
            await ask(tmp_path / "a", "/")


async def test_an_admin_address_that_is_gone_is_closed_and_may_come_back(tmp_path: Path) -> None:
    text = admin_at(tmp_path / "a")
    async with (
        opened() as (endpoints, _),
        epoch(1, tmp_path, text) as one,
        epoch(2, tmp_path, "{}") as two,
        epoch(3, tmp_path, text) as three,
    ):
        await endpoints.route_to(one)
        await endpoints.route_to(two)
        with pytest.raises(ConnectionRefusedError):
            await ask(tmp_path / "a", "/")
        await endpoints.route_to(three)
        assert await ask(tmp_path / "a", "/") == (200, "3 /")


async def test_an_unusable_admin_address_is_logged_and_tried_again_at_the_next_commit(tmp_path: Path) -> None:
    text = admin_at(tmp_path / "a")
    (tmp_path / "a").write_text("a file of somebody else")
    async with opened() as (endpoints, _), epoch(1, tmp_path, text) as one, epoch(2, tmp_path, text) as two:
        with logged() as events:
            await endpoints.route_to(one)
        assert [event.name for event in events] == ["admin.unavailable"]
        assert str(tmp_path / "a") in events[0].text
        assert (tmp_path / "a").read_text() == "a file of somebody else"
        (tmp_path / "a").unlink()
        await endpoints.route_to(two)
        assert await ask(tmp_path / "a", "/") == (200, "2 /")


async def test_an_address_that_makes_no_sense_is_logged(tmp_path: Path) -> None:
    text = "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 99999}}}"
    async with opened() as (endpoints, _), epoch(1, tmp_path, text) as one:
        with logged() as events:
            await endpoints.route_to(one)
        assert [event.name for event in events] == ["admin.unavailable"]


@pytest.mark.parametrize(("host", "status"), [("proxy.internal", 200), ("evil.example", 421)])
async def test_the_admin_address_answers_known_hosts_only(tmp_path: Path, host: str, status: int) -> None:
    text = "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}"
    async with opened("proxy.internal") as (endpoints, _), epoch(1, tmp_path, text) as one:
        await endpoints.route_to(one)
        assert endpoints._admin is not None
        with socket.socket(fileno=endpoints._admin.duplicate()) as seen:
            port = seen.getsockname()[1]
        assert (await ask((LOOPBACK, port), "/", host=host))[0] == status


async def test_of_two_commits_at_once_the_later_one_has_the_admin_address(tmp_path: Path) -> None:
    one, two = admin_at(tmp_path / "a"), admin_at(tmp_path / "b")
    async with opened() as (endpoints, _), epoch(1, tmp_path, one) as before, epoch(2, tmp_path, two) as after:
        await asyncio.gather(endpoints.route_to(before), endpoints.route_to(after))
        assert await ask(tmp_path / "b", "/") == (200, "2 /")
        with pytest.raises(ConnectionRefusedError):
            await ask(tmp_path / "a", "/")


# The end


async def test_at_the_end_both_addresses_are_closed_and_the_routes_too(tmp_path: Path) -> None:
    async with opened() as (endpoints, handlers), epoch(1, tmp_path, admin_at(tmp_path / "a")) as one:
        await endpoints.open_status(LOOPBACK, 0)
        port = port_of(endpoints)
        await endpoints.route_to(one)
        await endpoints.close()
        assert handlers.closed == 1
        with pytest.raises(ConnectionRefusedError):
            await ask((LOOPBACK, port), "/")
        with pytest.raises(ConnectionRefusedError):
            await ask(tmp_path / "a", "/")


async def test_what_was_never_opened_can_be_closed() -> None:
    async with opened():
        pass


async def test_a_duplicate_is_a_descriptor_of_its_own() -> None:
    async with opened() as (endpoints, _):
        await endpoints.open_status(LOOPBACK, 0)
        os.close(endpoints.bequest()["status"])
        assert await ask((LOOPBACK, port_of(endpoints)), "/") == (200, "/")
