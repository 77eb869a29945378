"""Descriptors received from an epoch are checked for their type, and closing them never blocks."""

import os
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.handoff import descriptors
from agent.handoff.descriptors import discard, is_socket_of
from tests.system.eventually import eventually


def tcp(host: str = "127.0.0.1") -> socket.socket:
    return socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_socket_at_its_address_is_the_one(host: str) -> None:
    with tcp(host) as given:
        port = given.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        assert is_socket_of(given.fileno(), f"tcp://{shown}:{port}")
        assert is_socket_of(given.fileno(), f"tcp://{shown}:0"), "the kernel chose the port"
        assert not is_socket_of(given.fileno(), f"tcp://{shown}:{port ^ 1}")
        assert not is_socket_of(given.fileno(), f"udp://{shown}:{port}")
        assert not is_socket_of(given.fileno(), f"tcp://127.9.9.9:{port}")
        assert not is_socket_of(given.fileno(), "unix:///nowhere")
        given.getsockname()


def test_every_spelling_of_an_address_is_the_same() -> None:
    with tcp("::1") as given:
        assert is_socket_of(given.fileno(), f"tcp://[0:0:0:0:0:0:0:1]:{given.getsockname()[1]}")


def test_a_unix_socket_is_known_by_its_path(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as given, socket.socket(socket.AF_UNIX) as abstract:
        given.bind(str(tmp_path / "s"))
        assert is_socket_of(given.fileno(), f"unix://{tmp_path}/s")
        assert not is_socket_of(given.fileno(), f"unix://{tmp_path}/t")
        abstract.bind(f"\0{tmp_path}")
        assert is_socket_of(abstract.fileno(), f"unix://@{tmp_path}")
        assert not is_socket_of(abstract.fileno(), f"unix://{tmp_path}")


@pytest.mark.parametrize("open_one", [lambda: os.open("/dev/null", os.O_RDONLY), lambda: os.memfd_create("x")])
def test_what_is_no_socket_is_none(open_one: Callable[[], int]) -> None:
    descriptor = open_one()
    assert not is_socket_of(descriptor, "tcp://127.0.0.1:1")
    os.close(descriptor)


def test_a_netlink_socket_is_none() -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM) as given:
        assert not is_socket_of(given.fileno(), "udp://127.0.0.1:1")


def test_a_connection_that_lingers_is_closed_at_once() -> None:
    """Its owner filled the send queue and set SO_LINGER to an hour: the last close would block for that time."""
    with tcp() as server:
        given = socket.create_connection(server.getsockname())
        taker, _ = server.accept()
        given.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
        given.setblocking(False)
        try:
            while True:
                given.send(bytes(1 << 16))
        except BlockingIOError:
            pass
        closing = threading.Thread(target=discard, args=([given.detach()],), daemon=True)
        closing.start()
        eventually(lambda: not closing.is_alive(), what="it is closed")
        taker.close()


def test_a_file_is_closed_elsewhere() -> None:
    read, write = os.pipe()
    discard([write])
    assert os.read(read, 1) == b"", "its other end is closed"
    os.close(read)


def test_a_file_system_that_does_not_answer_holds_up_neither_the_caller_nor_the_exit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = threading.Event()

    def close(descriptor: int) -> None:
        answers.wait()
        os.close(descriptor)

    monkeypatch.setattr(descriptors, "_close", close)
    read, write = os.pipe()
    discard([write])
    (closing,) = [thread for thread in threading.enumerate() if thread.name == "close"]
    assert closing.daemon, "the interpreter waits for other threads at its exit"
    answers.set()
    closing.join()
    assert os.read(read, 1) == b""
    os.close(read)
