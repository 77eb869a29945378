import asyncio
import errno
import socket
import ssl

import pytest

from agent.sidecar.client import Client
from agent.sidecar.client_hello import RAW, Hello
from agent.sidecar.listening import Chain, Listening
from agent.sidecar.model import DownstreamTls, Echo, FilterChain, Listener, Match, SocketAddress
from agent.stats.writer import Writer
from tests.sidecar.leaping import now
from tests.sidecar.test_client_hello import client_hello
from tests.sidecar.tls import Peer, client_context, server_context
from tests.sidecar.wires import counted, turns

pytestmark = pytest.mark.usefixtures("leaps")

ALL = Match()
WITH_TLS = Match(transport_protocol="tls")


class Served:
    """A filter that notes what it is told, and keeps its clients until they are aborted."""

    def __init__(self) -> None:
        self.told: list[tuple[str, bool]] = []
        self.clients: list[Client] = []

    def arrived(self, *, is_secure: bool) -> None:
        self.told.append(("arrived", is_secure))

    def left(self, *, is_secure: bool) -> None:
        self.told.append(("left", is_secure))

    def serve(self, client: Client) -> None:
        client.session = _Session(client)
        self.clients.append(client)


class _Session:
    def __init__(self, client: Client) -> None:
        self._client = client

    def abort(self) -> None:
        self._client.wire.close()
        self._client.leave()


def chain(filter_: Served, tls: ssl.SSLContext | None = None, match: Match = ALL, within: float = 15.0) -> Chain:
    settings = None if tls is None else DownstreamTls(())
    return Chain(FilterChain(Echo(), match=match, tls=settings, connect_timeout=within), filter_, tls)


class Stand:
    """A listener at a Unix socket."""

    def __init__(self, *chains: Chain, default: Chain | None = None, **fields: object) -> None:
        self.stats = Writer.private()
        settings = Listener("l", (SocketAddress("::1", 80),), ())._replace(**fields)  # type: ignore[arg-type]
        self.listening = Listening(settings, chains, default, self.stats)
        self.door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.door.bind("")
        self.door.listen(10)
        self.name = self.door.getsockname()
        self.listening.open([self.door])
        self.far: list[socket.socket] = []

    async def connect(self, *data: bytes) -> socket.socket:
        far = socket.socket(socket.AF_UNIX)
        self.far.append(far)
        far.connect(self.name)
        far.setblocking(False)
        for each in data:
            far.send(each)
        await turns()
        return far

    def counted(self) -> dict[str, int]:
        return counted(self.stats, "listener.[__1]_80.")

    def close(self) -> None:
        self.listening.close()
        self.listening.abort()
        for each in self.far:
            each.close()
        assert not self.listening.clients
        assert not {name for name in self.counted() if name.endswith("_active")}


def is_closed(far: socket.socket) -> bool:
    try:
        return far.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:  # it had sent what was not read
        return True


async def test_a_connection_is_served_by_its_chain_and_counted() -> None:
    served = Served()
    it = Stand(chain(served))
    far = await it.connect()
    [client] = served.clients
    assert served.told == [("arrived", False)]
    assert it.listening.clients == {client}
    assert client.original is None
    active = {"downstream_cx_total": 1, "downstream_cx_active": 1}
    assert it.counted() == {**active, **{f"worker_0.{name}": value for name, value in active.items()}}
    client.wire.send(b"hello")
    assert far.recv(10) == b"hello"
    client.session.abort()
    assert served.told == [("arrived", False), ("left", False)]
    assert it.counted() == {"downstream_cx_total": 1, "downstream_cx_destroy": 1, "worker_0.downstream_cx_total": 1}
    assert it.listening.clients == set()
    it.close()


async def test_statistics_are_named_after_the_prefix_if_there_is_one() -> None:
    served = Served()
    it = Stand(chain(served), stat_prefix="a:b")
    await it.connect()
    assert counted(it.stats, "listener.a_b.")["downstream_cx_total"] == 1
    it.close()


async def test_closing_stops_accepting_and_leaves_the_clients() -> None:
    served = Served()
    it = Stand(chain(served))
    far = await it.connect()
    it.listening.close()
    it.listening.close()
    assert it.door.fileno() == -1
    with pytest.raises(ConnectionRefusedError):
        await it.connect()
    served.clients[0].wire.send(b"x")
    assert far.recv(1) == b"x"
    it.close()


async def test_aborting_closes_every_client() -> None:
    served = Served()
    it = Stand(chain(served))
    far = [await it.connect() for _ in range(3)]
    it.listening.abort()
    assert all(is_closed(each) for each in far)
    assert len(served.told) == 6
    it.close()


async def test_a_listener_that_was_never_opened_can_be_closed() -> None:
    Listening(Listener("l", (SocketAddress("::1", 80),), ()), [], None, Writer.private()).close()


async def test_without_a_chain_a_connection_is_closed_and_counted() -> None:
    it = Stand()
    far = await it.connect()
    assert is_closed(far)
    assert it.counted() == {"no_filter_chain_match": 1}
    assert it.listening.clients == set()
    it.close()


async def test_the_default_chain_takes_what_no_chain_matches() -> None:
    named, default = Served(), Served()
    it = Stand(chain(named, match=Match(("a.example",))), default=chain(default))
    await it.connect(client_hello("b.example"))
    await it.connect(client_hello("a.example"))
    assert (len(named.clients), len(default.clients)) == (1, 1)
    it.close()


async def test_a_connection_may_be_found_a_chain_by_itself() -> None:
    served = Served()
    made = chain(served, match=WITH_TLS)
    it = Stand(made)
    assert it.listening.find(Hello(is_tls=True)) is made
    assert it.listening.find(RAW) is None
    assert it.counted() == {"no_filter_chain_match": 1}
    it.close()


def test_chains_that_match_the_same_are_refused() -> None:
    both = [chain(Served()), chain(Served())]
    with pytest.raises(ValueError, match="match the same"):
        Listening(Listener("l", (SocketAddress("::1", 80),), ()), both, None, Writer.private())


async def test_without_a_free_descriptor_a_connection_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    it = Stand(chain(Served()))

    def full(_: object) -> None:
        raise OSError(errno.EMFILE, "told by the test")

    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "accept", full)
        await it.connect()
    assert it.counted() == {"downstream_cx_overload_reject": 1}
    await asyncio.sleep(0.2)
    assert it.counted()["downstream_cx_total"] == 1
    it.close()


async def test_a_port_s_connection_sends_small_writes_at_once() -> None:
    served = Served()
    listening = Listening(Listener("l", (SocketAddress("::1", 80),), ()), [chain(served)], None, Writer.private())
    with socket.create_server(("127.0.0.1", 0)) as door:
        door.setblocking(False)
        listening.open([door])
        with socket.create_connection(door.getsockname()):
            while not served.clients:  # noqa: ASYNC110
                await asyncio.sleep(0)
            wire = served.clients[0].wire
            assert wire.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            listening.abort()
        listening.close()


# Inspection


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (client_hello("a.example", ("h2",)), {"tls_found", "sni_found", "alpn_found"}),
        (client_hello(None), {"tls_found", "sni_not_found", "alpn_not_found"}),
        (client_hello("a.example"), {"tls_found", "sni_found", "alpn_not_found"}),
        (client_hello(None, ("h2",)), {"tls_found", "sni_not_found", "alpn_found"}),
        (b"GET /", {"tls_not_found"}),
    ],
)
async def test_what_a_client_begins_with_is_counted(data: bytes, found: set[str]) -> None:
    served = Served()
    it = Stand(chain(served), inspects_tls=True)
    await it.connect()
    assert it.counted() == {"downstream_pre_cx_active": 1}
    assert served.told == []
    it.far[0].send(data)
    await turns()
    assert len(served.clients) == 1
    assert counted(it.stats, "tls_inspector.") == dict.fromkeys(found, 1)
    assert "downstream_pre_cx_active" not in it.counted()
    it.close()


@pytest.mark.parametrize("match", [WITH_TLS, Match(("a.example",)), Match(application_protocols=("h2",))])
async def test_a_chain_that_needs_a_hello_is_inspected_for(match: Match) -> None:
    served = Served()
    it = Stand(chain(served, match=match))
    await it.connect(client_hello("a.example", ("h2",)))
    assert counted(it.stats, "tls_inspector.")["tls_found"] == 1
    assert len(served.clients) == 1
    it.close()


async def test_without_need_nobody_is_inspected() -> None:
    it = Stand(chain(Served()))
    assert it.listening.inspector is None
    await it.connect()
    assert counted(it.stats, "tls_inspector.") == {}
    it.close()


@pytest.mark.parametrize("goes_on", [True, False])
async def test_a_silent_client_is_closed_or_served_after_its_time(goes_on: bool) -> None:
    served = Served()
    it = Stand(chain(served), inspects_tls=True, inspection_timeout=4.0, continue_on_timeout=goes_on)
    far = await it.connect()
    await asyncio.sleep(3.9)
    assert served.told == []
    await asyncio.sleep(0.2)
    assert it.counted()["downstream_pre_cx_timeout"] == 1
    assert len(served.clients) == int(goes_on)
    assert is_closed(far) is not goes_on
    assert counted(it.stats, "tls_inspector.") == {}
    it.close()


async def test_a_client_that_leaves_early_is_counted() -> None:
    it = Stand(chain(Served()), inspects_tls=True)
    far = await it.connect(client_hello()[:10])
    far.close()
    await asyncio.sleep(0.02)
    assert it.counted() == {"downstream_listener_filter_remote_close": 1}
    assert it.listening.clients == set()
    it.close()


async def test_a_hello_without_an_end_is_counted_and_closed() -> None:
    it = Stand(chain(Served()), inspects_tls=True)
    far = await it.connect(b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc" + bytes((16 << 10) - 9))
    assert is_closed(far)
    assert counted(it.stats, "tls_inspector.") == {"client_hello_too_large": 1}
    assert it.counted() == {}
    it.close()


async def test_an_abort_within_an_inspection_closes_the_client() -> None:
    it = Stand(chain(Served()), inspects_tls=True)
    far = await it.connect(client_hello()[:10])
    it.listening.abort()
    assert is_closed(far)
    assert it.counted() == {}
    await asyncio.sleep(100)
    assert it.listening.clients == set()
    it.close()


# TLS


async def shaken(it: Stand) -> Peer:
    peer = Peer(await it.connect(), client_context())
    for _ in range(4):
        peer.step()
        await turns()
    return peer


async def test_tls_is_shaken_before_the_filter_serves() -> None:
    served = Served()
    it = Stand(chain(served, server_context()))
    far = await it.connect()
    assert served.told == [("arrived", True)]
    assert served.clients == []
    far.close()
    peer = await shaken(it)
    client = served.clients[-1]
    assert client.wire.is_secure
    client.wire.send(b"hello")
    assert peer.read() == b"hello"
    assert it.counted()["ssl.handshake"] == 1
    client.session.abort()
    assert served.told[-1] == ("left", True)
    it.close()


async def test_the_inspected_hello_is_not_lost_for_tls() -> None:
    served = Served()
    it = Stand(chain(served, server_context(), Match(("a.example",))))
    await shaken(it)
    assert len(served.clients) == 1
    it.close()


async def test_a_handshake_has_its_time_which_is_counted() -> None:
    served = Served()
    it = Stand(chain(served, server_context(), within=3.0))
    far = await it.connect()
    await asyncio.sleep(2.9)
    assert not is_closed(far)
    await asyncio.sleep(0.2)
    assert is_closed(far)
    found = it.counted()
    assert (found["downstream_cx_transport_socket_connect_timeout"], found["downstream_cx_destroy"]) == (1, 1)
    assert served.told == [("arrived", True), ("left", True)]
    assert now() == pytest.approx(3.1)
    it.close()


async def test_a_handshake_that_fails_is_no_timeout() -> None:
    served = Served()
    it = Stand(chain(served, server_context()))
    far = await it.connect(b"GET / HTTP/1.1\r\n\r\n")
    found = it.counted()
    assert "downstream_cx_transport_socket_connect_timeout" not in found
    assert (found["ssl.connection_error"], found["downstream_cx_destroy"]) == (1, 1)
    assert is_closed(far)
    assert served.told[-1] == ("left", True)
    it.close()


async def test_an_abort_within_a_handshake_closes_the_client() -> None:
    served = Served()
    it = Stand(chain(served, server_context()))
    far = await it.connect()
    it.listening.abort()
    assert is_closed(far)
    assert served.told == [("arrived", True), ("left", True)]
    await asyncio.sleep(100)
    assert "downstream_cx_transport_socket_connect_timeout" not in it.counted()
    it.close()


@pytest.mark.parametrize("error", [OSError(errno.ENOTCONN, "told by the test"), ValueError("told by the test")])
async def test_a_handshake_that_cannot_begin_closes_the_client(error: Exception) -> None:
    class Refusing(ssl.SSLContext):
        def wrap_socket(self, connected: socket.socket, *_: object, **__: object) -> ssl.SSLSocket:  # type: ignore[override]
            connected.close()
            raise error

    served = Served()
    it = Stand(chain(served, Refusing(ssl.PROTOCOL_TLS_SERVER)))
    far = await it.connect()
    assert is_closed(far)
    assert served.told == [("arrived", True), ("left", True)]
    it.close()


@pytest.mark.parametrize("place", ["chain", "default", "none"])
def test_tls_is_counted_where_a_chain_has_it(place: str) -> None:
    secure = Chain(FilterChain(Echo(), tls=DownstreamTls(())), Served(), server_context())
    plain = Chain(FilterChain(Echo()), Served(), None)
    chains, default = ([secure], None) if place == "chain" else ([plain], secure if place == "default" else None)
    listening = Listening(Listener("l", (SocketAddress("::1", 80),), ()), chains, default, Writer.private())
    assert (listening.tls is None) is (place == "none")


async def test_the_original_destination_is_asked_for_where_it_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def destination(connected: socket.socket) -> SocketAddress:
        asked.append(connected.fileno())
        return SocketAddress("192.0.2.1", 443)

    monkeypatch.setattr("agent.sidecar.listening.original_destination", destination)
    served = Served()
    for original in (True, False):
        it = Stand(chain(served), original_dst=original)
        await it.connect()
        it.close()
    assert [each.original for each in served.clients] == [SocketAddress("192.0.2.1", 443), None]
    assert len(asked) == 1
