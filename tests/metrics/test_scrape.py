import asyncio
import json
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families as text_families

from agent.core.errors import UsageError
from agent.epoch.stats_format import prometheus
from agent.host.run_directory import RunDirectory
from agent.http.message import Request, Response
from agent.http.server import Server
from agent.metrics.application import Application
from agent.metrics.parser import read
from agent.metrics.registry import Metrics
from agent.metrics.scrape import Epochs, Limits, Scraper, exposition_of
from agent.proxies.envoy.admin_client import AdminClient
from agent.stats.segment_file import reserve
from agent.stats.snapshot import Snapshot
from agent.stats.writer import Writer
from tests.status.sample import overview
from tests.system.eventually import PATIENCE

ENVOY = """# TYPE envoy_http_rq_total counter
envoy_http_rq_total{{envoy_http_conn_manager_prefix="in"}} {requests}
# TYPE envoy_http_rq_active gauge
envoy_http_rq_active{{}} {active}
# TYPE envoy_server_uptime gauge
envoy_server_uptime{{}} {uptime}
"""
PROMETHEUS = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"

Answer = Callable[[Request], Awaitable[Response]]


@dataclass
class Console:
    place: Path

    def exposition(self, request: Request) -> AbstractAsyncContextManager[Response]:
        return AdminClient(self.place).exposition(request)


@dataclass
class Proxy:
    """An epoch whose admin interface exposes metrics like an Envoy's."""

    number: int
    home: Path
    requests: int = 0
    active: int = 0
    uptime: int = 0
    has_served: bool = True
    was_asked: bool = False
    was_killed: bool = False
    hangs: bool = False
    text: bytes | None = None
    asked: list[Request] = field(default_factory=list)

    @property
    def admin(self) -> Console:
        return Console(self.home / "admin")

    async def answer(self, request: Request) -> Response:
        self.asked.append(request)
        if self.hangs:
            await asyncio.Event().wait()
        told = ENVOY.format(requests=self.requests, active=self.active, uptime=self.uptime).encode()
        return Response(200, told if self.text is None else self.text)


@dataclass
class Scene:
    """The running epochs, the serving one, and the counters in shared memory."""

    place: Path
    directory: RunDirectory
    living: list[Proxy] = field(default_factory=list)
    serving: int | None = None
    counted: Snapshot = field(default_factory=Snapshot)
    metrics: Metrics = field(default_factory=lambda: Metrics(overview))
    servers: dict[int, Server] = field(default_factory=dict)
    scraping: Scraper = field(init=False)

    def begin(self, application: str | None = None, *, merge: bool = True, limits: Limits | None = None) -> None:
        epochs = Epochs(lambda: self.living, lambda: self.serving, lambda: self.counted, lambda _: {})
        where = None if application is None else Application.parse(application)
        self.scraping = Scraper(self.metrics, epochs, self.directory, where, merge=merge, limits=limits)

    async def proxy(self, number: int, requests: int = 0, *, has_served: bool = True) -> Proxy:
        proxy = Proxy(number, self.place / str(number), requests, uptime=number, has_served=has_served)
        proxy.home.mkdir()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(proxy.admin.place))
        listener.listen()
        self.servers[number] = Server(proxy.answer)
        await self.servers[number].start(listener)
        self.living.append(proxy)
        self.serving = number
        return proxy

    async def bury(self, proxy: Proxy) -> None:
        self.living.remove(proxy)
        await self.servers.pop(proxy.number).close()
        shutil.rmtree(proxy.home)
        self.scraping.retire(proxy.number)

    async def scrape(self, **headers: str) -> dict[str, float]:
        """Scrape as text; return the values by name, without labels."""
        response = await self.scraping.answer(Request("GET", "/metrics", tuple(headers.items())))
        assert response.status == 200
        assert isinstance(response.body, bytes)
        return values(response.body.decode())

    def failures(self, source: str) -> float:
        text = self.metrics.expose(openmetrics=False).decode()
        samples = [sample for family in text_families(text) for sample in family.samples]
        found = [each for each in samples if each.name == "proxy_agent_scrape_failures_total"]
        return sum(each.value for each in found if each.labels["source"] == source)


def values(text: str) -> dict[str, float]:
    return {sample.name: sample.value for family in text_families(text) for sample in family.samples}


@asynccontextmanager
async def scene(place: Path, directory: RunDirectory) -> AsyncIterator[Scene]:
    made = Scene(place, directory)
    made.begin()
    try:
        yield made
    finally:
        await made.scraping.close()
        for server in made.servers.values():
            await server.close()


@asynccontextmanager
async def application(answer: Answer) -> AsyncIterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    server = Server(answer)
    await server.start(listener)
    yield f"http://127.0.0.1:{port}/app?x=1"
    await server.close()


async def test_counters_are_of_all_epochs_and_gauges_of_the_one_that_serves(
    tmp_path: Path, directory: RunDirectory
) -> None:
    async with scene(tmp_path, directory) as all_of:
        old, new = await all_of.proxy(1, 7), await all_of.proxy(2, 5)
        old.active, new.active = 3, 1
        found = await all_of.scrape()
        assert found["envoy_http_rq_total"] == 12
        assert found["envoy_http_rq_active"] == 4
        assert found["envoy_server_uptime"] == 2
        assert found["proxy_agent_ready"] == 1


async def test_totals_do_not_fall_when_an_epoch_goes(tmp_path: Path, directory: RunDirectory) -> None:
    async with scene(tmp_path, directory) as all_of:
        old = await all_of.proxy(1, 7)
        await all_of.proxy(2, 5)
        old.requests = 9
        await all_of.scraping.final_scrape(old)
        await all_of.bury(old)
        assert (await all_of.scrape())["envoy_http_rq_total"] == 14
        all_of.begin()  # another agent
        assert (await all_of.scrape())["envoy_http_rq_total"] == 14


async def test_an_agent_that_comes_back_knows_what_was_seen(tmp_path: Path, directory: RunDirectory) -> None:
    async with scene(tmp_path, directory) as all_of:
        proxy = await all_of.proxy(1, 7)
        await all_of.scrape()
        await all_of.scraping.close()
        all_of.begin()
        proxy.text = b"busy"
        assert (await all_of.scrape())["envoy_http_rq_total"] == 7
        await all_of.bury(proxy)  # not counted twice
        assert (await all_of.scrape())["envoy_http_rq_total"] == 7


async def test_an_epoch_that_dies_counts_as_it_was_seen_last(tmp_path: Path, directory: RunDirectory) -> None:
    async with scene(tmp_path, directory) as all_of:
        crashed = await all_of.proxy(1, 7)
        await all_of.scrape()
        await all_of.bury(crashed)
        all_of.serving = None
        found = await all_of.scrape()
        assert found["envoy_http_rq_total"] == 7
        assert "envoy_server_uptime" not in found


async def test_one_that_hangs_costs_neither_the_others_nor_what_it_had_counted(
    tmp_path: Path, directory: RunDirectory
) -> None:
    async with scene(tmp_path, directory) as all_of:
        all_of.begin(limits=Limits(seconds=0.2))
        old, new = await all_of.proxy(1, 7), await all_of.proxy(2, 5)
        await all_of.scrape()
        old.hangs, new.requests = True, 6
        assert (await all_of.scrape())["envoy_http_rq_total"] == 13
        assert all_of.failures("epoch") == 1


async def test_who_waits_shorter_gets_what_is_there(tmp_path: Path, directory: RunDirectory) -> None:
    async with scene(tmp_path, directory) as all_of:
        all_of.begin(limits=Limits(seconds=50))
        hung = await all_of.proxy(1, 7)
        hung.hangs = True
        async with asyncio.timeout(PATIENCE):
            found = await all_of.scrape(**{"x-prometheus-scrape-timeout-seconds": "0.1"})
        assert found["proxy_agent_ready"] == 1
        assert "envoy_http_rq_total" not in found
        assert all_of.failures("epoch") == 1


@pytest.mark.parametrize("told", ["nonsense", "nan", "-1", "0"])
async def test_a_time_that_makes_no_sense_is_none(tmp_path: Path, directory: RunDirectory, told: str) -> None:
    async with scene(tmp_path, directory) as all_of:
        await all_of.proxy(1, 7)
        found = await all_of.scrape(**{"x-prometheus-scrape-timeout-seconds": told})
        assert found["envoy_http_rq_total"] == 7


async def test_a_candidate_that_does_not_answer_yet_is_no_failure(tmp_path: Path, directory: RunDirectory) -> None:
    async with scene(tmp_path, directory) as all_of:
        await all_of.proxy(1, 7)
        all_of.living.append(Proxy(2, tmp_path / "2", has_served=False))
        assert (await all_of.scrape())["envoy_http_rq_total"] == 7
        assert all_of.failures("epoch") == 0


@pytest.mark.parametrize("told", [b"# TYPE a untyped\na 1\nthis is no line\n", b"a 1\n" * 2])
async def test_the_valid_part_of_a_broken_text_is_exposed(tmp_path: Path, directory: RunDirectory, told: bytes) -> None:
    async with scene(tmp_path, directory) as all_of:
        proxy = await all_of.proxy(1)
        proxy.text = told
        assert (await all_of.scrape())["a"] == 1
        assert all_of.failures("epoch") == 1


async def test_a_text_without_an_end_is_left_out(tmp_path: Path, directory: RunDirectory) -> None:
    async with scene(tmp_path, directory) as all_of:
        all_of.begin(limits=Limits(size=100_000))
        proxy = await all_of.proxy(1)
        proxy.text = b"a 1\n" * 50_000
        assert "a" not in await all_of.scrape()
        assert all_of.failures("epoch") == 1


async def test_epochs_that_count_in_shared_memory_are_read_there(tmp_path: Path, directory: RunDirectory) -> None:
    async with scene(tmp_path, directory) as all_of:
        envoy, sidecar = await all_of.proxy(1, 7), await all_of.proxy(2)
        reserve(sidecar.home / "stats")
        writer = Writer.create(sidecar.home / "stats", epoch=2, pid=1, started_at=0, nonce=bytes(16))
        all_of.counted = Snapshot({"http.in.rq_total": 5}, {"server.uptime": 60, "http.in.rq_active": 2})
        envoy.active = 1
        found = await all_of.scrape()
        assert found["envoy_http_rq_total"] == 12
        assert found["envoy_server_uptime"] == 60
        assert not sidecar.asked
        await all_of.scraping.final_scrape(sidecar)
        assert not sidecar.asked
        writer.close()


async def test_counters_in_shared_memory_are_exposed_while_no_epoch_runs(
    tmp_path: Path, directory: RunDirectory
) -> None:
    async with scene(tmp_path, directory) as all_of:
        all_of.counted = Snapshot({"http.in.rq_total": 5})
        assert (await all_of.scrape())["envoy_http_rq_total"] == 5


@pytest.mark.parametrize("how", ["was_asked", "was_killed"])
async def test_an_epoch_that_is_on_its_way_out_need_not_answer(
    tmp_path: Path, directory: RunDirectory, how: str
) -> None:
    async with scene(tmp_path, directory) as all_of:
        proxy = await all_of.proxy(1, 7)
        await all_of.scrape()
        setattr(proxy, how, True)
        proxy.admin.place.unlink()
        assert (await all_of.scrape())["envoy_http_rq_total"] == 7
        assert all_of.failures("epoch") == 0


async def test_one_that_is_found_to_count_in_shared_memory_is_not_counted_twice(
    tmp_path: Path, directory: RunDirectory
) -> None:
    async with scene(tmp_path, directory) as all_of:
        sidecar = await all_of.proxy(1, 7)
        assert (await all_of.scrape())["envoy_http_rq_total"] == 7
        reserve(sidecar.home / "stats")
        writer = Writer.create(sidecar.home / "stats", epoch=1, pid=1, started_at=0, nonce=bytes(16))
        all_of.counted = Snapshot({"http.in.rq_total": 7})
        assert (await all_of.scrape())["envoy_http_rq_total"] == 7
        writer.close()


async def test_the_application_is_beside(tmp_path: Path, directory: RunDirectory) -> None:
    asked: list[Request] = []

    async def answer(request: Request) -> Response:
        asked.append(request)
        kind = (("content-type", "application/openmetrics-text; version=1.0.0"),)
        return Response(200, b'# TYPE app counter\napp_total{a="1"} 3 # {trace="x"} 1\n# EOF\n', kind)

    async with scene(tmp_path, directory) as all_of, application(answer) as url:
        all_of.begin(url)
        await all_of.proxy(1, 7)
        found = await all_of.scrape()
        assert (found["app_total"], found["envoy_http_rq_total"]) == (3, 7)
        response = await all_of.scraping.answer(Request("GET", "/metrics", (("accept", PROMETHEUS),)))
        assert isinstance(response.body, bytes)
        assert b'app_total{a="1"} 3 # {trace="x"} 1\n' in response.body
        assert [each.target for each in asked] == ["/app?x=1"] * 2
        assert [dict(each.headers)["accept"].split(";")[0] for each in asked] == [
            "text/plain",
            "application/openmetrics-text",
        ]


async def test_metrics_of_others_cannot_use_the_agents_names(tmp_path: Path, directory: RunDirectory) -> None:
    """Neither under a current name of the agent's metrics, nor under a possible one."""
    forged = b"proxy_agent_ready 7\n# TYPE proxy_agent_forged_total counter\nproxy_agent_forged_total 1\nown 3\n"
    async with scene(tmp_path, directory) as here:
        proxy = await here.proxy(1)
        proxy.text = forged
        told = await here.scrape()
        assert told["own"] == 3
        assert "proxy_agent_forged_total" not in told
        assert told["proxy_agent_ready"] in {0, 1}
        assert here.failures("epoch") == 1


@pytest.mark.parametrize("status", [200, 404])
async def test_an_application_metric_with_a_used_name_is_dropped_and_the_rest_exposed(
    tmp_path: Path, directory: RunDirectory, status: int
) -> None:
    async def answer(_: Request) -> Response:
        return Response(status, b"# TYPE proxy_agent_ready gauge\nproxy_agent_ready 7\napp 1\n")

    async with scene(tmp_path, directory) as all_of, application(answer) as url:
        all_of.begin(url)
        found = await all_of.scrape()
        assert found["proxy_agent_ready"] == 1
        assert ("app" in found) is (status == 200)
        assert all_of.failures("application") == 1


async def test_an_application_that_is_not_there_costs_nothing_but_itself(
    tmp_path: Path, directory: RunDirectory
) -> None:
    async with scene(tmp_path, directory) as all_of:
        all_of.begin("http://127.0.0.1:1/")
        await all_of.proxy(1, 7)
        assert (await all_of.scrape())["envoy_http_rq_total"] == 7
        assert all_of.failures("application") == 1


async def test_no_http_at_all_is_a_failure(tmp_path: Path, directory: RunDirectory) -> None:
    async def babble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x00\x01\r\n\r\n" * 1000)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with scene(tmp_path, directory) as all_of:
        all_of.begin(f"http://127.0.0.1:{port}/")
        assert (await all_of.scrape())["proxy_agent_ready"] == 1
        assert all_of.failures("application") == 1
    server.close()
    await server.wait_closed()


async def test_many_at_once_cost_as_much_as_one(tmp_path: Path, directory: RunDirectory) -> None:
    async with scene(tmp_path, directory) as all_of:
        proxy = await all_of.proxy(1, 7)
        asking = (all_of.scraping.answer(Request("GET", "/metrics")) for _ in range(100))
        bodies = {response.body for response in await asyncio.gather(*asking)}
        assert len(bodies) == len(proxy.asked) == 1


async def test_who_goes_away_takes_nothing_from_the_others(tmp_path: Path, directory: RunDirectory) -> None:
    async with scene(tmp_path, directory) as all_of:
        await all_of.proxy(1, 7)
        first, second = (asyncio.create_task(all_of.scrape()) for _ in range(2))
        while not all_of.scraping._round.texts:  # noqa: ASYNC110  # until both wait for the same text
            await asyncio.sleep(0)
        first.cancel()
        assert (await second)["envoy_http_rq_total"] == 7


async def test_a_client_that_prefers_openmetrics_gets_it(tmp_path: Path, directory: RunDirectory) -> None:
    async with scene(tmp_path, directory) as all_of:
        await all_of.proxy(1, 7)
        response = await all_of.scraping.answer(Request("GET", "/stats/prometheus", (("accept", PROMETHEUS),)))
        assert isinstance(response.body, bytes)
        assert dict(response.headers)["content-type"].startswith("application/openmetrics-text; version=1.0.0")
        families = list(openmetrics_families(response.body.decode()))  # type: ignore[no-untyped-call]
        names = {sample.name for family in families for sample in family.samples}
        assert {"envoy_http_rq_total", "proxy_agent_ready", "process_open_fds"} <= names


async def test_only_reading_is_allowed(tmp_path: Path, directory: RunDirectory) -> None:
    async with scene(tmp_path, directory) as all_of:
        assert (await all_of.scraping.answer(Request("POST", "/metrics"))).status == 405


async def test_without_merging_the_answer_is_passed_on_untouched(tmp_path: Path, directory: RunDirectory) -> None:
    async with scene(tmp_path, directory) as all_of:
        all_of.begin(merge=False)
        assert (await all_of.scraping.answer(Request("GET", "/metrics"))).status == 503
        proxy = await all_of.proxy(1)
        proxy.text = b"whatever \x00 it says\n" * 10_000
        request = Request("GET", "/metrics?usedonly", (("accept", "a/b"), ("cookie", "secret")))
        response = await all_of.scraping.answer(request)
        assert not isinstance(response.body, bytes)
        assert b"".join([part async for part in response.body]) == proxy.text
        assert proxy.asked[0].target == "/stats/prometheus?usedonly"
        headers = dict(proxy.asked[0].headers)
        assert headers["accept"] == "a/b"
        assert "cookie" not in headers
        await all_of.scraping.final_scrape(proxy)
        assert len(proxy.asked) == 1


async def test_without_merging_a_hanging_epoch_is_an_error(tmp_path: Path, directory: RunDirectory) -> None:
    async with scene(tmp_path, directory) as all_of:
        all_of.begin(merge=False, limits=Limits(seconds=0.1))
        (await all_of.proxy(1)).hangs = True
        assert (await all_of.scraping.answer(Request("GET", "/metrics"))).status == 503
        assert all_of.failures("epoch") == 1


@pytest.mark.parametrize("how", ["was_asked", "was_killed"])
async def test_without_merging_an_epoch_that_ends_while_it_is_asked_is_no_failure(
    tmp_path: Path, directory: RunDirectory, how: str
) -> None:
    async with scene(tmp_path, directory) as all_of:
        all_of.begin(merge=False, limits=Limits(seconds=PATIENCE))
        proxy = await all_of.proxy(1)
        proxy.hangs = True
        answering = asyncio.create_task(all_of.scraping.answer(Request("GET", "/metrics")))
        while not proxy.asked:  # noqa: ASYNC110  # until a request arrives
            await asyncio.sleep(0)
        setattr(proxy, how, True)
        await all_of.servers[1].close()
        assert (await answering).status == 503
        assert all_of.failures("epoch") == 0


async def test_a_memory_that_makes_no_sense_is_none(tmp_path: Path, directory: RunDirectory) -> None:
    (directory.path / "lineage.json").write_text(json.dumps({"gone": {"a": ["counter", {"a": "x"}]}}))
    async with scene(tmp_path, directory) as all_of:
        await all_of.proxy(1, 7)
        assert (await all_of.scrape())["envoy_http_rq_total"] == 7


def test_counters_in_shared_memory_have_the_admin_interfaces_names() -> None:
    counters = {"http.in.rq_total": 1, "cluster.a.b.upstream_rq_5xx": 2, "cluster.c.upstream_rq_503": 3, "x-y.z": 4}
    snapshot = Snapshot(counters, {"server.live": 1, "listener.0.0.0.0_80.downstream_cx_active": 2})
    body = prometheus(snapshot, {}).body
    assert isinstance(body, bytes)
    told = {name: (family.kind, family.samples) for name, family in read(body).families.items()}
    found = {name: (family.kind, family.samples) for name, family in exposition_of(snapshot, {}).families.items()}
    assert {name: (kind, {s: str(v) for s, v in samples.items()}) for name, (kind, samples) in found.items()} == told


def test_of_gauges_in_shared_memory_the_serving_epochs_counts_but_for_what_all_have_a_share_of() -> None:
    both = Snapshot(gauges={"server.live": 2, "server.uptime": 90, "http.in.downstream_cx_active": 12})
    told = exposition_of(both, {"server.live": 1, "server.uptime": 5, "http.in.downstream_cx_active": 2}).families
    values = [value for name in sorted(told) for value in told[name].samples.values()]
    assert values == [12, 1, 5]


def test_an_application_is_given_by_its_url() -> None:
    assert Application.parse("http://127.0.0.1:8080") == Application("127.0.0.1", 8080, "/metrics", "127.0.0.1:8080")
    assert Application.parse("http://[::1]/m?a=b") == Application("::1", 80, "/m?a=b", "[::1]")


@pytest.mark.parametrize(
    "url",
    ["https://a/", "ftp://a", "a:80", "", "http://", "http://a:b@c/", "http://a:99999/", "http://[::1", "/metrics"],
)
def test_what_is_no_such_url_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="cannot use --app-metrics"):
        Application.parse(url)
