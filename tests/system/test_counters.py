"""The agent's counters equal those of the clients, over rotations and crashes, and never fall."""

from threading import Event, Thread
from typing import Self
from urllib.request import urlopen

import pytest

from tests.system.agent_fixture import AgentFixture
from tests.system.counts import count
from tests.system.eventually import PATIENCE, eventually
from tests.system.loads import Loads
from tests.system.proxies import needed
from tests.system.room import kill

pytestmark = pytest.mark.envoy

ROTATIONS = count("AGENT_ROTATIONS", short=5, long=100)
KILLS = count("AGENT_KILLS", short=3, long=20)
ANSWERED = "http.http.downstream_rq_2xx"
COUNTED = "downstream_.*(_total|_completed|_2xx)$"
BEGUN = "http.http.downstream_rq_total"


class Reader:
    """Reads the agent's statistics ten times a second and records counters that fell."""

    def __init__(self, instance: AgentFixture) -> None:
        self.instance = instance
        self.fallen: list[str] = []
        self.looks = 0
        self._last: dict[str, int] = {}
        self._stop = Event()
        self._thread = Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            self.look()

    def look(self) -> dict[str, int]:
        """Read all totals of the listener's clients and requests, and compare them with the previous ones."""
        now = totals(self.instance)
        fell = (name for name, value in self._last.items() if now.get(name, 0) < value)
        self.fallen += [f"{name}: {self._last[name]} → {now.get(name)}" for name in fell]
        self._last = now
        self.looks += 1
        return now


def totals(instance: AgentFixture) -> dict[str, int]:
    """Read the counters of requests, at the agent's own address."""
    with urlopen(f"http://127.0.0.1:{instance.status.port}/stats?filter={COUNTED}", timeout=PATIENCE) as answer:
        lines = answer.read().decode().splitlines()
    return {name: int(value) for name, _, value in (line.rpartition(": ") for line in lines)}


@pytest.fixture
def counting(unstarted: AgentFixture) -> AgentFixture:
    """An agent fixture with a sidecar, whose counters the agent can read."""
    unstarted.binary, unstarted.proxy_args = needed("sidecar").binary, ["-l", "warning"]
    unstarted.start()
    return unstarted


@pytest.mark.long
@pytest.mark.timeout(600 + 4 * ROTATIONS)
def test_after_rotations_every_answer_was_counted_once(counting: AgentFixture, loads: Loads) -> None:
    instance = counting
    with Reader(instance) as reader:
        loads.usual(instance.tls, instance.plain)
        for _ in range(ROTATIONS):
            instance.rotate()
            instance.served()
        loads.more(20)
        reports = loads.finish()
        answered = sum(report.ok for report in reports)
        assert sum(report.failed for report in reports) == 0, "\n".join(map(str, reports))
        eventually(lambda: reader.look()[ANSWERED] >= answered, what="the last answers are counted")
    assert reader.look()[ANSWERED] == answered
    assert reader.fallen == []


@pytest.mark.long
@pytest.mark.timeout(600 + 6 * KILLS + 4 * ROTATIONS)
def test_after_rotations_and_crashes_only_what_was_in_flight_may_be_missing(
    counting: AgentFixture, loads: Loads
) -> None:
    instance = counting
    with Reader(instance) as reader:
        loads.gentle(instance.tls, instance.plain)
        for number in range(ROTATIONS):
            instance.rotate()
            instance.served()
            instance.committed()
            if number % (ROTATIONS // KILLS):
                continue
            before = instance.serving().number
            kill(instance.serving_pid())
            eventually(lambda: instance.serving().number > before, what="the next one serves")  # noqa: B023
            loads.more(20)
        reports = loads.finish()
        answered = sum(report.ok for report in reports)
        lost = sum(report.failed for report in reports)
    assert lost == sum(report.reasons()["reset"] + report.reasons()["eof"] for report in reports), "none was refused"
    assert answered <= reader.look()[BEGUN] <= answered + lost
    assert reader.fallen == []
