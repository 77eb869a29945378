"""Envoy and the sidecar replace each other under load, with one configuration: the agent treats both as epochs."""

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

pytestmark = pytest.mark.envoy  # the fixture starts with Envoy, and the test replaces the program

ROUNDS = count("AGENT_CHAINS", short=1, long=15)


def is_sidecar(pid: int) -> bool:
    """Return whether a process runs the sidecar: a program of an interpreter, unlike Envoy."""
    return Path(f"/proc/{pid}/exe").readlink().name.startswith("python")


def put(instance: AgentFixture, kind: str) -> None:
    """Install a proxy, with two workers if it supports workers."""
    program = needed(kind).binary
    if kind == "envoy":
        script(instance.binary, f'exec {program} "$@" --concurrency 2')
    else:
        link(instance.binary, program)


def take_over(instance: AgentFixture, kind: str) -> None:
    """Install a proxy of the other kind and wait until only it serves."""
    put(instance, kind)
    wanted = kind == "sidecar"
    eventually(lambda: is_sidecar(instance.serving_pid()) == wanted, what=f"{kind} serves")
    instance.settled()


@pytest.fixture
def mixed(unstarted: AgentFixture) -> AgentFixture:
    """An agent fixture whose proxy path is an Envoy with two workers at first."""
    instance = unstarted
    needed("sidecar")
    instance.binary, instance.proxy_args = instance.directory / "proxy", ["-l", "warning"]
    instance.more_flags += ["--on-binary", "restart"]
    put(instance, "envoy")
    instance.start()
    return instance


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
    """The sidecar answers clients in the queues of two stopped workers; and two workers answer those of the sidecar."""
    for kind in ("sidecar", "envoy"):
        old = mixed.serving_pid()
        with stopped(old):
            flights = launched(mixed.plain, 200) + launched(mixed.tls, 200)
            put(mixed, kind)
            land(flights)
        assert [str(flight.failure) for flight in flights if flight.failure] == []
        mixed.settled()
    assert workers(mixed.serving_pid()) == 2
