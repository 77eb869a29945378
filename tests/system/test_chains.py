"""Envoy and the sidecar replace each other under load, from one configuration: to the agent both are epochs."""

from itertools import chain, repeat
from pathlib import Path

import pytest

from tests.system.agent_fixture import AgentFixture, workers
from tests.system.concurrent_requests import land, launched
from tests.system.counts import count
from tests.system.eventually import eventually
from tests.system.loads import Loads, nothing_failed
from tests.system.proxies import needed
from tests.system.room import stopped
from tests.system.stand_ins import link, script

pytestmark = pytest.mark.envoy  # a bed for an Envoy, and then whatever the test puts in its place

ROUNDS = count("AGENT_CHAINS", short=1, long=15)


def is_sidecar(pid: int) -> bool:
    """Tell whether a process runs the sidecar: a program of an interpreter, while Envoy is one by itself."""
    return Path(f"/proc/{pid}/exe").readlink().name.startswith("python")


def put(bed: AgentFixture, kind: str) -> None:
    """Put a proxy in place, with two workers where it has workers."""
    program = needed(kind).binary
    if kind == "envoy":
        script(bed.binary, f'exec {program} "$@" --concurrency 2')
    else:
        link(bed.binary, program)


def take_over(bed: AgentFixture, kind: str) -> None:
    """Put a proxy of the other kind in place and wait until it alone serves."""
    put(bed, kind)
    wanted = kind == "sidecar"
    eventually(lambda: is_sidecar(bed.serving_pid()) == wanted, what=f"{kind} serves")
    bed.settled()


@pytest.fixture
def mixed(bed_apart: AgentFixture) -> AgentFixture:
    """A bed on whose proxy's path there is an Envoy of two workers, for now."""
    bed = bed_apart
    needed("sidecar")
    bed.binary, bed.proxy_args = bed.directory / "proxy", ["-l", "warning"]
    bed.more_flags += ["--on-binary", "restart"]
    put(bed, "envoy")
    bed.start()
    return bed


@pytest.mark.long
def test_envoy_and_sidecar_replace_each_other(mixed: AgentFixture, loads: Loads) -> None:
    loads.gentle(mixed.tls, mixed.plain)
    for kind in chain.from_iterable(repeat(("sidecar", "envoy"), ROUNDS)):
        take_over(mixed, kind)
        mixed.rotate()
        mixed.served()
        loads.more(20)
    nothing_failed(loads.finish(at_least=100))


@pytest.mark.long
def test_a_single_worker_takes_the_queues_of_all_workers_and_leaves_them_to_the_next(mixed: AgentFixture) -> None:
    """Clients in the queues of two stopped workers are answered by the sidecar; and those of the sidecar, by two."""
    for kind in ("sidecar", "envoy"):
        old = mixed.serving_pid()
        with stopped(old):
            flights = launched(mixed.plain, 200) + launched(mixed.tls, 200)
            put(mixed, kind)
            land(flights)
        assert [str(flight.failure) for flight in flights if flight.failure] == []
        mixed.settled()
    assert workers(mixed.serving_pid()) == 2
