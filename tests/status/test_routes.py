"""Each path has its handler; actions need permission."""

import asyncio
import gc
import json
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from agent.core.errors import MachineError
from agent.http.hosts import Handler
from agent.http.message import Request, Response
from agent.http.server import Server
from agent.stats.snapshot import Snapshot
from agent.status.health import Health
from agent.status.routes import Routes
from agent.status.statistics import Statistics
from tests.status.acting import Acting
from tests.status.clockwork import play
from tests.status.sample import overview
from tests.system.eventually import PATIENCE

HERE = "127.0.0.1"


async def metrics(_: Request) -> Response:
    return Response(200, b"proxy_agent_ready 1\n")


@asynccontextmanager
async def doors(
    actions: Acting | None, notes: list[str] | None = None, app_probes: Handler | None = None
) -> AsyncIterator[Routes]:
    made = Routes(
        overview,
        Health(lambda: ""),
        Statistics(lambda: Snapshot({"a.b": 1})),
        metrics,
        actions,
        (notes if notes is not None else []).append,
        app_probes,
    )
    try:
        yield made
    finally:
        await made.close()


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/", b"<!doctype html>"),
        ("/healthz/ready", b"ready"),
        ("/healthz/live", b"the loop turns"),
        ("/stats", b"a.b: 1"),
        ("/metrics", b"proxy_agent_ready 1"),
        ("/stats/prometheus", b"proxy_agent_ready 1"),
        ("/status/schema.json", b"schema"),
    ],
)
async def test_each_path_has_its_handler(path: str, says: bytes) -> None:
    async with doors(None) as made:
        response = await made.answer(Request("GET", path))
    assert response.status == 200
    assert isinstance(response.body, bytes)
    assert says in response.body


@pytest.mark.parametrize("path", ["/app-health/a/livez", "/app-lifecycle/a/prestopz"])
async def test_probes_of_the_application_have_their_handler_or_are_a_bad_request(path: str) -> None:
    async def probe(request: Request) -> Response:
        return Response(200, request.path.encode())

    async with doors(None, app_probes=probe) as made:
        assert (await made.answer(Request("GET", path))).body == path.encode()
        assert (await made.answer(Request("GET", "/app-healthz"))).status == 404
    async with doors(None) as made:
        response = await made.answer(Request("GET", path))
    assert (response.status, response.body) == (
        400,
        f"no prober is configured for {path}; see --app-probers\n".encode(),
    )


async def test_the_status_is_the_overview() -> None:
    async with doors(None) as made:
        response = await made.answer(Request("GET", "/status?pretty"))
        refused = await made.answer(Request("POST", "/status"))
    assert isinstance(response.body, bytes)
    assert json.loads(response.body)["epoch"] == 7
    assert refused.status == 405


async def test_the_status_is_json_that_no_cache_keeps() -> None:
    async with doors(None) as made:
        response = await made.answer(Request("HEAD", "/status"))
        refused = await made.answer(Request("DELETE", "/status"))
    assert (response.status, response.headers) == (
        200,
        (("content-type", "application/json"), ("cache-control", "no-store")),
    )
    assert dict(refused.headers) == {"allow": "GET, HEAD", "content-type": "text/plain"}


async def test_the_events_are_those_of_the_stream_and_a_change_reaches_it() -> None:
    async with doors(None) as made:
        response = await made.answer(Request("GET", "/events"))
        assert made.stream.watchers == 1
        assert not isinstance(response.body, bytes)
        parts = aiter(response.body)
        async with asyncio.timeout(PATIENCE):
            assert (await anext(parts)).startswith(b"retry: 1000\ndata: {")
            made.changed()
            assert (await anext(parts)).startswith(b"data: {")


@pytest.mark.parametrize(("descriptors", "watchers"), [(64, 2), (1024, 32), (512, 16), (1 << 20, 32)])
async def test_event_streams_leave_descriptors_for_probes(
    descriptors: int, watchers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (descriptors, 1 << 20))
    async with doors(None) as made:
        answers = [await made.answer(Request("GET", "/events")) for _ in range(watchers + 1)]
    assert [answer.status for answer in answers] == [200] * watchers + [503]


def test_a_status_is_made_again_after_a_tenth_of_a_second() -> None:
    async def ask() -> list[int]:
        epochs = iter(range(1, 10))
        made = Routes(
            lambda: replace(overview(), epoch=next(epochs)),
            Health(str),
            Statistics(Snapshot),
            metrics,
            None,
            lambda _: None,
        )
        found = []
        for seconds in (0, 0.05, 0.04, 0.02):
            await asyncio.sleep(seconds)  # of simulated time
            found.append(await told(made, Request("GET", "/status")))
        await made.close()
        return found

    assert play(ask()) == [1, 1, 1, 2]


async def test_who_asks_again_gets_the_same_until_something_has_changed() -> None:
    epochs = iter(range(1, 10))
    made = Routes(
        lambda: replace(overview(), epoch=next(epochs)),
        Health(str),
        Statistics(Snapshot),
        metrics,
        None,
        lambda _: None,
    )
    ask = Request("GET", "/status")
    assert await told(made, ask) == await told(made, ask) == 1
    made.changed()
    assert await told(made, ask) == 2
    await made.close()


async def told(made: Routes, request: Request) -> int:
    """The epoch in the status."""
    response = await made.answer(request)
    assert isinstance(response.body, bytes)
    epoch: int = json.loads(response.body)["epoch"]
    return epoch


async def test_an_unknown_path_names_the_existing_ones() -> None:
    async with doors(None) as made:
        response = await made.answer(Request("GET", "/nowhere"))
    assert (response.status, response.body) == (404, b"there is no /nowhere; see / or /status\n")


@pytest.mark.parametrize(
    ("path", "asked", "word"), [("/drain", "drain", b"draining\n"), ("/quitquitquit", "stop", b"stopping\n")]
)
@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
async def test_what_acts_does_so_for_this_machine(path: str, asked: str, word: bytes, address: str) -> None:
    acting, notes = Acting(), list[str]()
    async with doors(acting, notes) as made:
        response = await made.answer(Request("POST", path, address=address))
        while not acting.asked or made._begun:  # noqa: ASYNC110  # the second: an action that has ended is forgotten
            await asyncio.sleep(0)
    assert (response.status, response.body, acting.asked) == (200, word, [asked])
    assert notes == [f"{path[1:]} was requested by HTTP from {address}"]


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        ("?now", "stop now"),
        ("?now=1", "stop now"),
        ("?x=1&now=true", "stop now"),
        ("?", "stop"),
        ("?now=0", "stop"),
        ("?now=false", "stop"),
        ("?nowhere", "stop"),
    ],
)
async def test_a_stop_may_be_asked_for_without_a_drain(query: str, asked: str) -> None:
    acting = Acting()
    async with doors(acting) as made:
        response = await made.answer(Request("POST", f"/quitquitquit{query}", address=HERE))
        await acting.asked_something.wait()
    assert (response.status, acting.asked) == (200, [asked])


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (Request("GET", "/drain", address=HERE), 405),
        (Request("POST", "/drain", address="192.0.2.1"), 403),
        (Request("POST", "/drain", address="fe80::1%eth0"), 403),
        (Request("POST", "/drain", (("origin", "http://127.0.0.1:15020"),), address=HERE), 403),
        (Request("POST", "/drain", (("sec-fetch-site", "cross-site"),), address=HERE), 403),
        (Request("POST", "/quitquitquit"), 403),
    ],
    ids=["get", "elsewhere", "link-local", "browser", "browser without an origin", "nobody"],
)
async def test_actions_are_refused_to_other_clients(request_: Request, status: int) -> None:
    acting = Acting()
    async with doors(acting) as made:
        assert (await made.answer(request_)).status == status
    assert acting.asked == []


async def test_what_acts_does_not_unless_the_operator_allows_it() -> None:
    async with doors(None) as made:
        response = await made.answer(Request("POST", "/drain", address=HERE))
    assert response.status == 403
    assert b"--http-actions" in (response.body if isinstance(response.body, bytes) else b"")


async def test_an_action_that_is_refused_is_answered_and_no_error_of_the_loop() -> None:
    unhandled: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
    acting = Acting()
    acting.refusal = MachineError("cannot drain: nothing serves")
    async with doors(acting) as made:
        response = await made.answer(Request("POST", "/drain", address=HERE))
        while not acting.asked:  # noqa: ASYNC110  # one iteration of the loop
            await asyncio.sleep(0)
    gc.collect()
    await asyncio.sleep(0)
    assert (response.status, response.body, unhandled) == (200, b"draining\n", [])


async def test_a_drain_that_goes_on_is_cancelled_when_the_agent_closes() -> None:
    acting = Acting()
    acting.may_go_on.clear()
    async with asyncio.timeout(PATIENCE), doors(acting) as made:
        await made.answer(Request("POST", "/drain", address=HERE))
        await acting.asked_something.wait()
    assert asyncio.all_tasks() == {asyncio.current_task()}, "it is waited for"
    assert not acting.ended.is_set()


async def test_a_request_has_its_client_address() -> None:
    seen: list[str | None] = []

    async def answer(request: Request) -> Response:
        seen.append(request.address)
        return Response(200)

    server, listener = Server(answer), socket.create_server((HERE, 0))
    address = listener.getsockname()
    await server.start(listener)
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    await reader.read()
    writer.close()
    await server.close()
    assert seen == [HERE]
