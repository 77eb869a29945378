"""The agent as process 1 of a container: its duties there, and its minimal requirements."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.system.bare import healthy
from tests.system.concurrent_requests import land, launched
from tests.system.conftest import INSTANCES, QUIETLY
from tests.system.containers import KINDS, ContainedInstance, installed
from tests.system.counts import count
from tests.system.eventually import PATIENCE, eventually
from tests.system.loads import Loads, nothing_failed
from tests.system.proxies import needed
from tests.system.room import Room, alive, kill, stopped
from tests.system.wire import connect, exchange, tls_context

pytestmark = pytest.mark.root

NOBODY = 1337
ORPHANS = count("AGENT_ORPHANS", short=1000, long=10_000)
STORM = "exec 3<&0; i=0; while [ $i -lt {count} ]; do (read x <&3) & i=$((i+1)); done"
"""Starts this many orphans, which all exit when the pipe at standard input is closed."""

MakeContained = Callable[..., ContainedInstance]


def kinds(*quick: str) -> pytest.MarkDecorator:
    """Run a test in every kind of container; the default run includes the named ones."""
    marks = {kind: () if kind in quick else pytest.mark.long for kind in KINDS}
    return pytest.mark.parametrize("kind", [pytest.param(kind, marks=marks[kind]) for kind in KINDS])


@pytest.fixture
def contained(room: Room, request: pytest.FixtureRequest) -> Iterator[MakeContained]:
    """Create an agent fixture in a container; it is stopped, and must exit with 0, at the end."""
    instances: list[ContainedInstance] = []

    def make(kind: str, **fields: object) -> ContainedInstance:
        if not installed(kind):
            pytest.skip(f"no {kind} here")
        binary = needed("sidecar").binary
        instances.append(ContainedInstance(room, "b", binary, kind=kind, proxy_args=[*QUIETLY], **fields))  # type: ignore[arg-type]
        return instances[-1]

    request.node.stash[INSTANCES] = instances
    yield make
    with ExitStack() as stack:
        for instance in instances:
            stack.callback(instance.stop)


@kinds("unshare", "runc")
def test_sigterm_lets_connections_end_and_the_code_is_0(kind: str, contained: MakeContained) -> None:
    instance = contained(kind)
    instance.more_flags += ["--stop-deadline", "10m"]
    instance.start()
    with connect(instance.plain, tls_context()) as held:
        exchange(held, last=False)
        instance.container.terminate()
        eventually(lambda: not healthy(instance.status), what="it is not ready any more")
        exchange(held, last=False)
        assert instance.agent is not None
        assert instance.agent.poll() is None
    assert instance.exited() == 0


@pytest.mark.long
@kinds("unshare")
def test_a_killed_proxy_is_replaced_and_no_client_is_refused(kind: str, contained: MakeContained) -> None:
    instance = contained(kind)
    instance.start()
    first = instance.serving()
    with stopped(first.pid):
        flights = launched(instance.tls, 50)
        kill(first.pid)
    land(flights)
    assert [str(flight.failure) for flight in flights if flight.failure] == []
    eventually(lambda: instance.serving().number > first.number, what="the next one serves")
    instance.rotate()
    instance.served()
    instance.settled()


@pytest.mark.long
@kinds("unshare")
@pytest.mark.timeout(600 + ORPHANS // 100)
def test_no_zombie_is_left_of_a_storm_of_orphans_and_strangers_live_on(
    kind: str, contained: MakeContained, loads: Loads
) -> None:
    instance = contained(kind)
    instance.start()
    box = instance.container
    loads.gentle(instance.tls, instance.plain)
    keep, kept = os.pipe()
    readable, writable = os.pipe()
    proxy = instance.serving_pid()
    box.enter(STORM.format(count=3), stdin=keep).wait(timeout=PATIENCE)
    box.enter(STORM.format(count=ORPHANS), stdin=readable).wait(timeout=300)
    strangers = {pid for pid in box.children() if pid != proxy}
    assert len(strangers) == ORPHANS + 3
    os.close(readable)
    os.close(writable)
    eventually(lambda: len(box.children()) == 4, every=0.1, what="every orphan is reaped")
    eventually(lambda: set(box.children().values()).isdisjoint({"Z"}), what="there is no zombie")
    instance.rotate()
    instance.served()
    instance.settled()
    left = {pid for pid in strangers if alive(pid)}
    assert len(left) == 3, "the agent leaves strangers alone"
    os.close(keep)
    os.close(kept)
    eventually(lambda: list(box.children()) == [instance.serving_pid()], what="only the proxy is left")
    nothing_failed(loads.finish(at_least=20))


@kinds("unshare")
def test_a_read_only_root_and_a_user_without_any_right_are_enough(
    kind: str, contained: MakeContained, loads: Loads
) -> None:
    instance = contained(kind, uid=NOBODY)
    instance.start()
    for pid in (instance.agent_pid, instance.serving_pid()):
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        assert f"Uid:\t{NOBODY}\t{NOBODY}\t{NOBODY}\t{NOBODY}" in status
        assert "CapEff:\t0000000000000000" in status
        assert "CapBnd:\t0000000000000000" in status
    root = Path(f"/proc/{instance.agent_pid}/mountinfo").read_text(encoding="utf-8")
    assert any(line.split()[4] == "/" and line.split()[5].startswith("ro") for line in root.splitlines())
    rotates_and_answers_a_crash(instance, loads)


def rotates_and_answers_a_crash(instance: ContainedInstance, loads: Loads, rotations: int = 1) -> None:
    """Rotate under load without a failed request, then kill the serving proxy: the next one serves."""
    loads.gentle(instance.tls, instance.plain)
    for _ in range(rotations):
        instance.rotate()
        instance.served()
        instance.settled()
    nothing_failed(loads.finish(at_least=20))
    before = instance.serving()
    kill(before.pid)
    eventually(lambda: instance.serving().number > before.number, what="the next one serves")
    instance.ready()


@kinds("unshare")
def test_the_reason_of_a_failure_is_the_last_word_of_the_container(
    kind: str, contained: MakeContained, room: Room
) -> None:
    log = room.directory / "termination-log"
    log.touch()
    log.chmod(0o666)
    instance = contained(kind, uid=NOBODY, log=log)
    instance.more_flags += ["--no-wait"]
    instance.prepare()
    (instance.certs / "tls.crt").write_bytes(b"garbage")
    instance.launch()
    assert instance.exited() == 78
    assert str(instance.certs) in log.read_text(encoding="utf-8")
