import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.core.errors import MachineError
from agent.handoff import gate
from agent.handoff.gate import Deliver, Gate
from agent.http.message import Request, Response
from agent.http.server import Server
from tests.handoff.epochs import until
from tests.system.eventually import PATIENCE

ROUTES = "/v3/discovery:routes"


@asynccontextmanager
async def standing(directory: Path, pid: int | None = None) -> AsyncIterator[tuple[Gate, list[str]]]:
    knocks: list[str] = []
    made = Gate(directory / "gate", lambda: knocks.append("knock"))
    made.pid = os.getpid() if pid is None else pid
    await made.shut(None)
    try:
        yield made, knocks
    finally:
        await made.close()
    assert not made.path.exists()


class Knocking:
    """A connection to a gate, like that of Envoy's HTTP/1.1 client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, target: str = ROUTES, body: bytes = b"{}") -> None:
        head = f"POST {target} HTTP/1.1\r\nhost: agent_gate\r\ncontent-length: {len(body)}\r\n\r\n"
        self.writer.write(head.encode() + body)
        await self.writer.drain()

    async def answer(self) -> tuple[int, bytes]:
        async with asyncio.timeout(PATIENCE):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = next(int(line.split(":")[1]) for line in head.splitlines() if line.startswith("content-length:"))
            return int(head.split()[1]), await self.reader.readexactly(length)


@asynccontextmanager
async def knocking(at: Gate) -> AsyncIterator[Knocking]:
    reader, writer = await asyncio.open_unix_connection(str(at.path))
    try:
        yield Knocking(reader, writer)
    finally:
        writer.transport.abort()


async def test_a_candidate_waits_until_the_gate_opens(tmp_path: Path) -> None:
    async with standing(tmp_path) as (shut, knocks), knocking(shut) as candidate:
        await candidate.ask()
        answer = asyncio.create_task(candidate.answer())
        await until(lambda: knocks)
        async with knocking(shut) as other:
            await other.ask("/another")
            assert (await other.answer())[0] == 404, "which takes longer than an answer on its way"
        assert not answer.done()
        shut.open()
        status, body = await answer
        assert status == 200
        assert json.loads(body)["resources"] == [
            {"@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration", "name": gate.NAME}
        ]


async def test_the_node_of_a_real_bootstrap_makes_a_request_of_77_kilobytes(tmp_path: Path) -> None:
    """Envoy lists its extensions in each discovery request."""
    async with standing(tmp_path) as (opened, _), knocking(opened) as candidate:
        opened.open()
        await candidate.ask(body=b"x" * 77_000)
        assert (await candidate.answer())[0] == 200


async def test_the_gate_stays_open_for_the_next_day_and_is_reached_once(tmp_path: Path) -> None:
    async with standing(tmp_path) as (opened, knocks), knocking(opened) as candidate:
        opened.open()
        for _ in range(2):
            await candidate.ask()
            assert (await candidate.answer())[0] == 200
        async with knocking(opened) as later:
            await later.ask()
            assert (await later.answer())[0] == 200
        assert knocks == ["knock"]


async def test_only_the_candidate_may_use_the_gate(tmp_path: Path) -> None:
    async with standing(tmp_path, pid=1) as (shut, knocks):
        async with knocking(shut) as stranger:
            with contextlib.suppress(ConnectionError):
                await stranger.ask()
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await stranger.answer()
        assert not knocks


async def test_a_child_of_the_candidate_is_not_the_candidate(tmp_path: Path) -> None:
    async with standing(tmp_path) as (shut, knocks):
        code = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print(s.recv(1))"
        ran = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-I", "-c", code, str(shut.path)], capture_output=True, check=False
        )
        assert ran.stdout.strip() == b"b''" or b"ConnectionResetError" in ran.stderr
        assert not knocks


async def test_another_question_is_not_found_and_opens_nothing(tmp_path: Path) -> None:
    async with standing(tmp_path) as (shut, knocks), knocking(shut) as candidate:
        await candidate.ask("/v3/discovery:clusters")
        assert (await candidate.answer())[0] == 404
        assert not knocks


async def test_a_candidate_that_dies_at_the_gate_is_no_trouble(tmp_path: Path) -> None:
    async with standing(tmp_path) as (shut, knocks):
        async with knocking(shut) as candidate:
            await candidate.ask()
            await until(lambda: knocks)
        shut.open()
        async with knocking(shut) as candidate:
            await candidate.ask()
            assert (await candidate.answer())[0] == 200


async def test_a_gate_that_was_never_shut_can_be_closed(tmp_path: Path) -> None:
    await Gate(tmp_path / "gate", lambda: None).close()


async def test_a_gate_without_a_place_is_a_machine_error(tmp_path: Path) -> None:
    made = Gate(tmp_path / "nowhere" / "gate", lambda: None)
    with pytest.raises(MachineError, match=r"cannot bind .*/gate"):
        await made.shut(None)
    await made.close()


async def test_the_gate_tells_whether_it_is_open(tmp_path: Path) -> None:
    async with standing(tmp_path) as (made, _):
        before = made.is_open
        made.open()
        made.open()
        assert (before, made.is_open) == (False, True)


async def test_before_a_candidate_asks_for_routes_the_gate_was_not_asked(tmp_path: Path) -> None:
    async with standing(tmp_path) as (made, knocks), knocking(made) as candidate:
        await candidate.ask("/v3/discovery:routes/more")
        assert (await candidate.answer())[0] == 404
        assert (made.was_asked, knocks) == (False, [])
        await candidate.ask(f"{ROUTES}?x=y")
        await until(lambda: knocks)
        assert made.was_asked


async def test_a_gate_without_a_candidate_admits_nobody(tmp_path: Path) -> None:
    made = Gate(tmp_path / "gate", lambda: None)
    await made.shut(None)
    try:
        async with knocking(made) as anybody:
            with contextlib.suppress(ConnectionError):
                await anybody.ask()
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await anybody.answer()
        assert not made.was_asked
    finally:
        await made.close()


async def test_the_gate_of_an_earlier_agent_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "gate").touch()
    async with standing(tmp_path) as (made, _), knocking(made) as candidate:
        made.open()
        await candidate.ask()
        assert (await candidate.answer())[0] == 200


# What Envoy is given


def values(of: object, key: str) -> list[object]:
    """Find the values of a key anywhere in a document."""
    if isinstance(of, dict):
        return [value for name, value in of.items() if name == key] + [
            found for value in of.values() for found in values(value, key)
        ]
    return [found for each in of for found in values(each, key)] if isinstance(of, list) else []


def test_the_cluster_leads_to_the_gate_alone() -> None:
    made = gate.cluster("/run/x/1/gate")
    assert values(made, "path") == ["/run/x/1/gate"]
    assert (made["name"], values(made, "cluster_name")) == ("agent_gate", ["agent_gate"])
    assert made["type"] == "STATIC", "a name that is looked up would wait for a resolver"


def test_the_listener_binds_no_port_and_waits_for_its_routes_as_long_as_it_takes() -> None:
    made = gate.listener()
    assert made["bind_to_port"] is False
    assert values(made, "route_config_name") == [gate.NAME]
    assert values(made, "cluster_names") == [[gate.NAME]]
    assert values(made, "initial_fetch_timeout") == ["0s"], "Envoy's default lets it serve after fifteen seconds"
    assert values(made, "api_type") == ["REST"]


def test_a_day_passes_before_envoy_asks_again() -> None:
    assert values(gate.listener(), "refresh_delay") == [f"{24 * 60 * 60}s"]


def test_the_cluster_is_the_document_that_envoy_accepts() -> None:
    """Envoy rejects each unknown key and each missing part: then no candidate could start."""
    assert gate.cluster("/run/x/1/gate") == {
        "name": "agent_gate",
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": "agent_gate",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": "/run/x/1/gate"}}}}]}],
        },
    }


def test_the_listener_is_the_document_that_envoy_accepts() -> None:
    filters = "type.googleapis.com/envoy.extensions.filters"
    manager = {
        "@type": f"{filters}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "agent_gate",
        "rds": {
            "route_config_name": "agent_gate",
            "config_source": {
                "resource_api_version": "V3",
                "initial_fetch_timeout": "0s",
                "api_config_source": {
                    "api_type": "REST",
                    "transport_api_version": "V3",
                    "cluster_names": ["agent_gate"],
                    "refresh_delay": "86400s",
                    "request_timeout": "3600s",
                },
            },
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{filters}.http.router.v3.Router"},
            }
        ],
    }
    network = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    assert gate.listener() == {
        "name": "agent_gate",
        "bind_to_port": False,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 1}},
        "filter_chains": [{"filters": [network]}],
    }


async def test_the_answer_is_a_discovery_response_with_an_empty_route_configuration(tmp_path: Path) -> None:
    routes = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
    async with standing(tmp_path) as (opened, _), knocking(opened) as candidate:
        opened.open()
        await candidate.ask()
        async with asyncio.timeout(PATIENCE):
            head = (await candidate.reader.readuntil(b"\r\n\r\n")).lower()
        body = await candidate.reader.readexactly(int(head.partition(b"content-length: ")[2].split()[0]))
    assert b"content-type: application/json\r\n" in head
    assert json.loads(body) == {
        "version_info": "1",
        "type_url": routes,
        "resources": [{"@type": routes, "name": "agent_gate"}],
    }


def test_both_can_be_written_into_a_configuration() -> None:
    for made in (gate.cluster("/run/x"), gate.listener()):
        assert json.loads(json.dumps(made)) == made


async def test_who_reached_the_gate_of_an_earlier_agent_asks_again_and_reaches_it_no_second_time(
    tmp_path: Path,
) -> None:
    knocks: list[str] = []
    made = Gate(tmp_path / "gate", lambda: knocks.append("knock"), reached_before=True)
    made.pid = os.getpid()
    await made.shut(None)
    try:
        before = made.was_asked
        made.open()
        async with knocking(made) as epoch:
            await epoch.ask()
            assert (await epoch.answer())[0] == 200
        assert (before, made.was_asked, knocks) == (False, True, [])
    finally:
        await made.close()


# Other resources


def resources(answers: list[Response | None]) -> Deliver:
    async def deliver(request: Request) -> Response | None:
        assert request.path != ROUTES
        return answers.pop(0)

    return deliver


async def test_another_question_is_answered_by_the_delivery_and_opens_nothing(tmp_path: Path) -> None:
    knocks: list[str] = []
    made = Gate(tmp_path / "gate", lambda: knocks.append("knock"))
    made.pid = os.getpid()
    await made.shut(None, resources([Response(200, b"listeners"), None]), waiting=3)
    try:
        async with knocking(made) as client:
            await client.ask("/v3/discovery:listeners")
            assert await client.answer() == (200, b"listeners")
            await client.ask("/v3/discovery:clusters")
            assert (await client.answer())[0] == 404
        assert (knocks, made.was_asked, made.is_open) == ([], False, False)
    finally:
        await made.close()


async def test_each_subscription_that_waits_has_room_beside_the_usual_clients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[int] = []

    def limited(answer: Any, admit: Any, limit: int) -> Server:  # noqa: ANN401
        limits.append(limit)
        return Server(answer, admit, limit)

    monkeypatch.setattr("agent.handoff.gate.Server", limited)
    for waiting in (0, 5):
        made = Gate(tmp_path / "gate", lambda: None)
        await made.shut(None, waiting=waiting)
        await made.close()
    assert limits[1] - limits[0] == 10


def test_resources_come_by_the_gates_cluster() -> None:
    source = gate.source("0.5s")
    assert source["initial_fetch_timeout"] == "0s"
    assert source["api_config_source"] == {
        "api_type": "REST",
        "transport_api_version": "V3",
        "cluster_names": [gate.NAME],
        "refresh_delay": "0.5s",
        "request_timeout": "3600s",
    }


async def test_an_epoch_that_fetches_what_is_not_delivered_waits(tmp_path: Path) -> None:
    """One of an earlier agent that pushed, where this one does not: it would log each answer, and ask again."""
    async with standing(tmp_path) as (shut, _), knocking(shut) as candidate:
        for target in ("listeners", "secrets"):
            await candidate.ask(f"/v3/discovery:{target}")
        waiting = asyncio.create_task(candidate.answer())
        async with knocking(shut) as other:
            await other.ask("/another")
            assert (await other.answer())[0] == 404
        assert not waiting.done()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
