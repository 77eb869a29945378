"""A serving proxy that hangs is reported, and replaced with `--replace-hung`; clients wait and lose nothing."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.system.agent_fixture import AgentFixture
from tests.system.eventually import eventually, pass_time
from tests.system.journal import Entry
from tests.system.loads import Loads, nothing_failed
from tests.system.room import stopped
from tests.system.wire import connect, exchange, request_bytes, tls_context

pytestmark = [pytest.mark.long, pytest.mark.pushed, pytest.mark.haproxy]

CLIENTS = 50
HUNG, ANSWERS = "service.hung", "service.answers"


@contextmanager
def waiting(instance: AgentFixture) -> Iterator[list[socket.socket]]:
    """Clients that have sent a request."""
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(instance.plain, tls_context(), timeout=40)) for _ in range(CLIENTS)]
        for each in clients:
            each.sendall(request_bytes(last=True))
        yield clients


def answered(clients: list[socket.socket]) -> int:
    """Count those that get a complete response; none may fail."""
    return sum(exchange(each, last=True).body == b"ok\n" for each in clients)


def told(instance: AgentFixture, event: str) -> list[Entry]:
    return [entry for entry in instance.journal.entries() if entry.name == event]


def test_it_is_reported_once_and_once_more_when_it_answers_again(instance: AgentFixture) -> None:
    pid = instance.serving_pid()
    with stopped(pid), waiting(instance) as clients:
        (entry,) = eventually(lambda: told(instance, HUNG), what="the report")
        assert f"(pid {pid}) hangs: " in entry.body
        assert f"tcp://127.0.0.1:{instance.plain.port}" in entry.body
        pass_time(3)
        assert len(told(instance, HUNG)) == 1
        assert told(instance, ANSWERS) == []
    eventually(lambda: told(instance, ANSWERS), what="the end of it")
    assert instance.serving_pid() == pid
    assert len(clients) == CLIENTS


def test_clients_that_waited_for_it_are_answered_when_it_goes_on(instance: AgentFixture) -> None:
    with ExitStack() as stack:
        with stopped(instance.serving_pid()):
            clients = stack.enter_context(waiting(instance))
            eventually(lambda: told(instance, HUNG), what="the report")
        assert answered(clients) == CLIENTS


@pytest.mark.parametrize("patience", ["1s", "8s"])
def test_where_it_is_wanted_it_is_replaced_and_all_who_wait_are_answered(
    unstarted: AgentFixture, patience: str
) -> None:
    instance = unstarted
    instance.more_flags += ["--replace-hung", patience]
    instance.start()
    before = instance.serving()
    with stopped(before.pid), waiting(instance) as clients:
        assert answered(clients) == CLIENTS
        eventually(lambda: instance.serving().number > before.number, what="the next one serves")
    assert told(instance, HUNG)
    assert told(instance, ANSWERS)
    instance.settled()


def test_a_rotation_frees_those_who_wait_for_one_that_hangs(instance: AgentFixture) -> None:
    with stopped(instance.serving_pid()), waiting(instance) as clients:
        instance.rotate()
        assert answered(clients) == CLIENTS
    instance.settled()


def test_a_proxy_under_load_never_hangs(unstarted: AgentFixture, loads: Loads) -> None:
    """Its queues are rarely empty."""
    instance = unstarted
    instance.more_flags += ["--replace-hung", "1s"]
    instance.start()
    number = instance.serving().number
    loads.usual(instance.tls, instance.plain)
    loads.start("bursts", instance.tls, clients=100, pace=0.02)
    pass_time(30)
    nothing_failed(loads.finish(at_least=100))
    assert told(instance, HUNG) == []
    assert instance.serving().number == number
