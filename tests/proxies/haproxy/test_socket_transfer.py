"""Sockets travel as HAProxy sends and takes them; what else arrives is an error, and nothing is left open."""

import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from agent.core.errors import MachineError
from agent.proxies.haproxy.socket_transfer import REQUEST, Passed, close, receive, send


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def descriptors() -> set[str]:
    """Return the open descriptors of this process."""
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def transferred(pair: tuple[socket.socket, socket.socket], passed: list[Passed]) -> list[Passed]:
    """Send sockets from one end and take them at the other."""
    ours, theirs = pair

    def answer() -> None:
        assert theirs.recv(len(REQUEST)) == REQUEST
        send(theirs, passed)

    thread = Thread(target=answer)
    thread.start()
    try:
        return receive(ours)
    finally:
        thread.join()


@pytest.mark.parametrize("count", [0, 1, 252, 253, 600])
def test_any_number_arrives_in_order(count: int, pair: tuple[socket.socket, socket.socket]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        numbers = [(one if number % 3 else other).fileno() for number in range(count)]
        found = transferred(pair, [Passed(number, "blue" * (number % 2), "lo") for number in numbers])
        try:
            assert len(found) == count
            for sent, got in zip(numbers, found, strict=True):
                assert os.path.sameopenfile(sent, got.descriptor)
                assert (got.namespace, got.interface) == ("blue" * (sent % 2), "lo")
        finally:
            close(found)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "the connection ended"),
        (struct.pack("=i", -1), "announces -1"),
        (struct.pack("=i", 1 << 20), "announces 1048576"),
        (struct.pack("=i", 1) + bytes(6), "no socket"),
        (struct.pack("=i", 1), "the connection ended"),
    ],
)
def test_what_is_no_answer_is_an_error(answer: bytes, why: str, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.sendall(answer)
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(MachineError, match=rf"^cannot take the proxy's sockets: .*{why}"):
        receive(ours)


@pytest.mark.parametrize("data", [b"\x05ab", b"\0\0", b"\xff" * 8])
def test_a_socket_without_its_description_is_closed(data: bytes, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.sendall(struct.pack("=i", 1))
    socket.send_fds(theirs, [data], [theirs.fileno()])
    before = descriptors()
    with pytest.raises(MachineError, match="describe"):
        receive(ours)
    assert descriptors() == before


def test_a_receiver_that_is_gone_is_an_error(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.close()
    with pytest.raises(MachineError, match=r"^cannot hand 1 sockets over: "):
        send(ours, [Passed(ours.fileno())])
