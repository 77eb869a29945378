"""Real groups of sockets in this process: who reaches whom, after any sequence of changes."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from agent.handoff.steering import SteeredGroup

BACKLOG = 64
CLIENTS = 12  # strangers an inspection: by chance all of them come to one of two sockets in 1 of 2,000
WAYS = [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("::", "::1"), ("::", "127.0.0.1")]
FAMILIES = {"127.0.0.1": socket.AF_INET, "::1": socket.AF_INET6, "::": socket.AF_INET6}


def bound(host: str, port: int = 0, *, reuse_port: bool = True) -> socket.socket:
    """Return a socket that does not listen yet; one at `::` is for both families."""
    made = socket.socket(FAMILIES[host], socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, reuse_port)
    if made.family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if host == "::" else 1)
    made.bind((host, port))
    made.setblocking(False)
    return made


def accepted(member: socket.socket) -> int:
    count = 0
    while True:
        try:
            member.accept()[0].close()
        except OSError as error:
            if error.errno not in {errno.EAGAIN, errno.EINVAL}:  # nobody is queued, or it listens no more
                raise
            return count
        count += 1


class Epochs:
    """Epochs with sockets of one address, as a server's: `own` are those that their processes have."""

    def __init__(self, host: str, to: str) -> None:
        self.group = SteeredGroup()
        self.host, self.to = host, to
        self.own: dict[int, socket.socket] = {}
        self.held: socket.socket | None = None  # the agent's duplicate of the one that serves
        with bound(host) as free:
            self.port = free.getsockname()[1]
        self.next = 1
        self.stack = ExitStack()

    def close(self) -> None:
        for number in list(self.own):
            self.end(number)
        if self.held is not None:
            self.held.close()

    @property
    def held_number(self) -> int | None:
        return None if self.held is None else self.held.fileno()

    def join(self) -> int:
        """Start an epoch with a socket of its own."""
        number, self.next = self.next, self.next + 1
        self.own[number] = bound(self.host, self.port)
        self.group.listen(number, os.dup(self.own[number].fileno()), BACKLOG, self.held_number)
        return number

    def respawn(self) -> int:
        """Start an epoch with the socket of one that crashed."""
        assert self.held is not None
        number, self.next = self.next, self.next + 1
        self.own[number] = self.held.dup()
        self.group.listen(number, os.dup(self.held.fileno()), BACKLOG, self.held_number)
        return number

    def commit(self, number: int) -> None:
        self.group.commit(number, self.held_number)
        before, self.held = self.held, self.own[number].dup()
        if before is not None:
            before.close()

    def end(self, number: int) -> None:
        """Let the process exit."""
        self.own.pop(number).close()
        self.group.remove(number, self.held_number)

    def strangers(self, count: int = CLIENTS) -> dict[int, int]:
        """Connect this many clients; return how many came to each epoch."""
        with ExitStack() as stack:
            for _ in range(count):
                stack.enter_context(socket.create_connection((self.to, self.port), timeout=5))
            return {number: count for number, own in self.own.items() if (count := accepted(own))}

    def tested(self, number: int) -> dict[int, int]:
        """Connect as the agent does to test an epoch; return to which it came."""
        with socket.socket(FAMILIES[self.to], socket.SOCK_STREAM) as client:
            client.bind((self.to, 0))
            client.settimeout(5)
            self.group.test(number, client.getsockname()[:2], self.held_number)
            client.connect((self.to, self.port))
            return {each: count for each, own in self.own.items() if (count := accepted(own))}


@contextmanager
def epochs(host: str = "127.0.0.1", to: str = "127.0.0.1") -> Iterator[Epochs]:
    made = Epochs(host, to)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize(("host", "to"), WAYS)
def test_only_the_test_reaches_a_candidate_until_its_commit(host: str, to: str) -> None:
    with epochs(host, to) as made:
        serving = made.join()
        made.commit(serving)
        candidate = made.join()
        assert made.strangers() == {serving: CLIENTS}
        assert made.tested(candidate) == {candidate: 1}
        assert made.strangers() == {serving: CLIENTS}
        made.commit(candidate)
        assert made.strangers() == {candidate: CLIENTS}
        made.end(serving)
        assert made.strangers() == {candidate: CLIENTS}


def test_a_stranger_with_the_port_of_the_test_and_another_address_does_not_reach_the_candidate() -> None:
    with epochs("127.0.0.1") as made, socket.socket() as stranger:
        serving = made.join()
        made.commit(serving)
        candidate = made.join()
        stranger.bind(("127.0.0.2", 0))
        made.group.test(candidate, ("127.0.0.1", stranger.getsockname()[1]), made.held_number)
        stranger.connect((made.to, made.port))
        assert (accepted(made.own[serving]), accepted(made.own[candidate])) == (1, 0)


def test_a_test_that_is_over_leaves_its_port_to_strangers() -> None:
    with epochs() as made, socket.socket() as stranger:
        serving = made.join()
        made.commit(serving)
        candidate = made.join()
        made.tested(candidate)
        stranger.bind(("127.0.0.1", 0))
        made.group.test(candidate, stranger.getsockname(), made.held_number)
        made.group.test(candidate, None, made.held_number)
        stranger.connect((made.to, made.port))
        assert accepted(made.own[serving]) == 1


def test_a_socket_that_a_process_keeps_leaves_the_group_all_the_same() -> None:
    """As one of a killed server whose children stay: a client would wait in a queue from which nobody accepts."""
    with epochs() as made:
        serving = made.join()
        made.commit(serving)
        with made.own[serving].dup():
            made.commit(made.join())
            made.end(serving)
            (left,) = made.own
            assert made.strangers(30) == {left: 30}


def test_a_crashed_epochs_queue_waits_for_the_next_one() -> None:
    with epochs() as made:
        first = made.join()
        made.commit(first)
        made.end(first)
        client = socket.create_connection((made.to, made.port))
        again = made.respawn()
        with client:
            assert accepted(made.own[again]) == 1
        made.commit(again)
        candidate = made.join()
        assert made.tested(candidate) == {candidate: 1}
        assert made.strangers() == {again: CLIENTS}


def test_a_socket_on_which_nobody_listened_any_more_listens_again() -> None:
    """`--hold` is over: the agent refuses clients until a server listens again."""
    with epochs() as made:
        first = made.join()
        made.commit(first)
        made.end(first)
        assert made.held is not None
        made.held.shutdown(socket.SHUT_RD)
        again = made.respawn()
        made.commit(again)
        assert made.strangers() == {again: CLIENTS}


def test_a_socket_that_was_bound_without_reuse_port_gets_a_group() -> None:
    """As one of a systemd socket unit."""
    with epochs() as made:
        made.held = bound("127.0.0.1", reuse_port=False)
        made.held.listen(BACKLOG)
        made.port = made.held.getsockname()[1]
        first = made.respawn()
        made.commit(first)
        candidate = made.join()
        assert made.strangers() == {first: CLIENTS}
        assert made.tested(candidate) == {candidate: 1}
        made.commit(candidate)
        made.end(first)
        assert made.strangers() == {candidate: CLIENTS}


def test_an_adopted_group_is_steered_as_before() -> None:
    with epochs() as made:
        old = made.join()
        made.commit(old)
        serving = made.join()
        made.commit(serving)
        for number in (old, serving):
            made.group.release(number)  # the earlier agent has exited
        made.group = SteeredGroup()
        for number in (serving, old):  # in any order
            made.group.regain(number, os.dup(made.own[number].fileno()), made.held_number)
        assert made.strangers() == {serving: CLIENTS}
        assert made.group.superseded(made.held_number) == {old}
        made.end(old)
        candidate = made.join()
        assert made.strangers() == {serving: CLIENTS}
        assert made.tested(candidate) == {candidate: 1}


def test_superseded_epochs_are_finished_once_they_were_told_to_end() -> None:
    with epochs() as made:
        old = made.join()
        made.commit(old)
        assert made.group.superseded(made.held_number) == set()
        made.commit(made.join())
        assert made.group.superseded(made.held_number) == made.group.unfinished(made.held_number) == {old}
        made.group.ended(old)
        assert made.group.superseded(made.held_number) == {old}
        assert made.group.unfinished(made.held_number) == set()


class Lives(RuleBasedStateMachine):
    """Any sequence of starts, tests, commits, crashes and ends; superseded epochs end before another one joins."""

    way = WAYS[0]

    def __init__(self) -> None:
        super().__init__()
        self.made = Epochs(*self.way)
        self.serving: int | None = None
        self.candidate: int | None = None

    @initialize()
    def begin(self) -> None:
        self.serving = self.made.join()
        self.made.commit(self.serving)

    @precondition(lambda self: self.candidate is None)
    @rule()
    def start(self) -> None:
        for number in self.made.group.superseded(self.made.held_number):
            self.made.group.remove(number, self.made.held_number)
        self.candidate = self.made.join() if self.serving is not None else self.made.respawn()

    @precondition(lambda self: self.candidate is not None)
    @rule()
    def test(self) -> None:
        assert self.candidate is not None
        assert self.made.tested(self.candidate) == {self.candidate: 1}

    @precondition(lambda self: self.candidate is not None)
    @rule()
    def commit(self) -> None:
        assert self.candidate is not None
        self.made.commit(self.candidate)
        self.serving, self.candidate = self.candidate, None

    @precondition(lambda self: self.candidate is not None)
    @rule()
    def drop(self) -> None:
        assert self.candidate is not None
        self.made.end(self.candidate)
        self.candidate = None

    @precondition(lambda self: self.serving is not None)
    @rule()
    def crash(self) -> None:
        assert self.serving is not None
        self.made.end(self.serving)
        self.serving = None

    @rule()
    def old_ones_exit(self) -> None:
        for number in set(self.made.own) - {self.serving, self.candidate}:
            self.made.end(number)

    @invariant()
    def strangers_reach_the_serving_one(self) -> None:
        if self.serving is not None:
            assert self.made.strangers() == {self.serving: CLIENTS}

    def teardown(self) -> None:
        self.made.close()


@pytest.mark.parametrize("way", WAYS)
def test_whatever_happens_strangers_reach_the_serving_epoch(way: tuple[str, str]) -> None:
    few = settings(max_examples=15, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(type("Lives", (Lives,), {"way": way}), settings=few)
