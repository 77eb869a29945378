"""The agent as process 1 of a container: its duties there, and its minimal requirements."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.system.bare import healthy
from tests.system.concurrent_requests import land, launched
from tests.system.conftest import BEDS, QUIETLY
from tests.system.containers import KINDS, ContainedBed, installed
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

MakeContained = Callable[..., ContainedBed]


def kinds(*quick: str) -> pytest.MarkDecorator:
    """Run a test in every kind of container; the default run includes the named ones."""
    marks = {kind: () if kind in quick else pytest.mark.long for kind in KINDS}
    return pytest.mark.parametrize("kind", [pytest.param(kind, marks=marks[kind]) for kind in KINDS])


@pytest.fixture
def contained(room: Room, request: pytest.FixtureRequest) -> Iterator[MakeContained]:
    """Create an agent fixture in a container; it is stopped, and must exit with 0, at the end."""
    beds: list[ContainedBed] = []

    def make(kind: str, **fields: object) -> ContainedBed:
        if not installed(kind):
            pytest.skip(f"no {kind} here")
        binary = needed("sidecar").binary
        beds.append(ContainedBed(room, "b", binary, kind=kind, proxy_args=[*QUIETLY], **fields))  # type: ignore[arg-type]
        return beds[-1]

    request.node.stash[BEDS] = beds
    yield make
    with ExitStack() as stack:
        for bed in beds:
            stack.callback(bed.stop)


@kinds("unshare", "runc")
def test_sigterm_lets_connections_end_and_the_code_is_0(kind: str, contained: MakeContained) -> None:
    bed = contained(kind)
    bed.more_flags += ["--stop-deadline", "10m"]
    bed.start()
    with connect(bed.plain, tls_context()) as held:
        exchange(held, last=False)
        bed.container.terminate()
        eventually(lambda: not healthy(bed.status), what="it is not ready any more")
        exchange(held, last=False)
        assert bed.agent is not None
        assert bed.agent.poll() is None
    assert bed.exited() == 0


@pytest.mark.long
@kinds("unshare")
def test_a_killed_proxy_is_replaced_and_no_client_is_refused(kind: str, contained: MakeContained) -> None:
    bed = contained(kind)
    bed.start()
    first = bed.serving()
    with stopped(first.pid):
        flights = launched(bed.tls, 50)
        kill(first.pid)
    land(flights)
    assert [str(flight.failure) for flight in flights if flight.failure] == []
    eventually(lambda: bed.serving().number > first.number, what="the next one serves")
    bed.rotate()
    bed.served()
    bed.settled()


@pytest.mark.long
@kinds("unshare")
@pytest.mark.timeout(600 + ORPHANS // 100)
def test_no_zombie_is_left_of_a_storm_of_orphans_and_strangers_live_on(
    kind: str, contained: MakeContained, loads: Loads
) -> None:
    bed = contained(kind)
    bed.start()
    box = bed.container
    loads.gentle(bed.tls, bed.plain)
    keep, kept = os.pipe()
    readable, writable = os.pipe()
    proxy = bed.serving_pid()
    box.enter(STORM.format(count=3), stdin=keep).wait(timeout=PATIENCE)
    box.enter(STORM.format(count=ORPHANS), stdin=readable).wait(timeout=300)
    strangers = {pid for pid in box.children() if pid != proxy}
    assert len(strangers) == ORPHANS + 3
    os.close(readable)
    os.close(writable)
    eventually(lambda: len(box.children()) == 4, every=0.1, what="every orphan is reaped")
    eventually(lambda: set(box.children().values()).isdisjoint({"Z"}), what="there is no zombie")
    bed.rotate()
    bed.served()
    bed.settled()
    left = {pid for pid in strangers if alive(pid)}
    assert len(left) == 3, "the agent leaves strangers alone"
    os.close(keep)
    os.close(kept)
    eventually(lambda: list(box.children()) == [bed.serving_pid()], what="only the proxy is left")
    nothing_failed(loads.finish(at_least=20))


@kinds("unshare")
def test_a_read_only_root_and_a_user_without_any_right_are_enough(
    kind: str, contained: MakeContained, loads: Loads
) -> None:
    bed = contained(kind, uid=NOBODY)
    bed.start()
    for pid in (bed.agent_pid, bed.serving_pid()):
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        assert f"Uid:\t{NOBODY}\t{NOBODY}\t{NOBODY}\t{NOBODY}" in status
        assert "CapEff:\t0000000000000000" in status
        assert "CapBnd:\t0000000000000000" in status
    root = Path(f"/proc/{bed.agent_pid}/mountinfo").read_text(encoding="utf-8")
    assert any(line.split()[4] == "/" and line.split()[5].startswith("ro") for line in root.splitlines())
    loads.gentle(bed.tls, bed.plain)
    bed.rotate()
    bed.served()
    bed.settled()
    nothing_failed(loads.finish(at_least=20))
    before = bed.serving()
    kill(before.pid)
    eventually(lambda: bed.serving().number > before.number, what="the next one serves")
    bed.ready()


@kinds("unshare")
def test_the_reason_of_a_failure_is_the_last_word_of_the_container(
    kind: str, contained: MakeContained, room: Room
) -> None:
    log = room.directory / "termination-log"
    log.touch()
    log.chmod(0o666)
    bed = contained(kind, uid=NOBODY, log=log)
    bed.more_flags += ["--no-wait"]
    bed.prepare()
    (bed.certs / "tls.crt").write_bytes(b"garbage")
    bed.launch()
    assert bed.exited() == 78
    assert str(bed.certs) in log.read_text(encoding="utf-8")
