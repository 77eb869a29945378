"""The end of drains: the effect of SIGTERM, `agent drain` and their deadlines on connections."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.system.agent_fixture import HOST, AgentFixture
from tests.system.bare import body_of, healthy
from tests.system.concurrent_requests import land, launched
from tests.system.counts import count
from tests.system.eventually import PATIENCE, eventually, throughout, up_to
from tests.system.listening import listening
from tests.system.room import Process, alive, stopped
from tests.system.wire import Target, connect, exchange, tls_context

HELD = count("AGENT_HELD_MS", short=1500, long=5000) / 1000
FAR = "10m"  # beyond the duration of any test


class Echo:
    """Echoes the data of each client, in threads of this process."""

    def __init__(self, server: socket.socket) -> None:
        self._server = server
        self._clients: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # shut down
            while True:
                client, _ = self._server.accept()
                self._clients.append(client)
                self._threads.append(threading.Thread(target=self._answer, args=(client,)))
                self._threads[-1].start()

    def _answer(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            while data := client.recv(64):
                client.sendall(data)

    def close(self) -> None:
        """Close all connections, and end every thread."""
        self._server.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        for client in self._clients:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()


@pytest.fixture
def raw(unstarted: AgentFixture) -> Iterator[Target]:
    """An additional listener of `unstarted` that forwards to an echo server."""
    target, port = Target(HOST, unstarted.room.port()), unstarted.room.port()
    unstarted.forward(target.port, port)
    with socket.create_server((HOST, port)) as server:
        echo = Echo(server)
        yield target
        echo.close()


@contextmanager
def client(target: Target) -> Iterator[socket.socket]:
    """Connect and check the echo."""
    with socket.create_connection((target.host, target.port), timeout=PATIENCE) as sock:
        assert is_heard(sock)
        yield sock


def is_heard(sock: socket.socket) -> bool:
    """Send a line, and return whether the echo arrives."""
    sock.sendall(b"hello")
    return sock.recv(64) == b"hello"


def is_cut(sock: socket.socket) -> bool:
    """Return whether the peer has ended the connection; waits for it."""
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def terminate(instance: AgentFixture) -> float:
    """Send SIGTERM to the agent; return the time (monotonic clock): it is received no earlier."""
    asked = time.monotonic()
    os.kill(instance.agent_pid, signal.SIGTERM)
    return asked


def runs(instance: AgentFixture) -> bool:
    """Return whether the agent runs."""
    return instance.agent is not None and instance.agent.poll() is None


def is_refused(target: Target) -> bool:
    """Return whether no process listens there any more."""
    return not listening(target.port)


def order(instance: AgentFixture, *words: str) -> Process:
    """Start a command of the agent."""
    argv = [sys.executable, "-m", "agent", *words, "--run-dir", str(instance.run_dir)]
    process = Process(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    instance.room.started.append(process)
    return process


def concluded(process: Process) -> tuple[int, str]:
    """Wait for the end of a command; return its exit code and its output."""
    said, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, said.decode()


def test_connections_end_undisturbed_and_the_agent_right_after_the_last(unstarted: AgentFixture, raw: Target) -> None:
    instance = unstarted
    instance.more_flags += ["--stop-deadline", FAR]
    instance.start()
    with client(raw) as first, client(raw) as last, connect(instance.plain, tls_context()) as polite:
        exchange(polite, last=False)
        terminate(instance)
        eventually(lambda: is_refused(raw) and is_refused(instance.tls), what="new clients are refused")
        assert not healthy(instance.status)
        exchange(polite, last=False)
        throughout(lambda: is_heard(first) and is_heard(last), span=HELD, what="both are heard")
        first.close()
        throughout(lambda: is_heard(last), span=0.3, what="the last one is heard")
        assert runs(instance)
    assert instance.exited() == 0, "long before the deadline"


def test_a_client_that_never_ends_is_cut_at_the_deadline(unstarted: AgentFixture, raw: Target) -> None:
    instance = unstarted
    instance.more_flags += ["--stop-deadline", "1s"]
    instance.start()
    with client(raw) as endless:
        asked = terminate(instance)
        up_to(asked + 1, lambda: is_heard(endless), what="it is heard until the deadline")
        assert is_cut(endless)
        assert instance.exited() == 0
        assert time.monotonic() >= asked + 1
    (cut,) = instance.journal.named("drain.cut")
    assert cut.body.endswith("they are cut (1 connection)")
    (attempt,) = json.loads((instance.run_dir / "history.json").read_text())["attempts"]
    assert attempt["evidence"]["cut_at_end"] == 1


@pytest.mark.long
def test_a_hung_proxy_does_not_keep_the_agent(unstarted: AgentFixture, raw: Target) -> None:
    instance = unstarted
    instance.more_flags += ["--stop-deadline", "1s"]
    instance.start()
    with client(raw), stopped(instance.serving_pid()) as hung:
        asked = terminate(instance)
        assert instance.exited() == 0
        assert time.monotonic() >= asked + 1
        assert not alive(hung)


def test_a_drain_delay_serves_new_clients_for_so_long(unstarted: AgentFixture) -> None:
    instance = unstarted
    instance.more_flags += ["--drain-delay", "1s", "--stop-deadline", FAR]
    instance.start()
    asked = terminate(instance)
    up_to(asked + 1, lambda: body_of(instance.plain) == b"ok\n", what="new clients are served")
    assert instance.exited() == 0
    assert time.monotonic() >= asked + 1


def test_readiness_is_gone_from_the_beginning_of_a_drain_delay(unstarted: AgentFixture) -> None:
    instance = unstarted
    instance.more_flags += ["--drain-delay", FAR, "--stop-deadline", FAR]
    instance.start()
    terminate(instance)
    eventually(lambda: not healthy(instance.status), what="it is not ready any more")
    throughout(
        lambda: body_of(instance.plain) == b"ok\n" and not healthy(instance.status), span=0.5, what="clients are served"
    )
    terminate(instance)
    assert instance.exited() == 0


def test_the_shortest_drain_keeps_an_empty_proxy(unstarted: AgentFixture) -> None:
    instance = unstarted
    instance.more_flags += ["--min-drain", "1s", "--stop-deadline", FAR]
    instance.start()
    proxy = instance.serving_pid()
    asked = terminate(instance)
    eventually(lambda: is_refused(instance.plain), what="new clients are refused")
    up_to(asked + 1, lambda: alive(proxy), what="the proxy lives")
    assert instance.exited() == 0, "long before the deadline"


@pytest.mark.parametrize("delay", ["0s", FAR])
def test_a_second_signal_hurries(delay: str, unstarted: AgentFixture, raw: Target) -> None:
    instance = unstarted
    instance.more_flags += ["--stop-deadline", FAR, "--drain-delay", delay]
    instance.start()
    with client(raw) as endless:
        terminate(instance)
        throughout(lambda: is_heard(endless), span=0.3, what="it is heard")
        terminate(instance)
        assert is_cut(endless)
        assert instance.exited() == 0


def test_a_drain_by_order_returns_at_the_end_and_the_agent_stays(unstarted: AgentFixture, raw: Target) -> None:
    instance = unstarted
    instance.more_flags += ["--stop-deadline", FAR]
    instance.start()
    with client(raw) as last:
        impatient, patient = order(instance, "drain", "--timeout", "500ms"), order(instance, "drain")
        code, said = concluded(impatient)
        assert code == 1, said
        assert "continues" in said
        assert is_heard(last)
        assert patient.poll() is None
    assert concluded(patient) == (0, "drained\n")
    throughout(lambda: runs(instance) and not healthy(instance.status), span=0.3, what="the agent stays, not ready")
    terminate(instance)
    assert instance.exited() == 0


def test_waiting_ends_with_readiness_or_the_reason(unstarted: AgentFixture) -> None:
    instance = unstarted
    code, said = concluded(order(instance, "wait", "--timeout", "100ms"))
    assert code == 1
    assert str(instance.run_dir) in said
    waiting = order(instance, "wait", "--timeout", FAR)
    throughout(lambda: waiting.poll() is None, span=0.2, what="it waits for an agent")
    instance.start()
    assert concluded(waiting) == (0, "ready\n")


def test_a_stop_signal_before_the_agent_has_begun_is_handled(unstarted: AgentFixture) -> None:
    """Otherwise the signal would end it, and the proxies of an earlier agent, which it was to adopt, would remain."""
    instance = unstarted
    instance.prepare()
    instance.launch()
    eventually(lambda: holds_back(instance.agent_pid, signal.SIGTERM), every=0, what="signals wait")
    os.kill(instance.agent_pid, signal.SIGTERM)
    assert instance.exited() == 0


def holds_back(pid: int, number: signal.Signals) -> bool:
    """Return whether the process blocks a signal (SigBlk in proc_pid_status)."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    blocked = next(line.split()[1] for line in status.splitlines() if line.startswith("SigBlk:"))
    return bool(int(blocked, 16) & 1 << (number - 1))


@pytest.mark.long
def test_a_proxy_that_hangs_without_clients_keeps_no_agent_from_ending(unstarted: AgentFixture) -> None:
    """A proxy hangs like this if its log is not read: the agent does not wait for it until the stop deadline."""
    instance = unstarted
    instance.more_flags += ["--stop-deadline", FAR]
    instance.start()
    with stopped(instance.serving_pid()):
        assert instance.agent is not None
        instance.agent.send_signal(signal.SIGTERM)
        assert instance.exited() == 0


@pytest.mark.sidecar
def test_who_waits_in_an_accept_queue_at_the_end_is_answered(instance: AgentFixture) -> None:
    with stopped(instance.serving_pid()):
        flights = launched(instance.plain, 15) + launched(instance.tls, 15)
        assert instance.agent is not None
        instance.agent.send_signal(signal.SIGTERM)
        eventually(lambda: instance.journal.named("agent.stopping"), what="it stops")
    land(flights)
    assert [str(flight.failure) for flight in flights if flight.failure] == []
    assert instance.exited() == 0
