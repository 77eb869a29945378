import asyncio
import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest

from agent.certificates.x509 import Leaf
from agent.core import effects as do
from agent.core import events as on
from agent.core.effects import Effect, LogTopic
from agent.core.epochs import State
from agent.core.errors import MachineError
from agent.core.events import Event, Failure, FailureKind
from agent.core.policy import Policy
from agent.core.revision import Revision
from agent.handoff.socket_store import ListenAddress
from agent.host import listen_counters
from agent.host.listen_counters import ListenCounters
from agent.host.run_directory import RunDirectory
from agent.metrics.registry import Metrics
from agent.processes.process_table import ProcessTable
from agent.proxies.interface import TlsListener
from agent.status.model import End, Evidence, Status
from agent.supervisor.history import History
from agent.supervisor.recorder import Recorder
from tests import pki
from tests.metrics.expositions import own_values
from tests.supervisor.conftest import Time
from tests.supervisor.stand_ins import NOW, TODAY, Process, Scene, group, leaf, loaded, logged, settled, texts

STOPPED = Status(TODAY, "", 1, TODAY, ready=False, reason="", sentence="", epoch=None)


class Kernel:
    """The kernel's counters of full accept queues; None if it has none."""

    def __init__(self) -> None:
        self.counters: ListenCounters | None = ListenCounters(100, 200)

    def counts(self, overflows: int, drops: int) -> None:
        """Count so many more."""
        assert self.counters is not None
        self.counters = ListenCounters(self.counters.overflows + overflows, self.counters.drops + drops)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(listen_counters, "read", lambda: made.counters)
    return made


class Recorded(Scene):
    """A scene of which everything is recorded."""

    def __init__(self, directory: RunDirectory, policy: Policy | None = None, *, proves: bool = True) -> None:
        super().__init__(policy)
        self.history = History(self.core.epochs, directory, lambda each: self.revisions[each].selection.leaves)
        self.metrics = Metrics(lambda: STOPPED)
        processes = cast("ProcessTable", self.processes)
        self.recorder = Recorder(self.history, processes, self.metrics, proves=proves)

    def tell(self, event: Event) -> list[Effect]:
        """Let the reconciler handle an event, and record both."""
        effects = super().tell(event)
        self.recorder.enter(event, effects, stopping=self.core.stopping)
        return effects

    def counted(self, name: str, **labels: str) -> float:
        """Return the value of a metric."""
        return own_values(self.metrics)[name, tuple(sorted(labels.items()))]

    def exits_counted(self) -> dict[tuple[str, str], float]:
        """Return the counts of exits that are not 0, by state and cause."""
        exits = self._not_zero("proxy_exits_total")
        return {(labels["state"], labels["cause"]): value for labels, value in exits}

    def cut_counted(self) -> dict[str, float]:
        """Return the counts of cut connections that are not 0, by cause."""
        return {labels["cause"]: value for labels, value in self._not_zero("connections_closed_total")}

    def _not_zero(self, wanted: str) -> list[tuple[dict[str, str], float]]:
        values = own_values(self.metrics)
        return [(dict(labels), value) for (name, labels), value in values.items() if name == wanted and value]

    def evidence(self, number: int) -> Evidence:
        """Return what is known of the attempt that started this epoch."""
        view = self.history.view(number)
        assert view is not None
        assert view.evidence is not None
        return view.evidence


@pytest.fixture
def recorded(time: Time, kernel: Kernel, directory: RunDirectory) -> Recorded:
    return Recorded(directory)


# Attempts


def test_an_attempt_that_failed_is_counted_at_once(recorded: Recorded) -> None:
    recorded.begin("a")
    recorded.exits(1)
    assert recorded.counted("rotations_total", trigger="start", outcome="failed") == 1
    assert recorded.history.views()[-1].outcome == "failed"


def test_an_attempt_that_serves_is_counted_once_it_has_handed_over(recorded: Recorded) -> None:
    recorded.serve("a")
    assert recorded.counted("rotations_total", trigger="start", outcome="serving") == 0


async def test_a_handover_completes_an_attempt(recorded: Recorded, time: Time) -> None:
    process = recorded.serve("a")
    time.leap(2)
    recorded.recorder.handed_over(process.as_epoch)
    await recorded.recorder.close()
    assert recorded.counted("rotations_total", trigger="start", outcome="serving") == 1
    (attempt,) = recorded.history.views()
    assert [(each.name, each.seconds) for each in attempt.phases][-1] == ("handover", 2)


async def test_an_epoch_without_an_attempt_hands_over_in_silence(recorded: Recorded, time: Time) -> None:
    process = Process(9, recorded.serve("a").loaded)
    with logged() as events:
        recorded.recorder.handed_over(process.as_epoch)
        await settled(lambda: not recorded.recorder._tasks._running)
    assert not events


# Pushes


class Pushed(Recorded):
    """The same, where epoch 1 serves and takes pushes."""

    def push(self, failure: Failure | None = None, **phases: float) -> None:
        """Push a new certificate, and let it end."""
        before = next(iter(self.revisions.values()))
        base = Revision("a", "shape", "base")
        self.core.epochs[1].takes_pushes, self.core.epochs[1].revision = True, base
        wanted = Revision("b", "shape", "base")
        self.revisions[wanted] = loaded("b", group("web.crt", leaf(0x20)))
        assert before.revision == base
        self.tell(on.RevisionReady(at=NOW, revision=wanted))
        self.tell(on.EpochPushed(at=NOW + 1, epoch=1, revision=wanted, failure=failure, phases=phases))


@pytest.fixture
def pushed(time: Time, kernel: Kernel, directory: RunDirectory) -> Pushed:
    made = Pushed(directory)
    made.serve("a", group("web.crt", leaf(0x1F)))
    return made


def test_a_push_that_serves_is_counted_and_one_log_event(pushed: Pushed) -> None:
    with logged() as events:
        pushed.push(apply=0.25, verify=0.5)
    [text] = texts(events, "certificate.pushed")
    assert text.startswith("epoch 1 serves push 1 after 0.750 s (by certificate; web 1f -> 20; apply 0.250, verify")
    assert [each.epoch for each in events if each.name == "certificate.pushed"] == [1]
    assert pushed.counted("pushes_total", result="served") == 1
    assert pushed.counted("push_duration_seconds_sum") == 0.75
    assert pushed.counted("rotations_total", trigger="certificate", outcome="serving") == 0
    newest, first = pushed.history.views()
    assert (newest.epoch, newest.push, newest.outcome, first.push) == (1, 1, "serving", 0)


@pytest.mark.parametrize(("sort", "result"), [(FailureKind.PERMANENT, "refused"), (FailureKind.TRANSIENT, "failed")])
def test_a_push_that_fails_is_counted_as_no_rotation(pushed: Pushed, sort: FailureKind, result: str) -> None:
    with logged() as events:
        pushed.push(Failure(sort, "it refuses it"), apply=0.25)
    assert not texts(events, "certificate.pushed")
    assert pushed.counted("pushes_total", result=result) == 1
    assert pushed.counted("pushes_total", result="served") == pushed.counted("push_duration_seconds_count") == 0
    attempt = next(each for each in pushed.history.views() if each.push)
    assert (attempt.outcome, attempt.reason) == (result, "it refuses it")
    assert pushed.counted("rotations_total", trigger="certificate", outcome=result) == 0


# Exits


@pytest.mark.parametrize(
    ("marks", "code", "cause"),
    [
        ({"was_killed": True, "was_starved": True, "was_asked": True}, -9, "killed"),
        ({"was_starved": True, "was_asked": True}, -9, "memory"),
        ({"was_asked": True}, -15, "asked"),
        ({}, -11, "signal"),
        ({}, -1, "signal"),
        ({}, 0, "code"),
        ({}, 1, "code"),
        ({}, None, "code"),
    ],
)
def test_an_exit_is_counted_by_its_cause(
    recorded: Recorded, marks: dict[str, bool], code: int | None, cause: str
) -> None:
    process = recorded.serve("a")
    for name, value in marks.items():
        setattr(process, name, value)
    recorded.exits(1, code=code)
    assert recorded.exits_counted() == {("serving", cause): 1}


@pytest.mark.parametrize(
    ("has_served", "drains", "state"),
    [(False, False, "candidate"), (True, False, "serving"), (True, True, "draining")],
)
def test_an_exit_is_counted_by_the_state_before_its_end(
    recorded: Recorded, has_served: bool, drains: bool, state: str
) -> None:
    process = recorded.serve("a")
    process.has_served, process.drains = has_served, drains
    recorded.exits(1, code=1)
    assert recorded.exits_counted() == {(state, "code"): 1}


def test_an_epoch_that_never_ran_has_not_exited(recorded: Recorded) -> None:
    recorded.begin("a")
    recorded.exits(1, code=None)
    assert recorded.exits_counted() == {}


def test_an_exit_of_an_epoch_without_a_process_is_not_counted(recorded: Recorded) -> None:
    recorded.serve("a")
    recorded.processes.epochs.clear()
    recorded.exits(1)
    assert recorded.exits_counted() == {}


@pytest.mark.parametrize(
    ("code", "drains", "cause", "text", "state"),
    [
        (-11, False, "signal", "was killed by SIGSEGV", "serving"),
        (3, True, "code", "exited with 3", "draining"),
    ],
)
def test_the_end_of_an_epoch_that_served_is_in_its_attempt(
    recorded: Recorded, time: Time, code: int, drains: bool, cause: str, text: str, state: str
) -> None:
    recorded.serve("a").drains = drains
    time.leap(90)
    recorded.exits(1, code=code)
    (attempt,) = [each for each in recorded.history.views() if each.epoch == 1]
    assert attempt.end == End(TODAY + timedelta(seconds=90), cause, text, 90.0, state)


def test_an_epoch_that_did_not_serve_has_no_end(recorded: Recorded) -> None:
    recorded.begin("a")
    recorded.pass_gate()
    recorded.exits(1, code=1)
    (attempt,) = [each for each in recorded.history.views() if each.epoch == 1]
    assert attempt.end is None


def test_the_exit_of_a_predecessor_ends_the_drain(recorded: Recorded) -> None:
    recorded.serve("a")
    recorded.serve("b")
    recorded.exits(1, at=NOW + 7)
    assert recorded.counted("rotation_phase_duration_seconds_sum", phase="drain") == 7
    assert recorded.counted("rotation_phase_duration_seconds_count", phase="drain") == 1
    assert recorded.evidence(2).cut == 0


def test_the_exit_of_an_epoch_without_a_successor_ends_no_drain(recorded: Recorded) -> None:
    recorded.serve("a")
    recorded.exits(1)
    assert recorded.counted("rotation_phase_duration_seconds_count", phase="drain") == 0


# Connections that are cut


def drain_both(recorded: Recorded, clients: int | None) -> Process:
    """Let epoch 1 drain beside epoch 2."""
    process = recorded.serve("a")
    recorded.serve("b")
    process.clients = clients
    process.asked = {ListenAddress("unix:///run/x.sock")}  # where the kernel cannot count
    return process


def test_a_drain_that_is_over_time_cuts_what_was_counted_last(recorded: Recorded, time: Time) -> None:
    drain_both(recorded, 5)
    time.leap(600)
    recorded.tell(on.TimePassed(at=time.now))
    assert recorded.cut_counted() == {"drain_deadline": 5}
    assert recorded.evidence(2).cut == 5
    assert recorded.evidence(1).cut_at_end == 5


def test_a_drain_in_which_nothing_was_counted_cuts_an_unknown_number(recorded: Recorded, time: Time) -> None:
    drain_both(recorded, None)
    time.leap(600)
    recorded.tell(on.TimePassed(at=time.now))
    assert recorded.cut_counted() == {}
    assert recorded.evidence(2).cut is None


def test_a_drain_whose_process_is_not_there_cuts_an_unknown_number(recorded: Recorded, time: Time) -> None:
    drain_both(recorded, 5)
    recorded.processes.epochs.clear()
    time.leap(600)
    recorded.tell(on.TimePassed(at=time.now))
    assert recorded.cut_counted() == {}


def test_a_stop_that_is_over_time_cuts_by_its_own_deadline(recorded: Recorded, time: Time) -> None:
    drain_both(recorded, 5)
    recorded.tell(on.StopAsked(at=NOW))
    time.leap(30)
    recorded.tell(on.TimePassed(at=time.now))
    assert recorded.cut_counted() == {"stop_deadline": 5}


def test_a_second_stop_cuts_at_once(recorded: Recorded) -> None:
    drain_both(recorded, 5)
    recorded.tell(on.StopAsked(at=NOW))
    assert recorded.cut_counted() == {}
    recorded.tell(on.StopAsked(at=NOW))
    assert recorded.cut_counted() == {"stop_hurried": 5}


def test_a_restart_without_a_drain_cuts_at_the_commit(recorded: Recorded) -> None:
    process = recorded.serve("a")
    recorded.tell(on.RestartAsked(at=NOW, now=True))
    recorded.processes.epochs[2] = Process(2, process.loaded)
    process.clients = 4
    process.asked = {ListenAddress("unix:///run/x.sock")}
    recorded.tell(on.EpochServes(at=NOW, epoch=recorded.pass_gate()))
    assert recorded.cut_counted() == {"restart_now": 4}


def test_an_epoch_that_is_empty_cuts_nothing(recorded: Recorded) -> None:
    drain_both(recorded, 5)
    recorded.tell(on.EpochEmptied(at=NOW, epoch=1))
    assert recorded.cut_counted() == {}


def test_the_kernel_has_the_last_word_on_what_is_cut(recorded: Recorded) -> None:
    process = drain_both(recorded, 500)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        process.pid, process.asked = os.getpid(), {ListenAddress(f"tcp://127.0.0.1:{address[1]}")}
        with socket.create_connection(address), listener.accept()[0]:
            recorded.tell(on.StopAsked(at=NOW))
            recorded.tell(on.StopAsked(at=NOW))
    assert recorded.cut_counted() == {"stop_hurried": 1}
    assert process.clients == 1


# Time without service


def test_the_time_from_a_crash_to_the_next_commit_is_held(recorded: Recorded) -> None:
    process = recorded.serve("a")
    recorded.exits(1, at=NOW + 1)
    recorded.processes.epochs[2] = Process(2, process.loaded)
    recorded.tell(on.EpochServes(at=NOW + 3.5, epoch=recorded.pass_gate()))
    assert recorded.counted("hold_seconds_total") == 2.5


def test_clients_that_are_refused_are_not_held_any_more(recorded: Recorded) -> None:
    process = recorded.serve("a")
    recorded.exits(1)
    recorded.processes.epochs[2] = Process(2, process.loaded)
    recorded.tell(on.TimePassed(at=NOW + 5))
    assert recorded.counted("hold_seconds_total") == 5
    recorded.tell(on.EpochServes(at=NOW + 9, epoch=recorded.pass_gate()))
    assert recorded.counted("hold_seconds_total") == 5


def test_an_ordinary_rotation_holds_nobody(recorded: Recorded) -> None:
    recorded.serve("a")
    recorded.serve("b", at=NOW + 5)
    assert recorded.counted("hold_seconds_total") == 0


def test_an_epoch_that_is_stopped_for_want_of_memory_holds_clients(recorded: Recorded) -> None:
    def passes(seconds: float, *effects: Effect) -> None:
        recorded.recorder.enter(on.TimePassed(at=NOW + seconds), effects, stopping=False)

    passes(0, do.LogMessage(LogTopic.REPLACED, "no memory", 1))
    passes(2, do.RefuseClients())
    assert recorded.counted("hold_seconds_total") == 2


# Evidence


def test_the_clients_in_the_queues_are_counted_when_the_gate_opens(recorded: Recorded) -> None:
    recorded.serve("a")
    store = recorded.processes.listeners.store
    try:
        places = []
        for _ in range(2):
            listener = socket.create_server(("127.0.0.1", 0))
            places.append(listener.getsockname())
            store.put(ListenAddress(f"tcp://127.0.0.1:{places[-1][1]}"), listener.detach())
        clients = [socket.create_connection(place) for place in (*places, places[0])]
        recorded.begin("b")
        number = recorded.pass_gate()
    finally:
        store.close_all()
        for client in clients:
            client.close()
    recorded.tell(on.EpochServes(at=NOW, epoch=number))
    assert recorded.evidence(2).queued == 3
    assert recorded.evidence(1).queued == 0


def test_no_gate_opened_for_an_adopted_epoch(recorded: Recorded) -> None:
    revision = recorded.serve("a").loaded.revision
    recorded.tell(on.EpochAdopted(at=NOW, epoch=7, revision=revision, pid=7, state=State.SERVING))
    assert recorded.evidence(7).queued == 0


# Verification


@asynccontextmanager
async def tls_server(directory: Path, issued: pki.Leaf) -> AsyncIterator[ListenAddress]:
    """A TLS server that presents a certificate."""
    (directory / "pair.pem").write_bytes(issued.chain_pem + issued.key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "pair.pem")
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    try:
        yield ListenAddress(f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    finally:
        server.close()
        await server.wait_closed()


async def conclusion(
    recorded: Recorded, process: Process, then: Callable[[], object] = lambda: None
) -> tuple[int, str]:
    """Hand over; return the level and the text of the log event about it."""
    with logged() as events:
        recorded.recorder.handed_over(process.as_epoch)
        then()
        while not texts(events, "rotation.done"):
            await asyncio.wait(recorded.recorder._tasks._running, timeout=0.01)
    (event,) = [event for event in events if event.name == "rotation.done"]
    assert event.epoch == process.number
    return event.level, event.text


async def test_what_a_client_sees_is_evidence(kernel: Kernel, directory: RunDirectory, tmp_path: Path) -> None:
    recorded = Recorded(directory)
    issued = pki.Authority.create("ca").issue(["web"], serial=0xABC)
    async with tls_server(tmp_path, issued) as place:
        process = recorded.serve("a", group("/c/web.crt", leaf(), Leaf.of(issued.certificate)))
        process.admin.listeners = [TlsListener(place, None)]
        level, text = await conclusion(recorded, process)
    (seen,) = recorded.evidence(1).seen
    assert (seen.address, seen.serial, seen.matches) == (place.address, "0abc", True)
    assert level == logging.INFO
    assert "1 of 1 listeners" in text
    assert place.address not in text


async def test_a_listener_that_does_not_answer_is_a_warning(
    recorded: Recorded, time: Time, unused: ListenAddress
) -> None:
    process = recorded.serve("a", group("/c/web.crt", leaf()))
    process.admin.listeners = [TlsListener(unused, None)]
    level, text = await conclusion(recorded, process)
    assert level == logging.WARNING
    assert "0 of 1 listeners" in text
    assert f"{unused.address}: no connection" in text


@pytest.fixture
def unused() -> Iterator[ListenAddress]:
    """An address that is bound, and at which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield ListenAddress(f"tcp://127.0.0.1:{bound.getsockname()[1]}")


async def test_without_proof_no_client_connects(time: Time, kernel: Kernel, directory: RunDirectory) -> None:
    recorded = Recorded(directory, proves=False)
    process = recorded.serve("a", group("/c/web.crt", leaf()))
    process.admin.listeners = AssertionError("it was asked")
    level, text = await conclusion(recorded, process)
    assert (level, recorded.evidence(1).seen) == (logging.INFO, ())
    assert "listeners" not in text


async def test_an_admin_interface_that_does_not_answer_proves_nothing(recorded: Recorded, time: Time) -> None:
    process = recorded.serve("a", group("/c/web.crt", leaf()))
    process.admin.listeners = MachineError("cannot ask the console")
    with logged() as events:
        level, _ = await conclusion(recorded, process)
    assert (level, recorded.evidence(1).seen) == (logging.INFO, ())
    assert texts(events, "rotation.unproved") == ["cannot ask the console"]
    assert not [event for event in events if event.name == "rotation.unproved" and event.level > logging.DEBUG]


@pytest.mark.parametrize("named", [True, False])
async def test_a_unix_socket_is_asked_only_if_the_configuration_names_it(
    recorded: Recorded, time: Time, tmp_path: Path, named: bool
) -> None:
    path = tmp_path / "x.sock"
    listener = f"{{name: x, address: {{pipe: {{path: {path}}}}}}}"
    text = f"static_resources: {{listeners: [{listener if named else ''}]}}"
    process = recorded.serve("a", group("/c/web.crt", leaf()), text=text)
    process.admin.listeners = [TlsListener(ListenAddress(f"unix://{path}"), None)]
    await conclusion(recorded, process)
    assert len(recorded.evidence(1).seen) == named


async def test_verifications_end_with_the_recorder(recorded: Recorded, time: Time) -> None:
    process = recorded.serve("a", group("/c/web.crt", leaf()))
    forever = asyncio.get_running_loop().create_future()

    class Silent:
        async def tls_listeners(self) -> None:
            await forever

    process.admin = Silent()  # type: ignore[assignment]
    before = asyncio.all_tasks()
    recorded.recorder.handed_over(process.as_epoch)
    await asyncio.sleep(0)
    await recorded.recorder.close()
    assert asyncio.all_tasks() == before


# The log line


async def test_a_rotation_is_one_line(recorded: Recorded, kernel: Kernel, time: Time) -> None:
    recorded.serve("a", group("/c/web.crt", leaf(0x1F)), group("/c/old.crt", leaf(0xAABBCCDDEEFF0011)))
    at = NOW + 10
    time.leap(10)
    process = recorded.begin("b", group("/c/web.crt", leaf(0x20)), group("/c/new.crt", leaf(0x30)), at=at)
    recorded.tell(on.EpochStarted(at=at + 0.5, epoch=2, pid=7))
    recorded.tell(on.EpochReachedGate(at=at + 1.5, epoch=2))
    recorded.tell(on.EpochJudged(at=at + 1.75, epoch=2))
    recorded.tell(on.EpochServes(at=at + 2, epoch=2))
    time.leap(2.25)
    _, text = await conclusion(recorded, process)
    assert text == (
        "epoch 2 took over after 2.250 s (by certificate; new none -> 30; old aabbccddeeff -> none; web 1f -> 20; "
        "launch 0.500, start 1.000, judge 0.250, open 0.250, handover 0.250; 0 clients waited)"
    )


async def test_a_line_names_a_few_of_many_changed_certificates(recorded: Recorded, time: Time) -> None:
    process = recorded.serve("a", *(group(f"/c/{number}.crt", leaf(number + 1)) for number in range(45)))
    _, text = await conclusion(recorded, process)
    assert "0 none -> 01; 1 none -> 02; 10 none -> 0b; and 42 more; " in text


async def test_the_line_of_a_rotation_has_what_the_kernel_lost(recorded: Recorded, kernel: Kernel, time: Time) -> None:
    process = recorded.serve("a")
    kernel.counts(3, 5)
    _, text = await conclusion(recorded, process)
    assert "0 clients waited, 5 lost by the kernel" in text


async def test_the_predecessors_drain_is_no_part_of_the_takeover(recorded: Recorded, time: Time) -> None:
    recorded.serve("a")
    process = recorded.serve("b")
    _, text = await conclusion(recorded, process, lambda: recorded.exits(1, at=NOW + 100))
    assert "after 0.000 s" in text
    assert "drain 100.000" in text


async def test_an_adopted_epoch_has_a_line_without_evidence(recorded: Recorded, time: Time) -> None:
    process = recorded.serve("a")
    revision = process.loaded.revision
    recorded.tell(on.EpochAdopted(at=NOW, epoch=7, revision=revision, pid=7, state=State.SERVING))
    adopted = Process(7, process.loaded)
    record = recorded.history._records[7, 0]
    record.evidence = None
    _, text = await conclusion(recorded, adopted)
    assert text == "epoch 7 took over after 0.000 s (by adoption; handover 0.000)"


# Kernel counters


def overflows(recorded: Recorded) -> float:
    recorded.recorder.count_overflows()
    return recorded.counted("listener_overflows_total")


def test_only_what_the_kernel_counts_from_now_on_is_added(recorded: Recorded, kernel: Kernel) -> None:
    assert overflows(recorded) == 0
    kernel.counts(3, 50)
    assert overflows(recorded) == 3
    kernel.counts(2, 0)
    assert overflows(recorded) == 5
    assert overflows(recorded) == 5


def test_a_kernel_that_does_not_count_adds_nothing(recorded: Recorded, kernel: Kernel) -> None:
    counters, kernel.counters = kernel.counters, None
    assert overflows(recorded) == 0
    kernel.counters = counters
    assert overflows(recorded) == 0
    kernel.counts(4, 4)
    assert overflows(recorded) == 4


def test_nothing_is_cut_by_the_end_of_a_candidate(recorded: Recorded) -> None:
    recorded.serve("a")
    recorded.begin("b")
    failure = Failure(FailureKind.PERMANENT, "no such cluster")
    recorded.tell(on.EpochJudged(at=NOW, epoch=2, failure=failure))
    assert recorded.cut_counted() == {}
    assert recorded.counted("rotations_total", trigger="certificate", outcome="refused") == 1
