"""The webhook as a process: under bad input, slow clients, rotations, and at its end."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from tests.pki import Authority
from tests.system.eventually import PATIENCE, eventually
from tests.system.room import Room
from tests.webhook.reviews import POD, admitted, pod, response, review
from tests.webhook.running import RunningWebhook

REFUSED = pod(spec={"securityContext": {"runAsUser": 1337}})


@pytest.fixture
def webhook(room: Room) -> Iterator[RunningWebhook]:
    made = RunningWebhook(room)
    yield made
    if made.process is not None and made.process.poll() is None:
        assert made.end() == 0


def test_a_review_is_answered_and_counted(webhook: RunningWebhook) -> None:
    webhook.write()
    webhook.start("--profile", "tls", "--cert-source", "secret:app-tls")
    status, body = webhook.post(review())
    assert status == 200
    assert [each["name"] for each in admitted(POD, body)["spec"]["initContainers"]] == ["agent"]
    metrics = webhook.metrics()
    assert metrics['proxy_agent_webhook_reviews_total{result="injected"}'] == 1
    assert metrics["proxy_agent_webhook_review_duration_seconds_count"] == 1
    assert metrics['proxy_agent_webhook_certificate_loads_total{result="loaded"}'] == 1
    expiry = 'proxy_agent_certificate_not_after_timestamp_seconds{role="leaf",set="webhook",source="served"}'
    assert metrics[expiry] == datetime(2049, 1, 1, tzinfo=UTC).timestamp()


def test_it_is_ready_when_it_has_a_certificate_and_names_what_is_missing(webhook: RunningWebhook) -> None:
    webhook.start(ready=False)
    assert webhook.get("/healthz/ready") == (503, f"waiting for a certificate with its key in {webhook.certificates}\n")
    assert webhook.get("/healthz/live")[0] == 200
    webhook.write()
    eventually(lambda: webhook.health() == 200)
    assert webhook.post(review())[0] == 200


def test_a_rotation_reaches_new_connections_and_fails_no_review(webhook: RunningWebhook) -> None:
    webhook.write()
    webhook.start()

    async def reviewed() -> int:
        count = 0
        async with webhook.line() as kept:
            for _ in range(5):
                new = webhook.write()
                while True:
                    async with webhook.line() as line:
                        found = line.writer.get_extra_info("ssl_object").getpeercert()["serialNumber"]
                        for each in (line, kept):
                            assert (await each.post(review()))[0] == 200
                            count += 1
                    if int(found, 16) == new.certificate.serial_number:
                        break
        return count

    assert asyncio.run(reviewed()) >= 10
    assert webhook.metrics()['proxy_agent_webhook_certificate_loads_total{result="loaded"}'] == 6


def test_a_bad_pair_leaves_the_served_one_in_use(webhook: RunningWebhook) -> None:
    good = webhook.write()
    webhook.start()
    (webhook.certificates / "..data" / "tls.key").write_bytes(webhook.authority.issue(["x"]).key_pem)
    eventually(lambda: "the last good files stay in use" in webhook.logged())
    assert webhook.serial() == good.certificate.serial_number
    assert webhook.health() == 200
    refused = f'proxy_agent_files_refused{{reason="mismatch",set="{webhook.certificates}/tls.crt"}}'
    assert webhook.metrics()[refused] == 1
    new = webhook.write()
    eventually(lambda: webhook.serial() == new.certificate.serial_number)


def test_an_expired_certificate_is_told_and_its_successor_served(webhook: RunningWebhook) -> None:
    webhook.write(webhook.authority.issue(["x"], not_after=datetime(2021, 1, 1, tzinfo=UTC)))
    webhook.start()
    eventually(lambda: "expired at 2021" in webhook.logged())
    new = webhook.write()
    eventually(lambda: webhook.serial() == new.certificate.serial_number)


@pytest.mark.parametrize("policy", ["deny", "allow"])
def test_bad_requests_are_refused_by_their_reason_and_hold_up_no_pod(policy: str, webhook: RunningWebhook) -> None:
    webhook.write()
    webhook.start("--on-refusal", policy)
    large = review(pod(metadata={"annotations": {"a": "x" * (4 << 20)}}))
    for body, kind, status in (
        (b"{", "application/json", 400),
        (b"\xff" * 1000, "application/json", 400),
        (b"[" * 200_000, "application/json", 400),
        (review(version="admission.k8s.io/v1beta1"), "application/json", 400),
        (review(), "text/plain", 415),
        (review(), "", 415),
        (large, "application/json", 413),
    ):
        assert webhook.post(body, kind)[0] == status
        assert webhook.post(review(), "application/json; charset=utf-8")[0] == 200
    body = review(pod(metadata={"annotations": {"a": "x" * (2 << 20)}}))
    assert response(webhook.post(body)[1])["allowed"]
    assert response(webhook.post(review(REFUSED))[1])["allowed"] is (policy == "allow")
    assert webhook.metrics()['proxy_agent_webhook_reviews_total{result="invalid"}'] == 6
    assert "runAsUser" in webhook.logged()


def test_slow_clients_hold_up_nobody(webhook: RunningWebhook) -> None:
    """500 clients that never finish a handshake and 100 that never finish a request, beside one that wants reviews."""
    webhook.write()
    webhook.start()

    async def play() -> float:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(500):
                connection = socket.create_connection(("127.0.0.1", webhook.port))
                stack.callback(connection.close)
                connection.send(b"\x16")
            halves = [await stack.enter_async_context(webhook.line()) for _ in range(100)]
            for half in halves:
                half.writer.write(b"P")
            loop, slowest = asyncio.get_running_loop(), 0.0
            for number in range(100):
                for half in halves[number::100]:
                    half.writer.write(b"O")
                begun = loop.time()
                async with webhook.line() as line:
                    assert (await line.post(review()))[0] == 200
                slowest = max(slowest, loop.time() - begun)
            return slowest

    assert asyncio.run(play()) < PATIENCE


def test_64_clients_are_answered_at_once(webhook: RunningWebhook) -> None:
    webhook.write()
    webhook.start()

    async def play() -> None:
        async with contextlib.AsyncExitStack() as stack:
            lines = [await stack.enter_async_context(webhook.line()) for _ in range(64)]
            for _ in range(5):
                answers = await asyncio.gather(*(line.post(review()) for line in lines))
                assert {status for status, _ in answers} == {200}
                assert len({body for _, body in answers}) == 1

    asyncio.run(play())
    assert webhook.metrics()['proxy_agent_webhook_reviews_total{result="injected"}'] == 320


def test_a_request_in_progress_ends_and_then_the_webhook(webhook: RunningWebhook) -> None:
    webhook.write()
    webhook.start()

    async def play() -> None:
        async with webhook.line() as idle, webhook.line() as busy:
            assert (await idle.post(review()))[0] == 200
            body = review()
            kind = "content-type: application/json"
            head = f"POST /inject HTTP/1.1\r\nhost: a\r\n{kind}\r\ncontent-length: {len(body)}\r\n\r\n"
            busy.writer.write(head.encode() + body[:100])
            await busy.writer.drain()
            async with webhook.line() as later:  # by now the beginning has arrived
                assert (await later.post(review()))[0] == 200
            assert webhook.process is not None
            webhook.process.send_signal(signal.SIGTERM)
            assert await idle.reader.read() == b""
            busy.writer.write(body[100:])
            status, answer = await busy.answer()
            assert (status, response(answer)["allowed"]) == (200, True)
            assert "connection: close" in busy.head

    asyncio.run(play())
    assert webhook.process is not None
    assert webhook.process.wait(timeout=PATIENCE) == 0


def test_it_accepts_during_the_delay_and_a_second_signal_ends_that(webhook: RunningWebhook) -> None:
    webhook.write()
    webhook.start("--drain-delay", "1h")
    assert webhook.process is not None
    webhook.process.send_signal(signal.SIGTERM)
    eventually(lambda: webhook.get("/healthz/ready") == (503, "the webhook is stopping\n"))
    assert webhook.post(review())[0] == 200
    assert webhook.end(signal.SIGINT) == 0


def test_a_service_manager_is_told(webhook: RunningWebhook, monkeypatch: pytest.MonkeyPatch) -> None:
    webhook.write()
    path = webhook.room.directory / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(PATIENCE)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        webhook.start()
        told = b""
        while b"READY=1" not in told:
            told += manager.recv(4096)
        assert webhook.end() == 0
        while b"STOPPING=1" not in told:
            told += manager.recv(4096)
    path.unlink()


def test_a_port_that_is_taken_is_an_error_and_no_traceback(webhook: RunningWebhook) -> None:
    webhook.write()
    webhook.start()
    command = ["agent", "webhook", "--tls-certs", str(webhook.certificates), "--port", str(webhook.port)]
    log = webhook.room.directory / "second.log"
    second = webhook.room.spawn([*command, "--health-port", "0"], log=log)
    assert second.wait(timeout=PATIENCE) == 1
    assert f"{webhook.port}: " in log.read_text(encoding="utf-8")
    assert "Traceback" not in log.read_text(encoding="utf-8")


def test_outside_a_cluster_it_serves_and_says_why_nothing_is_registered(webhook: RunningWebhook) -> None:
    webhook.write()
    webhook.start("--register", "hook")
    eventually(lambda: "cannot register the authorities in hook: cannot find the API server" in webhook.logged())
    assert webhook.post(review())[0] == 200
    expiry = 'proxy_agent_certificate_not_after_timestamp_seconds{role="authorities",set="webhook",source="served"}'
    assert webhook.metrics()[expiry] == datetime(2049, 1, 1, tzinfo=UTC).timestamp()
    until = datetime(2048, 1, 1, tzinfo=UTC)
    webhook.authority = Authority.create("new", not_after=until)
    webhook.write()
    eventually(lambda: webhook.metrics()[expiry] == until.timestamp(), what="a change of the CA file is noticed")
