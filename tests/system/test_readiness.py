"""The agent is ready while an epoch serves, without interruptions; the end is reported at once, with the reason."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path

import pytest

from tests.system.agent_fixture import AgentFixture
from tests.system.bare import body_of
from tests.system.candidates import new_candidate
from tests.system.certificates import Files, serial
from tests.system.counts import count
from tests.system.eventually import PATIENCE, eventually, throughout
from tests.system.layouts import ALTERNATING, CHAIN, IN_PLACE, KEY
from tests.system.room import kill, stopped
from tests.system.status_pollers import Onlooker, ask

ROTATIONS = count("AGENT_ROTATIONS", short=20, long=200)
EVERY = 0.02
LIVE = "the loop turns\n"
READY = (200, "ready\n")


class Probes:
    """A kubelet's probes, every 20 ms: the answers of `/healthz/ready` in order, without repetitions."""

    def __init__(self, instance: AgentFixture) -> None:
        self.instance = instance
        self.told: list[tuple[int, str]] = []

    def look(self) -> None:
        """Probe both, as the kubelet does: a connection each."""
        reply = ask(self.instance, "/healthz/ready")
        if self.told[-1:] != [(reply.status, reply.text)]:
            self.told.append((reply.status, reply.text))
        live = ask(self.instance, "/healthz/live")
        assert (live.status, live.text) == (200, LIVE), f"live: {live.status} {live.text}"


@contextmanager
def probed(instance: AgentFixture) -> Iterator[Probes]:
    """Probe during the block; the loop must not block."""
    probes = Probes(instance)
    with Onlooker(probes.look, EVERY) as onlooker:
        yield probes
        onlooker.once_more()
    assert onlooker.wrong == []


@pytest.mark.long
@pytest.mark.timeout(600 + 4 * ROTATIONS)
def test_over_rotations_in_every_layout_it_is_ready_from_the_first_time_to_the_last(unstarted: AgentFixture) -> None:
    instance = unstarted
    instance.prepare()
    with probed(instance) as probes:
        instance.launch()
        instance.ready()
        for layout in islice(cycle(ALTERNATING), ROTATIONS):
            instance.rotate(layout)
            instance.served()
        instance.settled()
    assert probes.told[-1] == READY
    assert [answer for answer in probes.told[:-1] if answer[0] != 503] == [], "it was ready once, and for good"
    assert instance.serving().number > ROTATIONS


def test_a_candidate_that_is_dropped_or_overtaken_and_a_refused_certificate_change_nothing(
    unstarted: AgentFixture, held: Path
) -> None:
    instance = unstarted
    with probed(instance) as probes:
        drop_a_candidate(instance, held)
        overtake_a_candidate(instance, held)
        instance.rotate(pair=instance.mint.expired())
        eventually(lambda: instance.journal.complaints("expired"), what="the expired leaf is refused")
    assert probes.told == [READY]


def drop_a_candidate(instance: AgentFixture, held: Path) -> None:
    """Restore the served files while a candidate exists."""
    pair = instance.mint.newest
    instance.journal.mark()
    held.touch()
    IN_PLACE.again(instance.certs, instance.mint.spare())
    candidate = new_candidate(instance)
    with stopped(candidate.pid):
        IN_PLACE.again(instance.certs, pair)
        eventually(lambda: said(instance, "epoch.dropped"), what="the candidate is dropped")
    held.unlink()
    assert instance.serial_served() == serial(pair)


def overtake_a_candidate(instance: AgentFixture, held: Path) -> None:
    """Write the next certificate while the previous one's candidate exists."""
    before = instance.serving().number
    held.touch()
    instance.rotate()
    new_candidate(instance)
    instance.rotate()
    held.unlink()
    instance.served()
    eventually(lambda: instance.serving().number > before)


def said(instance: AgentFixture, event: str) -> bool:
    """Return whether the agent has logged this event since the mark."""
    return any(entry.name == event for entry in instance.journal.entries())


@pytest.mark.long
def test_while_no_epoch_serves_readiness_fails_at_once_with_the_reason(unstarted: AgentFixture, broken: Path) -> None:
    instance = unstarted
    IN_PLACE.again(instance.certs, Files(b"garbage", b"garbage"))
    eventually(lambda: instance.journal.complaints(str(instance.certs)), what="a complaint about garbage")
    with probed(instance) as probes:
        eventually(lambda: probes.told == [READY])
        broken.touch()
        kill(instance.serving_pid())
        eventually(lambda: ask(instance, "/healthz/ready").status == 503, what="readiness is gone")
        throughout(lambda: ask(instance, "/healthz/ready").status == 503, span=2, what="nothing serves", every=EVERY)
        broken.unlink()
        instance.ready()
        eventually(lambda: probes.told[-1] == READY)
    first, *down, last = probes.told
    assert (first, last) == (READY, READY)
    assert {status for status, _ in down} == {503}, probes.told
    assert all(text.startswith("no epoch serves: ") for _, text in down), probes.told
    assert "kill" in down[0][1].lower(), f"the first reason is the crash: {down}"


def test_a_first_start_that_waits_for_a_file_names_it_and_the_reason(unstarted: AgentFixture) -> None:
    instance = unstarted
    instance.prepare()
    good, other = instance.mint.newest, instance.mint.spare()
    IN_PLACE.again(instance.certs, Files(good.chain_pem, other.key_pem))
    instance.launch()
    eventually(lambda: "does not fit the leaf" in ask(instance, "/healthz/ready").text, what="the reason")
    assert ask(instance, "/healthz/ready").status == 503
    waited = waiting(instance, "--timeout", "100ms")
    assert waited.returncode == 1
    assert waited.stderr.startswith(
        "agent: cannot wait any longer than 100ms for readiness: no epoch serves: waiting for "
    )
    assert f"cannot use {instance.certs / KEY}: it does not fit the leaf in {instance.certs / CHAIN}" in waited.stderr
    IN_PLACE.again(instance.certs, good)
    assert waiting(instance).stdout == "ready\n"
    assert ask(instance, "/healthz/ready").text == "ready\n"


def waiting(instance: AgentFixture, *options: str) -> "subprocess.CompletedProcess[str]":
    """Run `agent wait`, as in a postStart hook."""
    command = [*instance.program, "wait", "--run-dir", str(instance.run_dir), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


@pytest.mark.long
def test_from_sigterm_on_it_is_not_ready_though_clients_are_served_for_the_delay(unstarted: AgentFixture) -> None:
    instance = unstarted
    instance.more_flags += ["--drain-delay", "10m"]
    instance.start()
    with probed(instance) as probes:
        eventually(lambda: probes.told == [READY])
        os.kill(instance.agent_pid, signal.SIGTERM)
        eventually(lambda: probes.told[-1][0] == 503, what="readiness is gone")
        throughout(lambda: body_of(instance.plain) == b"ok\n", span=0.5, what="clients are served for the delay")
        os.kill(instance.agent_pid, signal.SIGTERM)
        assert instance.exited() == 0
    assert probes.told == [READY, (503, "the agent is stopping\n")]
