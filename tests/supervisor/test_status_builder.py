import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from agent.certificates.facts import CertificateFacts
from agent.certificates.findings import Fault
from agent.certificates.x509 import Bundle
from agent.core import events as on
from agent.core.events import Failure, FailureKind
from agent.core.policy import Policy
from agent.handoff.socket_store import ListenAddress
from agent.host.run_directory import RunDirectory
from agent.processes.hang_detector import HangDetector
from agent.status.model import (
    Authorities,
    Blocked,
    CertificateSet,
    EpochView,
    Facts,
    ListenerView,
    RejectedFile,
    Status,
)
from agent.supervisor.history import History
from agent.supervisor.status_builder import StatusBuilder
from agent.supervisor.summary import Summary
from tests.pki import UNTIL, Authority
from tests.supervisor.conftest import Time
from tests.supervisor.stand_ins import NOW, TODAY, Scene, group, leaf, rejection, selection


class Seen(Scene):
    """A scene of which snapshots are taken."""

    def __init__(self, directory: RunDirectory, policy: Policy | None = None) -> None:
        super().__init__(policy)
        self.detector = SimpleNamespace(hung=False)
        self.summary = Summary(self.service)
        self.history = History(self.core.epochs, directory, lambda each: self.revisions[each].selection.leaves)
        detector = cast("HangDetector", self.detector)
        self.builder = StatusBuilder(self.service, self.history, self.summary, detector, "1.2.3")

    @property
    def status(self) -> Status:
        """A snapshot."""
        return self.builder.build()

    def epoch(self, number: int) -> EpochView:
        """One epoch of a snapshot."""
        return next(each for each in self.status.epochs if each.number == number)

    def the_set(self) -> CertificateSet:
        """The only certificate set of a snapshot."""
        (found,) = self.status.certificates
        return found


@pytest.fixture
def seen(time: Time, directory: RunDirectory) -> Seen:
    return Seen(directory)


def after(seconds: float) -> datetime:
    return TODAY + timedelta(seconds=seconds)


# The agent


def test_a_snapshot_says_which_agent_it_is_of_and_when(seen: Seen, time: Time) -> None:
    time.leap(60)
    status = seen.status
    assert (status.version, status.pid) == ("1.2.3", os.getpid())
    assert (status.at, status.started_at) == (after(60), TODAY)
    assert status.watch == "inotify"


def test_an_agent_without_an_epoch_is_not_ready(seen: Seen) -> None:
    status = seen.status
    assert (status.ready, status.epoch, status.epochs) == (False, None, ())
    assert status.reason == seen.summary.why_not_ready()
    assert status.sentence == "no epoch serves"


def test_an_agent_whose_epoch_serves_is_ready(seen: Seen) -> None:
    seen.serve("a")
    status = seen.status
    assert (status.ready, status.reason, status.epoch) == (True, "", 1)
    assert status.sentence == "epoch 1 serves"


@pytest.mark.parametrize("hung", [True, False])
def test_it_says_whether_the_epoch_hangs(seen: Seen, hung: bool) -> None:
    seen.detector.hung = hung
    assert seen.status.hung is hung


def test_it_says_how_files_are_watched(seen: Seen) -> None:
    seen.inputs.mode = "polling"
    assert seen.status.watch == "polling"


def test_the_rotations_are_those_of_the_history(seen: Seen) -> None:
    revision = seen.begin("a").loaded.revision
    adopted = on.EpochAdopted(at=NOW, epoch=1, revision=revision, pid=1, state=seen.core.epochs[1].state)
    seen.history.enter(adopted, [])
    assert [each.epoch for each in seen.status.rotations] == [1]


# Pauses


def test_a_pause_is_shown_by_its_end(seen: Seen, time: Time) -> None:
    seen.core.handle(on.PauseAsked(at=NOW, until=NOW + 90))
    time.leap(30)
    assert seen.status.paused_until == after(90)


@pytest.mark.parametrize("waited", [90.0, 90.5])
def test_a_pause_that_is_over_is_not_shown(seen: Seen, time: Time, waited: float) -> None:
    seen.core.handle(on.PauseAsked(at=NOW, until=NOW + 90))
    time.leap(waited)
    assert seen.status.paused_until is None


# Epochs


def test_a_candidate_has_a_deadline_and_no_pid_until_it_runs(seen: Seen, time: Time) -> None:
    time.leap(3)
    seen.begin("0123456789abcdef", at=time.now)
    view = seen.epoch(1)
    assert (view.state, view.stage, view.pid, view.memory) == ("candidate", "starting", None, None)
    assert (view.started_at, view.deadline) == (after(3), after(3 + 30))
    assert view.revision == "0123456789ab"


def test_an_epoch_that_serves_has_no_deadline(seen: Seen, time: Time) -> None:
    seen.serve("a", group("/c/1.crt", leaf(0x1F)), group("/c/2.crt", leaf(0xABC)))
    view = seen.epoch(1)
    assert (view.state, view.stage, view.pid, view.deadline) == ("serving", "serving", 101, None)
    assert (view.connections, view.connections_at_first, view.awaits) == (None, None, "")
    assert view.serials == ("1f", "0abc")


def test_a_draining_epoch_has_its_connections(seen: Seen) -> None:
    process = seen.serve("a")
    seen.serve("b")
    process.clients, process.clients_at_first = 3, 12
    view = seen.epoch(1)
    assert (view.state, view.connections, view.connections_at_first) == ("draining", 3, 12)
    assert view.deadline == after(600)


def test_an_epoch_has_the_memory_of_its_process(seen: Seen) -> None:
    seen.begin("a")
    seen.core.handle(on.EpochStarted(at=NOW, epoch=1, pid=os.getpid()))
    memory = seen.epoch(1).memory
    assert memory is not None
    assert memory > 1 << 20


def test_a_candidate_shows_what_it_waits_for(seen: Seen) -> None:
    seen.begin("a")
    seen.core.handle(on.EpochAwaits(at=NOW, epoch=1, reason="the control plane"))
    assert seen.epoch(1).awaits == "the control plane"


def test_an_epoch_whose_process_is_not_there_has_no_facts_of_it(seen: Seen) -> None:
    seen.serve("a", group("/c/1.crt", leaf()))
    seen.processes.epochs.clear()
    view = seen.epoch(1)
    assert (view.serials, view.connections, view.connections_at_first) == ((), None, None)


def test_the_epochs_are_listed_from_old_to_new(seen: Seen, directory: RunDirectory) -> None:
    seen.serve("a")
    seen.serve("b")
    seen.begin("c")
    revision = seen.processes.epochs[1].loaded.revision
    seen.core.handle(on.EpochAdopted(at=NOW, epoch=0, revision=revision, pid=1, state=seen.core.epochs[1].state))
    assert [each.number for each in seen.status.epochs] == [0, 1, 2, 3]


def test_each_state_has_its_beginning(seen: Seen, time: Time) -> None:
    seen.begin("a")
    assert seen.epoch(1).since == TODAY
    time.leap(5)
    assert seen.epoch(1).since == TODAY
    seen.core.handle(on.EpochServes(at=time.now, epoch=seen.pass_gate()))
    seen.builder.note()
    time.leap(5)
    view = seen.epoch(1)
    assert (view.since, view.started_at) == (after(5), TODAY)


def test_a_number_that_comes_again_begins_anew(seen: Seen, time: Time) -> None:
    seen.begin("a")
    seen.builder.note()
    seen.core.epochs.clear()
    seen.builder.note()
    time.leap(5)
    seen.core.handle(on.TimePassed(at=time.now))
    seen.core.epochs[1] = replace(seen.core.epochs.pop(2), number=1)
    assert seen.epoch(1).since == after(5)


# In sync


def test_an_agent_without_an_epoch_is_out_of_sync_since_its_start(seen: Seen, time: Time) -> None:
    seen.builder.note()
    time.leap(9)
    assert seen.status.out_of_sync_since == TODAY


def test_what_serves_is_in_sync_if_it_is_wanted(seen: Seen) -> None:
    seen.serve("a")
    assert seen.status.out_of_sync_since is None


def test_a_change_that_does_not_serve_yet_is_out_of_sync_until_it_does(seen: Seen, time: Time) -> None:
    seen.serve("a")
    time.leap(2)
    seen.begin("b", at=time.now)
    seen.builder.note()
    time.leap(2)
    assert seen.status.out_of_sync_since == after(2)
    seen.core.handle(on.EpochServes(at=time.now, epoch=seen.pass_gate(time.now)))
    assert seen.status.out_of_sync_since is None


def test_a_refused_file_is_out_of_sync(seen: Seen) -> None:
    seen.serve("a")
    seen.inputs.is_usable = False
    assert seen.status.out_of_sync_since == TODAY


def test_one_bad_content_after_another_is_one_disagreement(seen: Seen, time: Time) -> None:
    seen.serve("a")
    time.leap(2)
    seen.inputs.is_usable = False
    seen.builder.note()
    time.leap(2)
    seen.inputs.loader.reports.refusals = [rejection("/c/1.crt")]
    seen.builder.note()
    time.leap(2)
    seen.inputs.loader.reports.refusals = []
    assert seen.status.out_of_sync_since == after(2)


def test_a_refused_revision_is_out_of_sync(seen: Seen) -> None:
    seen.serve("a")
    seen.begin("b")
    failure = Failure(FailureKind.PERMANENT, "no such cluster")
    seen.core.handle(on.EpochExited(at=NOW, epoch=2, code=1, failure=failure))
    seen.core.desired.wanted = seen.core.desired.last_good
    assert seen.status.out_of_sync_since == TODAY


# Listeners


@pytest.fixture
def web(seen: Seen) -> Iterator[ListenAddress]:
    """A TCP listener in the store."""
    listener = socket.create_server(("127.0.0.1", 0))
    place = ListenAddress(f"tcp://127.0.0.1:{listener.getsockname()[1]}")
    seen.processes.listeners.store.put(place, listener.detach())
    yield place
    seen.processes.listeners.store.close_all()


def test_a_listener_shows_the_clients_that_wait(seen: Seen, web: ListenAddress) -> None:
    port = int(web.address.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)), socket.create_connection(("127.0.0.1", port)):
        assert seen.status.listeners == (ListenerView(web.address, 1, 2),)
    assert seen.status.listeners[0].workers == 1


def test_the_workers_of_a_listener_are_one_line(seen: Seen, web: ListenAddress) -> None:
    for worker in (1, 2):
        with socket.socket() as other:
            seen.processes.listeners.store.put(replace(web, worker=worker), other.detach())
    assert seen.status.listeners == (ListenerView(web.address, 3, 0),)


def test_only_the_queue_of_a_tcp_listener_is_known(seen: Seen, web: ListenAddress) -> None:
    for address in ("unix:///run/x.sock", "udp://127.0.0.1:53"):
        with socket.socket(socket.AF_UNIX) as other:
            seen.processes.listeners.store.put(ListenAddress(address), other.detach())
    assert seen.status.listeners == (
        ListenerView(web.address, 1, 0),
        ListenerView("udp://127.0.0.1:53", 1, None),
        ListenerView("unix:///run/x.sock", 1, None),
    )


# Certificates


def test_a_set_shows_what_serves_and_what_is_on_disk(seen: Seen) -> None:
    old, new = leaf(0x1F), leaf(0x20)
    seen.serve("a", group("/etc/certs/web.crt", old))
    seen.inputs.loader.selection = selection(group("/etc/certs/web.crt", new))
    assert seen.the_set() == CertificateSet(
        name="web",
        chain="/etc/certs/web.crt",
        key="/etc/certs/web.key",
        served=Facts.of(old),
        disk=Facts.of(new),
        in_sync=False,
    )


def test_a_set_is_in_sync_if_the_leaf_on_disk_serves(seen: Seen) -> None:
    seen.serve("a", group("/c/web.crt", leaf()))
    seen.inputs.loader.selection = selection(group("/c/web.crt", leaf()))
    assert seen.the_set().in_sync


def test_a_refused_set_is_not_in_sync_though_its_leaf_serves(seen: Seen) -> None:
    seen.serve("a", group("/c/web.crt", leaf()))
    seen.inputs.loader.selection = selection(group("/c/web.crt", leaf()))
    seen.inputs.loader.reports.refusals = [rejection("/c/web.crt", "its key is another one's", Fault.MISMATCH)]
    found = seen.the_set()
    assert not found.in_sync
    assert "another one's" in found.refused


def test_the_first_of_two_refusals_of_a_set_is_shown(seen: Seen) -> None:
    seen.inputs.loader.reports.refusals = [rejection("/c/web.crt", "first"), rejection("/c/web.crt", "second")]
    assert "first" in seen.the_set().refused


def test_a_set_that_does_not_serve_has_its_paths_from_the_disk(seen: Seen) -> None:
    seen.inputs.loader.selection = selection(group("/c/web.crt", leaf()))
    found = seen.the_set()
    assert (found.chain, found.served, found.disk) == ("/c/web.crt", None, Facts.of(leaf()))
    assert not found.in_sync


def test_a_set_that_is_not_on_disk_has_its_paths_from_what_serves(seen: Seen) -> None:
    seen.serve("a", group("/c/web.crt", leaf()))
    found = seen.the_set()
    assert (found.chain, found.served, found.disk) == ("/c/web.crt", Facts.of(leaf()), None)


def test_what_serves_has_the_last_word_on_the_paths(seen: Seen) -> None:
    served = group("/c/web.crt", leaf())
    moved = replace(served, references=frozenset(replace(each, path="/d" + each.path) for each in served.references))
    seen.serve("a", moved)
    seen.inputs.loader.selection = selection(served)
    assert (seen.the_set().chain, seen.the_set().key) == ("/d/c/web.crt", "/d/c/web.key")


def test_of_two_chains_in_a_set_the_first_by_name_is_shown(seen: Seen) -> None:
    one = group("/c/web.crt", leaf())
    more = frozenset(replace(each, path=each.path.replace("web", name)) for name in "za" for each in one.references)
    seen.inputs.loader.selection = selection(replace(one, references=more))
    assert (seen.the_set().chain, seen.the_set().key) == ("/c/a.crt", "/c/a.key")


def test_a_set_that_is_only_refused_has_no_paths(seen: Seen) -> None:
    seen.inputs.loader.reports.refusals = [rejection("/c/web.crt")]
    found = seen.the_set()
    assert (found.name, found.chain, found.key, found.served, found.disk) == ("web", None, None, None, None)


def test_a_relative_path_is_shown_in_full(seen: Seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    seen.serve("a", group("certs/web.crt", leaf()))
    assert seen.the_set().chain == str(tmp_path / "certs/web.crt")


def test_sets_of_one_name_are_told_apart(seen: Seen) -> None:
    seen.serve("a", group("/b/tls.crt", leaf()))
    seen.inputs.loader.selection = selection(group("/a/tls.crt", leaf()))
    assert [each.name for each in seen.status.certificates] == ["a/tls", "b/tls"]


def test_a_bundle_shows_when_its_first_authority_ends(seen: Seen) -> None:
    soon = TODAY.replace(year=2030)
    ends = [UNTIL, soon]
    authorities = tuple(CertificateFacts.of(Authority.create("ca", not_after=each).certificate) for each in ends)
    bundles = (Bundle("/c/ca.crt", authorities), Bundle("/c/none.crt", ()))
    seen.serve("a", group("/c/ca.crt", bundles=bundles))
    found = seen.the_set()
    assert found.bundles == (Authorities("/c/ca.crt", 2, soon), Authorities("/c/none.crt", 0, None))
    assert (found.served, found.chain) == (None, None)
    assert found.in_sync


# What is refused, and what is blocked


def test_each_refused_file_is_listed_with_its_set(seen: Seen) -> None:
    seen.serve("a")
    refused = rejection("/c/web.crt")
    seen.inputs.loader.reports.refusals = [refused]
    seen.inputs.loader.found = [("/opt/proxy", "program", "cannot run /opt/proxy")]
    assert seen.status.refused == (
        RejectedFile("/c/web.crt", "empty", refused.message, "web"),
        RejectedFile("/opt/proxy", "program", "cannot run /opt/proxy"),
    )


def refuse(seen: Seen) -> None:
    """Let the proxy refuse a candidate beside one that serves."""
    seen.serve("a")
    seen.begin("b")
    failure = Failure(FailureKind.PERMANENT, "no such cluster")
    seen.core.handle(on.EpochExited(at=NOW, epoch=2, code=1, failure=failure))


def test_what_the_proxy_refuses_is_listed_under_the_configuration(seen: Seen) -> None:
    refuse(seen)
    status = seen.status
    assert status.refused == (RejectedFile("/etc/proxy.yaml", "proxy", "no such cluster"),)
    assert status.blocked == (Blocked.REFUSED_BY_PROXY,)


def test_what_a_complaint_says_already_is_listed_once(seen: Seen) -> None:
    refuse(seen)
    seen.inputs.loader.found = [("/etc/lds.yaml", "proxy", "no such cluster")]
    assert seen.status.refused == (RejectedFile("/etc/lds.yaml", "proxy", "no such cluster"),)


@pytest.mark.parametrize(
    ("reason", "blocked"),
    [
        ("configuration", Blocked.REFUSED_CONFIGURATION),
        ("proxy", Blocked.REFUSED_BY_PROXY),
        ("program", Blocked.REFUSED_PROGRAM),
        ("unreadable", Blocked.REFUSED_FILES),
    ],
)
def test_a_refusal_blocks_by_its_reason(seen: Seen, reason: str, blocked: Blocked) -> None:
    seen.serve("a")
    seen.inputs.loader.found = [("/x", reason, "why"), ("/y", reason, "why not")]
    assert seen.status.blocked == (blocked,)


def test_a_change_that_waits_for_its_hour_is_blocked_by_the_window_or_the_jitter(seen: Seen) -> None:
    seen.serve("a")
    revision = replace(seen.core.desired.wanted, digest="b") if seen.core.desired.wanted else None
    assert revision is not None
    seen.core.handle(on.RevisionReady(at=NOW, revision=revision, not_before=NOW + 100))
    assert seen.status.blocked == (Blocked.WINDOW,)
    seen.inputs.timing.blocked = Blocked.JITTER
    assert seen.status.blocked == (Blocked.JITTER,)


def test_a_pause_blocks(seen: Seen) -> None:
    seen.serve("a")
    seen.core.handle(on.PauseAsked(at=NOW, until=NOW + 100))
    wanted = seen.core.desired.wanted
    assert wanted is not None
    seen.core.handle(on.RevisionReady(at=NOW, revision=replace(wanted, digest="b")))
    assert seen.status.blocked == (Blocked.PAUSED,)


def test_nothing_blocks_what_serves(seen: Seen) -> None:
    seen.serve("a")
    assert seen.status.blocked == ()
