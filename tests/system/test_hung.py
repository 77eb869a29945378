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

pytestmark = pytest.mark.long

CLIENTS = 50
HUNG, ANSWERS = "service.hung", "service.answers"


@contextmanager
def waiting(bed: AgentFixture) -> Iterator[list[socket.socket]]:
    """Clients that have sent a request."""
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(bed.plain, tls_context(), timeout=40)) for _ in range(CLIENTS)]
        for each in clients:
            each.sendall(request_bytes(last=True))
        yield clients


def answered(clients: list[socket.socket]) -> int:
    """Count those that get a complete response; none may fail."""
    return sum(exchange(each, last=True).body == b"ok\n" for each in clients)


def told(bed: AgentFixture, event: str) -> list[Entry]:
    return [entry for entry in bed.journal.entries() if entry.name == event]


def test_it_is_reported_once_and_once_more_when_it_answers_again(bed: AgentFixture) -> None:
    pid = bed.serving_pid()
    with stopped(pid), waiting(bed) as clients:
        (entry,) = eventually(lambda: told(bed, HUNG), what="the report")
        assert f"(pid {pid}) hangs: " in entry.body
        assert f"tcp://127.0.0.1:{bed.plain.port}" in entry.body
        pass_time(3)
        assert len(told(bed, HUNG)) == 1
        assert told(bed, ANSWERS) == []
    eventually(lambda: told(bed, ANSWERS), what="the end of it")
    assert bed.serving_pid() == pid
    assert len(clients) == CLIENTS


def test_clients_that_waited_for_it_are_answered_when_it_goes_on(bed: AgentFixture) -> None:
    with ExitStack() as stack:
        with stopped(bed.serving_pid()):
            clients = stack.enter_context(waiting(bed))
            eventually(lambda: told(bed, HUNG), what="the report")
        assert answered(clients) == CLIENTS


@pytest.mark.parametrize("patience", ["1s", "8s"])
def test_where_it_is_wanted_it_is_replaced_and_all_who_wait_are_answered(
    bed_apart: AgentFixture, patience: str
) -> None:
    bed = bed_apart
    bed.more_flags += ["--replace-hung", patience]
    bed.start()
    before = bed.serving()
    with stopped(before.pid), waiting(bed) as clients:
        assert answered(clients) == CLIENTS
        eventually(lambda: bed.serving().number > before.number, what="the next one serves")
    assert told(bed, HUNG)
    assert told(bed, ANSWERS)
    bed.settled()


def test_a_rotation_frees_those_who_wait_for_one_that_hangs(bed: AgentFixture) -> None:
    with stopped(bed.serving_pid()), waiting(bed) as clients:
        bed.rotate()
        assert answered(clients) == CLIENTS
    bed.settled()


def test_a_proxy_under_load_never_hangs(bed_apart: AgentFixture, loads: Loads) -> None:
    """Its queues are rarely empty."""
    bed = bed_apart
    bed.more_flags += ["--replace-hung", "1s"]
    bed.start()
    number = bed.serving().number
    loads.usual(bed.tls, bed.plain)
    loads.start("bursts", bed.tls, clients=100, pace=0.02)
    pass_time(30)
    nothing_failed(loads.finish(at_least=100))
    assert told(bed, HUNG) == []
    assert bed.serving().number == number
