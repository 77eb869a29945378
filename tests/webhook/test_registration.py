"""The registration, against a small API server over TLS."""

import asyncio
import copy
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.core.errors import MachineError
from agent.host.disk_thread import DiskThread
from agent.host.service_account import ServiceAccount
from agent.webhook import registration
from agent.webhook.ca_bundle import Authorities, authorities
from agent.webhook.registration import Registration
from tests.pki import Authority
from tests.processes.harness import until
from tests.webhook.cluster import NAME, Cluster, configuration

FIRST, SECOND = Authority.create("first"), Authority.create("second")


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry at once."""
    monkeypatch.setattr(registration, "SOON", 0.01)
    monkeypatch.setattr(registration, "LATER", 0.01)


@asynccontextmanager
async def registering(
    cluster: Cluster, directory: Path, find: Callable[[], ServiceAccount] | None = None
) -> AsyncIterator[Registration]:
    """Run a registration of FIRST; the CA file is `ca.pem` in the directory."""
    path = directory / "ca.pem"
    path.write_bytes(FIRST.pem)
    async with cluster.listening(directory) as account:
        disk = DiskThread(lambda: made.reload_soon(), notice=lambda _: None)  # noqa: PLW0108  # made later
        made = Registration(NAME, path, disk, find or (lambda: account))
        await disk.watch([str(path)])
        running = asyncio.ensure_future(made.run())
        try:
            yield made
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await disk.close()


def of(*given: Authority) -> Authorities:
    return tuple(each for authority in given for each in authorities("", authority.pem))


async def test_the_authorities_are_written_and_nothing_else_is_changed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    cluster = Cluster()
    async with registering(cluster, tmp_path) as made:
        await until(lambda: made.results["written"] == 1)
    assert cluster.bundles() == [of(FIRST), of(FIRST)]
    assert cluster.calls == [("GET", ""), ("PATCH", "application/json-patch+json")]
    stripped = copy.deepcopy(cluster.stored)
    assert stripped is not None
    for each in stripped["webhooks"]:
        del each["clientConfig"]["caBundle"]
    stripped["metadata"]["resourceVersion"] = "1"
    assert stripped == configuration()
    assert "are registered in" in caplog.text


async def test_what_is_registered_is_not_written_again(tmp_path: Path) -> None:
    cluster = Cluster()
    async with registering(cluster, tmp_path) as made:
        await until(lambda: made.results["written"] == 1)
        made.reload_soon()
        await until(lambda: made.results["unchanged"] == 1)
    assert [method for method, _ in cluster.calls] == ["GET", "PATCH", "GET"]


async def test_a_change_of_the_file_is_registered_beside_the_authority_before(tmp_path: Path) -> None:
    cluster = Cluster()
    async with registering(cluster, tmp_path):
        await until(lambda: cluster.bundles()[0] == of(FIRST))
        (tmp_path / "new").write_bytes(SECOND.pem)
        (tmp_path / "new").rename(tmp_path / "ca.pem")
        await until(lambda: cluster.bundles() == [of(SECOND, FIRST)] * 2)


async def test_a_configuration_that_is_put_back_is_repaired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "AGAIN", 0.01)
    cluster = Cluster()
    async with registering(cluster, tmp_path):
        await until(lambda: cluster.bundles()[0] == of(FIRST))
        cluster.stored = configuration()
        await until(lambda: cluster.bundles() == [of(FIRST), of(FIRST)])


@pytest.mark.parametrize(
    ("moods", "why"),
    [
        ([403] * 3, "the API server answers 403; let the service account of the pod in prod get and patch it"),
        ([500] * 3, "the API server answers 500"),
        ([0] * 3, "cannot parse the answer from 127.0.0.1"),
        ([200, 409], "it was changed at the same time"),
        ([200, 422], "it was changed at the same time"),
    ],
)
async def test_a_failure_is_logged_once_and_retried(
    moods: list[int], why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = Cluster(moods=[*moods])
    async with registering(cluster, tmp_path) as made:
        await until(lambda: made.results["written"] == 1)
    assert [why in each.message for each in caplog.records if each.levelno == logging.ERROR] == [True]
    assert made.results["failed"] == (1 if moods[0] == 200 else 3)
    assert cluster.bundles() == [of(FIRST), of(FIRST)]


async def test_a_configuration_that_comes_later_is_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster(stored=None)
    async with registering(cluster, tmp_path) as made:
        await cluster.until(3)
        assert "there is no such configuration; apply what" in caplog.text
        cluster.stored = configuration()
        await until(lambda: made.results["written"] == 1)


async def test_an_authority_file_that_is_missing_or_damaged_is_named_and_read_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = Cluster()
    async with registering(cluster, tmp_path) as made:
        await until(lambda: made.results["written"] == 1)
        for content in (b"garbage", b""):
            (tmp_path / "ca.pem").write_bytes(content)
            made.reload_soon()
            failed = made.results["failed"]
            await until(lambda: made.results["failed"] > failed)  # noqa: B023  # awaited at once
        assert cluster.bundles() == [of(FIRST), of(FIRST)]
        (tmp_path / "ca.pem").write_bytes(SECOND.pem)
        await until(lambda: cluster.bundles() == [of(SECOND, FIRST)] * 2)
    assert f"cannot use {tmp_path}/ca.pem: there is no PEM in it" in caplog.text
    assert "garbage" not in caplog.text


async def test_outside_a_pod_the_reason_is_logged_and_the_webhook_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def find() -> ServiceAccount:
        raise MachineError("cannot find the API server: is this a pod?")

    async with registering(Cluster(), tmp_path, find) as made:
        await until(lambda: made.results["failed"] > 1)
    assert "is this a pod?; the webhook serves, and retries" in caplog.text
