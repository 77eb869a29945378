import asyncio
import errno
import socket
import ssl

import pytest

from agent.sidecar.connect import Dial, Transport
from agent.sidecar.counters import TlsCounters
from agent.sidecar.model import Address, Pipe, SocketAddress
from agent.sidecar.wire import SecureWire, Wire
from agent.stats.writer import Writer
from tests.sidecar.leaping import now
from tests.sidecar.tls import Peer, descriptors, server_context
from tests.sidecar.wires import abstract, counted, turns

pytestmark = pytest.mark.usefixtures("leaps")


class Result(list[Wire | OSError]):
    """What a dial has told."""

    def wire(self) -> Wire:
        [one] = self
        assert isinstance(one, Wire)
        return one

    def error(self) -> OSError:
        [one] = self
        assert isinstance(one, OSError)
        return one


def listening(place: Pipe, backlog: int = 10) -> socket.socket:
    door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    door.bind(f"\0{place.path[1:]}" if place.path.startswith("@") else place.path)
    door.listen(backlog)
    return door


def trusting(stats: Writer, name: str = "") -> Transport:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return Transport(context, name, TlsCounters(stats, "c."))


@pytest.mark.parametrize("kind", ["abstract", "path"])
async def test_a_unix_socket_is_connected_to(kind: str, ordinary: object) -> None:
    place = abstract() if kind == "abstract" else Pipe(f"{ordinary}/s")
    with listening(place) as door:
        result = Result()
        Dial(place, None, result.append, within=5)
        assert result == [], "it is told later"
        await turns()
        wire = result.wire()
        assert not wire.is_secure
        accepted, _ = door.accept()
        wire.send(b"hello")
        assert accepted.recv(10) == b"hello"
        accepted.close()
        wire.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_port_is_connected_to_without_delay_of_small_writes(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as door:
        result = Result()
        Dial(SocketAddress(host, door.getsockname()[1]), None, result.append, within=5)
        while not result:  # noqa: ASYNC110
            await asyncio.sleep(0)
        wire = result.wire()
        assert wire.socket.family == family
        assert wire.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert not wire.socket.getblocking()
        wire.close()


async def test_a_connection_leaves_no_timer_and_no_watch() -> None:
    place = abstract()
    with listening(place):
        result = Result()
        Dial(place, None, result.append, within=5)
        await turns()
        wire = result.wire()
        assert not asyncio.get_running_loop().remove_writer(wire.fd)
        await asyncio.sleep(10)
        assert result == [wire]
        assert wire.socket.fileno() >= 0
        wire.close()


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        (Pipe("@nobody-listens-here"), errno.ECONNREFUSED),
        (Pipe("/no/such/directory/s"), errno.ENOENT),
        (SocketAddress("127.0.0.1", 1), errno.ECONNREFUSED),
    ],
)
async def test_nobody_there_is_told_once_and_later(address: Address, reason: int) -> None:
    before = descriptors()
    result = Result()
    Dial(address, None, result.append, within=5)
    assert result == []
    await turns()
    while not result:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert result.error().errno == reason
    assert result.error().strerror
    assert descriptors() == before
    await asyncio.sleep(10)
    assert len(result) == 1


async def test_an_address_that_is_none_is_told_later() -> None:
    result = Result()
    Dial(Pipe("/" + "x" * 200), None, result.append, within=5)
    assert result == []
    await turns()
    assert "path too long" in str(result.error())
    await asyncio.sleep(10)
    assert len(result) == 1


async def test_without_a_free_descriptor_it_fails_later(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "socket", full)
    result = Result()
    Dial(SocketAddress("127.0.0.1", 1), None, result.append, within=5)
    assert result == []
    await turns()
    assert result.error().errno == errno.EMFILE


async def test_a_full_queue_of_a_unix_socket_is_told_at_once() -> None:
    place = abstract()
    with listening(place, backlog=0):
        results = [Result() for _ in range(4)]
        for each in results:
            Dial(place, None, each.append, within=5)
        await turns()
        assert now() == 0
        failed = [each.error() for each in results if isinstance(each[0], OSError)]
        assert failed
        assert {each.errno for each in failed} == {errno.EAGAIN}
        assert "queue" in str(failed[0])
        for each in results:
            if isinstance(each[0], Wire):
                each.wire().close()


async def test_a_connection_that_takes_too_long_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.create_connection(full.getsockname()):
        before = descriptors()
        result = Result()
        Dial(SocketAddress(*full.getsockname()), None, result.append, within=2.5)
        await asyncio.sleep(2.4)
        assert result == []
        await asyncio.sleep(0.2)
        assert isinstance(result.error(), TimeoutError)
        assert descriptors() == before


@pytest.mark.parametrize("state", ["new", "connecting", "failed"])
async def test_a_cancelled_attempt_tells_nothing_and_leaves_nothing(state: str) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.create_connection(full.getsockname()):
        before = descriptors()
        place: Address = Pipe("/no/such") if state == "failed" else SocketAddress(*full.getsockname())
        result = Result()
        dial = Dial(place, None, result.append, within=2.5)
        if state == "connecting":
            await turns()
        dial.cancel()
        assert descriptors() == before
        await asyncio.sleep(10)
        assert result == []


async def test_tls_is_shaken_before_the_result() -> None:
    place, stats = abstract(), Writer.private()
    with listening(place) as door:
        result = Result()
        Dial(place, trusting(stats, "a.example"), result.append, within=5)
        await turns()
        accepted, _ = door.accept()
        accepted.setblocking(False)
        peer = Peer(accepted, server_context())
        assert result == []
        for _ in range(4):
            peer.step()
            await turns(3)
        wire = result.wire()
        assert isinstance(wire, SecureWire)
        assert counted(stats, "c.ssl.")["handshake"] == 1
        wire.send(b"hello")
        assert peer.read() == b"hello"
        await asyncio.sleep(10)
        assert wire.socket.fileno() >= 0
        wire.close()
        accepted.close()


async def test_connection_and_handshake_share_their_time() -> None:
    place = abstract()
    with listening(place) as door:
        result = Result()
        Dial(place, trusting(Writer.private()), result.append, within=3)
        await turns()
        accepted, _ = door.accept()
        await asyncio.sleep(2.9)
        assert result == []
        await asyncio.sleep(0.2)
        assert isinstance(result.error(), TimeoutError)
        await asyncio.sleep(10)
        assert len(result) == 1
        accepted.recv(1 << 16)
        assert accepted.recv(1) == b""
        accepted.close()


async def test_a_failed_handshake_is_the_error() -> None:
    place, stats = abstract(), Writer.private()
    with listening(place) as door:
        result = Result()
        Dial(place, trusting(stats), result.append, within=3)
        await turns()
        accepted, _ = door.accept()
        accepted.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await turns()
        assert isinstance(result.error(), ssl.SSLError)
        assert counted(stats) == {"c.ssl.connection_error": 1}
        await asyncio.sleep(10)
        assert len(result) == 1
        accepted.close()


async def test_a_handshake_is_cancelled_with_its_attempt() -> None:
    place = abstract()
    with listening(place) as door:
        before = descriptors()
        result = Result()
        dial = Dial(place, trusting(Writer.private()), result.append, within=3)
        await turns()
        accepted, _ = door.accept()
        dial.cancel()
        assert descriptors() == before + 1
        await asyncio.sleep(10)
        assert result == []
        accepted.close()


async def test_a_handshake_that_cannot_begin_is_the_error() -> None:
    class Refusing(ssl.SSLContext):
        def wrap_socket(self, *_: object, **__: object) -> ssl.SSLSocket:
            raise OSError(errno.ENOTCONN, "told by the test")

    place = abstract()
    with listening(place):
        before = descriptors()
        result = Result()
        transport = Transport(Refusing(ssl.PROTOCOL_TLS_CLIENT), "", TlsCounters(Writer.private(), "c."))
        Dial(place, transport, result.append, within=3)
        await turns()
        assert "told by the test" in str(result.error())
        assert descriptors() == before
