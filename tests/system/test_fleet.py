"""Forty agents at one control plane: a shared secret changes at once, and a shared certificate one after the other."""

import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from itertools import count as numbers
from pathlib import Path

import pytest

from agent.core.schedule import jitter_offset
from tests.system.agent_fixture import AgentFixture
from tests.system.certificates import Mint, authority, serial
from tests.system.conftest import MakeInstance
from tests.system.eventually import eventually
from tests.system.layouts import CHAIN, IN_PLACE, KEY, ROOT
from tests.system.plane.behaviour import SECRETS
from tests.system.plane.plane import ControlPlane, control_plane
from tests.system.plane.site import SECRET
from tests.system.plane.sources import FromPlane, aggregated, grpc_source, secret_listener, xds_cluster
from tests.system.room import Room

pytestmark = [pytest.mark.envoy, pytest.mark.long, pytest.mark.timeout(900)]

AGENTS = 40
SPREAD = 120.0  # seconds, of --jitter
SHARE = 0.05  # of the agents may have two proxies at the same time
OVERLAP = 1.0  # seconds that one rotation may take here, for the choice of the run directories


class Fleet:
    """Agents with one directory of certificates, and a listener each whose secret is shared."""

    def __init__(self, make_instance: MakeInstance, room: Room, plane: ControlPlane, *flags: str) -> None:
        self.plane, self.pair, self.secrets = plane, Mint(), Mint()
        self.flags = flags
        self.certs = room.directory / "certs"
        IN_PLACE.first(self.certs, self.pair.leaf())
        (self.certs / ROOT).write_bytes(authority().pem)
        self.change_secret()
        self.instances = [self._made(make_instance, f"a{number}") for number in range(AGENTS)]

    def _made(self, make_instance: MakeInstance, name: str) -> AgentFixture:
        instance = make_instance(name, proxy_args=["-l", "error", "--concurrency", "1"])
        instance.certs = self.certs
        listener = secret_listener("tls", instance.tls.port, SECRET, aggregated())
        instance.bootstrap = FromPlane(instance.tls.port, instance.plain.port, [], more=[listener])
        instance.bootstrap.dynamic = {"ads_config": grpc_source(delta=True)}
        paths = [self.certs / each for each in (CHAIN, KEY, ROOT)]
        instance.bootstrap.clusters = [xds_cluster(self.plane.port, *paths)]
        instance.more_flags += self.flags
        return instance

    def change_secret(self) -> None:
        leaf = self.secrets.leaf()
        self.plane.secret(SECRET, leaf.chain_pem, leaf.key_pem)

    def start(self) -> None:
        """Start all agents, a few at a time, and wait until each serves the secret."""
        for instance in self.instances:
            instance.bootstrap.write(instance.config)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(self._start, self.instances))

    def _start(self, instance: AgentFixture) -> None:
        instance.launch()
        self.serves(instance)

    def serves(self, instance: AgentFixture) -> None:
        wanted = serial(self.secrets.newest)
        eventually(lambda: instance.serial_served() == wanted, what=f"{instance.name} serves the secret", every=0.05)

    def epochs(self) -> list[int]:
        return [instance.serving().number for instance in self.instances]


def spread_evenly(instances: Sequence[AgentFixture]) -> None:
    """Choose run directories, on which the delays depend, so that no three are near one another.

    By chance, three are in some fleets of this size and spread; the test is about what an agent makes of its delay.
    """
    taken: list[float] = []
    for instance in instances:
        for number in numbers():
            run_dir = instance.directory / f"r{number}"
            offset = delay_of(run_dir)
            if sum(abs(offset - each) < OVERLAP for each in taken) < AGENTS * SHARE:
                break
        instance.run_dir = run_dir
        taken.append(offset)


def delay_of(run_dir: Path) -> float:
    whole = timedelta(seconds=SPREAD)
    return jitter_offset(f"{socket.gethostname()}:{run_dir}", None, whole).total_seconds()


def overlaps(instance: AgentFixture) -> Iterator[tuple[float, int]]:
    """Yield when a second proxy of an agent was started, with 1, and when one has exited, with -1."""
    for line in instance.journal.path.read_text(encoding="utf-8").splitlines():
        with_name = json.loads(line) if line.startswith('{"timestamp": ') else {}
        step = {"epoch.starting": 1, "epoch.gone": -1}.get(with_name.get("eventName", ""))
        if step is not None and not (step > 0 and with_name["attributes"]["epoch"] == 1):
            yield datetime.fromisoformat(with_name["timestamp"]).timestamp(), step


def most_at_once(instances: Sequence[AgentFixture]) -> tuple[int, float]:
    """Return how many agents had two proxies at the same time at most, and for how many seconds each on average."""
    steps = sorted(step for instance in instances for step in overlaps(instance))
    at_once = most = 0
    for _, step in steps:
        at_once += step
        most = max(most, at_once)
    return most, -sum(at * step for at, step in steps) / len(instances)


@pytest.fixture(params=[["--jitter", f"{SPREAD:g}s"]])
def fleet(make_instance: MakeInstance, room: Room, request: pytest.FixtureRequest) -> Iterator[Fleet]:
    """A fleet that serves; its flags are the parameter."""
    if not room.private:
        pytest.skip("it needs more ports than a test has without a network namespace of its own")
    with control_plane(room) as plane:
        fleet = Fleet(make_instance, room, plane, *request.param)
        spread_evenly(fleet.instances)
        plane.start()
        fleet.start()
        yield fleet
        for instance in fleet.instances:
            instance.stop()


def test_a_secret_changes_everywhere_at_once_and_a_certificate_one_agent_after_the_other(fleet: Fleet) -> None:
    fleet.change_secret()
    began = time.monotonic()
    fleet.plane.change()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(fleet.serves, fleet.instances))
    spent = time.monotonic() - began
    assert fleet.epochs() == [1] * AGENTS, "by SDS, without a new epoch"

    IN_PLACE.again(fleet.certs, fleet.pair.leaf())
    eventually(lambda: min(fleet.epochs()) == 2, within=SPREAD + 60, what="all have rotated", every=1)
    eventually(lambda: not any(len(each.state().epochs) > 1 for each in fleet.instances), what="all old ones are gone")
    most, average = most_at_once(fleet.instances)
    print(f"{AGENTS} agents: secret {spent:.2f} s, at most {most} overlaps of {average:.2f} s, {os.cpu_count()} CPUs")  # noqa: T201
    assert fleet.epochs() == [2] * AGENTS, "one rotation each"
    assert most <= AGENTS * SHARE
    for instance in fleet.instances:
        fleet.serves(instance)


@pytest.mark.parametrize("fleet", [["--jitter", "10s", "--start-deadline", "20s"]], indirect=True)
def test_no_agent_commits_while_the_control_plane_fails_and_all_do_behind_it(fleet: Fleet) -> None:
    for fault in ({"silent": [SECRETS]}, {"unavailable": True}, {"empty_for_new": [SECRETS]}):
        before = [instance.serving() for instance in fleet.instances]
        for instance in fleet.instances:
            instance.journal.mark()
        fleet.plane.change(**fault)
        IN_PLACE.again(fleet.certs, fleet.pair.leaf())
        eventually(lambda: all(map(waits, fleet.instances)), what=f"each agent says that it waits: {fault}", every=0.5)
        assert [instance.serving() for instance in fleet.instances] == before
        for instance in fleet.instances:
            fleet.serves(instance)
        fleet.plane.change(silent=[], unavailable=False, empty_for_new=[])
        for instance, epoch in zip(fleet.instances, before, strict=True):
            check = partial(has_rotated, instance, epoch.number)
            eventually(check, what=f"{instance.name} has rotated after {fault}", every=0.2)


def has_rotated(instance: AgentFixture, number: int) -> bool:
    """Return whether a later epoch than this one serves."""
    return instance.serving().number > number


def waits(instance: AgentFixture) -> bool:
    """Return whether an agent's log has named its control plane since the last mark."""
    return any(entry.name == "candidate.waits" for entry in instance.journal.complaints())
