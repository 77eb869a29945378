"""Certificates are pushed into a running proxy: same process, same epoch number, no client affected."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import cycle, islice

import pytest

from tests.system.agent_fixture import AgentFixture
from tests.system.certificates import authority, serial
from tests.system.counts import count
from tests.system.eventually import eventually, pass_time
from tests.system.layouts import ALTERNATING, CHAIN, KEY
from tests.system.loads import Loads, nothing_failed
from tests.system.refused import REFUSED
from tests.system.room import kill, stopped
from tests.system.state import SERVING
from tests.system.test_bad_input import named, put, serials, shown
from tests.system.test_pinned import NAMES, pinned, renewed, with_pairs
from tests.system.wire import closed_by_peer, connect, exchange, tls_context

PUSHES = count("AGENT_PUSHES", short=10, long=200)
DEATHS = count("AGENT_PUSH_DEATHS", short=4, long=40)
DRAIN = 2.0


@pytest.fixture
def pushing(unstarted: AgentFixture) -> AgentFixture:
    """An agent fixture that pushes; connections of an old certificate end after `DRAIN` seconds."""
    unstarted.more_flags += ["--on-certificate", "push", "--push-drain", f"{DRAIN:g}s", "--survive"]
    return unstarted


@pytest.fixture
def running(pushing: AgentFixture) -> AgentFixture:
    """The same, started."""
    pushing.start()
    return pushing


@contextmanager
def same_epoch(instance: AgentFixture) -> Iterator[None]:
    """Check that one process serves throughout, and that no other was started."""
    before, starts = instance.serving(), len(instance.journal.named("epoch.starting"))
    yield
    after = instance.serving()
    assert (after.number, after.pid) == (before.number, before.pid)
    assert len(instance.journal.named("epoch.starting")) == starts


def pushes(instance: AgentFixture) -> int:
    """Return how many pushes have served."""
    return len(instance.journal.named("certificate.pushed"))


def pushed(instance: AgentFixture, times: int = 1, action: Callable[[], object] | None = None) -> None:
    """Rotate, or run `action`, and wait until so many more pushes have served."""
    before = pushes(instance)
    if action is None:
        instance.rotate()
    else:
        action()
    eventually(lambda: pushes(instance) >= before + times, what="it is pushed")


@pytest.mark.timeout(600 + 2 * PUSHES)
def test_pushes_in_every_layout_under_load_fail_nothing_and_start_nothing(running: AgentFixture, loads: Loads) -> None:
    loads.usual(running.tls, running.plain)
    loads.more(20)
    with same_epoch(running):
        for layout in islice(cycle(ALTERNATING), PUSHES):
            pushed(running, action=partial(running.rotate, layout))
            running.served()
    nothing_failed(loads.finish(at_least=100))
    assert pushes(running) == PUSHES


@pytest.mark.long
def test_a_key_that_comes_later_than_its_certificate_is_one_push(running: AgentFixture) -> None:
    pair = running.mint.leaf()
    with same_epoch(running):
        (running.certs / CHAIN).write_bytes(pair.chain_pem)
        time.sleep(0.5)
        pushed(running, action=lambda: (running.certs / KEY).write_bytes(pair.key_pem))
        running.served(pair)
    assert pushes(running) == 1


def test_bad_pairs_are_never_sent_and_what_served_serves_on(running: AgentFixture, loads: Loads) -> None:
    loads.gentle(running.tls, running.plain)
    good, other = running.mint.newest, running.mint.spare()
    with same_epoch(running):
        for bad in (other.key_pem, b"garbage", b""):
            (running.certs / KEY).write_bytes(bad)
            eventually(lambda: running.journal.named("certificate.refused"), what="it is refused")
        assert running.serial_served() == serial(good)
        assert not running.journal.named("push.started")
        pushed(running)
        running.served()
    nothing_failed(loads.finish(at_least=20))


def test_what_only_the_proxy_refuses_is_undone_and_named_and_the_others_are_pushed(
    pushing: AgentFixture, loads: Loads
) -> None:
    instance = pushing
    old = with_pairs(instance)
    loads.gentle(instance.tls, instance.plain)
    new = renewed(["a.test", "c.test"])
    with same_epoch(instance):
        put(instance, {"b.test": REFUSED["short RSA"](authority(), "b.test"), **new})
        wanted = serials(dict(old)) | serials(new)
        eventually(lambda: shown(instance, NAMES) == wanted, what="the others are pushed")
        assert len(eventually(lambda: pinned(instance), what="the pair is named")) == 1
        eventually(lambda: instance.journal.named("push.undone"), what="the refused push is undone")
        good = renewed(["b.test"])
        put(instance, good)
        eventually(lambda: shown(instance, NAMES) == wanted | serials(good), what="the repaired one is pushed")
    nothing_failed(loads.finish(at_least=20))


def test_an_epoch_that_does_not_answer_is_replaced_once(running: AgentFixture) -> None:
    before = running.serving()
    with stopped(before.pid):
        running.rotate()
        running.served()
        eventually(lambda: running.serving().number == before.number + 1, what="a new epoch serves")
    assert len(running.journal.named("push.failed")) >= 1
    pushed(running)
    running.served()
    assert running.serving().number == before.number + 1


@pytest.mark.timeout(600 + 10 * DEATHS)
def test_a_crash_at_any_moment_of_a_push_is_answered(running: AgentFixture) -> None:
    """A push writes to the epoch that is killed; the next one starts from what last served, then gets the newest."""
    for number in range(DEATHS):
        before = running.serving()
        rotated_until_sent(running)
        pass_time(0.02 * number / DEATHS)
        kill(before.pid)
        running.served()
        eventually(partial(is_newer, running, before.number), what="the next epoch serves")
        running.settled()


def rotated_until_sent(instance: AgentFixture) -> None:
    """Rotate, and wait until a push has begun."""
    starts = len(instance.journal.named("push.started"))
    instance.rotate()
    eventually(lambda: len(instance.journal.named("push.started")) > starts, what="a push is under way")


def is_newer(instance: AgentFixture, number: int) -> bool:
    """Return whether a newer epoch than this one serves."""
    return any(one.number > number for one in instance.state().among(SERVING))


@pytest.mark.envoy
def test_old_connections_end_by_the_deadline_and_those_of_other_chains_live(pushing: AgentFixture) -> None:
    instance = pushing
    with_pairs(instance)
    changed, unchanged = (connect(named(instance, name), tls_context()) for name in ("a.test", "b.test"))
    with changed, unchanged:
        exchange(changed, last=False)
        exchange(unchanged, last=False)
        put(instance, renewed(["a.test"]))
        eventually(lambda: pushes(instance), what="it is pushed")
        eventually(lambda: closed_by_peer(changed), what="a connection of the old certificate is closed")
        assert not closed_by_peer(unchanged)
        exchange(unchanged, last=False)


@pytest.mark.parametrize(
    "moment", [pytest.param(0.0, marks=pytest.mark.long), 0.005, pytest.param(0.02, marks=pytest.mark.long)]
)
def test_an_agent_that_is_killed_during_a_push_adopts_the_epoch_and_pushes_on(
    moment: float, running: AgentFixture, loads: Loads
) -> None:
    pushed(running)
    before = running.serving()
    loads.gentle(running.tls, running.plain)
    rotated_until_sent(running)
    pass_time(moment)
    running.kill_agent()
    running.launch()
    running.ready()
    assert running.serving().pid == before.pid
    pushed(running)
    running.served()
    assert running.serving().pid == before.pid
    nothing_failed(loads.finish(at_least=20))


@pytest.mark.long
def test_a_push_without_a_drain_leaves_old_connections(pushing: AgentFixture) -> None:
    pushing.more_flags += ["--push-drain", "off"]
    pushing.start()
    with connect(pushing.tls, tls_context()) as connection, same_epoch(pushing):
        exchange(connection, last=False)
        for _ in range(2):
            pushed(pushing)
            pushing.served()
        exchange(connection, last=False)
