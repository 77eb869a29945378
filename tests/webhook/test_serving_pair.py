import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from agent.host import clock
from agent.host.disk_thread import DiskThread
from agent.webhook.serving_pair import ServingPair
from tests.pki import Authority, Leaf

CA = Authority.create("ca")


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[ServingPair]:
    disk = DiskThread(lambda: None, notice=lambda _: None)
    try:
        yield ServingPair(directory, [directory / "ca.crt"], disk)
    finally:
        await disk.close()


def write(directory: Path, leaf: Leaf, name: str = "tls", key: bytes | None = None) -> Leaf:
    (directory / f"{name}.crt").write_bytes(leaf.chain_pem)
    (directory / f"{name}.key").write_bytes(key or leaf.key_pem)
    return leaf


def serial(pair: ServingPair) -> int:
    assert pair.group is not None
    assert pair.group.leaf is not None
    return int(pair.group.leaf.serial_hex, 16)


async def presented(pair: ServingPair) -> int:
    """Connect over TLS in memory; return the serial number that the server presents."""
    assert pair.context is not None
    context = ssl.create_default_context(cadata=CA.pem.decode())
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=pair.context)
    try:
        port = server.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="webhook")
        found = writer.get_extra_info("ssl_object").getpeercert()["serialNumber"]
        writer.transport.abort()
    finally:
        server.close()
        await server.wait_closed()
    return int(found, 16)


async def test_a_pair_is_served_and_its_successor_too(tmp_path: Path) -> None:
    async with opened(tmp_path) as pair:
        for _ in range(2):
            leaf = write(tmp_path, CA.issue(["webhook"]))
            await pair.load()
            assert serial(pair) == await presented(pair) == leaf.certificate.serial_number
            assert pair.missing == ""
    assert (pair.loaded, pair.rejected) == (2, 0)


async def test_an_unchanged_pair_keeps_its_context(tmp_path: Path) -> None:
    write(tmp_path, CA.issue(["webhook"]))
    async with opened(tmp_path) as pair:
        await pair.load()
        before = pair.context
        await pair.load()
        assert pair.context is before


async def test_without_a_pair_the_reason_is_known(tmp_path: Path) -> None:
    async with opened(tmp_path) as pair:
        await pair.load()
        assert pair.context is None
        assert pair.missing == f"waiting for a certificate with its key in {tmp_path}"
        (tmp_path / "tls.crt").write_bytes(CA.issue(["webhook"]).chain_pem)
        again = await pair.load()
        assert "its private key is missing; write it" in pair.missing
        assert again is not None
        assert again > clock.monotonic()


@pytest.mark.parametrize("damage", ["another key", "half a file", "empty", "gone", "expired"])
async def test_a_bad_pair_leaves_the_served_one_in_use(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("agent.webhook.serving_pair.ALARM_TIMEOUT", 0.0)
    good = write(tmp_path, CA.issue(["webhook"]))
    other = CA.issue(["webhook"])
    async with opened(tmp_path) as pair:
        await pair.load()
        if damage == "another key":
            write(tmp_path, other, key=CA.issue(["x"]).key_pem)
        elif damage == "half a file":
            write(tmp_path, other)
            (tmp_path / "tls.crt").write_bytes(other.chain_pem[:200])
        elif damage == "empty":
            (tmp_path / "tls.crt").write_bytes(b"")
        elif damage == "gone":
            (tmp_path / "tls.key").unlink()
        else:
            yesterday = clock.calendar() - timedelta(days=1)
            write(tmp_path, CA.issue(["webhook"], not_after=yesterday))
        await pair.load()
        assert serial(pair) == await presented(pair) == good.certificate.serial_number
        assert pair.missing == ""
        assert pair.rejected == 1
        assert "cannot use" in caplog.text
        assert "the last good files stay in use" in caplog.text
        new = write(tmp_path, CA.issue(["webhook"]))
        await pair.load()
        assert serial(pair) == new.certificate.serial_number


async def test_a_pair_that_openssl_rejects_leaves_the_served_one_in_use(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = write(tmp_path, CA.issue(["webhook"]))
    weak = CA.issue(["webhook"], rsa.generate_private_key(65537, 1024))
    async with opened(tmp_path) as pair:
        await pair.load()
        write(tmp_path, weak)
        await pair.load()
        await pair.load()
        assert serial(pair) == good.certificate.serial_number
    assert caplog.text.count("OpenSSL rejects it (EE_KEY_TOO_SMALL); write one that it accepts") == 1


async def test_a_first_pair_that_openssl_rejects_is_not_served(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, CA.issue(["webhook"], rsa.generate_private_key(65537, 1024)))
    async with opened(tmp_path) as pair:
        await pair.load()
        assert pair.context is None
        assert "EE_KEY_TOO_SMALL" in pair.missing
        write(tmp_path, CA.issue(["webhook"]))
        await pair.load()
        assert pair.context is not None


async def test_an_expired_pair_is_served_if_there_is_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Clients refuse it, but a webhook that does not answer would be no better; the warning names the remedy."""
    yesterday = clock.calendar() - timedelta(days=1)
    write(tmp_path, CA.issue(["webhook"], not_after=yesterday))
    async with opened(tmp_path) as pair:
        await pair.load()
        assert pair.context is not None
        assert "clients refuse it: write a renewed certificate" in caplog.text
        new = write(tmp_path, CA.issue(["webhook"]))
        await pair.load()
        assert serial(pair) == await presented(pair) == new.certificate.serial_number


async def test_of_several_pairs_the_valid_one_is_served_and_then_the_newest(tmp_path: Path) -> None:
    now = clock.calendar()
    write(tmp_path, CA.issue(["webhook"], not_before=now - timedelta(days=9)), "a")
    newest = write(tmp_path, CA.issue(["webhook"], not_before=now - timedelta(days=3)), "b")
    write(tmp_path, CA.issue(["other"], not_before=now - timedelta(days=2), not_after=now - timedelta(days=1)), "c")
    async with opened(tmp_path) as pair:
        await pair.load()
        assert serial(pair) == newest.certificate.serial_number


async def test_a_pair_under_another_name_replaces_the_served_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    write(tmp_path, CA.issue(["webhook"], not_before=clock.calendar() - timedelta(days=2)), "a")
    async with opened(tmp_path) as pair:
        await pair.load()
        for each in tmp_path.iterdir():
            each.unlink()
        new = write(tmp_path, CA.issue(["webhook"], not_before=clock.calendar() - timedelta(days=1)), "b")
        await pair.load()
        assert serial(pair) == new.certificate.serial_number
        await pair.load()
        assert pair.reports.refusals == []
