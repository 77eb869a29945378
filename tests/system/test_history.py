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
def watched(instance: AgentFixture) -> Iterator[None]:
    """Read `/status` ten times a second; each answer must match the schema."""
    found = schema()

    def look() -> None:
        tree = overview(instance)
        complaints = [f"{list(each.path)}: {each.message}" for each in found.iter_errors(tree)]
        assert not complaints, complaints

    with Onlooker(look, every=0.1) as onlooker:
        yield
    assert onlooker.wrong == []
    assert onlooker.looks > len(onlooker.unanswered)


def order(instance: AgentFixture, *words: str) -> str:
    """Run a command as an operator would; it must succeed."""
    command = [sys.executable, "-m", "agent", *words, "--run-dir", str(instance.run_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def history(instance: AgentFixture) -> list[Tree]:
    """Read `agent history --json`, newest first."""
    return [json.loads(line) for line in order(instance, "history", "--json", "-n", "100").splitlines()]


def attempt(instance: AgentFixture, epoch: int) -> Tree:
    """Return the attempt of an epoch, once its predecessor has exited."""
    instance.settled()
    return next(each for each in history(instance) if each["epoch"] == epoch)


def newest(instance: AgentFixture) -> Tree:
    """Return the attempt that serves."""
    return attempt(instance, instance.serving().number)


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
def next_epoch(instance: AgentFixture) -> Iterator[None]:
    """Wait at the end until another epoch serves than at the beginning."""
    before = instance.serving().number
    yield
    eventually(lambda: instance.serving().number > before, what="the next one serves")


@pytest.fixture
def obstacle(unstarted: AgentFixture, binary: Path) -> Path:
    """A file that keeps the proxy of `unstarted` from starting while it exists; other commands of the proxy work."""
    instance = unstarted
    path = instance.directory / "broken"
    instance.binary = instance.directory / "proxy"
    excused = "*version*|*validate*"
    script(instance.binary, f'case "$*" in {excused}) ;; *) [ -e {path} ] && exit 1;; esac\nexec {binary} "$@"')
    return path


def test_the_first_start_and_a_rotation_are_recorded_with_all_details(instance: AgentFixture) -> None:
    first = newest(instance)
    assert (first["trigger"], first["outcome"], first["before"]) == ("start", "serving", None)
    old = hexed(serial(instance.mint.newest))
    assert [(each["before"], each["after"]) for each in first["changes"]] == [(None, old)]
    with next_epoch(instance):  # a client receives the certificate a moment before the agent is informed
        written = instance.rotate()
        shown = first_shown(instance.tls, serial(instance.mint.newest))
    known = time.monotonic()
    told, new = newest(instance), hexed(serial(instance.mint.newest))
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


def test_clients_that_waited_and_connections_that_were_cut_are_counted(unstarted: AgentFixture) -> None:
    instance = unstarted
    instance.more_flags += ["--drain-deadline", f"{DEADLINE}s"]
    instance.start()
    with ExitStack() as stack:
        held = [holding(instance.plain, stack) for _ in range(HELD)]
        with stopped(instance.serving_pid()):
            flights = launched(instance.plain, WAITING)
            instance.rotate()
            land(flights)
        assert [str(flight.failure) for flight in flights if flight.failure] == []
        told = newest(instance)
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


def unknown_cluster(instance: AgentFixture) -> Tree:
    """Return a listener whose route names an unknown cluster."""
    filtered = http("")
    (host,) = filtered["typed_config"]["route_config"]["virtual_hosts"]
    host["routes"] = [{"match": {"prefix": "/"}, "route": {"cluster": "nowhere"}}]
    return listener("lost", "127.0.0.1", instance.room.port(), [{"filters": [filtered]}])


def test_the_history_of_many_events_is_complete_and_outlives_agents(unstarted: AgentFixture, obstacle: Path) -> None:
    instance = unstarted
    instance.more_flags += ["--survive", "--hold", "10s"]
    instance.start()
    steps: list[tuple[str, Callable[[AgentFixture, Path], None]]] = [
        ("certificate", certificate),
        ("configuration", configuration),
        ("certificate", refused_certificate),
        ("configuration", refused_configuration),
        ("certificate", failing_proxy),
        ("operator", restarted),
        ("crash", crashed),
    ]
    with watched(instance):
        for trigger, step in steps:
            step(instance, obstacle)
            told = newest(instance)
            assert (told["trigger"], told["outcome"]) == (trigger, "serving"), step.__name__
            assert all(seen["matches"] for seen in told["evidence"]["seen"]), told
        before = history(instance)
        outlives_its_agent(instance, before)
        outlives_an_upgrade(instance)
    assert overview(instance)["rotations"] == history(instance)


def certificate(instance: AgentFixture, _: Path) -> None:
    """Rotate."""
    with next_epoch(instance):
        instance.rotate()


def configuration(instance: AgentFixture, _: Path) -> None:
    """Change the response."""
    with next_epoch(instance):
        instance.bootstrap.body = "other\n"
        instance.bootstrap.write(instance.config)


def refused_certificate(instance: AgentFixture, _: Path) -> None:
    """Write an expired one, and then a valid one."""
    attempts, expired = len(history(instance)), instance.mint.expired()
    instance.rotate(pair=expired)
    eventually(lambda: overview(instance)["refused"], what="it is refused")
    now = overview(instance)
    (refused,) = now["refused"]
    assert refused["reason"] == "expired"
    assert str(instance.certs) in refused["path"]
    assert "expired" in refused["message"]
    assert now["blocked"] == ["refused_files"]
    assert now["out_of_sync_since"] is not None
    (one,) = now["certificates"]
    assert (one["name"], one["in_sync"]) == (refused["set"], False)
    assert one["disk"]["serial"] == hexed(serial(expired))
    assert one["served"]["serial"] == hexed(serial(instance.mint.newest))
    assert len(history(instance)) == attempts, "nothing was attempted"
    with next_epoch(instance):
        instance.rotate()
    eventually(lambda: in_sync(instance), what="everything is in sync")


def in_sync(instance: AgentFixture) -> bool:
    """Return whether the files on disk are served."""
    now = overview(instance)
    assert (now["refused"], now["blocked"], now["out_of_sync_since"]) == ([], [], None)
    return all(each["in_sync"] for each in now["certificates"])


def refused_configuration(instance: AgentFixture, _: Path) -> None:
    """Write one that the proxy does not accept, and then a valid one."""
    instance.bootstrap.more = [unknown_cluster(instance)]
    instance.bootstrap.write(instance.config)
    eventually(lambda: history(instance)[0]["outcome"] == "refused", every=0.2, what="it is refused")
    told, now = history(instance)[0], overview(instance)
    assert told["trigger"] == "configuration"
    assert "nowhere" in told["reason"]
    assert (told["evidence"], told["changes"]) == (None, [])
    eventually(lambda: overview(instance)["blocked"] == ["refused_by_proxy"], what="it is told why")
    (refused,) = now["refused"]
    assert (refused["path"], refused["reason"], refused["set"]) == (str(instance.config), "proxy", None)
    assert "nowhere" in refused["message"]
    instance.bootstrap.more = []
    instance.bootstrap.body = "good again\n"
    with next_epoch(instance):
        instance.bootstrap.write(instance.config)
    eventually(lambda: in_sync(instance), what="everything is in sync")


def failing_proxy(instance: AgentFixture, obstacle: Path) -> None:
    """Rotate while the proxy cannot start, and then can."""
    serving = instance.serving()
    obstacle.touch()
    instance.rotate()
    told = eventually(lambda: failed(instance), every=0.2, what="the start failed")[0]
    assert (told["trigger"], told["epoch"] > serving.number) == ("certificate", True)
    assert "exited with 1" in told["reason"]
    assert instance.serving() == serving
    eventually(lambda: "retry" in overview(instance)["blocked"], every=0.001, what="the next attempt waits")
    with next_epoch(instance):
        obstacle.unlink()
    eventually(lambda: in_sync(instance), what="everything is in sync")


def failed(instance: AgentFixture) -> list[Tree]:
    """List the failed attempts, newest first; the next one may be in progress."""
    return [each for each in history(instance) if each["outcome"] == "failed"]


def restarted(instance: AgentFixture, _: Path) -> None:
    """Request a new epoch."""
    order(instance, "restart")


def crashed(instance: AgentFixture, _: Path) -> None:
    """Kill the proxy."""
    with next_epoch(instance):
        kill(instance.serving_pid())


def outlives_its_agent(instance: AgentFixture, before: list[Tree]) -> None:
    """Kill the agent: the next one has the history, including the serving epoch's."""
    instance.kill_agent()
    instance.launch()
    instance.ready()
    instance.settled()
    now = history(instance)
    assert now[-len(before) :] == before
    adopted = now[: -len(before)]
    assert [(each["trigger"], each["outcome"]) for each in adopted] in ([], [("adoption", "serving")]), adopted
    certificate(instance, instance.directory)
    told = newest(instance)
    assert (told["trigger"], told["outcome"], len(told["changes"])) == ("certificate", "serving", 1)


def outlives_an_upgrade(instance: AgentFixture) -> None:
    """Upgrade the agent: it has the history."""
    instance.settled()
    before = history(instance)
    order(instance, "upgrade")
    eventually(lambda: [one.state for one in instance.epochs()] == [SERVING])
    now = history(instance)
    assert now[-len(before) :] == before
    certificate(instance, instance.directory)
    assert newest(instance)["trigger"] == "certificate"


def test_a_dropped_attempt_is_recorded_as_dropped(unstarted: AgentFixture, held: Path) -> None:
    instance, pair = unstarted, unstarted.mint.newest
    held.touch()
    IN_PLACE.again(instance.certs, instance.mint.spare())
    candidate = new_candidate(instance)
    with stopped(candidate.pid):
        IN_PLACE.again(instance.certs, pair)
        told = eventually(lambda: ended(instance, candidate.number), every=0.1, what="it is dropped")
    assert (told["trigger"], told["outcome"]) == ("certificate", "dropped")
    assert told["reason"]
    assert instance.serving().number < candidate.number


def ended(instance: AgentFixture, epoch: int) -> Tree:
    """Return an attempt, once it has ended."""
    told: Tree = next(each for each in overview(instance)["rotations"] if each["epoch"] == epoch)
    assert told["outcome"] != "running"
    return told
