"""The data plane as a whole: its listeners, references and waits."""

import asyncio
import errno
import json
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.core.errors import BadInput
from agent.handoff.gate import Gate
from agent.sidecar.acceptor import Acceptor
from agent.sidecar.model import (
    Certificate,
    Cluster,
    Configuration,
    DownstreamTls,
    Echo,
    FilterChain,
    HttpManager,
    Listener,
    Match,
    Pipe,
    Reply,
    Route,
    SocketAddress,
    TcpProxy,
    UpstreamTls,
    VirtualHost,
)
from agent.sidecar.traffic import DataPlane
from agent.stats.writer import Writer
from tests.sidecar.stand import cluster, door, echo, end_of, leave, listener, origin, standing


def refusal(*listeners: Listener, clusters: tuple[Cluster, ...] = ()) -> str:
    with pytest.raises(BadInput) as caught:
        DataPlane(Configuration(listeners, clusters), Writer.private(), drain_time=1, drain_immediately=False)
    return str(caught.value)


def routed(*actions: str | Reply) -> HttpManager:
    return HttpManager("h", (VirtualHost("v", ("*",), tuple(Route("/", action) for action in actions)),))


def test_references_to_nothing_are_refused_with_both_names() -> None:
    assert refusal(listener(TcpProxy("t", "missing"))).startswith("listener l: cannot find cluster missing")
    assert "cannot find cluster missing" in refusal(listener(routed("missing")))
    assert "cannot find cluster missing" in refusal(listener(HttpManager("h", gate="missing")))
    chain = FilterChain(TcpProxy("t", "missing"))
    assert "cannot find cluster missing" in refusal(listener(Echo())._replace(default_chain=chain))


def test_what_contradicts_itself_is_refused() -> None:
    chains = (FilterChain(Echo(), match=Match(("a.example",))),) * 2
    assert "listener l: two of its filter chains" in refusal(listener(Echo())._replace(chains=chains))
    hosts = (VirtualHost("one", ("*",), ()), VirtualHost("two", ("*",), ()))
    assert "listener l: cannot route *: two virtual hosts" in refusal(listener(HttpManager("h", hosts)))


def test_certificates_that_cannot_be_loaded_are_named_with_their_owner(tmp_path: Path) -> None:
    missing = Certificate(str(tmp_path / "none"), str(tmp_path / "none"))
    said = refusal(listener(Echo(), tls=DownstreamTls((missing,))))
    assert said == f"listener l: cannot read the certificate chain {missing.chain}: no such file or directory"
    upstream = cluster(tls=UpstreamTls((missing,)))
    assert refusal(clusters=(upstream,)).startswith("cluster c: cannot read the certificate chain")


async def test_every_address_of_a_listener_accepts() -> None:
    doors = [door() for _ in range(3)]
    ports = [each.getsockname()[1] for each in doors]
    settings = listener(Echo())
    traffic = DataPlane(Configuration((settings,), ()), Writer.private(), drain_time=1, drain_immediately=False)
    traffic.start({"l": doors})
    for port in ports:
        streams = await asyncio.open_connection("127.0.0.1", port)
        streams[1].write(b"hello")
        assert await streams[0].readexactly(5) == b"hello"
        await leave(streams)
    await traffic.close()


async def test_listeners_close_and_their_clients_stay() -> None:
    listeners = [listener(Echo(), inbound=True), listener(Echo(), "out")]
    async with standing(listeners) as stand:
        inside, outside = await stand.connect("l"), await stand.connect("out")
        stand.traffic.stop_accepting(inbound_only=True)
        with pytest.raises(ConnectionRefusedError):
            await stand.connect("l")
        await leave(await stand.connect("out"))
        stand.traffic.stop_accepting()
        with pytest.raises(ConnectionRefusedError):
            await stand.connect("out")
        for reader, writer in (inside, outside):
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
            await leave((reader, writer))


async def test_a_shared_listening_socket_keeps_its_flags() -> None:
    shared = door()
    twin = shared.dup()
    async with standing([]) as stand:
        assert stand.traffic.connections == 0
    traffic = DataPlane(Configuration((listener(Echo()),), ()), Writer.private(), drain_time=1, drain_immediately=False)
    traffic.start({"l": [shared]})
    assert not os.get_blocking(twin.fileno())
    traffic.stop_accepting()
    with socket.create_connection(twin.getsockname()) as client, twin.accept()[0] as taken:
        client.sendall(b"x")
        assert taken.recv(1) == b"x"
    await traffic.close()
    twin.close()


@contextmanager
def few_descriptors(room: int) -> Iterator[None]:
    """Permit this process only so many more descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(each.name) for each in Path("/proc/self/fd").iterdir())
    fillers = [os.open("/dev/null", os.O_RDONLY) for _ in range(highest - len(list(Path("/proc/self/fd").iterdir())))]
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for filler in fillers:
            os.close(filler)


async def test_without_descriptors_clients_wait_and_the_rest_goes_on() -> None:
    async with standing([listener(Echo())]) as stand:
        before = await stand.connect()
        await stand.until(f"listener.127.0.0.1_{stand.ports['l']}.downstream_cx_active", 1)
        clients = [socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) for _ in range(3)]
        with few_descriptors(0):
            for client in clients:
                client.connect_ex(("127.0.0.1", stand.ports["l"]))
            await stand.until(f"listener.127.0.0.1_{stand.ports['l']}.downstream_cx_overload_reject", 1)
            before[1].write(b"hello")
            assert await before[0].readexactly(5) == b"hello"
        loop = asyncio.get_running_loop()
        for client in clients:
            await loop.sock_sendall(client, b"x")
            assert await loop.sock_recv(client, 1) == b"x"
            client.close()
        await leave(before)


async def test_an_accept_that_fails_is_not_the_last() -> None:
    class Failing(socket.socket):
        """A listening socket whose first accept meets a client that has disconnected (accept(2), ECONNABORTED)."""

        failures = 1

        def accept(self) -> tuple[socket.socket, object]:
            if self.failures:
                self.failures -= 1
                raise ConnectionAbortedError(errno.ECONNABORTED, "gone")
            return super().accept()

    made = door()
    accepted: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()
    doors = Acceptor([Failing(fileno=made.detach())], accepted.set_result, lambda: None)
    address = doors._sockets[0].getsockname()
    with socket.create_connection(address), await accepted as taken:
        assert not taken.getblocking()
    doors.close()


def named(*hosts: str, **fields: object) -> Cluster:
    endpoints = tuple(SocketAddress(host, 0) for host in hosts)
    return Cluster("c", "STRICT_DNS", endpoints)._replace(**fields)  # type: ignore[arg-type]


async def test_names_are_resolved_before_anything_serves() -> None:
    async with origin(echo) as address:
        dns = named("localhost", dns_family="V4_ONLY")
        dns = dns._replace(endpoints=(SocketAddress("localhost", address.port),))
        async with standing([listener(TcpProxy("t", "c"))], [dns]) as stand:
            assert stand.stat("cluster.c.membership_total") == 1
            assert not stand.traffic.unready
            streams = await stand.connect()
            streams[1].write(b"hello")
            assert await streams[0].readexactly(5) == b"hello"
            await leave(streams)


async def test_a_name_that_is_gone_keeps_its_last_good_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[list[str] | None] = [["127.0.0.1", "127.0.0.2"], None, ["127.0.0.3"]]
    loop = asyncio.get_running_loop()

    async def getaddrinfo(*_: object, **__: object) -> list[object]:
        answer = answers.pop(0) if answers else None
        if answer is None:
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        return [(0, 0, 0, "", (each, 0)) for each in answer]

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)  # a test cannot change the machine's resolver
    async with standing([], [named("a.example", dns_refresh_rate=0.02, dns_family="V4_ONLY")]) as stand:
        assert stand.stat("cluster.c.membership_total") == 2
        await stand.until("cluster.c.update_no_rebuild", 1)
        assert stand.stat("cluster.c.update_failure") == 1
        assert stand.stat("cluster.c.membership_total") == 2
        await stand.until("cluster.c.membership_total", 1)
        assert stand.stat("cluster.c.update_success") == 2


async def test_without_a_redirect_no_client_is_connected_to_the_listener_itself() -> None:
    original = Cluster("c", "ORIGINAL_DST")
    looks = listener(TcpProxy("t", "c"), original_dst=True)
    async with standing([looks, listener(TcpProxy("t", "c"), "other")], [original]) as stand:
        for name in ("l", "other"):
            reader, writer = await stand.connect(name)
            assert await end_of(reader) == b""
            await leave((reader, writer))
        assert stand.stat("cluster.c.upstream_cx_none_healthy") == 2


async def test_it_waits_at_a_gate(tmp_path: Path) -> None:
    reached = asyncio.Event()
    gate = Gate(tmp_path / "gate", reached.set)
    gate.pid = os.getpid()
    await gate.shut(None)
    waiting = listener(HttpManager("g", gate="gate"), "agent_gate")._replace(bind_to_port=False)
    configuration = Configuration((waiting,), (Cluster("gate", "STATIC", (Pipe(str(gate.path)),)),))
    traffic = DataPlane(configuration, Writer.private(), drain_time=1, drain_immediately=False)
    warming = asyncio.create_task(traffic.warm())
    await reached.wait()
    assert traffic.unready == {"agent_gate"}
    assert not warming.done()
    gate.open()
    await warming
    assert not traffic.unready
    await traffic.close()
    await gate.close()


@pytest.mark.parametrize(
    "cluster",
    [
        Cluster("gate", "STATIC", (SocketAddress("127.0.0.1", 1),)),
        Cluster("gate", "STATIC", ()),
        Cluster("gate", "ORIGINAL_DST"),
        Cluster("gate", "STATIC", (Pipe("/a"), Pipe("/b"))),
    ],
)
def test_a_gate_is_one_unix_socket(cluster: Cluster) -> None:
    waiting = listener(HttpManager("g", gate="gate"))._replace(bind_to_port=False)
    with pytest.raises(BadInput, match="cluster gate as a gate: a gate is one Unix socket"):
        DataPlane(Configuration((waiting,), (cluster,)), Writer.private(), drain_time=1, drain_immediately=False)


async def test_a_gate_that_refuses_is_asked_again(tmp_path: Path) -> None:
    asked: list[bytes] = []

    async def moody(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        asked.append(await reader.readuntil(b"}"))
        status = b"500 No" if len(asked) < 3 else b"200 OK"
        writer.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(moody, tmp_path / "gate")
    waiting = listener(HttpManager("g", gate="gate"))._replace(bind_to_port=False)
    clusters = [Cluster("gate", "STATIC", (Pipe(str(tmp_path / "gate")),))]
    async with standing([waiting], clusters):
        assert len(asked) == 4
        assert json.loads(asked[1])["resource_names"] == ["agent_gate"]
        assert asked[0].startswith(b"POST /v3/discovery:routes HTTP/1.1\r\n")
    server.close()
    await server.wait_closed()
