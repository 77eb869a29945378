import socket
from pathlib import Path

import pytest

from agent.host import accept_queues
from agent.host.accept_queues import LIMIT, clients, is_accepted, is_accepted_unix


def connect(listening: socket.socket) -> socket.socket:
    made = socket.socket(listening.family)
    made.connect(listening.getsockname())
    return made


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_clients_that_are_not_accepted_are_counted(family: socket.AddressFamily, host: str) -> None:
    with socket.create_server((host, 0), family=family) as listening:
        port = listening.getsockname()[1]
        assert clients([port]) == frozenset()
        with connect(listening), connect(listening):
            both = clients([port, 1])
            assert len(both) == 2
            accepted, _ = listening.accept()
            with accepted:
                rest = clients([port])
                assert len(rest) == 1
                assert rest < both
                assert clients([1]) == frozenset()


def test_a_closed_client_is_counted_and_a_reset_one_is_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        leaving, resetting = connect(listening), connect(listening)
        resetting.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        leaving.close()
        assert len(clients([port])) == 2
        resetting.close()
        assert len(clients([port])) == 1


def test_what_the_server_has_closed_does_not_wait() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, connect(listening):
        listening.accept()[0].close()
        assert clients([listening.getsockname()[1]]) == frozenset()


def test_many_clients_are_all_counted() -> None:
    """More than the kernel reports in one datagram."""
    with socket.create_server(("127.0.0.1", 0), backlog=600) as listening:
        waiting = [connect(listening) for _ in range(600)]
        try:
            assert len(clients([listening.getsockname()[1]])) == 600
        finally:
            for each in waiting:
                each.close()


def test_a_client_of_version_4_waits_at_a_listener_for_both() -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listening:
        port = listening.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            assert len(clients([port])) == 1


def test_only_so_many_ports_are_looked_at() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, connect(listening):
        port = listening.getsockname()[1]
        assert clients([*range(1, LIMIT), port])
        assert not clients([*range(1, LIMIT + 1), port])


def test_without_kernel_support_the_count_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accept_queues, "_SOCK_DIAG", 31)  # a netlink protocol that does not exist
    with socket.create_server(("127.0.0.1", 0)) as listening, connect(listening):
        assert clients([listening.getsockname()[1]]) == frozenset()


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_one_connection_is_told_from_the_others(family: socket.AddressFamily, host: str) -> None:
    with socket.create_server((host, 0), family=family) as listening:
        port = listening.getsockname()[1]
        with connect(listening) as first, connect(listening) as second:
            ports = [each.getsockname()[1] for each in (first, second)]
            accepted, _ = listening.accept()
            with accepted:
                assert [is_accepted(port, each) for each in ports] == [True, False]
                assert not is_accepted(port, port)


def test_one_connection_of_a_unix_socket_is_told_from_the_others(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        with connect(listening) as first, connect(listening) as second:
            accepted, _ = listening.accept()
            with accepted:
                assert [is_accepted_unix(first), is_accepted_unix(second)] == [True, False]
