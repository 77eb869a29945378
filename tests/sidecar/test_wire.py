import _ssl
import contextlib
import ctypes
import errno
import os
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.sidecar.counters import TlsCounters
from agent.sidecar.wire import SecureWire, Wire, forget
from agent.stats.writer import Writer
from tests.sidecar.tls import Peer, descriptors, secure_pair
from tests.sidecar.wires import counted, drain, fill, pair, reset, tcp_connected

ROOM = memoryview(bytearray(256 << 10))


def received(wire: Wire, room: int = len(ROOM)) -> bytes:
    """All that one call receives; the call must find something."""
    count = wire.receive(ROOM[:room])
    assert count > 0
    return bytes(ROOM[:count])


# Plain


def test_a_plain_wire_tells_nothing_yet_from_the_end() -> None:
    it = pair()
    assert it.wire.receive(ROOM) == -1
    it.far.send(b"abc")
    assert received(it.wire) == b"abc"
    it.far.shutdown(socket.SHUT_WR)
    assert it.wire.receive(ROOM) == 0
    assert it.wire.receive(ROOM) == 0
    it.close()


def test_a_plain_wire_receives_into_its_room_only() -> None:
    it = pair()
    it.far.send(b"abcdef")
    assert (received(it.wire, 4), received(it.wire, 4)) == (b"abcd", b"ef")
    it.close()


def test_a_plain_wire_sends_what_fits() -> None:
    it = pair()
    data = bytes(1 << 20)
    sent = it.wire.send(data)
    assert 0 < sent < len(data)
    assert it.wire.send(memoryview(data)) == 0
    assert len(drain(it.far)) == sent
    assert it.wire.send(b"more") == 4
    it.close()


def test_a_plain_wire_ends_one_direction() -> None:
    it = pair()
    assert it.wire.end() is True
    assert it.far.recv(1) == b""
    it.far.send(b"still")
    assert received(it.wire) == b"still"
    it.close()


def test_a_plain_wire_is_known_by_its_descriptor_and_holds_nothing_back() -> None:
    it = pair()
    it.far.send(b"x")
    assert it.wire.fd == it.wire.socket.fileno()
    assert (it.wire.is_secure, it.wire.holds_more) == (False, False)
    it.wire.close()
    assert it.wire.socket.fileno() == -1
    it.close()


def test_bytes_sent_before_the_close_still_arrive() -> None:
    it = pair()
    it.wire.send(b"last")
    it.wire.close()
    assert drain(it.far) == b"last"
    it.close()


def test_a_broken_connection_is_an_error() -> None:
    near, far = tcp_connected()
    wire = Wire(near)
    reset(far)
    with pytest.raises(ConnectionResetError):
        wire.receive(ROOM)
    with pytest.raises(BrokenPipeError):
        wire.send(b"x")
    wire.close()


# TLS


def block(wire: SecureWire) -> int:
    """Fill the socket below TLS; return with how many zeros."""
    with socket.socket(fileno=os.dup(wire.fd)) as twin:
        return fill(twin)


def closed(wire: SecureWire, peer: Peer) -> None:
    wire.close()
    peer.far.close()


def test_tls_tells_nothing_yet_from_bytes() -> None:
    wire, peer = secure_pair()
    assert wire.is_secure
    assert wire.receive(ROOM) == -1
    peer.write(b"hello")
    assert received(wire) == b"hello"
    assert wire.send(b"answer") == 6
    assert peer.read() == b"answer"
    closed(wire, peer)


def test_several_records_are_received_together() -> None:
    wire, peer = secure_pair()
    for part in (b"one ", b"two ", b"three"):
        peer.write(part)
    assert received(wire) == b"one two three"
    assert wire.receive(ROOM) == -1
    closed(wire, peer)


def test_a_record_larger_than_the_room_is_held_back() -> None:
    wire, peer = secure_pair()
    peer.write(b"abcdef")
    seen = [(wire.holds_more, received(wire, 4)), (wire.holds_more, received(wire, 4)), (wire.holds_more, b"")]
    assert seen == [(False, b"abcd"), (True, b"ef"), (False, b"")]
    closed(wire, peer)


def test_a_part_of_a_record_is_nothing_yet() -> None:
    wire, peer = secure_pair()
    record = peer.encrypt(b"hello")
    peer.far.send(record[:10])
    assert wire.receive(ROOM) == -1
    peer.far.send(record[10:])
    assert received(wire) == b"hello"
    closed(wire, peer)


def test_the_end_of_tls_follows_the_last_bytes() -> None:
    wire, peer = secure_pair()
    peer.write(b"last")
    peer.end()
    assert received(wire) == b"last"
    assert wire.holds_more
    assert wire.receive(ROOM) == 0
    assert wire.receive(ROOM) == 0
    closed(wire, peer)


def test_an_end_of_tcp_without_one_of_tls_is_an_error() -> None:
    """A cut connection must not look like a whole one."""
    stats = Writer.private()
    wire, peer = secure_pair(TlsCounters(stats, "l."))
    peer.write(b"last")
    peer.far.close()
    assert received(wire) == b"last"
    for _ in range(2):
        with pytest.raises(ssl.SSLEOFError):
            wire.receive(ROOM)
    assert counted(stats) == {}, "the network's errors are not those of TLS"
    closed(wire, peer)


def test_a_damaged_record_is_an_error_that_is_counted() -> None:
    stats = Writer.private()
    wire, peer = secure_pair(TlsCounters(stats, "l."))
    peer.write(b"good")
    damaged = bytearray(peer.encrypt(b"bad"))
    damaged[-1] ^= 1
    peer.far.send(damaged)
    assert received(wire) == b"good"
    assert counted(stats) == {}, "it is counted when it is reported"
    with pytest.raises(ssl.SSLError):
        wire.receive(ROOM)
    assert counted(stats) == {"l.ssl.connection_error": 1}
    closed(wire, peer)


def test_a_damaged_record_alone_is_an_error_at_once() -> None:
    wire, peer = secure_pair()
    peer.far.send(b"\x17\x03\x03\x00\x04junk")
    with pytest.raises(ssl.SSLError):
        wire.receive(ROOM)
    assert wire.holds_more
    closed(wire, peer)


def test_sending_stops_where_the_socket_is_full_and_goes_on() -> None:
    wire, peer = secure_pair()
    data = b"".join(b"%07d\n" % number for number in range(100_000))
    left, got = memoryview(data), b""
    sent = []
    while left:
        sent.append(wire.send(left))
        left = left[sent[-1] :]
        got += peer.read()
    assert got + peer.read() == data
    assert len(sent) > 2
    assert all(each % (16 << 10) == 0 for each in sent[:-1])
    closed(wire, peer)


def test_sending_to_a_full_socket_sends_nothing() -> None:
    wire, peer = secure_pair()
    block(wire)
    assert wire.send(b"x") == 0
    closed(wire, peer)


def test_sending_to_nobody_is_an_error() -> None:
    wire, peer = secure_pair()
    peer.far.close()
    with pytest.raises(OSError):  # noqa: PT011  # the class is that of the kernel's reason
        wire.send(b"x" * 100)
    closed(wire, peer)


def test_an_end_is_one_of_tls_and_leaves_the_other_direction_open() -> None:
    wire, peer = secure_pair()
    wire.send(b"last")
    before = descriptors()
    assert wire.end() is True
    assert descriptors() == before
    assert wire.fd == wire.socket.fileno()
    assert not os.get_inheritable(wire.fd)
    assert peer.read() == b"last"
    assert peer.ends()
    assert peer.far.send(b"") == 0
    peer.write(b"still here")
    assert received(wire) == b"still here"
    peer.end()
    assert wire.receive(ROOM) == 0
    closed(wire, peer)


def test_an_end_loses_no_bytes_that_are_on_their_way() -> None:
    wire, peer = secure_pair()
    peer.write(b"on its way")
    assert wire.end()
    assert received(wire) == b"on its way"
    closed(wire, peer)


def test_an_end_after_the_peer_s_end_is_sent_too() -> None:
    wire, peer = secure_pair()
    peer.end()
    assert wire.receive(ROOM) == 0
    assert wire.end()
    assert peer.ends()
    closed(wire, peer)


def test_an_end_is_sent_once_there_is_room() -> None:
    wire, peer = secure_pair()
    size = block(wire)
    assert wire.end() is False
    assert wire.end() is False
    zeros = peer.far.recv(size, socket.MSG_WAITALL)
    assert len(zeros) + len(drain(peer.far)) == size
    assert wire.end() is True
    assert wire.end() is True
    record = drain(peer.far)
    assert record[0] in {0x15, 0x17}, "an alert, under TLS 1.3 in a record of data"
    assert int.from_bytes(record[3:5], "big") == len(record) - 5, "one record"
    closed(wire, peer)


def test_an_end_that_fails_keeps_the_socket() -> None:
    wire, peer = secure_pair()
    link = Path(f"/proc/self/fd/{wire.fd}")
    before = link.readlink()
    peer.far.close()
    with pytest.raises(BrokenPipeError):
        wire.end()
    assert link.readlink() == before
    wire.close()


def test_closing_sends_the_end_of_tls() -> None:
    wire, peer = secure_pair()
    wire.close()
    assert wire.socket.fileno() == -1
    assert peer.ends()
    assert peer.far.recv(1) == b""
    peer.far.close()


def test_closing_after_an_end_sends_no_second_one() -> None:
    wire, peer = secure_pair()
    wire.end()
    size = len(peer.far.recv(1 << 16, socket.MSG_PEEK))
    wire.close()
    assert len(drain(peer.far)) == size
    peer.far.close()


@pytest.mark.parametrize("how", ["gone", "full"])
def test_closing_never_fails_and_never_waits(how: str) -> None:
    wire, peer = secure_pair()
    if how == "gone":
        peer.far.close()
    else:
        block(wire)
    wire.close()
    assert wire.socket.fileno() == -1
    peer.far.close()


def test_closing_twice_is_no_error() -> None:
    wire, peer = secure_pair()
    wire.close()
    wire.close()
    peer.far.close()


def test_a_peer_that_demands_an_answer_and_does_not_read_it_is_cut_off() -> None:
    class Full:
        """An SSL socket that must write before it can read."""

        def fileno(self) -> int:
            return 0

        def recv_into(self, room: memoryview) -> int:  # noqa: ARG002
            error = ssl.SSLWantWriteError(ssl.SSL_ERROR_WANT_WRITE, "told by the test")
            error.reason = ""
            raise error

    wire = SecureWire(Full(), TlsCounters(Writer.private(), "l."))  # type: ignore[arg-type]
    with pytest.raises(ssl.SSLWantWriteError):
        wire.receive(ROOM)


# OpenSSL's error queue, which all connections share

LIBRARY = ctypes.CDLL(_ssl.__file__)
EOF_IN_TLS = (20, 294)  # ERR_LIB_SSL, SSL_R_UNEXPECTED_EOF_WHILE_READING


def leave_an_error() -> None:
    """Do what a failed system call does under OpenSSL 3.5."""
    LIBRARY.ERR_new()
    LIBRARY.ERR_set_error(*EOF_IN_TLS, None)


class Breaking:
    """An SSL socket whose peer is gone; it leaves its error behind."""

    def __init__(self) -> None:
        self.near, self.far = socket.socketpair()

    def fileno(self) -> int:
        return self.near.fileno()

    def close(self) -> None:
        self.near.close()
        self.far.close()

    def _break(self, *_: object) -> int:
        leave_an_error()
        raise BrokenPipeError(errno.EPIPE, "told by the test")

    recv_into = send = unwrap = do_handshake = _break


WAYS: dict[str, Callable[[SecureWire], object]] = {
    "receive": lambda wire: wire.receive(ROOM),
    "send": lambda wire: wire.send(b"x"),
    "end": lambda wire: wire.end(),
    "close": lambda wire: wire.close(),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_connection_that_breaks_does_no_harm_to_another(way: str) -> None:
    broken, other = Breaking(), secure_pair()
    with contextlib.suppress(BrokenPipeError):
        WAYS[way](SecureWire(broken, TlsCounters(Writer.private(), "l.")))  # type: ignore[arg-type]
    assert LIBRARY.ERR_peek_error() == 0
    assert other[0].receive(ROOM) == -1, "nothing yet"
    broken.close()
    closed(*other)


def test_without_that_the_other_one_would_break() -> None:
    other = secure_pair()
    leave_an_error()
    with pytest.raises(ssl.SSLError):
        other[0].receive(ROOM)
    assert LIBRARY.ERR_peek_error() == 0
    closed(*other)


def test_an_error_of_tls_is_removed_by_the_ssl_module_itself() -> None:
    leave_an_error()
    forget(ssl.SSLWantReadError())
    assert LIBRARY.ERR_peek_error() != 0, "nothing is spent on it"
    forget(ConnectionResetError())
    assert LIBRARY.ERR_peek_error() == 0


def test_an_interrupted_network_is_an_error_that_is_not_counted() -> None:
    stats = Writer.private()
    near, far = tcp_connected()
    reset(far)
    wire = Wire(near)
    TlsCounters(stats, "l.").failed(OSError(errno.ECONNRESET, "reset"))
    assert counted(stats) == {}
    wire.close()
