"""A TLS client that asks for certificates, against listeners of every temper on loopback."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from agent.host.sockets import Endpoint
from agent.host.tls_probe import ProbeError, chain_in, probe, trusting_context
from tests.cli.tls_servers import by_name, context, nobody, shop, wanting
from tests.pki import Authority, Leaf
from tests.system.eventually import PATIENCE

ROOT = Authority.create("the root")
BELOW = ROOT.intermediate("the one below")
WEB = BELOW.issue(["web.test"])
OTHER = ROOT.issue(["other.test"])


@cache
def der(leaf: Leaf) -> tuple[bytes, ...]:
    """The chain of a leaf as a listener presents it."""
    return tuple(each.public_bytes(Encoding.DER) for each in x509.load_pem_x509_certificates(leaf.chain_pem))


async def asked(address: str, name: str | None = None, timeout: float = PATIENCE) -> tuple[bytes, ...]:
    return await probe(Endpoint.parse(address), name, trusting_context(), timeout)


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLS 1.2", "TLS 1.3"])
def newest(request: pytest.FixtureRequest) -> ssl.TLSVersion:
    version: ssl.TLSVersion = request.param
    return version


async def test_the_chain_comes_leaf_first_without_the_root(tmp_path: Path, newest: ssl.TLSVersion) -> None:
    async with shop(context(tmp_path, WEB, newest=newest)) as address:
        assert await asked(address) == der(WEB)
        assert len(der(WEB)) == 2


async def test_a_unix_socket_can_be_asked(tmp_path: Path) -> None:
    async with shop(context(tmp_path, WEB), tmp_path / "sock") as address:
        assert await asked(address) == der(WEB)


async def test_the_server_name_chooses_the_certificate(tmp_path: Path, newest: ssl.TLSVersion) -> None:
    other = tmp_path / "other"
    other.mkdir()
    chosen = by_name(context(tmp_path, WEB, newest=newest), {"other.test": context(other, OTHER, newest=newest)})
    async with shop(chosen) as address:
        for name, leaf in ((None, WEB), ("", WEB), ("web.test", WEB), ("other.test", OTHER), ("127.0.0.1", WEB)):
            assert await asked(address, name) == der(leaf)


async def test_a_certificate_is_known_although_the_listener_wants_one_of_its_clients(
    tmp_path: Path, newest: ssl.TLSVersion
) -> None:
    async with shop(wanting(context(tmp_path, WEB, newest=newest), ROOT)) as address:
        assert await asked(address) == der(WEB)


async def test_a_certificate_that_is_valid_for_nobody_is_as_good(tmp_path: Path) -> None:
    leaf = Authority.create("unknown").issue(
        ["x.test"], not_after=BELOW.certificate.not_valid_before_utc.replace(year=2021)
    )
    async with shop(context(tmp_path, leaf)) as address:
        assert await asked(address, "y.test") == der(leaf)


class Handshake:
    """A listener that speaks TLS on bytes in memory, and notes what the client sends after the first flight."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        self._tls = tls
        self.after: bytes | OSError | None = None
        self.ended = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        server = self._tls.wrap_bio(incoming, outgoing, server_side=True)
        incoming.write(await reader.read(65536))
        with pytest.raises(ssl.SSLWantReadError):
            server.do_handshake()
        writer.write(outgoing.read())
        try:
            self.after = await reader.read(65536)
        except OSError as error:
            self.after = error
        writer.transport.abort()
        self.ended.set()


@asynccontextmanager
async def listening(handshake: Handshake) -> AsyncIterator[str]:
    server = await asyncio.start_server(handshake.serve, "127.0.0.1", 0)
    async with server:
        yield f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_under_tls_1_3_the_connection_is_reset_before_the_client_has_answered(tmp_path: Path) -> None:
    """So the handshake counts neither as one nor as a failure."""
    handshake = Handshake(context(tmp_path, WEB))
    async with listening(handshake) as address:
        assert await asked(address) == der(WEB)
        async with asyncio.timeout(PATIENCE):
            await handshake.ended.wait()
    assert isinstance(handshake.after, ConnectionResetError)


async def test_a_tls_1_2_listener_that_hangs_up_on_clients_without_a_certificate_has_shown_its_own(
    tmp_path: Path,
) -> None:
    """It sends its certificate before it asks for the client's, and this one ends before the handshake does."""
    handshake = Handshake(context(tmp_path, WEB, newest=ssl.TLSVersion.TLSv1_2))
    async with listening(handshake) as address:
        assert await asked(address) == der(WEB)


async def test_a_listener_that_does_not_answer_is_waited_for_no_longer_than_is_said() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        with pytest.raises(ProbeError) as failure:
            await asked(f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}", timeout=0.02)
    assert isinstance(failure.value.error, TimeoutError)
    assert (failure.value.connected, failure.value.received) == (True, b"")


async def test_a_listener_that_hangs_up_without_a_word_has_no_certificate() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        with pytest.raises(ProbeError, match="without a certificate") as failure:
            await asked(f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert isinstance(failure.value.error, ConnectionError)
    assert (failure.value.connected, failure.value.received) == (True, b"")


@pytest.mark.parametrize(
    "words",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x15\x03\x03\x00\x02\x02\x28",  # a fatal alert: handshake_failure
        b"\x16\x03\x03\x00\x04\x0e\x00\x00\x00",  # a message in the wrong place
        b"\x16\x03\x03\xff\xff" + b"\x0b" * 100,
        b"\0" * 100,
    ],
    ids=["plaintext", "alert", "unexpected", "too long", "zeros"],
)
async def test_what_is_no_handshake_is_handed_out_with_the_error(words: bytes) -> None:
    async with shop(words) as address:
        with pytest.raises(ProbeError) as failure:
            await asked(address)
    assert failure.value.connected
    assert isinstance(failure.value.error, OSError)
    assert failure.value.received == words


async def test_an_address_at_which_nobody_listens_was_never_connected() -> None:
    bound, address = nobody()
    with bound, pytest.raises(ProbeError) as failure:
        await asked(address)
    assert isinstance(failure.value.error, ConnectionRefusedError)
    assert (failure.value.connected, failure.value.received) == (False, b"")


async def test_a_socket_that_does_not_exist_was_never_connected(tmp_path: Path) -> None:
    with pytest.raises(ProbeError) as failure:
        await asked(f"unix://{tmp_path}/none")
    assert isinstance(failure.value.error, FileNotFoundError)
    assert not failure.value.connected


@pytest.mark.parametrize("name", ["ж.test", "x" * 300, ".test", "a\0b"])
async def test_a_name_that_no_client_can_ask_for_is_an_error_and_no_bug(tmp_path: Path, name: str) -> None:
    async with shop(context(tmp_path, WEB)) as address:
        with pytest.raises(ProbeError) as failure:
            await asked(address, name)
    assert failure.value.connected
    assert failure.value.received == b""


async def test_a_caller_that_is_cancelled_closes_the_connection() -> None:
    gone = asyncio.Event()
    begun = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        begun.set()
        try:
            await reader.read()
        except ConnectionResetError:
            gone.set()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, asyncio.timeout(PATIENCE):
        probing = asyncio.ensure_future(asked(f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
        await begun.wait()
        probing.cancel()
        await gone.wait()
    assert probing.cancelled()


# The certificates in a flight that was not completed


def record(content: bytes, kind: int = 22) -> bytes:
    return bytes([kind, 3, 3]) + len(content).to_bytes(2, "big") + content


def message(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + len(body).to_bytes(3, "big") + body


def certificates(*entries: bytes) -> bytes:
    listed = b"".join(len(entry).to_bytes(3, "big") + entry for entry in entries)
    return message(11, len(listed).to_bytes(3, "big") + listed)


HELLO = message(2, b"h" * 70)
SHOWN = certificates(b"leaf", b"the one below")
LARGE = certificates(b"l" * 70_000, b"b" * 300)


def pieces(data: bytes, size: int) -> bytes:
    return b"".join(record(data[at : at + size]) for at in range(0, len(data), size))


@pytest.mark.parametrize(
    "received",
    [
        record(SHOWN),
        record(HELLO + SHOWN),
        record(HELLO) + record(SHOWN) + record(message(14, b"")),
        record(HELLO) + record(b"") + record(SHOWN),
        pieces(HELLO + SHOWN, 1),
        pieces(HELLO + SHOWN, 7),
        record(SHOWN) + record(certificates(b"another")),
        record(SHOWN) + b"\x16\x03",
        record(SHOWN) + record(b"\x02\x28", kind=21),
        record(SHOWN + b"\x0c\0\0\xff"),
    ],
    ids=[
        "alone",
        "one record",
        "a record each",
        "an empty record",
        "an octet a record",
        "seven octets a record",
        "twice",
        "cut off behind",
        "an alert behind",
        "a message cut off behind",
    ],
)
def test_certificates_are_found_however_they_are_divided_into_records(received: bytes) -> None:
    assert chain_in(received) == (b"leaf", b"the one below")


def test_certificates_may_be_larger_than_a_record() -> None:
    assert chain_in(pieces(HELLO + LARGE, 16_384)) == (b"l" * 70_000, b"b" * 300)


@pytest.mark.parametrize(
    "received",
    [
        b"",
        b"\x16",
        b"\x16\x03\x03\xff\xff\x0b",
        b"\x16\x03\x03\x00\x02\x0b\x00",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        record(HELLO),
        record(message(12, b"\0\0\x07\0\0\x04leaf")),
        record(SHOWN[:-1]),
        record(SHOWN)[:-1],
        record(HELLO + SHOWN[:3]),
        record(SHOWN, kind=23),
        record(b"\x02\x28", kind=21) + record(SHOWN),
        record(certificates()),
        record(message(11, b"")),
        record(message(11, b"\0\0")),
    ],
    ids=[
        "nothing",
        "an octet",
        "a head",
        "half a message",
        "plaintext",
        "a hello",
        "another message",
        "an octet less",
        "a record too short",
        "a length cut off",
        "encrypted",
        "behind an alert",
        "none",
        "an empty message",
        "half a length",
    ],
)
def test_there_is_no_certificate_in_anything_else(received: bytes) -> None:
    assert chain_in(received) == ()


@pytest.mark.parametrize("end", range(len(record(HELLO + SHOWN))))
def test_a_flight_that_breaks_off_anywhere_has_none(end: int) -> None:
    assert chain_in(record(HELLO + SHOWN)[:end]) == ()


def test_large_certificates_that_break_off_are_none() -> None:
    assert chain_in(pieces(HELLO + LARGE, 16_384)[:-1]) == ()


def test_an_entry_that_is_longer_than_its_message_ends_with_it() -> None:
    assert chain_in(record(message(11, b"\0\0\x09\xff\xff\xffleaf"))) == (b"leaf",)


def test_the_context_accepts_any_certificate_and_any_name() -> None:
    made = trusting_context()
    assert (made.verify_mode, made.check_hostname) == (ssl.CERT_NONE, False)
