"""A long run with many events: the history contains every event of the agent, and its own messages agree.

`/status` is read throughout, and must match its schema.
"""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from agent.status import model as shapes
from tests.system.agent_fixture import AgentFixture
from tests.system.bare import first_shown
from tests.system.bootstrap import http, listener
from tests.system.candidates import new_candidate
from tests.system.certificates import serial
from tests.system.concurrent_requests import land, launched
from tests.system.eventually import PATIENCE, eventually
from tests.system.layouts import IN_PLACE
from tests.system.room import kill, stopped
from tests.system.stand_ins import script
from tests.system.state import SERVING
from tests.system.status_pollers import Onlooker, Tree, overview
from tests.system.wire import Target, connect, exchange, tls_context

pytestmark = pytest.mark.long

ABOUT = 0.01  # seconds by which two clocks, and rounded values, may differ
WAITING = 40
HELD = 5
DEADLINE = 3


@cache
def schema() -> Any:  # noqa: ANN401  # of a library without types
    jsonschema = pytest.importorskip("jsonschema", reason="wants jsonschema")
    text = Path(shapes.__file__).with_name("schema.json").read_bytes()
    return jsonschema.Draft202012Validator(json.loads(text))


@contextmanager
def watched(bed: AgentFixture) -> Iterator[None]:
    """Read `/status` ten times a second; each answer must match the schema."""
    found = schema()

    def look() -> None:
        tree = overview(bed)
        complaints = [f"{list(each.path)}: {each.message}" for each in found.iter_errors(tree)]
        assert not complaints, complaints

    with Onlooker(look, every=0.1) as onlooker:
        yield
    assert onlooker.wrong == []
    assert onlooker.looks > len(onlooker.unanswered)


def order(bed: AgentFixture, *words: str) -> str:
    """Run a command as an operator would; it must succeed."""
    command = [sys.executable, "-m", "agent", *words, "--run-dir", str(bed.run_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def history(bed: AgentFixture) -> list[Tree]:
    """Read `agent history --json`, newest first."""
    return [json.loads(line) for line in order(bed, "history", "--json", "-n", "100").splitlines()]


def attempt(bed: AgentFixture, epoch: int) -> Tree:
    """Return the attempt of an epoch, once its predecessor has exited."""
    bed.settled()
    return next(each for each in history(bed) if each["epoch"] == epoch)


def newest(bed: AgentFixture) -> Tree:
    """Return the attempt that serves."""
    return attempt(bed, bed.serving().number)


def spans(told: Tree) -> dict[str, float]:
    """Return the phases of an attempt by name."""
    return {phase["name"]: phase["seconds"] for phase in told["phases"]}


def through(told: Tree, *phases: str) -> float:
    """Return the duration of an attempt in these phases, in seconds."""
    return sum(spans(told)[phase] for phase in phases)


def calendar(at: float) -> float:
    """Convert a monotonic time to seconds since the Epoch."""
    return datetime.now(UTC).timestamp() - (time.monotonic() - at)


def hexed(number: int) -> str:
    """Return a serial in the agent's format: whole bytes."""
    return number.to_bytes(number.bit_length() // 8 + 1, "big").hex().removeprefix("00")


@contextmanager
def next_epoch(bed: AgentFixture) -> Iterator[None]:
    """Wait at the end until another epoch serves than at the beginning."""
    before = bed.serving().number
    yield
    eventually(lambda: bed.serving().number > before, what="the next one serves")


@pytest.fixture
def obstacle(bed_apart: AgentFixture, binary: Path) -> Path:
    """A file that keeps the proxy of `bed_apart` from starting while it exists; other commands of the proxy work."""
    bed = bed_apart
    path = bed.directory / "broken"
    bed.binary = bed.directory / "proxy"
    excused = "*version*|*validate*"
    script(bed.binary, f'case "$*" in {excused}) ;; *) [ -e {path} ] && exit 1;; esac\nexec {binary} "$@"')
    return path


def test_the_first_start_and_a_rotation_are_recorded_with_all_details(bed: AgentFixture) -> None:
    first = newest(bed)
    assert (first["trigger"], first["outcome"], first["before"]) == ("start", "serving", None)
    old = hexed(serial(bed.mint.newest))
    assert [(each["before"], each["after"]) for each in first["changes"]] == [(None, old)]
    with next_epoch(bed):  # a client receives the certificate a moment before the agent is informed
        written = bed.rotate()
        shown = first_shown(bed.tls, serial(bed.mint.newest))
    known = time.monotonic()
    told, new = newest(bed), hexed(serial(bed.mint.newest))
    assert (told["trigger"], told["outcome"], told["reason"]) == ("certificate", "serving", "")
    assert told["before"] == first["revision"] != told["revision"]
    assert [(each["before"], each["after"]) for each in told["changes"]] == [(old, new)]
    assert list(spans(told)) == ["launch", "start", "judge", "open", "handover", "drain"]
    began = datetime.fromisoformat(told["began_at"]).timestamp()
    assert calendar(written) <= began + ABOUT
    assert began + through(told, "launch", "start", "judge") <= calendar(shown) + ABOUT, "the gate was shut until then"
    assert began + through(told, "launch", "start", "judge", "open") <= calendar(known) + ABOUT
    (seen,) = told["evidence"]["seen"]
    assert (seen["serial"], seen["matches"], seen["error"]) == (new, True, "")
    assert (told["evidence"]["cut"], told["evidence"]["overflows"]) == (0, 0)


def test_clients_that_waited_and_connections_that_were_cut_are_counted(bed_apart: AgentFixture) -> None:
    bed = bed_apart
    bed.more_flags += ["--drain-deadline", f"{DEADLINE}s"]
    bed.start()
    with ExitStack() as stack:
        held = [holding(bed.plain, stack) for _ in range(HELD)]
        with stopped(bed.serving_pid()):
            flights = launched(bed.plain, WAITING)
            bed.rotate()
            land(flights)
        assert [str(flight.failure) for flight in flights if flight.failure] == []
        told = newest(bed)
        assert all(is_cut(sock) for sock in held)
    evidence = told["evidence"]
    assert 0 < evidence["queued"] <= WAITING
    assert evidence["cut"] == HELD
    assert (evidence["overflows"], evidence["drops"]) == (0, 0)
    assert spans(told)["drain"] >= DEADLINE


def holding(target: Target, stack: ExitStack) -> socket.socket:
    """Connect and get a response, begin another request, and do not finish it."""
    sock = stack.enter_context(connect(target, tls_context()))
    exchange(sock, last=False)
    sock.sendall(b"GET / HTTP/1.1\r\nHos")
    return sock


def is_cut(sock: socket.socket) -> bool:
    """Return whether the peer has ended the connection; waits for it."""
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def unknown_cluster(bed: AgentFixture) -> Tree:
    """Return a listener whose route names an unknown cluster."""
    filtered = http("")
    (host,) = filtered["typed_config"]["route_config"]["virtual_hosts"]
    host["routes"] = [{"match": {"prefix": "/"}, "route": {"cluster": "nowhere"}}]
    return listener("lost", "127.0.0.1", bed.room.port(), [{"filters": [filtered]}])


def test_the_history_of_many_events_is_complete_and_outlives_agents(bed_apart: AgentFixture, obstacle: Path) -> None:
    bed = bed_apart
    bed.more_flags += ["--survive", "--hold", "10s"]
    bed.start()
    steps: list[tuple[str, Callable[[AgentFixture, Path], None]]] = [
        ("certificate", certificate),
        ("configuration", configuration),
        ("certificate", refused_certificate),
        ("configuration", refused_configuration),
        ("certificate", failing_proxy),
        ("operator", restarted),
        ("crash", crashed),
    ]
    with watched(bed):
        for trigger, step in steps:
            step(bed, obstacle)
            told = newest(bed)
            assert (told["trigger"], told["outcome"]) == (trigger, "serving"), step.__name__
            assert all(seen["matches"] for seen in told["evidence"]["seen"]), told
        before = history(bed)
        outlives_its_agent(bed, before)
        outlives_an_upgrade(bed)
    assert overview(bed)["rotations"] == history(bed)


def certificate(bed: AgentFixture, _: Path) -> None:
    """Rotate."""
    with next_epoch(bed):
        bed.rotate()


def configuration(bed: AgentFixture, _: Path) -> None:
    """Change the response."""
    with next_epoch(bed):
        bed.bootstrap.body = "other\n"
        bed.bootstrap.write(bed.config)


def refused_certificate(bed: AgentFixture, _: Path) -> None:
    """Write an expired one, and then a valid one."""
    attempts, expired = len(history(bed)), bed.mint.expired()
    bed.rotate(pair=expired)
    eventually(lambda: overview(bed)["refused"], what="it is refused")
    now = overview(bed)
    (refused,) = now["refused"]
    assert refused["reason"] == "expired"
    assert str(bed.certs) in refused["path"]
    assert "expired" in refused["message"]
    assert now["blocked"] == ["refused_files"]
    assert now["out_of_sync_since"] is not None
    (one,) = now["certificates"]
    assert (one["name"], one["in_sync"]) == (refused["set"], False)
    assert one["disk"]["serial"] == hexed(serial(expired))
    assert one["served"]["serial"] == hexed(serial(bed.mint.newest))
    assert len(history(bed)) == attempts, "nothing was attempted"
    with next_epoch(bed):
        bed.rotate()
    eventually(lambda: in_sync(bed), what="everything is in sync")


def in_sync(bed: AgentFixture) -> bool:
    """Return whether the files on disk are served."""
    now = overview(bed)
    assert (now["refused"], now["blocked"], now["out_of_sync_since"]) == ([], [], None)
    return all(each["in_sync"] for each in now["certificates"])


def refused_configuration(bed: AgentFixture, _: Path) -> None:
    """Write one that the proxy does not accept, and then a valid one."""
    bed.bootstrap.more = [unknown_cluster(bed)]
    bed.bootstrap.write(bed.config)
    eventually(lambda: history(bed)[0]["outcome"] == "refused", every=0.2, what="it is refused")
    told, now = history(bed)[0], overview(bed)
    assert told["trigger"] == "configuration"
    assert "nowhere" in told["reason"]
    assert (told["evidence"], told["changes"]) == (None, [])
    eventually(lambda: overview(bed)["blocked"] == ["refused_by_proxy"], what="it is told why")
    (refused,) = now["refused"]
    assert (refused["path"], refused["reason"], refused["set"]) == (str(bed.config), "proxy", None)
    assert "nowhere" in refused["message"]
    bed.bootstrap.more = []
    bed.bootstrap.body = "good again\n"
    with next_epoch(bed):
        bed.bootstrap.write(bed.config)
    eventually(lambda: in_sync(bed), what="everything is in sync")


def failing_proxy(bed: AgentFixture, obstacle: Path) -> None:
    """Rotate while the proxy cannot start, and then can."""
    serving = bed.serving()
    obstacle.touch()
    bed.rotate()
    told = eventually(lambda: failed(bed), every=0.2, what="the start failed")[0]
    assert (told["trigger"], told["epoch"] > serving.number) == ("certificate", True)
    assert "exited with 1" in told["reason"]
    assert bed.serving() == serving
    eventually(lambda: "retry" in overview(bed)["blocked"], every=0.001, what="the next attempt waits")
    with next_epoch(bed):
        obstacle.unlink()
    eventually(lambda: in_sync(bed), what="everything is in sync")


def failed(bed: AgentFixture) -> list[Tree]:
    """List the failed attempts, newest first; the next one may be in progress."""
    return [each for each in history(bed) if each["outcome"] == "failed"]


def restarted(bed: AgentFixture, _: Path) -> None:
    """Request a new epoch."""
    order(bed, "restart")


def crashed(bed: AgentFixture, _: Path) -> None:
    """Kill the proxy."""
    with next_epoch(bed):
        kill(bed.serving_pid())


def outlives_its_agent(bed: AgentFixture, before: list[Tree]) -> None:
    """Kill the agent: the next one has the history, including the serving epoch's."""
    bed.kill_agent()
    bed.launch()
    bed.ready()
    bed.settled()
    now = history(bed)
    assert now[-len(before) :] == before
    adopted = now[: -len(before)]
    assert [(each["trigger"], each["outcome"]) for each in adopted] in ([], [("adoption", "serving")]), adopted
    certificate(bed, bed.directory)
    told = newest(bed)
    assert (told["trigger"], told["outcome"], len(told["changes"])) == ("certificate", "serving", 1)


def outlives_an_upgrade(bed: AgentFixture) -> None:
    """Upgrade the agent: it has the history."""
    bed.settled()
    before = history(bed)
    order(bed, "upgrade")
    eventually(lambda: [one.state for one in bed.epochs()] == [SERVING])
    now = history(bed)
    assert now[-len(before) :] == before
    certificate(bed, bed.directory)
    assert newest(bed)["trigger"] == "certificate"


def test_a_dropped_attempt_is_recorded_as_dropped(bed_apart: AgentFixture, held: Path) -> None:
    bed, pair = bed_apart, bed_apart.mint.newest
    held.touch()
    IN_PLACE.again(bed.certs, bed.mint.spare())
    candidate = new_candidate(bed)
    with stopped(candidate.pid):
        IN_PLACE.again(bed.certs, pair)
        told = eventually(lambda: ended(bed, candidate.number), every=0.1, what="it is dropped")
    assert (told["trigger"], told["outcome"]) == ("certificate", "dropped")
    assert told["reason"]
    assert bed.serving().number < candidate.number


def ended(bed: AgentFixture, epoch: int) -> Tree:
    """Return an attempt, once it has ended."""
    told: Tree = next(each for each in overview(bed)["rotations"] if each["epoch"] == epoch)
    assert told["outcome"] != "running"
    return told
