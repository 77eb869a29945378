"""Sockets that were taken from a process are named by where they listen."""

import os
import socket
from pathlib import Path

from agent.handoff.socket_store import ListenAddress
from agent.proxies.listening_sockets import addressed, interface_of


def taken(sock: socket.socket) -> int:
    """Return a duplicate, as if it was received."""
    return os.dup(sock.fileno())


def test_workers_of_one_address_are_numbered_and_the_rest_is_closed(tmp_path: Path) -> None:
    with (
        socket.socket() as first,
        socket.socket() as second,
        socket.socket() as idle,
        socket.socket(socket.AF_UNIX) as unix,
    ):
        for each in (first, second):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        first.bind(("127.0.0.1", 0))
        second.bind(first.getsockname())
        unix.bind(f"{tmp_path}/web.sock.77.tmp")  # as HAProxy binds it
        for each in (first, second, unix):
            each.listen()
        numbers = [taken(each) for each in (first, second, idle, unix)]
        found = addressed([(number, "") for number in numbers])
        address = f"tcp://127.0.0.1:{first.getsockname()[1]}"
        assert found == {
            ListenAddress(address, "", 0): numbers[0],
            ListenAddress(address, "", 1): numbers[1],
            ListenAddress(f"unix://{tmp_path}/web.sock", "", 0): numbers[3],
        }
        assert not Path(f"/proc/self/fd/{numbers[2]}").exists()
        for descriptor in found.values():
            os.close(descriptor)
        number = taken(first)
        assert addressed([(number, "")], {address}) == {}
        assert not Path(f"/proc/self/fd/{number}").exists()


def test_a_namespace_is_a_part_of_the_name() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        (place,) = (found := addressed([(taken(server), "blue")]))
        assert place.namespace == "blue"
        os.close(found[place])


def test_interfaces(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "s"))
        assert interface_of(server.fileno()) == interface_of(unix.fileno()) == ""
        server.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
        assert interface_of(server.fileno()) == "lo"
