import asyncio

import pytest

from agent.sidecar.counters import HttpCounters, ListenerHttpCounters
from agent.sidecar.draining import Draining
from agent.sidecar.http_manager import HttpConnectionManager
from agent.sidecar.model import HttpManager, Reply, Route, VirtualHost
from agent.sidecar.routing import Routing
from agent.stats.writer import Writer
from tests.sidecar.http_stand import get, http
from tests.sidecar.wires import Pair, client, counted, drain, pair, turns

pytestmark = pytest.mark.usefixtures("leaps")

HOSTS = (VirtualHost("v", ("*",), (Route("/", Reply(200, b"ok")),)),)


def manager(stats: Writer) -> HttpConnectionManager:
    settings = HttpManager("h", HOSTS)
    counters, of_listener = HttpCounters(stats, "http.h."), ListenerHttpCounters(stats, "listener.l.http.h.")
    return HttpConnectionManager(settings, Routing(HOSTS), {}, counters, of_listener, Draining(1, immediate=False))


@pytest.mark.parametrize("is_secure", [True, False])
async def test_connections_are_counted_from_their_arrival(is_secure: bool) -> None:
    stats = Writer.private()
    it = manager(stats)
    it.arrived(is_secure=is_secure)
    secure = {"downstream_cx_ssl_total": 1, "downstream_cx_ssl_active": 1} if is_secure else {}
    assert counted(stats, "http.h.") == {"downstream_cx_total": 1, "downstream_cx_active": 1, **secure}
    it.left(is_secure=is_secure)
    secure.pop("downstream_cx_ssl_active", None)
    assert counted(stats, "http.h.") == {"downstream_cx_total": 1, "downstream_cx_destroy": 1, **secure}


async def test_a_plain_connection_that_ends_leaves_those_under_tls() -> None:
    stats = Writer.private()
    it = manager(stats)
    it.arrived(is_secure=True)
    it.arrived(is_secure=False)
    it.left(is_secure=False)
    assert counted(stats, "http.h.downstream_cx_ssl_") == {"total": 1, "active": 1}
    assert counted(stats, "http.h.downstream_cx_active") == {"": 1}


async def test_each_connection_has_its_own_task() -> None:
    it = manager(Writer.private())
    pairs = [pair() for _ in range(3)]
    left: list[object] = []
    clients = [client(each.wire, left) for each in pairs]  # type: ignore[arg-type]
    for each in clients:
        it.serve(each)
    pairs[1].far.send(get("/"))
    await turns(20)
    assert b"200 OK" in drain(pairs[1].far)
    assert left == []
    clients[0].session.abort()
    await turns()
    assert left == [clients[0]]
    for each in clients:
        each.session.abort()
    await it.ended()
    assert left == [clients[0], clients[1], clients[2]]
    assert not it._tasks
    _close(pairs)


async def test_an_abort_before_the_task_has_run_closes_the_connection() -> None:
    stats = Writer.private()
    it = manager(stats)
    made = pair()
    left: list[object] = []
    served = client(made.wire, left)  # type: ignore[arg-type]
    it.serve(served)
    served.session.abort()
    await it.ended()
    await turns()
    assert left == [served]
    assert made.far.recv(1) == b""
    assert counted(stats, "http.h.") == {"downstream_cx_destroy_remote": 1}
    _close([made])


async def test_without_connections_nothing_is_waited_for() -> None:
    async with asyncio.timeout(1):
        await manager(Writer.private()).ended()


async def test_a_client_that_leaves_ends_its_task_and_leaves_once() -> None:
    async with http() as stand:
        stand.writer.close()
        await turns(20)
        assert stand.left == [stand.client]
        stand.client.session.abort()
        await turns()
        assert stand.left == [stand.client]


def _close(pairs: list[Pair]) -> None:
    for each in pairs:
        each.close()
