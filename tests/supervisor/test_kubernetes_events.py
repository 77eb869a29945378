"""Warnings of the log are sent as events of the pod: against an API server of the test, over real TLS."""

import asyncio
import contextlib
import json
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent.host import log
from agent.host.service_account import Pod, ServiceAccount
from agent.supervisor import kubernetes_events
from agent.supervisor.kubernetes_events import KubernetesEvents, PodEvent
from tests.host.pods import BOUND, POD
from tests.pki import Authority
from tests.system.eventually import PATIENCE

EVENTS = "/api/v1/namespaces/prod/events"
Call = tuple[str, str, dict[str, Any]]  # method, path, body


@dataclass
class Cluster:
    """An API server that stores events by name. It answers with each status of `moods` once, before it works."""

    calls: list[Call] = field(default_factory=list)
    events: dict[str, dict[str, Any]] = field(default_factory=dict)
    moods: list[int] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)
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
            self.asked.notify_all()
        status = self.moods.pop(0) if self.moods else self.answer(method.upper(), path, body)
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
        """Wait for this many calls."""
        async with asyncio.timeout(PATIENCE), self.asked:
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


async def test_only_a_persistent_warning_is_sent_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes_events, "AGAIN", 0.3)
    cluster = Cluster()
    async with announcing_to(cluster, tmp_path, standing=("it does not fit",)):
        refuse()
        log.log_event(logging.WARNING, "epoch.crashed", "that is over")
        await cluster.told(4)
    counts = {event["reason"]: event["count"] for event in cluster.events.values()}
    assert counts.pop("EpochCrashed") == 1
    assert counts["CertificateRefused"] >= 3


async def test_a_server_that_is_busy_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes_events, "wait_exponential", lambda **_: lambda _: 0.01)
    cluster = Cluster(moods=[500, 429])
    async with announcing_to(cluster, tmp_path):
        refuse()
        await cluster.told(3)
    assert len(cluster.events) == 1


async def test_a_missing_permission_is_logged_once_and_all_events_are_sent_once_it_is_granted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kubernetes_events, "SOON", 0.2)
    cluster = Cluster(moods=[403, 403, 403])
    async with announcing_to(cluster, tmp_path):
        refuse("first")
        refuse("second")
        await cluster.told(5)
        await asyncio.sleep(0.3)
    own = [record.getMessage() for record in caplog.records if getattr(record, "event", "") == "events.untold"]
    assert len(own) == 1
    assert "let the pod's service account create and patch events in namespace prod" in own[0]
    assert {event["message"] for event in cluster.events.values()} == {"first", "second"}
    assert len(cluster.calls) == 5


@pytest.mark.parametrize("status", [301, 400, 404, 422])
async def test_an_answer_that_is_no_success_is_not_taken_for_one(
    status: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = Cluster(moods=[status])
    async with announcing_to(cluster, tmp_path):
        refuse()
        await cluster.told(1)
    assert [getattr(each, "event", "") for each in caplog.records].count("events.untold") == 1


async def test_a_flood_is_cut_off_and_the_rest_follows_slowly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kubernetes_events, "SOON", 0.05)
    monkeypatch.setattr(kubernetes_events, "LATER", 0.05)
    monkeypatch.setattr(kubernetes_events, "_REFILL", 0.5)
    cluster = Cluster()
    async with announcing_to(cluster, tmp_path):
        for number in range(40):
            refuse(f"number {number}")
        await cluster.told(25)
        early = [event["message"] for event in cluster.events.values()]
        await cluster.told(28)
    assert set(early) <= {f"number {number}" for number in range(26)}
    assert len(cluster.events) < 40
    assert [getattr(each, "event", "") for each in caplog.records].count("events.cut") == 1


def test_another_pod_of_the_same_name_has_events_of_its_own() -> None:
    news = PodEvent("certificate.refused", "x" * 100, warns=True)
    assert news.key(POD) != news.key(Pod("prod", "app-1", "u-2"))
    assert len(news.key(Pod("prod", "p" * 253, "u"))) <= 253
    assert news.event(POD, datetime(2026, 11, 1, tzinfo=UTC))["firstTimestamp"] == "2026-11-01T00:00:00Z"
