import asyncio
import contextlib
import errno
import socket
import ssl

import pytest

from agent.sidecar.counters import TlsCounters
from agent.sidecar.handshake import Handshake
from agent.sidecar.wire import SecureWire
from agent.stats.writer import Writer
from tests.sidecar.leaping import now
from tests.sidecar.test_wire import LIBRARY, Breaking
from tests.sidecar.tls import Peer, client_context, server_context
from tests.sidecar.wires import connected, counted, fill, reset, tcp_connected, turns

pytestmark = pytest.mark.usefixtures("leaps")


class Stand:
    """A handshake of the sidecar's, as server or client, and its result."""

    def __init__(
        self,
        context: ssl.SSLContext | None = None,
        within: float = 0,
        server_name: str | None = None,
        near: socket.socket | None = None,
    ) -> None:
        self.stats = Writer.private()
        self.results: list[SecureWire | OSError] = []
        self.far: socket.socket | None = None
        if near is None:
            near, self.far = connected()
        self.near = near
        self.handshake = Handshake(
            near,
            context or server_context(),
            TlsCounters(self.stats, "l."),
            self.results.append,
            within=within,
            server_name=server_name,
        )

    @property
    def secure(self) -> socket.socket:
        return self.handshake._secure

    def wire(self) -> SecureWire:
        [result] = self.results
        assert isinstance(result, SecureWire)
        return result

    def error(self) -> OSError:
        [result] = self.results
        assert isinstance(result, OSError)
        assert self.secure.fileno() == -1
        return result

    def close(self) -> None:
        for each in (self.secure, self.far):
            if each is not None:
                each.close()


async def shake(stand: Stand, peer: Peer, steps: int = 5) -> None:
    for _ in range(steps):
        peer.step()
        await turns(3)


async def test_a_server_s_handshake_gives_a_wire() -> None:
    stand = Stand()
    assert stand.far is not None
    peer = Peer(stand.far, client_context())
    await shake(stand, peer)
    wire = stand.wire()
    peer.write(b"hello")
    room = memoryview(bytearray(10))
    assert wire.receive(room) == 5
    assert wire.send(b"answer") == 6
    assert peer.read() == b"answer"
    found = counted(stand.stats, "l.ssl.")
    assert (found["handshake"], found["no_certificate"], found["versions.TLSv1.3"]) == (1, 1, 1)
    stand.close()


async def test_a_client_s_handshake_begins_by_itself_and_sends_the_name() -> None:
    names: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    stand = Stand(context, server_name="b.example")
    assert stand.far is not None
    peer = Peer(stand.far, server_context())
    server_context().sni_callback = lambda _, name, __: names.append(name)
    try:
        await turns(3)
        assert stand.far.recv(1, socket.MSG_PEEK) == b"\x16", "a ClientHello"
        await shake(stand, peer)
    finally:
        server_context().sni_callback = None
    assert stand.wire().is_secure
    assert names == ["b.example"]
    stand.close()


async def test_a_client_without_a_name_sends_none() -> None:
    names: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    stand = Stand(context, server_name="")
    assert stand.far is not None
    peer = Peer(stand.far, server_context())
    server_context().sni_callback = lambda _, name, __: names.append(name)
    try:
        await turns(3)
        await shake(stand, peer)
    finally:
        server_context().sni_callback = None
    assert stand.wire().is_secure
    assert names == [None]
    stand.close()


async def test_a_server_says_nothing_before_its_client() -> None:
    stand = Stand()
    await turns()
    assert stand.results == []
    assert stand.far is not None
    with pytest.raises(BlockingIOError):
        stand.far.recv(1)
    stand.handshake.cancel()
    stand.close()


async def test_a_handshake_may_come_byte_by_byte() -> None:
    stand = Stand()
    near, far = connected()
    peer = Peer(near, client_context())
    assert stand.far is not None
    for _ in range(5):
        peer.step()
        try:
            data = far.recv(1 << 16)
        except BlockingIOError:
            data = b""
        for byte in data:
            stand.far.send(bytes([byte]))
            await turns(1)
        await turns(3)
        try:
            far.send(stand.far.recv(1 << 16))
        except BlockingIOError:
            continue
    assert stand.wire().is_secure
    for each in (near, far):
        each.close()
    stand.close()


async def test_a_handshake_that_takes_too_long_is_given_up() -> None:
    stand = Stand(within=5)
    await asyncio.sleep(4.9)
    assert stand.results == []
    await asyncio.sleep(0.2)
    assert isinstance(stand.error(), TimeoutError)
    assert counted(stand.stats) == {}
    stand.close()


async def test_without_a_limit_it_waits() -> None:
    stand = Stand(within=0)
    await asyncio.sleep(1e6)
    assert stand.results == []
    assert stand.far is not None
    await shake(stand, Peer(stand.far, client_context()))
    assert stand.wire().is_secure
    stand.close()


async def test_a_handshake_in_time_leaves_no_timer_and_no_watch() -> None:
    stand = Stand(within=5)
    assert stand.far is not None
    await shake(stand, Peer(stand.far, client_context()))
    wire = stand.wire()
    loop = asyncio.get_running_loop()
    assert not loop.remove_reader(wire.fd)
    assert not loop.remove_writer(wire.fd)
    await asyncio.sleep(10)
    assert stand.results == [wire]
    assert wire.socket.fileno() >= 0
    stand.close()


@pytest.mark.parametrize("junk", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05hello", bytes(600)])
async def test_what_is_no_tls_is_an_error_that_is_counted(junk: bytes) -> None:
    stand = Stand(within=5)
    assert stand.far is not None
    stand.far.send(junk)
    await turns()
    assert isinstance(stand.error(), ssl.SSLError)
    assert counted(stand.stats) == {"l.ssl.connection_error": 1}
    await asyncio.sleep(10)
    stand.error()
    stand.close()


async def test_a_client_that_leaves_is_an_error_that_is_not_counted() -> None:
    stand = Stand()
    assert stand.far is not None
    Peer(stand.far, client_context()).step()
    stand.far.close()
    await turns()
    stand.error()
    assert counted(stand.stats) == {}
    stand.close()


async def test_a_certificate_that_does_not_verify_is_counted() -> None:
    trusting_nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    stand = Stand(trusting_nobody, server_name="a.example")
    assert stand.far is not None
    peer = Peer(stand.far, server_context())
    await turns(3)
    for _ in range(3):
        with contextlib.suppress(OSError):
            peer.step()
        await turns(3)
    assert isinstance(stand.error(), ssl.SSLCertVerificationError)
    assert counted(stand.stats) == {"l.ssl.fail_verify_error": 1}
    stand.close()


async def test_a_cancelled_handshake_closes_its_socket_and_tells_nobody() -> None:
    stand = Stand(within=5)
    stand.handshake.cancel()
    assert stand.secure.fileno() == -1
    await asyncio.sleep(10)
    assert stand.results == []
    stand.close()


async def test_a_client_s_handshake_may_be_cancelled_before_its_first_step() -> None:
    stand = Stand(client_context(), within=5, server_name="a.example")
    stand.handshake.cancel()
    await turns()
    assert stand.results == []
    assert stand.far is not None
    assert stand.far.recv(1) == b""
    stand.close()


async def test_a_socket_whose_peer_sent_bytes_and_is_gone_cannot_begin() -> None:
    near, far = tcp_connected()
    far.send(b"x")
    near.shutdown(socket.SHUT_RDWR)
    reset(far)
    while True:
        try:
            near.getpeername()
        except OSError:
            break
        await asyncio.sleep(0)
    try:
        stand = Stand(near=near)
    except OSError:
        assert near.fileno() == -1
    else:
        await turns()
        stand.handshake.cancel()
        stand.close()


async def test_a_socket_that_was_never_connected_is_an_error() -> None:
    near = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    stand = Stand(near=near)
    await turns()
    assert stand.error().errno == errno.ENOTCONN
    stand.close()


async def test_what_cannot_be_wrapped_is_closed_and_told_at_once() -> None:
    class Refusing(ssl.SSLContext):
        def wrap_socket(self, *_: object, **__: object) -> ssl.SSLSocket:
            raise OSError(errno.ENOTCONN, "told by the test")

    near, far = connected()
    with pytest.raises(OSError, match="told by the test"):
        Handshake(
            near, Refusing(ssl.PROTOCOL_TLS_SERVER), TlsCounters(Writer.private(), "l."), lambda _: None, within=1
        )
    assert near.fileno() == -1
    far.close()


def watched(stand: Stand) -> int:
    """For what the loop watches the socket: 0 for nothing, 1 for reading, 2 for writing."""
    found = asyncio.get_running_loop()._selector.get_map().get(stand.secure.fileno())  # type: ignore[attr-defined]
    return 0 if found is None else int(found.events)


async def test_a_handshake_that_waits_for_a_full_socket_may_be_cancelled() -> None:
    near, far = connected()
    with near.dup() as twin:
        fill(twin)
    stand = Stand(client_context(), server_name="a.example", near=near)
    await turns()
    assert watched(stand) == 2
    number = stand.secure.fileno()
    stand.handshake.cancel()
    assert number not in asyncio.get_running_loop()._selector.get_map()  # type: ignore[attr-defined]
    assert stand.results == []
    far.close()
    stand.close()


async def test_a_connection_that_is_cut_later_does_not_look_whole() -> None:
    stand = Stand()
    assert stand.far is not None
    await shake(stand, Peer(stand.far, client_context()))
    stand.far.close()
    with pytest.raises(ssl.SSLEOFError):
        stand.wire().receive(memoryview(bytearray(10)))
    stand.close()


async def test_a_handshake_waits_for_a_full_socket() -> None:
    """The server's flight is longer than the room that its client leaves."""
    near, far = connected()
    with near.dup() as twin:
        size = fill(twin)
    stand = Stand(near=near)
    stand.far = far
    memory_near, memory_far = connected()
    peer = Peer(memory_near, client_context())
    peer.step()
    far.send(memory_far.recv(1 << 16))
    await turns()
    assert stand.results == []
    assert watched(stand) == 2, "for writing"
    while size:
        size -= len(far.recv(size))
    await turns()
    assert watched(stand) == 1, "for reading: its client is to answer"
    for _ in range(10):
        await turns(3)
        with contextlib.suppress(BlockingIOError):
            memory_far.send(far.recv(1 << 16))
        peer.step()
        try:
            far.send(memory_far.recv(1 << 16))
        except BlockingIOError:
            continue
    assert stand.wire().is_secure
    assert now() == 0
    for each in (memory_near, memory_far):
        each.close()
    stand.close()


async def test_a_handshake_that_breaks_does_no_harm_to_another() -> None:
    class Context:
        def wrap_socket(self, inner: socket.socket, **_: object) -> Breaking:
            inner.close()
            return Breaking()

    stand = Stand(Context(), server_name="")  # type: ignore[arg-type]
    await turns()
    assert isinstance(stand.results[0], BrokenPipeError)
    assert LIBRARY.ERR_peek_error() == 0
    stand.close()


async def test_an_error_of_another_kind_is_told_as_one_of_the_connection() -> None:
    class Odd:
        """What the ssl module raises when a socket was closed below it."""

        def __init__(self, inner: socket.socket) -> None:
            self.inner = inner

        def fileno(self) -> int:
            return self.inner.fileno()

        def close(self) -> None:
            self.inner.close()

        def do_handshake(self) -> None:
            raise ValueError("told by the test")

    class Context:
        def wrap_socket(self, inner: socket.socket, **_: object) -> Odd:
            return Odd(inner)

    stand = Stand(Context(), server_name="")  # type: ignore[arg-type]
    await turns()
    error = stand.error()
    assert isinstance(error, ConnectionError)
    assert str(error) == "told by the test"
    stand.close()
