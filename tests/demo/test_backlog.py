import socket
from contextlib import ExitStack, closing

from agent.demo.backlog import Backlog


def test_clients_in_the_accept_queue_are_counted() -> None:
    with ExitStack() as stack:
        first, other = (stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2))
        backlog = stack.enter_context(closing(Backlog(first.getsockname()[1])))
        assert backlog.depth() == 0
        for server in (first, first, first, other):
            stack.enter_context(socket.create_connection(server.getsockname()))
        assert backlog.depth() == 3
        accepted, _ = first.accept()
        accepted.close()
        assert backlog.depth() == 2


def test_the_queues_of_all_sockets_of_a_port_count() -> None:
    with ExitStack() as stack:
        first = stack.enter_context(socket.create_server(("127.0.0.1", 0), reuse_port=True))
        address = first.getsockname()
        stack.enter_context(socket.create_server(address, reuse_port=True))
        for _ in range(20):
            stack.enter_context(socket.create_connection(address))
        assert stack.enter_context(closing(Backlog(address[1]))).depth() == 20
