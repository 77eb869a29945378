"""The admin interface of an epoch: where it answers, at which paths, and what of the epoch it shows."""

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent.core.errors import AddressHeld, BadInput, MachineError
from agent.epoch import admin_documents
from agent.epoch.admin_documents import Context, Pem
from agent.epoch.admin_server import AdminServer, EpochFacts
from agent.epoch.arguments import Arguments
from agent.epoch.sockets import Bound, bind, tcp
from agent.handoff import gate
from agent.http import client
from agent.stats.writer import Writer
from tests.pki import Authority
from tests.system.eventually import PATIENCE


def facts(**more: object) -> EpochFacts:
    arguments = Arguments(base_id=7, restart_epoch=3, concurrency=2, service_node="n", service_cluster="c")
    return EpochFacts("program 1.2", arguments, Writer.private(), **more)  # type: ignore[arg-type]


class Console:
    """An open admin interface at a Unix socket."""

    def __init__(self, path: Path, of: EpochFacts) -> None:
        self.path = path
        self.facts = of
        self.server = AdminServer(of)

    async def ask(self, target: str, method: str = "GET") -> tuple[int, str]:
        status, body = await client.fetch(self.path, target, method=method, timeout=PATIENCE)
        return status, body.decode()

    async def tree(self, target: str) -> Any:  # noqa: ANN401  # any JSON
        status, body = await self.ask(target)
        assert status == 200
        return json.loads(body)


@asynccontextmanager
async def console(directory: Path, of: EpochFacts | None = None) -> AsyncIterator[Console]:
    made = Console(directory / "admin", of or facts())
    await made.server.open({"pipe": {"path": str(made.path)}})
    try:
        yield made
    finally:
        await made.server.close()


# Paths


async def test_it_is_ready_while_the_epoch_is_live(tmp_path: Path) -> None:
    async with console(tmp_path) as made:
        assert await made.ask("/ready") == (503, "PRE_INITIALIZING\n")
        made.facts.state = admin_documents.LIVE
        assert await made.ask("/ready") == (200, "LIVE\n")
        made.facts.state = admin_documents.DRAINING
        assert await made.ask("/ready?x=y") == (503, "DRAINING\n")


async def test_the_server_shows_the_command_line_and_the_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = facts(began_at=100.0, chain_began=1_000.0)
    monkeypatch.setattr("agent.host.clock.monotonic", lambda: 107.5)
    monkeypatch.setattr("agent.host.clock.calendar", lambda: datetime.fromtimestamp(1_090, UTC))
    async with console(tmp_path, of) as made:
        tree = await made.tree("/server_info")
        of.state = admin_documents.INITIALIZING
        starting = await made.tree("/server_info")
        of.state = admin_documents.LIVE
        live = await made.tree("/server_info")
    initializing = [each["hot_restart_initializing"] for each in (tree, starting, live)]
    assert initializing == [True, True, False]
    assert tree["version"] == "program 1.2"
    assert tree["state"] == "PRE_INITIALIZING"
    assert (tree["uptime_current_epoch"], tree["uptime_all_epochs"]) == ("7s", "90s")
    assert tree["node"] | {"id": "n", "cluster": "c"} == tree["node"]
    options = {"base_id": "7", "restart_epoch": 3, "concurrency": 2, "config_path": ""}
    assert tree["command_line_options"] | options == tree["command_line_options"]


async def test_the_hot_restart_version_is_shown_unless_there_is_none(tmp_path: Path) -> None:
    async with console(tmp_path) as made:
        assert (await made.tree("/server_info"))["hot_restart_version"].startswith("11.")
    without = EpochFacts("p", Arguments(disable_hot_restart=True, config_path="/c"), Writer.private())
    async with console(tmp_path, without) as made:
        tree = await made.tree("/server_info")
        assert tree["hot_restart_version"] == "disabled"
        assert tree["command_line_options"]["config_path"] == "/c"


async def test_the_certificates_that_were_loaded_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leaf = Authority.create("root").issue(["a.test"], serial=0xABC, not_after=datetime(2030, 6, 3, 23, tzinfo=UTC))
    monkeypatch.setattr("agent.host.clock.calendar", lambda: datetime(2030, 6, 1, tzinfo=UTC))
    async with console(tmp_path) as made:
        assert await made.tree("/certs") == {"certificates": []}
        made.facts.certificates.append(Context((Pem("/chain", leaf.chain_pem),)))
        ((shown,),) = [each["cert_chain"] for each in (await made.tree("/certs"))["certificates"]]
    assert (shown["path"], shown["serial_number"], shown["days_until_expiration"]) == ("/chain", "0abc", "2")


async def test_the_listeners_that_it_still_has_are_shown(tmp_path: Path) -> None:
    place = tcp("127.0.0.1", 0)
    web, other = (Bound(place, [bind(place)]) for _ in range(2))
    port = web.sockets[0].getsockname()[1]
    async with console(tmp_path) as made:
        made.facts.listeners.update(web=web, other=other)
        other.close()
        assert await made.ask("/listeners") == (200, f"web::127.0.0.1:{port}\n")
        (status,) = (await made.tree("/listeners?format=json"))["listener_statuses"]
        assert status["name"] == "web"
        assert status["local_address"]["socket_address"] == {"address": "127.0.0.1", "port_value": port}
    web.close()


async def test_what_it_waits_for_is_the_gate(tmp_path: Path) -> None:
    async with console(tmp_path) as made:
        assert gate.NAME not in (await made.ask("/init_dump"))[1]
        made.facts.waits_at_gate = True
        assert f"gate {gate.NAME}" in (await made.ask("/init_dump"))[1]
        assert "Server" in (await made.ask("/init_dump"))[1]


async def test_statistics_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    async with console(tmp_path) as made:
        made.facts.stats.counter("requests.total").add()
        assert await made.ask("/stats?filter=total") == (200, "requests.total: 1\n")
        expected = "# TYPE envoy_requests_total counter\nenvoy_requests_total{} 1\n"
        assert await made.ask("/stats/prometheus") == (200, expected)
        assert await made.ask("/stats/prometheus?format=json&filter=total") == (200, expected)
        assert (await made.ask("/stats?format=xml"))[0] == 400


async def test_the_clients_of_each_listener_are_counted_before_an_answer(tmp_path: Path) -> None:
    place = tcp("127.0.0.1", 0)
    web = Bound(place, [bind(place)])
    web.listen()
    async with console(tmp_path) as made:
        made.facts.listeners["web"] = web
        with socket.create_connection(web.sockets[0].getsockname()):
            served, _ = web.sockets[0].accept()
            assert await made.ask("/stats?filter=active") == (200, "listener.web.downstream_cx_active: 1\n")
            served.close()
        assert await made.ask("/stats?filter=active") == (200, "listener.web.downstream_cx_active: 0\n")
    web.close()


@pytest.mark.parametrize("target", ["/", "/quitquitquit", "/ready/", "/stats/", "/config_dump", "/READY"])
async def test_any_other_path_is_invalid(tmp_path: Path, target: str) -> None:
    async with console(tmp_path) as made:
        for method in ("GET", "POST"):
            assert await made.ask(target, method) == (404, "invalid path\n")


async def test_nothing_is_changed_through_it(tmp_path: Path) -> None:
    async with console(tmp_path) as made:
        for method in ("POST", "PUT", "DELETE"):
            status, body = await made.ask("/ready", method)
            assert status == 405
            assert method in body
        assert (await made.ask("/stats", "HEAD"))[0] == 200


# Addresses


async def test_a_pipe_has_its_mode_and_is_removed_at_the_end(tmp_path: Path) -> None:
    for mode, expected in (({}, 0o600), ({"mode": 0o640}, 0o640), ({"mode": "384"}, 0o600)):
        server, path = AdminServer(facts()), tmp_path / "admin"
        await server.open({"pipe": {"path": str(path), **mode}})
        assert path.stat().st_mode & 0o777 == expected
        await server.close()
        assert not path.exists()
        await server.close()


async def test_a_path_with_an_at_sign_in_it_is_a_path(tmp_path: Path) -> None:
    """As of an instance of a unit of systemd: /run/agent@web/1/admin."""
    directory = tmp_path / "agent@web"
    directory.mkdir()
    async with console(directory) as made:
        assert (await made.ask("/ready"))[0] == 503
    assert not made.path.exists()


async def test_an_abstract_name_has_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"@admin-{os.getpid()}"
    stranger = tmp_path / name
    stranger.touch()
    server = AdminServer(facts())
    await server.open({"pipe": {"path": name}})
    with socket.socket(socket.AF_UNIX) as made:
        made.connect("\0" + name[1:])
    await server.close()
    assert stranger.exists()


async def test_a_file_that_another_process_has_removed_is_no_error_at_the_end(tmp_path: Path) -> None:
    async with console(tmp_path) as made:
        made.path.unlink()


@pytest.mark.parametrize(("address", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)])
async def test_an_internet_address_may_be_asked(address: str, family: socket.AddressFamily) -> None:
    with socket.socket(family) as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind((address, 0))
        port = free.getsockname()[1]
    server = AdminServer(facts())
    await server.open({"socket_address": {"address": address, "port_value": port}})
    reader, writer = await asyncio.open_connection(address, port)
    writer.write(b"GET /ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 503")
    writer.close()
    await writer.wait_closed()
    await server.close()


@pytest.mark.parametrize(
    "address",
    [
        {},
        {"pipe": None},
        {"pipe": "/run/admin"},
        {"pipe": {}},
        {"pipe": {"path": "/x", "mode": "rw"}},
        {"pipe": {"path": "/x", "mode": None}},
        {"socket_address": {"address": "127.0.0.1"}},
        {"socket_address": {"port_value": 80}},
        {"socket_address": ["127.0.0.1", 80]},
        {"socket_address": {"address": "localhost", "port_value": 80}},
        {"socket_address": {"address": "127.0.0.1", "port_value": "http"}},
        {"socket_address": {"address": "127.0.0.1", "port_value": None}},
        {"socket_address": {"address": "127.0.0.1", "port_value": 65536}},
        {"socket_address": {"address": "127.0.0.1", "port_value": -1}},
        {"socket_address": {"address": "127.0.0.1", "port_value": 1.5}},
        {"socket_address": {"address": None, "port_value": 80}},
    ],
    ids=str,
)
async def test_what_is_no_address_is_refused_and_named(address: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=r"admin\.address"):
        await AdminServer(facts()).open(address)


async def test_an_address_that_is_held_is_named(tmp_path: Path) -> None:
    async with console(tmp_path) as made:
        with pytest.raises(MachineError, match=str(made.path)):
            await AdminServer(facts()).open({"pipe": {"path": str(made.path)}})
        assert (await made.ask("/ready"))[0] == 503
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        with pytest.raises(AddressHeld, match=str(port)):
            await AdminServer(facts()).open({"socket_address": {"address": "127.0.0.1", "port_value": port}})


async def test_an_address_at_which_it_may_not_listen_leaves_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(98, "Address already in use")

    monkeypatch.setattr(socket.socket, "listen", refuse)
    with pytest.raises(MachineError, match=r"127\.0\.0\.1:0: Address already"):
        await AdminServer(facts()).open({"socket_address": {"address": "127.0.0.1", "port_value": 0}})
