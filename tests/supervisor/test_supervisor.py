import asyncio
import errno
import json
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from agent import __version__
from agent.core import effects as do
from agent.core import events as on
from agent.core.epochs import State
from agent.core.errors import AddressHeld, MachineError
from agent.core.policy import Policy
from agent.core.revision import Revision
from agent.handoff.socket_store import ListenAddress
from agent.host import listen_counters, processes
from agent.host.binaries import open_binary
from agent.host.carried import Carried
from agent.host.inherited_sockets import OWN
from agent.host.listen_counters import ListenCounters
from agent.host.run_directory import RunDirectory
from agent.http.client import stream
from agent.http.message import Request
from agent.inputs.loader import Loader
from agent.inputs.watch import InputWatcher
from agent.metrics.application import Application
from agent.processes.process_table import ProcessTable
from agent.processes.survivor import Survivor
from agent.supervisor import supervisor
from agent.supervisor.supervisor import EXECUTE
from tests.metrics.expositions import own_values
from tests.stats.segments import written
from tests.supervisor.agent_under_test import LOOPBACK, Agent, console, running
from tests.supervisor.conftest import Time
from tests.supervisor.stand_ins import (
    KIND,
    NOW,
    TODAY,
    Process,
    group,
    leaf,
    logged,
    program,
    rejection,
    selection,
    settled,
    source,
    texts,
)

WEB = "/c/web.crt"


class Orphans:
    """Why this process cannot get orphans, if it cannot."""

    reason: str | None = None


@pytest.fixture(autouse=True)
def orphans(monkeypatch: pytest.MonkeyPatch) -> Orphans:
    """This process is no reaper of others."""
    made = Orphans()
    monkeypatch.setattr(supervisor, "become_reaper", lambda: made.reason)
    return made


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is inherited, and nothing that a test passes on outlives it."""
    for name in (OWN, "NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_PID"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    """The port of a listener that an agent inherits for its status server."""
    listener = socket.create_server((LOOPBACK, 0))
    listener.setblocking(False)
    number: int = listener.getsockname()[1]
    monkeypatch.setenv(OWN, json.dumps({"status": listener.detach()}))
    return number


class Systemd:
    """The socket to which an agent sends its notifications."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.bind(str(path))

    def news(self) -> list[str]:
        """Return what came since the last call."""
        found = []
        while True:
            try:
                found.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return found


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Systemd]:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    made = Systemd(tmp_path / "notify")
    yield made
    made.socket.close()


def remembered(directory: RunDirectory, **state: object) -> None:
    """Let an earlier agent have left this state."""
    (directory.path / "state.json").write_text(json.dumps({"boot": processes.boot(), **state}))


def facts(caplog: pytest.LogCaptureFixture, event: str) -> dict[str, Any]:
    """Return the facts of the only log event of this name."""
    (record,) = [each for each in caplog.records if getattr(each, "event", "") == event]
    found: dict[str, Any] = record.facts  # type: ignore[attr-defined]  # `log_event` sets it
    return found


def metric(agent: Agent, name: str, **labels: str) -> float | None:
    """Return the value of one of the agent's own metrics."""
    return own_values(agent.supervisor._metrics).get((name, tuple(sorted(labels.items()))))


# A life


async def test_a_revision_comes_to_serve_and_takes_over_from_the_one_before(
    directory: RunDirectory, time: Time
) -> None:
    agent = Agent(directory)
    async with running(agent):
        await agent.serve("a")
        assert [name for name, *_ in agent.calls] == ["start", "judge", "open_gate", "commit"]
        await agent.serve("b")
        assert agent.calls[4:] == [
            ("start", 2, Revision("b", "shape"), False),
            ("judge", 2),
            ("open_gate", 2),
            ("commit", 2),
            ("drain", 1, False),
        ]
        agent.post(on.EpochEmptied(at=agent.now, epoch=1))
        await agent.exits(1, 0)
        assert agent.calls[9:] == [("end", 1), ("cleanup", 1)]


async def test_a_stop_drains_ends_and_exits_with_0(directory: RunDirectory, time: Time) -> None:
    agent = Agent(directory)
    async with running(agent) as task:
        await agent.serve("a")
        agent.post(on.StopAsked(at=agent.now))
        agent.post(on.EpochEmptied(at=agent.now, epoch=1))
        await agent.exits(1, 0)
        await task
        assert agent.calls[4:] == [("drain", 1, True), ("end", 1)]
    assert agent.code == 0


async def test_the_first_epoch_has_a_number_that_was_never_used(directory: RunDirectory, time: Time) -> None:
    remembered(directory, next_epoch=7)
    agent = Agent(directory)
    async with running(agent):
        assert (await agent.find("a")).number == 7


async def test_a_failed_start_is_tried_again_a_little_later(directory: RunDirectory, time: Time) -> None:
    agent = Agent(directory)
    async with running(agent):
        await agent.find("a")
        for number in (1, 2, 3):
            await agent.exits(number)
            await asyncio.sleep(0.5)
        assert [call[1] for call in agent.calls if call[0] == "start"] == [1, 2, 3, 4]


async def test_the_policy_is_that_of_the_settings(directory: RunDirectory, time: Time) -> None:
    agent = Agent(directory, policy=Policy(start_timeout=5.0))
    async with running(agent):
        await agent.find("a")
        await asyncio.sleep(4.9)
        assert ("drop", 1) not in agent.calls
        await asyncio.sleep(0.2)
        assert ("drop", 1) in agent.calls


async def test_the_parts_share_settings_directory_and_revisions(directory: RunDirectory, time: Time) -> None:
    agent = Agent(directory, policy=Policy(start_timeout=5.0))
    assert agent.processes.given == (agent.settings, directory, agent.inputs.revisions)
    assert agent.inputs.given is agent.settings
    assert agent.inputs.programs.path == Path("/bin/true")
    bisection = agent.processes.bisection
    assert bisection._timeout == 5.0
    assert bisection._loader is cast("Loader", agent.inputs.loader)
    assert bisection._revisions is agent.inputs.revisions


async def test_the_parts_of_a_real_agent_are_the_default(directory: RunDirectory) -> None:
    plain = Agent(directory).settings
    made = supervisor.Supervisor(plain, directory)
    assert type(made._inputs) is InputWatcher
    assert type(made._processes) is ProcessTable
    await made._inputs.close()


# Events


async def test_an_event_of_a_revision_that_is_not_the_newest_is_ignored(directory: RunDirectory, time: Time) -> None:
    agent = Agent(directory)
    async with running(agent):
        old = agent.inputs.find("a").revision
        new = agent.inputs.find("b").revision
        agent.inputs.post(on.RevisionReady(at=agent.now, revision=old))
        agent.inputs.post(on.RevisionReady(at=agent.now, revision=new))
        await agent.heard()
        assert agent.calls == [("start", 1, new, False)]


async def test_a_bug_is_logged_and_the_loop_goes_on(
    directory: RunDirectory, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    agent = Agent(directory)
    async with running(agent):
        agent.processes.fails = ZeroDivisionError("a bug")
        agent.inputs.post(on.RevisionReady(at=agent.now, revision=agent.inputs.find("a").revision))
        await agent.heard()
        (record,) = [each for each in caplog.records if getattr(each, "event", "") == "bug"]
        assert (record.levelno, "RevisionReady" in record.getMessage()) == (logging.ERROR, True)
        assert record.exc_info
        assert record.exc_info[0] is ZeroDivisionError
        await agent.exits(1)
        assert ("start", 2) in {call[:2] for call in agent.calls}


async def test_time_passes_at_the_deadline_and_not_before(directory: RunDirectory, time: Time) -> None:
    agent = Agent(directory)
    async with running(agent):
        await agent.find("a")
        await asyncio.sleep(29.9)
        assert agent.calls[-1][0] == "start"
        await asyncio.sleep(0.2)
        assert agent.calls[1] == ("drop", 1)
        assert metric(agent, "event_loop_lag_seconds_count") == 1
        assert metric(agent, "event_loop_lag_seconds_sum") == pytest.approx(0, abs=1e-6)


async def test_how_late_a_deadline_is_met_is_a_metric(directory: RunDirectory, time: Time) -> None:
    agent = Agent(directory)
    async with running(agent):
        await agent.find("a", at=agent.now - 32.5)
        await settled(lambda: ("drop", 1) in agent.calls)
        assert metric(agent, "event_loop_lag_seconds_sum") == 2.5
        assert metric(agent, "event_loop_lag_seconds_count") == 1


async def test_an_event_before_the_deadline_measures_no_lag(directory: RunDirectory, time: Time) -> None:
    agent = Agent(directory)
    async with running(agent):
        await agent.serve("a")
        assert metric(agent, "event_loop_lag_seconds_count") == 0


async def test_every_event_is_recorded_with_its_effects(directory: RunDirectory, time: Time) -> None:
    agent = Agent(directory)
    async with running(agent):
        await agent.find("a")
        await agent.exits(1)
        assert metric(agent, "rotations_total", trigger="start", outcome="failed") == 1


async def test_the_recorder_knows_whether_the_agent_stops(directory: RunDirectory, time: Time) -> None:
    agent = Agent(directory)
    async with running(agent):
        process = await agent.serve("a")
        process.clients, process.pid = 3, None
        agent.post(on.StopAsked(at=agent.now))
        await agent.heard()
        await asyncio.sleep(31)
        assert metric(agent, "connections_closed_total", cause="stop_deadline") == 3


# Exits of epochs


async def test_an_exit_is_followed_by_the_removal_of_all_that_was_the_epochs(
    directory: RunDirectory, time: Time
) -> None:
    agent = Agent(directory)
    async with running(agent):
        await agent.serve("a")
        follows = agent.detector.follows
        await agent.exits(1)
        assert ("cleanup", 1) in agent.calls
        assert agent.detector.follows == follows + 1
        assert 1 not in agent.processes.epochs


async def test_other_events_remove_nothing(directory: RunDirectory, time: Time) -> None:
    agent = Agent(directory)
    async with running(agent):
        await agent.serve("a")
        assert "cleanup" not in {name for name, *_ in agent.calls}
        assert agent.detector.follows == 0


async def test_the_end_of_a_draining_epoch_is_logged(directory: RunDirectory, time: Time) -> None:
    agent = Agent(directory)
    async with running(agent):
        await agent.serve("a")
        await agent.serve("b")
        with logged() as events:
            await agent.exits(1, reason="epoch 1 exited with 0")
        (event,) = [event for event in events if event.name == "epoch.gone"]
        assert (event.level, event.text, event.epoch) == (logging.INFO, "epoch 1 exited with 0", 1)


async def test_the_end_of_an_epoch_that_was_told_to_exit_is_logged(directory: RunDirectory, time: Time) -> None:
    agent = Agent(directory)
    async with running(agent):
        await agent.serve("a")
        await agent.serve("b")
        agent.post(on.EpochEmptied(at=agent.now, epoch=1))
        with logged() as events:
            await agent.exits(1)
        assert len(texts(events, "epoch.gone")) == 1


async def test_a_crash_and_an_unknown_epoch_do_not_end_as_they_should(directory: RunDirectory, time: Time) -> None:
    agent = Agent(directory)
    async with running(agent):
        await agent.serve("a")
        with logged() as events:
            await agent.exits(1)
            await agent.exits(99)
        assert texts(events, "epoch.gone") == []


# The state file


async def test_the_state_is_written_before_the_first_event_and_after_each(directory: RunDirectory, time: Time) -> None:
    agent = Agent(directory)
    async with running(agent):
        assert (agent.state["epochs"], agent.state["ready"], agent.state["served_since"]) == ([], False, 111)
        await agent.find("a")
        assert [(each["number"], each["stage"]) for each in agent.state["epochs"]] == [(1, "starting")]
        agent.post(on.EpochStarted(at=agent.now, epoch=1, pid=123))
        await agent.heard()
        assert [(each["pid"], each["nonce"]) for each in agent.state["epochs"]] == [(123, "nonce")]


async def test_the_state_names_the_spare_segment(directory: RunDirectory, time: Time) -> None:
    agent = Agent(directory)
    agent.processes.segments.spare = agent.processes.segments.__class__(base_id=77)
    async with running(agent):
        assert agent.state["spare"] == 77


async def test_the_last_state_has_no_epochs(directory: RunDirectory, time: Time) -> None:
    agent = Agent(directory)
    async with running(agent) as task:
        await agent.serve("a")
        agent.post(on.StopAsked(at=agent.now))
        await agent.exits(1)
        await task
    assert agent.state["epochs"] == []


def spoil(directory: RunDirectory) -> Path:
    """Make the state file unwritable; return what is to be removed to repair it."""
    path = directory.path / "state.json"
    path.unlink()
    path.mkdir()
    return path


async def test_a_state_that_could_not_be_written_is_written_a_second_later(directory: RunDirectory, time: Time) -> None:
    agent = Agent(directory)
    async with running(agent):
        path = spoil(directory)
        await agent.find("a")
        path.rmdir()
        await asyncio.sleep(0.99)
        assert not path.exists()
        await asyncio.sleep(0.02)
        assert [each["number"] for each in agent.state["epochs"]] == [1]


async def test_a_write_in_between_makes_the_next_retry_later(directory: RunDirectory, time: Time) -> None:
    agent = Agent(directory)
    async with running(agent):
        path = spoil(directory)
        await agent.find("a")
        await asyncio.sleep(0.6)
        agent.post(on.EpochStarted(at=agent.now, epoch=1, pid=123))
        await agent.heard()
        path.rmdir()
        await asyncio.sleep(0.99)
        assert not path.exists()
        await asyncio.sleep(0.02)
        assert agent.state["epochs"][0]["pid"] == 123


async def test_a_state_that_is_written_is_not_written_again(directory: RunDirectory, time: Time) -> None:
    agent = Agent(directory)
    async with running(agent):
        await agent.serve("a")
        (directory.path / "state.json").unlink()
        await asyncio.sleep(5)
        assert not (directory.path / "state.json").exists()


async def test_an_idle_agent_is_woken_by_nothing(directory: RunDirectory, time: Time) -> None:
    agent = Agent(directory)
    async with running(agent):
        await agent.serve("a")
        assert time.timers() == []


async def test_no_retry_outlives_the_agent(directory: RunDirectory, time: Time) -> None:
    agent = Agent(directory)
    async with running(agent) as task:
        await agent.serve("a")
        path = spoil(directory)
        agent.post(on.StopAsked(at=agent.now))
        await agent.exits(1)
        await task
    path.rmdir()
    await asyncio.sleep(5)
    assert not path.exists()


async def test_other_parts_may_have_the_state_recorded(directory: RunDirectory, time: Time) -> None:
    agent = Agent(directory)
    async with running(agent):
        for number, record in enumerate((agent.inputs.record, agent.processes.callbacks.record)):
            agent.processes.served_since = number
            record()
            assert agent.state["served_since"] == number


# What is kept, and what is forgotten


def held(agent: Agent, name: str) -> bool:
    """Return whether the files of a revision are still held."""
    try:
        return agent.inputs.revisions[Revision(name, "shape")] is not None
    except KeyError:
        return False


async def test_the_revision_of_an_epoch_is_forgotten_once_nothing_needs_it(directory: RunDirectory, time: Time) -> None:
    agent = Agent(directory)
    async with running(agent):
        await agent.serve("a")
        await agent.serve("b")
        assert (held(agent, "a"), held(agent, "b")) == (True, True)
        await agent.exits(1)
        assert (held(agent, "a"), held(agent, "b")) == (False, True)


async def test_what_is_wanted_and_what_is_newest_are_kept(directory: RunDirectory, time: Time) -> None:
    agent = Agent(directory)
    async with running(agent):
        await agent.serve("a")
        agent.post(on.PauseAsked(at=agent.now, until=agent.now + 100))
        agent.inputs.post(on.RevisionReady(at=agent.now, revision=agent.inputs.find("b").revision))
        await agent.heard()
        agent.inputs.find("c")
        agent.post(on.TimePassed(at=agent.now))
        await agent.heard()
        assert [held(agent, name) for name in "abc"] == [True, True, True]
        agent.inputs.post(on.RevisionReady(at=agent.now, revision=Revision("c", "shape")))
        await agent.heard()
        assert [held(agent, name) for name in "abc"] == [True, False, True]


async def test_the_last_good_revision_is_kept_while_nothing_runs(directory: RunDirectory, time: Time) -> None:
    agent = Agent(directory, policy=Policy(crashes_forgiven=0))
    async with running(agent):
        await agent.serve("a")
        agent.post(on.PauseAsked(at=agent.now, until=agent.now + 100))
        agent.inputs.post(on.RevisionReady(at=agent.now, revision=agent.inputs.find("b").revision))
        await agent.exits(1)
        await agent.exits(2)
        assert not agent.processes.epochs
        assert (held(agent, "a"), held(agent, "b")) == (True, True)


async def test_the_revision_of_a_process_is_kept_until_it_is_cleaned_up(directory: RunDirectory, time: Time) -> None:
    agent = Agent(directory)
    async with running(agent):
        await agent.serve("a")
        stray = agent.inputs.find("x")
        agent.inputs.find("a")
        agent.processes.epochs[9] = Process(9, stray)
        agent.post(on.TimePassed(at=agent.now))
        await agent.heard()
        assert held(agent, "x")
        del agent.processes.epochs[9]
        agent.post(on.TimePassed(at=agent.now))
        await agent.heard()
        assert not held(agent, "x")


async def test_the_revision_of_a_candidate_is_kept_though_it_is_overtaken(directory: RunDirectory, time: Time) -> None:
    agent = Agent(directory)
    async with running(agent):
        await agent.serve("a")
        await agent.find("b")
        del agent.processes.epochs[2]
        agent.inputs.post(on.RevisionReady(at=agent.now, revision=agent.inputs.find("c").revision))
        await agent.heard()
        assert [held(agent, name) for name in "abc"] == [True, True, True]


async def test_a_program_is_closed_once_no_revision_runs_it(
    directory: RunDirectory, time: Time, tmp_path: Path
) -> None:
    (tmp_path / "proxy").write_text("")
    agent = Agent(directory)
    async with running(agent):
        await agent.serve("a")
        old, unused = open_binary(tmp_path / "proxy"), open_binary(tmp_path / "proxy")
        agent.inputs.programs._superseded += [old, unused]
        running_old = program("/opt/proxy", old.descriptor)
        made = agent.inputs.revisions.adopt(Revision("b", "shape"), source(), selection(), running_old)
        agent.inputs.loader.newest = made.revision
        agent.post(on.TimePassed(at=agent.now))
        await agent.heard()
        os.fstat(old.descriptor)
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(unused.descriptor)
        agent.inputs.find("c")
        agent.post(on.TimePassed(at=agent.now))
        await agent.heard()
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(old.descriptor)


# The start


async def test_listening_sockets_are_inherited_and_the_status_listener_is_not_one_of_them(
    directory: RunDirectory, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener, web = socket.create_server((LOOPBACK, 0)), socket.create_server((LOOPBACK, 0))
    number: int = listener.getsockname()[1]
    name = json.dumps(["tcp://127.0.0.1:80", "", 0])
    monkeypatch.setenv(OWN, json.dumps({name: web.detach(), "status": listener.detach()}))
    agent = Agent(directory, status_port=number)
    async with running(agent):
        (inherited,) = agent.processes.inherited
        assert inherited.name == name
        os.close(inherited.descriptor)
        assert (await agent.http("/healthz/live"))[0] == 200


async def test_without_a_status_port_there_is_no_status_server(directory: RunDirectory, time: Time) -> None:
    agent = Agent(directory)
    async with running(agent):
        assert agent.supervisor._endpoints.bequest() == {}


async def test_a_status_port_of_another_program_is_an_error(directory: RunDirectory, time: Time) -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        agent = Agent(directory, status_port=taken.getsockname()[1])
        with pytest.raises(AddressHeld, match=f"{LOOPBACK}:"):
            await agent.run()
    agent.release()


async def test_the_status_address_is_that_of_the_settings(directory: RunDirectory, time: Time) -> None:
    with socket.create_server(("127.0.0.2", 0)) as taken:
        agent = Agent(directory, status_host="127.0.0.2", status_port=taken.getsockname()[1])
        with pytest.raises(AddressHeld, match=r"127\.0\.0\.2"):
            await agent.run()
    agent.release()


async def test_without_a_control_socket_the_agent_runs(directory: RunDirectory, time: Time) -> None:
    (directory.path / "control").mkdir()
    agent = Agent(directory)
    with logged() as events:
        async with running(agent):
            await agent.serve("a")
    (event,) = [event for event in events if event.name == "control.unavailable"]
    assert event.level == logging.WARNING
    assert str(directory.path / "control") in event.text


@pytest.mark.parametrize("wanted", [True, False])
async def test_kubernetes_events_are_sent_only_if_they_are_wanted(
    directory: RunDirectory, time: Time, wanted: bool
) -> None:
    agent = Agent(directory, kubernetes_events=wanted)
    async with running(agent):
        assert agent.cluster.begun == wanted


async def test_the_warnings_that_stand_are_the_current_refusals(directory: RunDirectory, time: Time) -> None:
    agent = Agent(directory)
    async with running(agent):
        assert list(agent.cluster.standing()) == []
        agent.inputs.loader.reports.refusals = [rejection(WEB)]
        assert list(agent.cluster.standing()) == [rejection(WEB).message]


async def test_orphans_are_reaped_by_their_owner(directory: RunDirectory, time: Time) -> None:
    agent = Agent(directory)
    with logged() as events:
        async with running(agent):
            assert agent.journal == ["reaper started", "watching"]
            assert agent.reaper.owner is processes.owner_of
            assert agent.reaper.loop is asyncio.get_running_loop()
    assert texts(events, "orphans.elsewhere") == []


async def test_a_kernel_that_gives_no_orphans_is_told_of(directory: RunDirectory, time: Time, orphans: Orphans) -> None:
    orphans.reason = "operation not permitted"
    agent = Agent(directory)
    with logged() as events:
        async with running(agent):
            assert "reaper started" in agent.journal
    assert "operation not permitted" in texts(events, "orphans.elsewhere")[0]


async def test_a_shortage_in_the_loop_is_an_event_and_no_bug(directory: RunDirectory, time: Time) -> None:
    agent = Agent(directory)
    async with running(agent):
        with logged() as events:
            error = OSError(errno.EMFILE, "Too many open files")
            asyncio.get_running_loop().call_exception_handler({"message": "accept", "exception": error})
        assert [event.name for event in events] == ["machine.short"]


# Adoption


def survivor(number: int, state: State = State.SERVING) -> Survivor:
    return Survivor(number, state, 40 + number, 1, "nonce", 7, Carried(1, 2, 3), frozenset())


async def test_an_epoch_of_an_earlier_agent_serves_on(directory: RunDirectory, time: Time) -> None:
    agent = Agent(directory)
    agent.left_behind = [(survivor(3), "/bin/true")]
    async with running(agent):
        ((found, loaded),) = agent.processes.adopted
        assert (found, loaded.revision) == (survivor(3), Revision("r3", "shape"))
        assert agent.calls == [("commit", 3)]
        assert [(each["number"], each["pid"], each["stage"]) for each in agent.state["epochs"]] == [(3, 43, "serving")]
        assert agent.state["last_good"] == "r3"
        assert agent.inputs.programs.current is loaded.program
        assert (await agent.find("b")).number == 4


async def test_each_epoch_is_adopted_in_its_own_state(directory: RunDirectory, time: Time) -> None:
    agent = Agent(directory)
    agent.left_behind = [(survivor(3, State.DRAINING), "/bin/true"), (survivor(4), "/bin/true")]
    async with running(agent):
        assert agent.calls == [("drain", 3, False), ("commit", 4)]


@pytest.mark.parametrize("error", [MachineError("it has exited"), OSError("it has exited")])
async def test_an_epoch_that_cannot_be_adopted_does_not_keep_the_others(
    directory: RunDirectory, time: Time, error: Exception
) -> None:
    agent = Agent(directory)
    agent.left_behind = [(survivor(3), "/bin/true"), (survivor(4), "/bin/true")]
    agent.processes.unadoptable[3] = error
    with logged() as events:
        async with running(agent):
            assert agent.calls == [("commit", 4)]
            ((_, loaded),) = agent.processes.adopted
            assert agent.inputs.programs.current is loaded.program
            assert agent.stale_but == [frozenset({4})]
    (event,) = [event for event in events if event.name == "epoch.not_adopted"]
    assert event.level == logging.WARNING
    assert event.text == "epoch 3: it has exited"


async def test_what_adoption_looks_through_is_the_agents_own(directory: RunDirectory, time: Time) -> None:
    agent = Agent(directory)
    async with running(agent):
        kind, state_file, place, revisions, counters = agent.legacy.given
        assert (kind, place) == (KIND, directory)
        assert state_file is agent.supervisor._state_file
        assert revisions is agent.inputs.revisions
        assert counters is agent.processes.shared_counters
        assert agent.stale_but == [frozenset()]


async def test_the_service_is_as_old_as_its_first_agent(directory: RunDirectory, time: Time) -> None:
    remembered(directory, served_since=12345, epochs=[{"number": 1}])
    agent = Agent(directory)
    async with running(agent):
        assert agent.processes.served_since == 12345


# Signals


async def test_sigterm_drains_and_the_second_one_hurries(directory: RunDirectory, time: Time) -> None:
    agent = Agent(directory)
    with logged() as events:
        async with running(agent):
            await agent.serve("a")
            signal.raise_signal(signal.SIGTERM)
            await settled(lambda: agent.calls[-1] == ("drain", 1, True))
            signal.raise_signal(signal.SIGTERM)
            await settled(lambda: agent.calls[-1] == ("end", 1))
    assert texts(events, "agent.stopping") == ["SIGTERM: draining", "SIGTERM: ending the drain"]


async def test_sighup_starts_an_epoch_from_the_disk_whatever_was_refused(directory: RunDirectory, time: Time) -> None:
    agent = Agent(directory)
    with logged() as events:
        async with running(agent):
            await agent.serve("a")
            agent.inputs.calls.clear()
            signal.raise_signal(signal.SIGHUP)
            await settled(lambda: 2 in agent.processes.epochs)
            assert agent.inputs.calls == [("forgive",), ("reload_soon",)]
    assert len(texts(events, "agent.restarting")) == 1
    assert texts(events, "agent.restarting")[0].startswith("SIGHUP")


async def test_sigusr1_is_passed_on_to_every_epoch(directory: RunDirectory, time: Time) -> None:
    agent = Agent(directory)
    with logged() as events:
        async with running(agent):
            epochs = [await agent.serve("a"), await agent.serve("b")]
            signal.raise_signal(signal.SIGUSR1)
            await settled(lambda: texts(events, "logs.reopened"))
            assert [each.signals for each in epochs] == [[signal.SIGUSR1], [signal.SIGUSR1]]


async def test_sigquit_logs_the_state(directory: RunDirectory, time: Time, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    agent = Agent(directory)
    with logged() as events:
        async with running(agent):
            await agent.serve("a")
            signal.raise_signal(signal.SIGQUIT)
            await settled(lambda: texts(events, "agent.state"))
    assert texts(events, "agent.state") == ["epoch 1 serves"]
    assert facts(caplog, "agent.state")["wanted"] == "a"


async def test_sigusr2_leaves_the_epochs_running(directory: RunDirectory, time: Time) -> None:
    agent = Agent(directory)
    async with running(agent) as task:
        await agent.serve("a")
        signal.raise_signal(signal.SIGUSR2)
        await task
    assert agent.code == 0
    assert agent.calls[-1] == ("commit", 1)
    assert "processes closed" not in agent.journal
    assert [each["stage"] for each in agent.state["epochs"]] == ["serving"]
    assert OWN not in os.environ


# An upgrade


async def test_an_agent_that_executes_passes_its_sockets_on(
    directory: RunDirectory, time: Time, systemd: Systemd, monkeypatch: pytest.MonkeyPatch, port: int
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "4000000")
    agent = Agent(directory, status_port=port)
    web = socket.socket().detach()
    agent.processes.bequest = {"web": web}
    async with running(agent) as task:
        await agent.serve("a")
        systemd.news()
        agent.supervisor._operations.executes = True
        agent.supervisor._operations.leave("upgrade")
        await task
    assert agent.code == EXECUTE
    assert EXECUTE not in range(256)  # no exit code
    assert "processes closed" not in agent.journal
    assert "WATCHDOG_USEC=60000000\nWATCHDOG=1" in systemd.news()
    passed = json.loads(os.environ[OWN])
    assert passed["web"] == web
    with socket.socket(fileno=passed["status"]) as status:
        assert status.getsockname()[1] == port
        assert os.get_inheritable(status.fileno())
    os.close(web)


async def test_no_event_is_dealt_with_once_the_agent_leaves(directory: RunDirectory, time: Time) -> None:
    agent = Agent(directory)
    async with running(agent) as task:
        await agent.serve("a")
        agent.post(on.StopAsked(at=agent.now))
        agent.supervisor._operations.leave("SIGUSR2")
        await task
    assert agent.calls[-1] == ("commit", 1)


# The end


async def test_an_agent_that_was_stopped_says_so(
    directory: RunDirectory, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    agent = Agent(directory)
    with logged() as events:
        async with running(agent) as task:
            agent.post(on.StopAsked(at=agent.now))
            await task
    (event,) = [event for event in events if event.name == "agent.gone"]
    assert (event.level, facts(caplog, "agent.gone")) == (logging.INFO, {"code": 0})
    assert event.text not in agent.last_words


async def test_an_agent_that_cannot_go_on_leaves_its_reason(
    directory: RunDirectory, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    agent = Agent(directory, policy=Policy(wait=False))
    with logged() as events:
        async with running(agent) as task:
            agent.post(on.RevisionMissing(at=agent.now, what=WEB))
            await task
    (event,) = [event for event in events if event.name == "agent.gone"]
    assert (agent.code, event.level, facts(caplog, "agent.gone")) == (78, logging.ERROR, {"code": 78})
    assert WEB in event.text
    assert agent.last_words[-1] == event.text


async def test_all_is_closed_in_the_order_in_which_it_depends_on_each_other(
    directory: RunDirectory, time: Time, port: int, systemd: Systemd
) -> None:
    agent = Agent(directory, status_port=port)
    open_at_close: list[bool] = []

    def look() -> None:
        with socket.socket() as client:
            open_at_close.append(client.connect_ex((LOOPBACK, port)) == 0)
        open_at_close.append((directory.path / "control").exists())

    agent.processes.at_close = look
    async with running(agent) as task:
        before = asyncio.all_tasks() - {task}
        agent.post(on.StopAsked(at=agent.now))
        await task
        assert asyncio.all_tasks() == before & asyncio.all_tasks() | {asyncio.current_task()}
    assert agent.journal[2:] == [
        "detector closed",
        "watch cancelled",
        "processes closed",
        "watch ended",
        "inputs closed",
        "reaper closed",
        "clock closed",
        "cluster closed",
        "ended",
    ]
    assert open_at_close == [False, False]


async def test_what_cannot_be_closed_does_not_keep_the_rest_open(directory: RunDirectory, time: Time) -> None:
    agent = Agent(directory)
    agent.inputs.close_fails = OSError("the disk is gone")
    with logged() as events:
        async with running(agent) as task:
            agent.post(on.StopAsked(at=agent.now))
            await task
    assert agent.code == 0
    assert agent.journal[-4:] == ["reaper closed", "clock closed", "cluster closed", "ended"]
    (event,) = [event for event in events if event.name == "agent.uncleared"]
    assert event.level == logging.WARNING
    assert "the disk is gone" in event.text


async def test_what_still_runs_ends_with_the_agent(directory: RunDirectory, time: Time, port: int) -> None:
    agent = Agent(directory, status_port=port)
    others = asyncio.all_tasks()
    async with running(agent) as task:
        process = await agent.serve("a", group(WEB, leaf()), text="admin: {}")
        with socket.socket(socket.AF_UNIX) as silent:
            process.admin.place = directory.path / "silent"
            silent.bind(str(process.admin.place))
            silent.listen()
            process.admin.tls_listeners = asyncio.get_running_loop().create_future  # type: ignore[assignment]
            agent.processes.callbacks.handed_over(process.as_epoch)  # a verification
            asking = asyncio.create_task(agent.http("/metrics"))  # a scrape
            draining = asyncio.create_task(agent.control("/drain", "POST"))  # an operation
            await settled(lambda: len(asyncio.all_tasks()) > len(others) + 8)
            await agent.supervisor._endpoints._moving.acquire()
            agent.supervisor._executor.execute(do.CommitEpoch(1))  # a route
            agent.post(on.StopAsked(at=agent.now))
            await agent.exits(1)
            await task
            assert asyncio.all_tasks() - others <= {asking, draining}
            asking.cancel()
            draining.cancel()
            await asyncio.gather(asking, draining, return_exceptions=True)


# What follows an event


async def test_systemd_follows_each_change(directory: RunDirectory, time: Time, systemd: Systemd) -> None:
    agent = Agent(directory)
    async with running(agent) as task:
        first = systemd.news()
        assert first[0].startswith("STATUS=no epoch serves")
        assert first[1].startswith("EXTEND_TIMEOUT_USEC=")
        await agent.serve("a")
        assert systemd.news()[-2:] == ["STATUS=epoch 1 serves", "READY=1"]
        signal.raise_signal(signal.SIGHUP)
        await settled(lambda: 2 in agent.processes.epochs)
        reloading, sentence = systemd.news()
        assert reloading.startswith("RELOADING=1")
        assert sentence == "STATUS=epoch 1 serves; epoch 2 starts"
        signal.raise_signal(signal.SIGTERM)
        await settled(lambda: ("drop", 2) in agent.calls)
        assert systemd.news()[0] == "STOPPING=1"
        await agent.exits(1)
        await agent.exits(2)
        await task


async def test_systemd_holds_the_sockets_of_the_store(directory: RunDirectory, time: Time, systemd: Systemd) -> None:
    agent = Agent(directory)
    async with running(agent):
        with socket.create_server((LOOPBACK, 0)) as listener:
            agent.processes.listeners.store.put(ListenAddress("tcp://127.0.0.1:80"), os.dup(listener.fileno()))
            stored = "FDSTORE=1\nFDNAME=0000.tcp_127.0.0.1_80"
            assert any(each.startswith(stored) for each in systemd.news())
            await agent.serve("a")
            assert any(each.startswith(stored) for each in systemd.news())


async def test_who_waits_for_readiness_hears_of_it(directory: RunDirectory, time: Time) -> None:
    agent = Agent(directory)
    async with running(agent):
        assert (await agent.control("/ready"))[0] == 503
        waiting = asyncio.create_task(agent.control("/ready?wait=60"))
        await agent.serve("a")
        assert await waiting == (200, "ready\n")


async def test_the_termination_log_has_what_is_wrong_now(directory: RunDirectory, time: Time) -> None:
    agent = Agent(directory)
    async with running(agent):
        assert agent.last_words == ["no epoch serves: waiting for /etc/certs/tls.crt"]
        await agent.serve("a")
        assert agent.last_words[-1] == ""
        agent.inputs.loader.reports.refusals = [rejection(WEB), rejection("/c/db.crt")]
        agent.post(on.TimePassed(at=agent.now))
        await agent.heard()
        assert agent.last_words[-1] == f"{rejection(WEB).message}; {rejection('/c/db.crt').message}"


async def test_an_agent_that_stops_has_nothing_wrong(directory: RunDirectory, time: Time) -> None:
    agent = Agent(directory)
    async with running(agent):
        await agent.serve("a")
        agent.post(on.StopAsked(at=agent.now))
        await agent.heard()
        assert agent.last_words[-1] == ""


async def status(agent: Agent) -> dict[str, Any]:
    """Return the status document."""
    code, text = await agent.http("/status")
    assert code == 200
    found: dict[str, Any] = json.loads(text)
    return found


async def test_each_state_begins_with_its_event_and_not_with_a_look_at_it(
    directory: RunDirectory, time: Time, port: int
) -> None:
    agent = Agent(directory, status_port=port)
    async with running(agent):
        await agent.serve("a")
        time.leap(60)
        (epoch,) = (await status(agent))["epochs"]
        assert datetime.fromisoformat(epoch["since"]) == TODAY


async def news(agent: Agent, what_happens: Any) -> float:  # noqa: ANN401  # any function
    """Watch the status; return the seconds from what happens to the next one that is sent."""
    async with stream((LOOPBACK, agent.settings.status_port), Request("GET", "/events"), "localhost") as response:
        assert not isinstance(response.body, bytes)
        parts: AsyncIterator[bytes] = response.body
        await anext(parts)
        await asyncio.sleep(0.5)
        began = agent.now
        what_happens()
        await anext(parts)
        return agent.now - began


async def test_who_watches_the_status_hears_of_an_event_at_once(directory: RunDirectory, time: Time, port: int) -> None:
    agent = Agent(directory, status_port=port)
    async with running(agent):
        assert await news(agent, lambda: agent.post(on.PauseAsked(at=agent.now, until=agent.now))) < 1


async def test_without_an_event_the_status_is_sent_now_and_then(directory: RunDirectory, time: Time, port: int) -> None:
    agent = Agent(directory, status_port=port)
    async with running(agent):
        assert await news(agent, lambda: None) > 1


async def test_who_watches_the_status_hears_of_a_handover_at_once(
    directory: RunDirectory, time: Time, port: int
) -> None:
    agent = Agent(directory, status_port=port)
    async with running(agent):
        process = await agent.serve("a")
        assert await news(agent, lambda: agent.processes.callbacks.handed_over(process.as_epoch)) < 1


# Callbacks of the processes


async def test_a_handover_is_recorded_and_the_hang_detector_follows(directory: RunDirectory, time: Time) -> None:
    agent = Agent(directory)
    async with running(agent):
        process = await agent.serve("a")
        agent.processes.callbacks.handed_over(process.as_epoch)
        assert metric(agent, "rotations_total", trigger="start", outcome="serving") == 1
        assert agent.detector.follows == 1


async def test_after_a_change_of_dynamic_listeners_the_detector_follows_and_the_state_is_written(
    directory: RunDirectory, time: Time
) -> None:
    agent = Agent(directory)
    async with running(agent):
        await agent.serve("a")
        agent.processes.served_since = 5
        agent.processes.callbacks.followed()
        assert agent.detector.follows == 1
        assert agent.state["served_since"] == 5


@pytest.mark.parametrize("proves", [True, False])
async def test_what_serves_is_verified_unless_the_operator_does_not_want_it(
    directory: RunDirectory, time: Time, proves: bool
) -> None:
    agent = Agent(directory, prove=proves)
    async with running(agent):
        process = await agent.serve("a", group(WEB, leaf()))
        process.admin.listeners = MachineError("it was asked")
        with logged() as events:
            agent.processes.callbacks.handed_over(process.as_epoch)
            await settled(lambda: texts(events, "rotation.done"))
        assert texts(events, "rotation.unproved") == ["it was asked"] * proves


# Hangs


async def test_the_hang_detector_watches_the_sockets_and_the_epoch_that_serves(
    directory: RunDirectory, time: Time
) -> None:
    agent = Agent(directory)
    async with running(agent):
        assert agent.detector.store is agent.processes.listeners.store
        assert agent.detector.serving() is None
        process = await agent.serve("a")
        assert agent.detector.serving() is process.as_epoch


@pytest.mark.parametrize("after", [None, 0.0, 30.0])
async def test_a_hung_epoch_is_replaced_after_the_operators_time(
    directory: RunDirectory, time: Time, after: float | None
) -> None:
    assert Agent(directory, replace_hung=after).detector.replace_after == after


@pytest.mark.parametrize(
    ("hangs", "level", "name"), [(True, logging.ERROR, "service.hung"), (False, logging.INFO, "service.answers")]
)
async def test_a_hang_and_its_end_are_logged_and_recorded(
    directory: RunDirectory, time: Time, hangs: bool, level: int, name: str
) -> None:
    agent = Agent(directory)
    async with running(agent):
        agent.processes.served_since = 5
        with logged() as events:
            agent.detector.report(hangs, "epoch 1")
        (event,) = events
        assert (event.level, event.name, event.text) == (level, name, "epoch 1")
        assert agent.state["served_since"] == 5


async def test_a_hung_epoch_is_replaced_at_once_and_without_a_drain(
    directory: RunDirectory, time: Time, port: int
) -> None:
    agent = Agent(directory, status_port=port)
    async with running(agent):
        await agent.serve("a")
        with logged() as events:
            agent.detector.replace("epoch 1 answers nobody")
        (event,) = events
        assert (event.level, event.name) == (logging.ERROR, "service.replaced")
        assert event.text.startswith("epoch 1 answers nobody")
        await settled(lambda: 2 in agent.processes.epochs)
        await agent.come_to_serve(agent.processes.epochs[2])
        assert agent.calls[-2:] == [("drain", 1, False), ("end", 1)]
        assert (await status(agent))["rotations"][0]["trigger"] == "hung"


async def test_the_status_says_that_an_epoch_hangs(directory: RunDirectory, time: Time, port: int) -> None:
    agent = Agent(directory, status_port=port)
    async with running(agent):
        agent.detector.hung = True
        assert (await status(agent))["hung"] is True


# The clock


async def test_expiry_is_foreseen_at_the_commit_and_after_a_step_of_the_clock(
    directory: RunDirectory, time: Time
) -> None:
    agent = Agent(directory)
    async with running(agent):
        await agent.serve("a", group(WEB, leaf(life=timedelta(seconds=1000))))
        await agent.heard()
        assert agent.supervisor._core.desired.urgent_at == NOW + 900
        time.set_clock(timedelta(seconds=200))
        assert agent.clock.loop is asyncio.get_running_loop()
        with logged() as events:
            agent.clock.stepped()
        assert [event.name for event in events] == ["clock.stepped"]
        assert agent.inputs.calls[-2:] == [("clock_stepped",), ("reload_soon",)]
        await agent.heard()
        assert agent.supervisor._core.desired.urgent_at == NOW + 700


# The status server


async def test_the_status_says_which_agent_this_is(directory: RunDirectory, time: Time, port: int) -> None:
    agent = Agent(directory, status_port=port)
    async with running(agent):
        found = await status(agent)
        assert (found["version"], found["ready"], found["epoch"]) == (__version__, False, None)


async def test_the_history_has_the_serials_of_each_revision(directory: RunDirectory, time: Time, port: int) -> None:
    agent = Agent(directory, status_port=port)
    async with running(agent):
        await agent.serve("a", group(WEB, leaf(0x1F)))
        await agent.serve("b", group(WEB, leaf(0x20)))
        newest, _ = (await status(agent))["rotations"]
        assert newest["changes"] == [{"set": "web", "before": "1f", "after": "20"}]


async def test_readiness_is_answered_with_its_reason(directory: RunDirectory, time: Time, port: int) -> None:
    agent = Agent(directory, status_port=port)
    async with running(agent):
        code, text = await agent.http("/healthz/ready")
        assert (code, "waiting for /etc/certs/tls.crt" in text) == (503, True)
        await agent.serve("a")
        assert (await agent.http("/healthz/ready"))[0] == 200


@pytest.mark.parametrize(("names", "code"), [(frozenset({"proxy.internal"}), 200), (frozenset[str](), 421)])
async def test_the_names_of_the_status_server_are_the_operators(
    directory: RunDirectory, time: Time, port: int, names: frozenset[str], code: int
) -> None:
    agent = Agent(directory, status_port=port, status_names=names)
    async with running(agent):
        assert (await agent.http("/healthz/live", host="proxy.internal"))[0] == code


@pytest.mark.parametrize(("wanted", "code"), [(True, 200), (False, 403)])
async def test_actions_by_http_are_taken_only_if_they_are_wanted(
    directory: RunDirectory, time: Time, port: int, wanted: bool, code: int
) -> None:
    agent = Agent(directory, status_port=port, http_actions=wanted)
    with logged() as events:
        async with running(agent):
            assert (await agent.http("/quitquitquit", "POST"))[0] == code
            await agent.heard()
            await settled(lambda: not wanted or texts(events, "agent.stopping"))
    assert len(texts(events, "control.asked")) == wanted
    assert len(texts(events, "agent.stopping")) == wanted


async def test_the_control_socket_acts_and_is_logged(directory: RunDirectory, time: Time) -> None:
    agent = Agent(directory)
    with logged() as events:
        async with running(agent) as task:
            await agent.serve("a")
            assert json.loads((await agent.control("/state"))[1]) == agent.state
            assert json.loads((await agent.control("/status"))[1])["epoch"] == 1
            assert (await agent.control("/pause?for=60", "POST"))[0] == 200
            await agent.heard()
            assert agent.supervisor._core.desired.paused_until == pytest.approx(agent.now + 60)
            assert (await agent.control("/stop", "POST"))[0] == 202
            await agent.exits(1)
            await task
    assert [text.split()[0] for text in texts(events, "control.asked")] == ["pause?for=60", "stop"]
    assert texts(events, "agent.stopping")[0].endswith("draining")


# Metrics

METRICS = """\
# TYPE envoy_requests_total counter
envoy_requests_total{{}} {counter}
# TYPE envoy_server_version gauge
envoy_server_version{{}} {gauge}
"""


def told(counter: int, gauge: int) -> dict[str, str]:
    """The answers of an admin interface."""
    return {"/stats/prometheus": METRICS.format(counter=counter, gauge=gauge)}


def sample(text: str, name: str) -> str | None:
    """Return the value of a series in an exposition."""
    lines = [line for line in text.splitlines() if line.split("{")[0].split(" ")[0] == name]
    return lines[0].rpartition(" ")[2] if lines else None


async def test_metrics_are_summed_over_the_epochs_and_gauges_are_those_of_the_one_that_serves(
    directory: RunDirectory, time: Time, port: int
) -> None:
    agent = Agent(directory, status_port=port)
    async with running(agent):
        one, two = await agent.serve("a"), await agent.serve("b")
        async with console(one, told(5, 100)), console(two, told(7, 200)):
            code, text = await agent.http("/metrics")
            assert code == 200
            assert sample(text, "envoy_requests_total") == "12"
            assert sample(text, "envoy_server_version") == "200"
            assert sample(text, "proxy_agent_epoch") == "2.0"
        await agent.exits(1)
        assert json.loads((directory.path / "lineage.json").read_text())
        assert sample((await agent.http("/stats/prometheus"))[1], "envoy_requests_total") == "12"


async def test_without_a_merge_the_metrics_are_those_of_the_epoch_that_serves(
    directory: RunDirectory, time: Time, port: int
) -> None:
    agent = Agent(directory, status_port=port, merge_metrics=False)
    async with running(agent):
        assert (await agent.http("/metrics"))[0] == 503
        one, two = await agent.serve("a"), await agent.serve("b")
        async with console(one, told(5, 100)), console(two, told(7, 200)):
            assert await agent.http("/metrics") == (200, told(7, 200)["/stats/prometheus"])


async def test_the_metrics_of_the_application_are_beside_the_agents(
    directory: RunDirectory, time: Time, port: int
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = b"# TYPE process_open_fds gauge\nprocess_open_fds 42\n"
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        writer.close()

    server = await asyncio.start_server(answer, LOOPBACK, 0)
    application = Application(LOOPBACK, server.sockets[0].getsockname()[1], "/metrics", "app")
    agent = Agent(directory, status_port=port, application=application)
    async with running(agent), server:
        text = (await agent.http("/metrics"))[1]
        assert sample(text, "process_open_fds") == "42"
        assert sample(text, "proxy_agent_process_open_fds") is not None


async def test_without_an_application_the_agents_process_has_the_usual_names(
    directory: RunDirectory, time: Time, port: int
) -> None:
    agent = Agent(directory, status_port=port)
    async with running(agent):
        text = (await agent.http("/metrics"))[1]
        assert sample(text, "process_open_fds") is not None
        assert sample(text, "proxy_agent_process_open_fds") is None


async def test_a_scrape_counts_what_the_kernel_has_turned_away_since(
    directory: RunDirectory, time: Time, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    counters = [ListenCounters(10, 10)]
    monkeypatch.setattr(listen_counters, "read", lambda: counters[-1])
    agent = Agent(directory, status_port=port)
    async with running(agent):
        counters.append(ListenCounters(14, 20))
        assert sample((await agent.http("/metrics"))[1], "proxy_agent_listener_overflows_total") == "4.0"


async def test_the_last_counts_of_an_epoch_are_read_before_it_ends(
    directory: RunDirectory, time: Time, port: int
) -> None:
    agent = Agent(directory, status_port=port)
    async with running(agent):
        process = await agent.serve("a")
        scrape = agent.processes.callbacks.final_scrape
        assert scrape is not None
        async with console(process, told(9, 1)):
            await scrape(process.as_epoch)
        await agent.exits(1)
        assert sample((await agent.http("/metrics"))[1], "envoy_requests_total") == "9"


async def test_nobody_reads_counts_without_a_status_server(directory: RunDirectory, time: Time) -> None:
    assert Agent(directory).processes.callbacks.final_scrape is None


async def test_what_epochs_count_in_shared_memory_is_summed_up(directory: RunDirectory, time: Time, port: int) -> None:
    agent = Agent(directory, status_port=port)
    async with running(agent):
        for name in "ab":
            process = await agent.serve(name)
            process.home.mkdir()
        counters = agent.processes.shared_counters
        homes = [agent.processes.epochs[number].home for number in (1, 2)]
        with written(homes[0] / "stats", 1) as one, written(homes[1] / "stats", 2) as two:
            one.counter("requests").add(5)
            two.counter("requests").add(7)
            one.gauge("version").set(100)
            two.gauge("version").set(200)
            for number, home in enumerate(homes, 1):
                counters.follow(number, home)
            assert "requests: 12\n" in (await agent.http("/stats"))[1]
            text = (await agent.http("/metrics"))[1]
            assert sample(text, "envoy_requests") == "12"
            assert sample(text, "envoy_version") == "200"
