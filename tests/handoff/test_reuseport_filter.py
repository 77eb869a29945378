import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from agent.handoff.reuseport_filter import attach, detach

CLIENTS = 60
BACKLOG = 256  # more than all clients: one that finds its queue full waits without limit


@contextmanager
def group(size: int) -> Iterator[list[socket.socket]]:
    """Create listening sockets that share a port, each with its own queue."""
    with ExitStack() as stack:
        first = stack.enter_context(socket.create_server(("127.0.0.1", 0), reuse_port=True, backlog=BACKLOG))
        members = [first]
        for _ in range(size - 1):
            name = first.getsockname()
            members.append(stack.enter_context(socket.create_server(name, reuse_port=True, backlog=BACKLOG)))
        for member in members:
            member.setblocking(False)
        yield members


def arrivals(members: list[socket.socket], clients: int = CLIENTS) -> list[int]:
    """Connect this many clients; count the clients of each member."""
    with ExitStack() as stack:
        for _ in range(clients):
            stack.enter_context(socket.create_connection(members[0].getsockname()))
        return [accepted(member) for member in members]


def accepted(member: socket.socket) -> int:
    count = 0
    while True:
        try:
            member.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("by", [0, 3])
def test_new_clients_come_to_the_first_workers_only_and_to_each_of_them(workers: int, by: int) -> None:
    with group(4) as members:
        attach(members[by], workers)
        counts = arrivals(members)
        assert sum(counts) == CLIENTS
        assert counts[workers:] == [0] * (4 - workers)
        assert all(counts[:workers])


def test_without_steering_all_members_get_clients_again() -> None:
    with group(4) as members:
        attach(members[0], 1)
        detach(members[0])
        assert all(arrivals(members, 200))


def test_the_last_filter_counts_whoever_set_it() -> None:
    with group(4) as members:
        attach(members[0], 1)
        attach(members[3], 2)
        counts = arrivals(members)
        assert all(counts[:2])
        assert counts[2:] == [0, 0]
        detach(members[1])
        assert all(arrivals(members, 200))


def test_another_error_than_a_missing_filter_is_not_swallowed() -> None:
    with socket.socket(socket.AF_UNIX) as other, pytest.raises(OSError, match=r"Invalid argument|not supported"):
        detach(other)


def test_ending_what_never_began_is_nothing() -> None:
    with group(2) as members:
        detach(members[0])


def test_the_spare_sockets_may_be_closed_without_losing_a_client() -> None:
    """Four workers become two: clients of the remaining ones stay, even if the others close."""
    with group(4) as members:
        attach(members[0], 2)
        with ExitStack() as stack:
            for number in range(CLIENTS):
                if number == CLIENTS // 2:
                    members[2].close()
                    members[3].close()
                stack.enter_context(socket.create_connection(members[0].getsockname()))
            assert sum(accepted(member) for member in members[:2]) == CLIENTS


def test_a_socket_outside_a_group_is_refused_by_the_kernel() -> None:
    with socket.create_server(("127.0.0.1", 0)) as alone, pytest.raises(OSError, match="Invalid argument"):
        attach(alone, 1)
