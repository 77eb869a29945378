import asyncio
import socket

import pytest

from agent.sidecar.client import Client
from agent.sidecar.clusters import Upstream
from agent.sidecar.counters import TcpCounters
from agent.sidecar.model import Address, Cluster, SocketAddress, TcpProxy
from agent.sidecar.tcp_proxy import TcpProxying
from agent.stats.writer import Writer
from tests.sidecar.leaping import now
from tests.sidecar.test_http_pool import Endpoint
from tests.sidecar.wires import abstract, client, counted, drain, fill, pair, turns

pytestmark = pytest.mark.usefixtures("leaps")


class Stand:
    def __init__(
        self, *endpoints: Address, original: SocketAddress | None = None, kind: str = "STATIC", **fields: object
    ) -> None:
        self.stats = Writer.private()
        timeout = fields.pop("connect_timeout", 5.0)
        settings = Cluster("c", kind, endpoints)._replace(connect_timeout=timeout)  # type: ignore[arg-type]
        proxy = TcpProxy("t", "c")._replace(**fields)  # type: ignore[arg-type]
        self.proxying = TcpProxying(proxy, Upstream(settings, self.stats), TcpCounters(self.stats, "tcp.t."), 1 << 20)
        self.pair = pair()
        self.left: list[Client] = []
        self.client = client(self.pair.wire, self.left)
        self.client.original = original
        self.proxying.arrived(is_secure=False)
        self.proxying.serve(self.client)
        self.far = self.pair.far

    def of_cluster(self) -> dict[str, int]:
        return counted(self.stats, "cluster.c.upstream_")

    def close(self) -> None:
        if not self.left:
            self.client.session.abort()
        assert self.left == [self.client]
        assert not {name for name in self.of_cluster() if name.endswith("_active")}
        self.pair.close()


async def test_a_client_is_connected_and_its_bytes_are_counted_on_both_sides() -> None:
    end = Endpoint()
    it = Stand(end.place)
    it.far.send(b"request")
    await turns()
    peer = end.accept()
    assert drain(peer) == b"request"
    peer.send(b"answer!!")
    await turns()
    assert drain(it.far) == b"answer!!"
    assert it.of_cluster() == {
        "cx_total": 1,
        "cx_active": 1,
        "cx_tx_bytes_total": 7,
        "cx_rx_bytes_total": 8,
        "rq_total": 1,
        "rq_active": 1,
        "rq_pending_total": 1,
    }
    assert counted(it.stats, "tcp.t.downstream_") == {"cx_total": 1, "cx_rx_bytes_total": 7, "cx_tx_bytes_total": 8}
    it.close()
    end.close()


async def test_until_it_is_connected_a_client_is_not_read() -> None:
    end = Endpoint()
    it = Stand(end.place)
    it.far.send(b"early")
    assert it.of_cluster() == {"cx_total": 1, "cx_active": 1, "rq_pending_total": 1, "rq_pending_active": 1}
    await asyncio.sleep(0)
    assert it.pair.wire.socket.recv(10, socket.MSG_PEEK) == b"early"
    it.close()
    end.close()


@pytest.mark.parametrize(("first", "counter"), [("client", "local"), ("upstream", "remote")])
async def test_the_end_is_counted_by_who_was_first(first: str, counter: str) -> None:
    end = Endpoint()
    it = Stand(end.place)
    await turns()
    peer = end.accept()
    for each in (it.far, peer) if first == "client" else (peer, it.far):
        each.shutdown(socket.SHUT_WR)
        await turns()
    assert it.left == [it.client]
    expected = {
        "cx_destroy",
        f"cx_destroy_{counter}",
        "cx_destroy_with_active_rq",
        f"cx_destroy_{counter}_with_active_rq",
    }
    assert {name for name in it.of_cluster() if "destroy" in name} == expected
    it.close()
    end.close()


async def test_silence_ends_a_connection_and_is_counted() -> None:
    end = Endpoint()
    it = Stand(end.place, idle_timeout=30.0)
    await turns()
    end.accept()
    await asyncio.sleep(29)
    assert it.left == []
    await asyncio.sleep(2)
    assert it.left == [it.client]
    assert counted(it.stats, "tcp.t.")["idle_timeout"] == 1
    assert it.of_cluster()["cx_destroy_local"] == 1
    it.close()
    end.close()


async def test_a_connection_that_ends_otherwise_is_no_timeout() -> None:
    end = Endpoint()
    it = Stand(end.place, idle_timeout=30.0)
    await turns()
    end.accept()
    it.client.session.abort()
    await asyncio.sleep(100)
    assert "idle_timeout" not in counted(it.stats, "tcp.t.")
    it.close()
    end.close()


async def test_without_an_endpoint_the_client_is_closed() -> None:
    it = Stand()
    assert it.left == [it.client]
    assert it.far.recv(1) == b""
    assert it.of_cluster() == {"cx_none_healthy": 1}
    it.close()


async def test_an_original_destination_is_connected_to() -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        it = Stand(original=SocketAddress(*door.getsockname()), kind="ORIGINAL_DST")
        while "rq_total" not in it.of_cluster():  # noqa: ASYNC110
            await asyncio.sleep(0)
        door.accept()[0].close()
        it.close()


@pytest.mark.parametrize("attempts", [1, 2, 3])
async def test_so_many_attempts_are_made_as_configured(attempts: int) -> None:
    it = Stand(abstract(), max_connect_attempts=attempts)
    await turns(20)
    assert it.left == [it.client]
    assert it.far.recv(1) == b""
    assert it.of_cluster() == {
        "cx_total": attempts,
        "cx_connect_fail": attempts,
        "cx_connect_attempts_exceeded": 1,
        "cx_destroy": attempts,
        "cx_destroy_remote": attempts,
        "rq_pending_total": attempts,
        "rq_pending_failure_eject": attempts,
    }
    it.close()


async def test_each_attempt_is_made_at_the_next_endpoint() -> None:
    end = Endpoint()
    it = Stand(abstract(), end.place, max_connect_attempts=2)
    it.far.send(b"hello")
    await turns(20)
    assert drain(end.accept()) == b"hello"
    assert it.of_cluster()["cx_connect_fail"] == 1
    assert "cx_connect_attempts_exceeded" not in it.of_cluster()
    it.close()
    end.close()


async def test_an_attempt_that_takes_too_long_is_counted() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.create_connection(full.getsockname()):
        it = Stand(SocketAddress(*full.getsockname()), connect_timeout=3.0)
        await asyncio.sleep(2.9)
        assert it.left == []
        await asyncio.sleep(0.2)
        assert it.left == [it.client]
        found = it.of_cluster()
        assert (found["cx_connect_timeout"], found["cx_connect_fail"], found["cx_destroy_local"]) == (1, 1, 1)
        assert now() == pytest.approx(3.1)
        it.close()


async def test_an_abort_while_it_is_connected_ends_both() -> None:
    end = Endpoint()
    it = Stand(end.place)
    it.client.session.abort()
    assert it.left == [it.client]
    found = it.of_cluster()
    assert found == {"cx_total": 1, "rq_pending_total": 1, "cx_destroy": 1, "cx_destroy_local": 1}
    await turns()
    assert it.left == [it.client]
    it.close()
    end.close()


async def test_a_slow_upstream_is_counted() -> None:
    end = Endpoint()
    it = Stand(end.place)
    await turns()
    peer = end.accept()
    sent = 0
    for _ in range(50):
        try:
            sent += it.far.send(bytes(1 << 16))
        except BlockingIOError:
            await turns(3)
    assert counted(it.stats, "tcp.t.downstream_flow_control_") == {"paused_reading_total": 1}
    for _ in range(100):
        drain(peer)
        await turns(3)
    found = counted(it.stats, "tcp.t.downstream_flow_control_")
    assert found["paused_reading_total"] == found["resumed_reading_total"]
    assert sent
    fill(peer)
    it.proxying.left(is_secure=True)
    it.close()
    end.close()
