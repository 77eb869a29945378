"""The cost of a scrape of 10,000 series: `python -m tests.benchmarks.bench_scrape`.

Scrapes an Envoy with that many series at its own admin interface, and through the agent: alone, after another epoch has
exited, beside a draining one, and as OpenMetrics. Prints each duration and its ratio to the first, measured in turns;
then the longest time for which a scrape blocks the agent's loop, and the memory that it retains.
AGENT_MEASURED sets the number of measurements.
"""

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import yaml

from agent.host.run_directory import RunDirectory
from agent.http.client import fetch
from agent.http.message import Request
from agent.metrics.registry import Metrics
from agent.metrics.scrape import Epochs, Scraper
from agent.proxies.envoy.admin_client import AdminClient
from agent.stats.snapshot import Snapshot
from tests.status.sample import overview
from tests.system.bare import envoy_binary
from tests.system.counts import count
from tests.system.eventually import eventually

MEASURED = count("AGENT_MEASURED", short=10, long=50)
CLUSTERS = 54  # each has about 185 series
LOOK = 0.001

Scrape = Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class Epoch:
    """The properties of an epoch that the scraper uses."""

    number: int
    home: Path
    has_served: bool = True
    was_asked: bool = False
    was_killed: bool = False

    @property
    def admin(self) -> AdminClient:
        return AdminClient(self.home / "admin")


def envoy(stack: ExitStack, place: Path, number: int) -> Epoch:
    """Start an Envoy with this many clusters, and wait until its admin interface answers."""
    epoch = Epoch(number, place / str(number))
    epoch.home.mkdir()
    clusters = [{"name": f"outbound_80_service{each}_default", "type": "STATIC"} for each in range(CLUSTERS)]
    admin = {"address": {"pipe": {"path": str(epoch.admin.path)}}}
    document = {"admin": admin, "static_resources": {"clusters": clusters}}
    (epoch.home / "envoy.yaml").write_text(yaml.safe_dump(document))
    command = [envoy_binary(), "-c", epoch.home / "envoy.yaml", "--disable-hot-restart", "-l", "off"]
    process = stack.enter_context(subprocess.Popen([str(word) for word in command], stderr=subprocess.DEVNULL))
    stack.callback(process.terminate)
    eventually(epoch.admin.path.exists, within=10)
    return epoch


class Scene:
    """The parts of an agent that a scrape uses."""

    def __init__(self, place: Path) -> None:
        self.directory = RunDirectory(place)
        self.epochs: list[Epoch] = []
        epochs = Epochs(lambda: self.epochs, lambda: self.epochs[-1].number, Snapshot, lambda _: {})
        self.scraping = Scraper(Metrics(overview), epochs, self.directory)

    async def scrape(self, accept: str = "text/plain") -> bytes:
        """Scrape once."""
        response = await self.scraping.answer(Request("GET", "/metrics", (("accept", accept),)))
        assert isinstance(response.body, bytes)
        return response.body

    async def close(self) -> None:
        """Release all resources."""
        await self.scraping.close()
        self.directory.close()


async def measured(scrapes: dict[str, Scrape]) -> dict[str, float]:
    """Measure in turns; return the medians, in seconds."""
    taken: dict[str, list[float]] = {what: [] for what in scrapes}
    for _ in range(MEASURED + 1):
        for what, scrape in scrapes.items():
            began = time.perf_counter()
            await scrape()
            taken[what].append(time.perf_counter() - began)
    return {what: statistics.median(each[1:]) for what, each in taken.items()}


async def longest_stop(scrape: Scrape) -> float:
    """Return the longest time for which a scrape blocked the loop, in seconds; the best of several."""
    stops = []
    for _ in range(MEASURED):
        task = asyncio.ensure_future(scrape())
        longest, last = 0.0, time.perf_counter()
        while not task.done():
            await asyncio.sleep(LOOK)
            now = time.perf_counter()
            longest, last = max(longest, now - last - LOOK), now
        stops.append(longest)
    return statistics.median(stops)


def resident() -> int:
    """Return the resident memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def run(place: Path, epochs: Iterable[Epoch]) -> None:
    """Run all measurements."""
    gone, old, new = epochs
    scenes = {name: Scene(place / name) for name in ("alone", "after", "beside")}
    scenes["after"].epochs = [gone]
    await scenes["after"].scrape()
    scenes["after"].scraping.retire(gone.number)
    scenes["alone"].epochs = scenes["after"].epochs = [new]
    scenes["beside"].epochs = [old, new]
    series = (await fetch(new.admin.place, "/stats/prometheus", timeout=10))[1].decode().splitlines()
    count_of = sum(not line.startswith("#") for line in series)
    direct = "the console itself"
    before = resident()
    taken = await measured(
        {
            direct: lambda: fetch(new.admin.place, "/stats/prometheus", timeout=10),
            "agent, one epoch": scenes["alone"].scrape,
            "agent, one epoch, one gone": scenes["after"].scrape,
            "agent, two epochs": scenes["beside"].scrape,
            "agent, one epoch, OpenMetrics": lambda: scenes["alone"].scrape("application/openmetrics-text"),
        }
    )
    for what, seconds in taken.items():
        sys.stdout.write(f"| {what:30} | {seconds * 1000:7.1f} ms | {seconds / taken[direct]:6.2f} |\n")
    stop = await longest_stop(scenes["beside"].scrape)
    sys.stdout.write(f"| {'longest stop of the loop':30} | {stop * 1000:7.1f} ms | {stop / taken[direct]:6.2f} |\n")
    sys.stdout.write(f"{count_of} series an epoch; {(resident() - before) / 2**20:.1f} MB more than before\n")
    for scene in scenes.values():
        await scene.close()


def main() -> None:
    """Start three Envoys and measure."""
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        asyncio.run(run(Path(place), [envoy(stack, Path(place), number) for number in (1, 2, 3)]))


if __name__ == "__main__":
    main()
