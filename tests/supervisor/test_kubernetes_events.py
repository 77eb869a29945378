"""Warnings of the log are sent as events of the pod: against an API server of the test, over real TLS."""

import asyncio
import contextlib
import json
import logging
import ssl
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent.core.errors import MachineError
from agent.host import clock, log
from agent.host.service_account import Pod, ServiceAccount
from agent.supervisor.kubernetes_events import KubernetesEvents, PodEvent
from tests.host.pods import BOUND, POD
from tests.pki import Authority
from tests.supervisor.conftest import Time
from tests.supervisor.stand_ins import NOW

pytestmark = pytest.mark.usefixtures("time")

EVENTS = "/api/v1/namespaces/prod/events"
Call = tuple[str, str, dict[str, Any]]  # method, path, body


@dataclass
class Cluster:
    """An API server that stores events by name. It answers with each status of `moods` once, before it works."""

    calls: list[Call] = field(default_factory=list)
    events: dict[str, dict[str, Any]] = field(default_factory=dict)
    moods: list[int] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    asked: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = next(int(row.split(":")[1]) for row in head.splitlines() if row.startswith("content-length"))
        method, path = head.split()[:2]
        body = json.loads(await reader.readexactly(length))
        self.headers.append(head)
        async with self.asked:
            self.calls.append((method.upper(), path, body))
            self.times.append(clock.monotonic() - NOW)
            self.asked.notify_all()
        status = self.moods.pop(0) if self.moods else self.answer(method.upper(), path, body)
        if not status:  # it never answers
            await reader.read()
            writer.close()
            return
        writer.write(f"HTTP/1.1 {status} x\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}".encode())
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    def answer(self, method: str, path: str, body: dict[str, Any]) -> int:
        """Answer as an API server does."""
        name = path.removeprefix(EVENTS).strip("/") or body["metadata"]["name"]
        if method == "POST":
            if name in self.events:
                return 409
            self.events[name] = body
            return 201
        if name not in self.events:
            return 404
        self.events[name] |= body
        return 200

    async def told(self, count: int) -> list[Call]:
        """Wait for so many calls."""
        async with asyncio.timeout(100_000), self.asked:
            await self.asked.wait_for(lambda: len(self.calls) >= count)
        return self.calls


@asynccontextmanager
async def listening(cluster: Cluster, directory: Path) -> AsyncIterator[ServiceAccount]:
    """Listen on loopback; yield the account of a pod."""
    authority = Authority.create("cluster")
    leaf = authority.issue(["127.0.0.1"])
    for name, content in (("crt", leaf.chain_pem), ("key", leaf.key_pem), ("ca.crt", authority.pem)):
        (directory / name).write_bytes(content)
    (directory / "token").write_text(BOUND)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(directory / "crt", directory / "key")
    server = await asyncio.start_server(cluster.talk, "127.0.0.1", 0, ssl=context)
    host, port = server.sockets[0].getsockname()
    try:
        yield ServiceAccount.find({"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": str(port)}, directory)
    finally:
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def announcing_to(
    cluster: Cluster, directory: Path, standing: tuple[str, ...] = ()
) -> AsyncIterator[KubernetesEvents]:
    """Run the sender of events during the block."""
    async with listening(cluster, directory) as account:
        announcer = KubernetesEvents(lambda: standing)
        announcer.begin(lambda: account)
        try:
            yield announcer
        finally:
            await announcer.close()


def refuse(text: str = "cannot use /etc/certs/tls.key: it does not fit") -> None:
    log.log_event(logging.WARNING, "certificate.refused", text)


async def test_a_warning_is_an_event_of_the_pod(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    cluster = Cluster()
    async with announcing_to(cluster, tmp_path):
        refuse()
        log.log_event(logging.INFO, "rotation.done", "nobody needs to know")
        log.log_event(logging.INFO, "certificate.repaired", "/etc/certs/tls.key is usable again")
        await cluster.told(2)
    (bad, good) = cluster.events.values()
    assert bad["involvedObject"] == {
        "apiVersion": "v1",
        "kind": "Pod",
        "namespace": "prod",
        "name": "app-1",
        "uid": "u-1",
    }
    assert (bad["type"], bad["reason"]) == ("Warning", "CertificateRefused")
    assert bad["message"] == "cannot use /etc/certs/tls.key: it does not fit"
    assert (good["type"], good["reason"]) == ("Normal", "CertificateRepaired")
    assert f"authorization: bearer {BOUND.lower()}" in cluster.headers[0]


async def test_the_same_again_is_counted(tmp_path: Path) -> None:
    cluster = Cluster()
    async with announcing_to(cluster, tmp_path):
        for _ in range(3):
            refuse()
        await cluster.told(3)
    (event,) = cluster.events.values()
    assert event["count"] == 3
    assert [method for method, _, _ in cluster.calls] == ["POST", "PATCH", "PATCH"]


async def test_an_event_of_an_earlier_agent_is_not_duplicated(tmp_path: Path) -> None:
    cluster = Cluster()
    for _ in range(2):
        async with announcing_to(cluster, tmp_path):
            refuse()
            before = len(cluster.calls)
            await cluster.told(before + 1)
    assert len(cluster.events) == 1
    assert [method for method, _, _ in cluster.calls] == ["POST", "POST", "PATCH"]


async def test_an_event_that_the_cluster_has_deleted_is_created_again(tmp_path: Path) -> None:
    cluster = Cluster()
    async with announcing_to(cluster, tmp_path):
        refuse()
        await cluster.told(1)
        cluster.events.clear()
        refuse()
        await cluster.told(3)
        (event,) = cluster.events.values()
        assert event["count"] == 1
        refuse()
        await cluster.told(4)
    assert event["count"] == 2


async def test_what_still_stands_is_told_again_every_half_hour_and_nothing_else(tmp_path: Path, time: Time) -> None:
    cluster = Cluster()
    async with announcing_to(cluster, tmp_path, standing=("it does not fit",)):
        refuse()
        log.log_event(logging.WARNING, "epoch.crashed", "that is over")
        await cluster.told(2)
        time.leap(1799)
        await asyncio.sleep(0.5)
        assert len(cluster.calls) == 2
        await cluster.told(4)
        assert time.now == NOW + 3600
    counts = {event["reason"]: event["count"] for event in cluster.events.values()}
    assert counts == {"EpochCrashed": 1, "CertificateRefused": 3}


async def test_a_server_that_is_busy_is_asked_again(tmp_path: Path, time: Time) -> None:
    cluster = Cluster(moods=[500, 429])
    async with announcing_to(cluster, tmp_path):
        refuse()
        await cluster.told(3)
    assert len(cluster.events) == 1


async def test_a_right_that_is_missing_is_said_once_with_the_way_out_and_all_is_told_once_it_is_there(
    tmp_path: Path, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = Cluster(moods=[403, 403, 403])
    async with announcing_to(cluster, tmp_path):
        refuse("first")
        refuse("second")
        await cluster.told(5)
        assert NOW + 90 < time.now < NOW + 200
        await asyncio.sleep(1000)
    own = [record.getMessage() for record in caplog.records if getattr(record, "event", "") == "events.untold"]
    assert len(own) == 1
    assert "create and patch events in namespace prod" in own[0]
    assert {event["message"] for event in cluster.events.values()} == {"first", "second"}
    assert len(cluster.calls) == 5


@pytest.mark.parametrize("status", [300, 301, 400, 404, 422])
async def test_an_answer_that_is_no_success_is_not_taken_for_one(
    status: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = Cluster(moods=[status])
    async with announcing_to(cluster, tmp_path):
        refuse()
        await cluster.told(1)
    assert [getattr(each, "event", "") for each in caplog.records].count("events.untold") == 1


async def test_a_flood_is_cut_off_after_25_and_the_rest_follows_at_one_in_five_minutes(
    tmp_path: Path, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = Cluster()
    async with announcing_to(cluster, tmp_path):
        for number in range(40):
            refuse(f"number {number}")
        await cluster.told(25)
        await asyncio.sleep(1)
        assert [event["message"] for event in cluster.events.values()] == [f"number {number}" for number in range(25)]
        await asyncio.sleep(900)
        assert 27 <= len(cluster.events) <= 28
    assert [getattr(each, "event", "") for each in caplog.records].count("events.cut") == 1


def test_another_pod_of_the_same_name_has_events_of_its_own() -> None:
    news = PodEvent("certificate.refused", "x" * 100, warns=True)
    assert news.key(POD) != news.key(Pod("prod", "app-1", "u-2"))
    assert len(news.key(Pod("prod", "p" * 253, "u"))) <= 253
    assert news.event(POD, datetime(2026, 11, 1, tzinfo=UTC))["firstTimestamp"] == "2026-11-01T00:00:00Z"


# What is sent


@pytest.mark.parametrize(
    ("level", "name", "sent"),
    [
        (logging.ERROR, "service.down", True),
        (logging.WARNING, "certificate.refused", True),
        (logging.INFO, "epoch.serving", False),
        (logging.INFO, "certificate.repaired", True),
        (logging.INFO, "service.answers", True),
        (logging.WARNING, "events.untold", False),
        (logging.ERROR, "events.cut", False),
    ],
)
def test_warnings_and_their_ends_are_sent_but_for_those_about_sending(level: int, name: str, sent: bool) -> None:
    news = PodEvent.of(log.LogEvent(level, name, "why", 7))
    assert news == (PodEvent(name, "why", warns=level >= logging.WARNING) if sent else None)


@pytest.mark.parametrize(("length", "kept"), [(1023, 1023), (1024, 1024), (5000, 1024)])
def test_a_text_is_as_long_as_the_api_takes(length: int, kept: int) -> None:
    news = PodEvent.of(log.LogEvent(logging.ERROR, "bug", "x" * length))
    assert news is not None
    assert len(news.text) == kept


@pytest.mark.parametrize(
    ("name", "reason"),
    [("bug", "Bug"), ("certificate.refused", "CertificateRefused"), ("run_directory.unusable", "RunDirectoryUnusable")],
)
def test_a_reason_is_in_the_style_of_kubernetes(name: str, reason: str) -> None:
    assert PodEvent(name, "", warns=True).reason == reason


def test_the_name_of_an_event_is_that_of_its_pod_and_a_digest() -> None:
    news = PodEvent("bug", "why", warns=True)
    pod, _, digest = news.key(POD).rpartition(".")
    assert (pod, len(digest), digest.isalnum()) == ("app-1", 16, True)
    assert news.key(Pod("prod", "p" * 300, "u")).startswith("p" * 200 + ".")
    assert len({news.key(POD), PodEvent("bug", "how", warns=True).key(POD), PodEvent("gub", "why", True).key(POD)}) == 3


def test_an_event_names_its_source_and_its_time() -> None:
    event = PodEvent("bug", "why", warns=True).event(POD, datetime(2026, 11, 1, 1, 2, 3, 999999, tzinfo=UTC))
    assert event["metadata"] == {"name": PodEvent("bug", "why", warns=True).key(POD), "namespace": "prod"}
    assert (event["apiVersion"], event["kind"], event["count"]) == ("v1", "Event", 1)
    assert event["source"] == {"component": "proxy-agent"}
    assert (event["reportingComponent"], event["reportingInstance"]) == ("proxy-agent", "app-1")
    assert event["firstTimestamp"] == event["lastTimestamp"] == "2026-11-01T01:02:03Z"


async def test_a_repetition_has_its_own_time(tmp_path: Path, time: Time) -> None:
    cluster = Cluster()
    async with announcing_to(cluster, tmp_path):
        refuse()
        await cluster.told(1)
        time.leap(60)
        refuse()
        await cluster.told(2)
    (event,) = cluster.events.values()
    assert (event["firstTimestamp"], event["lastTimestamp"]) == ("2026-05-04T12:00:00Z", "2026-05-04T12:01:00Z")


async def test_a_body_is_of_the_type_of_its_method(tmp_path: Path) -> None:
    cluster = Cluster()
    async with announcing_to(cluster, tmp_path):
        refuse()
        refuse()
        await cluster.told(2)
    created, counted = cluster.headers
    assert "content-type: application/json\r\n" in created
    assert "content-type: application/merge-patch+json\r\n" in counted
    assert all("accept: application/json\r\n" in each for each in cluster.headers)


async def test_an_event_of_an_earlier_agent_keeps_its_count(tmp_path: Path) -> None:
    cluster = Cluster(moods=[409])
    cluster.events["x"] = {}
    async with announcing_to(cluster, tmp_path):
        refuse()
        _, (method, _, body) = await cluster.told(2)
    assert (method, list(body)) == ("PATCH", ["lastTimestamp"])


async def test_a_warning_from_another_thread_is_sent_too(tmp_path: Path) -> None:
    cluster = Cluster()
    async with announcing_to(cluster, tmp_path):
        thread = threading.Thread(target=refuse)
        thread.start()
        thread.join()
        await cluster.told(1)


# When there is trouble


async def test_a_right_that_is_missing_is_asked_for_less_and_less_often(tmp_path: Path) -> None:
    cluster = Cluster(moods=[403] * 10)
    async with announcing_to(cluster, tmp_path):
        refuse()
        await cluster.told(6)
    assert [round(at) for at in cluster.times] == [0, 30, 90, 210, 330, 450]


async def test_after_a_success_the_intervals_are_short_again(tmp_path: Path) -> None:
    cluster = Cluster(moods=[403, 403, 201, 403])
    async with announcing_to(cluster, tmp_path):
        refuse("first")
        await cluster.told(3)
        refuse("second")
        await cluster.told(5)
    assert [round(at) for at in cluster.times] == [0, 30, 90, 90, 120]


async def test_the_newest_is_tried_first_and_the_others_follow(tmp_path: Path) -> None:
    cluster = Cluster(moods=[403, 403])
    async with announcing_to(cluster, tmp_path):
        refuse("first")
        refuse("second")
        calls = await cluster.told(4)
    assert [body["message"] for _, _, body in calls] == ["first", "second", "second", "first"]
    assert cluster.times[3] - cluster.times[2] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "401; let the pod's service account create and patch events in namespace prod"),
        (403, "403; let the pod's service account create and patch events in namespace prod"),
        (422, "it answers 422"),
        (301, "it answers 301"),
    ],
)
async def test_a_refusal_is_not_tried_again_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, status: int, words: str
) -> None:
    cluster = Cluster(moods=[status])
    async with announcing_to(cluster, tmp_path):
        refuse()
        await cluster.told(2)
    assert [round(at) for at in cluster.times] == [0, 30]
    assert words in caplog.text


@pytest.mark.parametrize("status", [429, 500, 503, 599])
async def test_a_server_in_trouble_is_asked_five_times_in_a_row(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    cluster = Cluster(moods=[status] * 5)
    async with announcing_to(cluster, tmp_path):
        refuse()
        await cluster.told(5)
        await asyncio.sleep(1)
        assert f"it answers {status}" in caplog.text
        await cluster.told(6)
    assert [round(at) for at in cluster.times] == [0, 1, 3, 7, 15, 45]


async def test_a_server_that_never_answers_is_given_up_by_and_by(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, time: Time
) -> None:
    cluster = Cluster(moods=[0] * 5)
    async with announcing_to(cluster, tmp_path):
        refuse()
        await cluster.told(6)
    assert [round(at) for at in cluster.times] == [0, 11, 23, 37, 55, 95]
    assert "127.0.0.1:" in caplog.text
    assert "does not answer" in caplog.text


@pytest.mark.parametrize("status", [200, 202, 299])
async def test_every_success_is_one(tmp_path: Path, caplog: pytest.LogCaptureFixture, status: int) -> None:
    cluster = Cluster(moods=[status])
    async with announcing_to(cluster, tmp_path):
        refuse()
        await asyncio.sleep(1000)
    assert len(cluster.calls) == 1
    assert "events.untold" not in {getattr(each, "event", "") for each in caplog.records}


async def test_each_row_of_failures_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster(moods=[403, 403, 201, 403])
    async with announcing_to(cluster, tmp_path):
        refuse("first")
        await cluster.told(3)
        refuse("second")
        await cluster.told(5)
    assert [getattr(each, "event", "") for each in caplog.records].count("events.untold") == 2


async def test_refusals_use_up_nothing_of_the_burst(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster(moods=[403] * 3)
    async with announcing_to(cluster, tmp_path) as announcer:
        announcer._tokens = 1.0
        for number in range(3):
            refuse(f"number {number}")
        await cluster.told(3)
    assert "events.cut" not in {getattr(each, "event", "") for each in caplog.records}


async def test_a_refusal_does_not_add_to_the_burst(tmp_path: Path) -> None:
    cluster = Cluster(moods=[403])
    async with announcing_to(cluster, tmp_path) as announcer:
        announcer._tokens = 2.0
        for number in range(4):
            refuse(f"number {number}")
        await asyncio.sleep(1)
        assert [body["message"] for _, _, body in cluster.calls] == ["number 0", "number 1", "number 2"]


async def test_one_more_is_allowed_every_five_minutes(time: Time) -> None:
    announcer = KubernetesEvents(tuple)
    announcer._tokens = 0.0
    time.leap(299.9)
    assert not announcer._may_tell()
    time.leap(0.2)
    assert announcer._may_tell()
    assert not announcer._may_tell()
    await announcer.close()


async def test_a_burst_that_has_refilled_may_be_cut_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster()
    async with announcing_to(cluster, tmp_path) as announcer:
        for _ in range(2):
            announcer._tokens, announcer._filled_at = 2.0, clock.monotonic()
            for number in range(3):
                refuse(f"number {number}")
            await asyncio.sleep(1)
            assert len(cluster.calls) == 2
            await asyncio.sleep(3600)
            cluster.calls.clear()
    assert [getattr(each, "event", "") for each in caplog.records].count("events.cut") == 2


async def test_more_than_a_hundred_that_wait_are_dropped(tmp_path: Path) -> None:
    cluster = Cluster(moods=[0])
    async with announcing_to(cluster, tmp_path) as announcer:
        for number in range(150):
            refuse(f"number {number}")
        await asyncio.sleep(0)
        assert announcer._news.qsize() == 100


def noted(announcer: KubernetesEvents, count: int) -> list[PodEvent]:
    """Let so many events have been sent once."""
    news = [PodEvent("bug", str(number), warns=True) for number in range(count)]
    for each in news:
        announcer._note(each, 1)
    return news


async def test_the_counts_of_a_hundred_events_are_remembered() -> None:
    announcer = KubernetesEvents(tuple)
    news = noted(announcer, 101)
    assert list(announcer._counts) == news[1:]
    announcer._note(news[1], 2)
    assert list(announcer._counts) == [*news[2:], news[1]]
    assert announcer._counts[news[1]] == 2
    await announcer.close()


# Begin and end


async def test_without_a_cluster_nothing_is_sent_and_that_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def find() -> ServiceAccount:
        message = "cannot find the API server"
        raise MachineError(message)

    announcer = KubernetesEvents(tuple)
    announcer.begin(find)
    refuse()
    await asyncio.sleep(1)
    assert announcer._news.empty()
    await announcer.close()
    own = [each for each in caplog.records if getattr(each, "event", "") == "events.unavailable"]
    assert [each.levelno for each in own] == [logging.WARNING]
    assert "cannot find the API server" in own[0].getMessage()


async def test_what_is_queued_at_the_end_is_still_sent(tmp_path: Path, time: Time) -> None:
    cluster = Cluster()
    async with announcing_to(cluster, tmp_path):
        for number in range(3):
            refuse(f"number {number}")
        await asyncio.sleep(0)
    assert len(cluster.events) == 3
    assert time.now == NOW
    assert "events" not in {task.get_name() for task in asyncio.all_tasks()}


async def test_a_server_that_does_not_answer_keeps_the_end_for_a_second_at_most(tmp_path: Path, time: Time) -> None:
    cluster = Cluster(moods=[0])
    async with announcing_to(cluster, tmp_path):
        refuse()
        await cluster.told(1)
    assert time.now == NOW + 1


async def test_nothing_is_queued_after_the_end(tmp_path: Path) -> None:
    cluster = Cluster()
    async with announcing_to(cluster, tmp_path) as announcer:
        await announcer.close()
        refuse()
        await asyncio.sleep(0)
        assert announcer._news.empty()
    assert not cluster.calls
