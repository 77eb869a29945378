"""The operator's settings of when to rotate: hours, a fleet's spread, expiry that overrides them; and `--now`."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.core.schedule import jitter_offset
from tests.pki import Leaf
from tests.system.agent_fixture import AgentFixture
from tests.system.bare import STARTS, first_shown
from tests.system.certificates import NAME, serial
from tests.system.conftest import MakeInstance
from tests.system.eventually import PATIENCE, eventually, throughout, up_to
from tests.system.status_pollers import ask, overview
from tests.system.wire import Target, connect, exchange, tls_context

HELD = 5
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
JITTER = 2.0


def hours(begin: timedelta, end: timedelta) -> str:
    """Format the hours from `begin` until `end` from now for `--rotate-window`."""
    now = datetime.now(UTC).astimezone()
    return "-".join((now + each).strftime("%H:%M") for each in (begin, end))


CLOSED = (timedelta(hours=3), timedelta(hours=4))
OPEN = (timedelta(hours=-1), timedelta(hours=1))


def order(instance: AgentFixture, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run a command as an operator would."""
    command = [sys.executable, "-m", "agent", *words, "--run-dir", str(instance.run_dir)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


def ends_in(instance: AgentFixture, left: timedelta, life: timedelta) -> Leaf:
    """Issue a leaf of this whole life, with this much left; it becomes the newest."""
    end = datetime.now(UTC) + left
    leaf = instance.mint.issuer.issue([NAME], not_before=end - life, not_after=end)
    instance.mint.issued.append(leaf)
    return leaf


def old_at(leaf: Leaf) -> float:
    """Return the start of the last tenth of its life, in seconds since the Epoch; dates have whole seconds."""
    begin, end = leaf.certificate.not_valid_before_utc, leaf.certificate.not_valid_after_utc
    return (end - (end - begin) / 10).timestamp()


def samples(instance: AgentFixture, name: str) -> dict[tuple[str, ...], float]:
    """Read one of the agent's own metrics, by the values of its labels in the order of their names."""
    families = text_string_to_metric_families(ask(instance, "/metrics").text)
    named = (sample for family in families for sample in family.samples if sample.name == f"proxy_agent_{name}")
    return {tuple(value for _, value in sorted(sample.labels.items())): sample.value for sample in named}


# Hours


def with_hours(instance: AgentFixture, span: Sequence[timedelta]) -> None:
    """Set these hours for the agent of `instance`."""
    instance.more_flags += ["--rotate-window", hours(*span)]


@pytest.mark.long
def test_outside_of_its_hours_a_change_waits_until_an_operator_asks(unstarted: AgentFixture) -> None:
    instance = unstarted
    with_hours(instance, CLOSED)
    instance.start()
    before = instance.serving()
    instance.rotate()
    eventually(lambda: overview(instance)["blocked"] == ["window"], what="it is told what is waited for")
    assert samples(instance, "rotation_blocked")["window",] == 1
    throughout(lambda: [one.number for one in instance.epochs()] == [before.number], span=1, what="nothing is started")
    assert overview(instance)["out_of_sync_since"] is not None
    assert "--rotate-window" in next(each.body for each in instance.journal.entries() if each.name == "rotation.later")
    done = order(instance, "restart")
    assert done.returncode == 0, done.stderr
    instance.served()
    eventually(lambda: overview(instance)["blocked"] == [])
    assert samples(instance, "rotation_blocked")["window",] == 0


@pytest.mark.long
def test_within_its_hours_a_change_is_taken_up_at_once(unstarted: AgentFixture) -> None:
    instance = unstarted
    with_hours(instance, OPEN)
    instance.start()
    pair = instance.mint.leaf()
    start, span = instance.while_starting(lambda: -instance.rotate(pair=pair) + first_shown(instance.tls, serial(pair)))
    assert span <= STARTS * start


@pytest.mark.long
def test_a_crash_does_not_wait_for_the_hours(unstarted: AgentFixture) -> None:
    instance = unstarted
    with_hours(instance, CLOSED)
    instance.start()
    before = instance.serving()
    os.kill(before.pid, 9)
    eventually(lambda: instance.serving().number > before.number)
    instance.ready()


@pytest.mark.long
def test_when_what_serves_is_about_to_end_the_hours_count_no_more(unstarted: AgentFixture) -> None:
    instance = unstarted
    with_hours(instance, CLOSED)
    instance.bootstrap.write(instance.config)
    until_old = max(6, 30 * instance.bare_start()) * SECOND  # a slow machine has enough time until then
    old = ends_in(instance, left=until_old + 60 * SECOND, life=600 * SECOND)
    instance.layout.first(instance.certs, old)
    instance.launch()
    instance.ready()
    instance.rotate()
    eventually(lambda: overview(instance)["blocked"] == ["window"], what="it waits")
    assert time.time() < old_at(old)
    shown = first_shown(instance.tls, serial(instance.mint.newest))
    shown_at = time.time() - (time.monotonic() - shown)
    assert shown_at >= old_at(old), "not before the last tenth, and then without regard to the hours"
    assert overview(instance)["blocked"] == []


# A fleet


def instance_that_waits(make_instance: MakeInstance, least: float, most: float) -> AgentFixture:
    """Create an agent fixture whose delay is this long, because of its run directory."""
    instance = make_instance(f"w{least}")
    run_dirs = (instance.directory / f"run{number}" for number in range(1000))
    limit = timedelta(seconds=JITTER)
    instance.run_dir = next(
        each
        for each in run_dirs
        if least <= jitter_offset(f"{socket.gethostname()}:{each}", None, limit).total_seconds() <= most
    )
    instance.more_flags += ["--jitter", f"{JITTER:g}s"]
    instance.start()
    return instance


@pytest.mark.long
def test_a_fleet_takes_a_change_up_one_after_the_other_within_the_limit(make_instance: MakeInstance) -> None:
    early, late = instance_that_waits(make_instance, 0.2, 0.5), instance_that_waits(make_instance, 1.7, 2.0)
    written = [instance.rotate() for instance in (early, late)]
    starts, shown = zip(
        *(instance.while_starting(partial(shown_at, instance)) for instance in (early, late)), strict=True
    )
    spans, start = [at - since for at, since in zip(shown, written, strict=True)], max(starts)
    assert told_to_wait(late)
    assert 0.2 <= spans[0] <= 0.5 + STARTS * start
    assert 1.7 <= spans[1] <= JITTER + STARTS * start


def shown_at(instance: AgentFixture) -> float:
    """Return when the newest pair is served (monotonic clock)."""
    return first_shown(instance.tls, serial(instance.mint.newest))


def told_to_wait(instance: AgentFixture) -> bool:
    """Return whether the agent logged that it spreads rotations."""
    return any("--jitter" in each.body for each in instance.journal.entries() if each.name == "rotation.later")


# Age


@pytest.mark.long
def test_a_leaf_near_expiry_is_reported_at_that_moment_without_another_event(unstarted: AgentFixture) -> None:
    instance = unstarted
    instance.bootstrap.write(instance.config)
    leaf = ends_in(instance, left=40 * SECOND, life=360 * SECOND)
    instance.layout.first(instance.certs, leaf)
    instance.launch()
    instance.ready()
    before = instance.serving()
    end = time.monotonic() + old_at(leaf) - time.time()
    up_to(end, lambda: not cautions(instance), what="no caution yet", every=0.1)
    eventually(lambda: cautions(instance), what="the leaf is cautioned")
    (caution,) = cautions(instance)
    assert "in the last tenth of its life" in caution
    end = leaf.certificate.not_valid_after_utc.timestamp()
    ends = samples(instance, "certificate_not_after_timestamp_seconds")
    assert ends == {("leaf", "tls", "served"): end, ("leaf", "tls", "disk"): end}
    assert instance.serving() == before, "it is told, and nothing else"


def cautions(instance: AgentFixture) -> list[str]:
    """List the agent's warnings about leaves near expiry."""
    said = (each for each in instance.journal.entries() if each.name == "certificate.caution")
    return [each.body for each in said if each.attributes["worry"] == "soon_to_expire"]


# Now


def held(target: Target, stack: ExitStack) -> socket.socket:
    """Connect, get a response, begin another request, and do not finish it."""
    sock = stack.enter_context(connect(target, tls_context()))
    exchange(sock, last=False)
    sock.sendall(b"GET / HTTP/1.1\r\nHos")
    return sock


@pytest.mark.long
def test_a_restart_now_cuts_what_the_old_certificate_was_shown_to(unstarted: AgentFixture) -> None:
    instance = unstarted
    with_hours(instance, CLOSED)
    instance.more_flags += ["--drain-deadline", "10m"]
    instance.start()
    instance.rotate()
    eventually(lambda: overview(instance)["blocked"] == ["window"], what="it waits")
    with ExitStack() as stack:
        clients = [held(instance.tls, stack) for _ in range(HELD)]
        done = order(instance, "restart", "--now")
        assert done.returncode == 0, done.stderr
        assert instance.serial_served() == serial(instance.mint.newest)
        assert all(is_cut(sock) for sock in clients), "long before the drain deadline"
    instance.settled()
    assert samples(instance, "connections_closed_total")["restart_now",] == HELD
    assert samples(instance, "connections_closed_total")["drain_deadline",] == 0
    assert overview(instance)["rotations"][0]["evidence"]["cut"] == HELD


def is_cut(sock: socket.socket) -> bool:
    """Return whether the peer has ended the connection; waits for it."""
    try:
        return sock.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_a_leaf_near_expiry_from_the_start_is_reported_at_once(unstarted: AgentFixture) -> None:
    instance = unstarted
    instance.bootstrap.write(instance.config)
    instance.layout.first(instance.certs, ends_in(instance, left=60 * MINUTE, life=1000 * MINUTE))
    instance.launch()
    instance.ready()
    assert len(cautions(instance)) == 1
