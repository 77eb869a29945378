"""TLS with clients and with clusters: accepted and refused connections, and their counters."""

import asyncio
import os
import socket
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.sidecar.client_hello import Hello
from agent.sidecar.model import (
    Certificate,
    DirectResponse,
    DownstreamTls,
    Echo,
    FilterChain,
    HttpManager,
    Listener,
    Match,
    SocketAddress,
    TcpProxy,
    UpstreamTls,
)
from agent.sidecar.tls_inspector import HelloError, Inspection
from tests.pki import UNTIL, Authority
from tests.sidecar.stand import (
    Stand,
    at_rest,
    authority,
    cluster,
    echo,
    end_of,
    leave,
    listener,
    origin,
    standing,
    visitor,
    written,
    written_ca,
)
from tests.system.eventually import PATIENCE

BULK = os.urandom(3 << 20)
LONG_AGO = datetime(2021, 1, 1, tzinfo=UTC)
Make = Callable[..., Certificate]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Issue a pair and write it."""

    def issue(name: str = "a.example", by: Authority | None = None, until: datetime | None = None) -> Certificate:
        leaf = (by or authority()).issue([name], not_after=until or UNTIL)
        return written(tmp_path, leaf, f"{name}-{len(list(tmp_path.iterdir()))}")

    return issue


async def talk(stand: Stand, tls: ssl.SSLContext, name: str = "l", sni: str = "a.example") -> bytes:
    """Send a line; return the answer."""
    reader, writer = await stand.connect(name, tls, sni)
    try:
        writer.write(b"hello")
        return await reader.readexactly(5)
    finally:
        await leave((reader, writer))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_bytes_both_ways_through_tls(make: Make, version: ssl.TLSVersion) -> None:
    tls = DownstreamTls((make(),))
    context = visitor()
    context.minimum_version = context.maximum_version = version
    proxy = listener(TcpProxy("t", "c"), tls=tls)
    async with origin(echo) as address, standing([proxy], [cluster(address)]) as stand:
        reader, writer = await stand.connect(tls=context)
        task = asyncio.create_task(reader.readexactly(len(BULK)))
        writer.write(BULK)
        assert await task == BULK
        await leave((reader, writer))
        name = {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]
        assert stand.of_listener(f"ssl.versions.{name}") == 1
        assert stand.of_listener("ssl.handshake") == stand.of_listener("ssl.no_certificate") == 1


async def test_an_end_under_tls_leaves_the_other_direction_open(make: Make) -> None:
    """Signalled by TLS's close_notify only; a client that supports half-close continues to send."""

    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"bye")
        writer.write_eof()
        taken.append(await reader.read(-1))
        done.set()

    def visit(port: int) -> tuple[bytes, bytes]:
        with socket.create_connection(("127.0.0.1", port)) as plain:
            client = visitor().wrap_socket(plain, server_hostname="a.example", suppress_ragged_eofs=False)
            said, end = client.recv(3), client.recv(1)
            client.sendall(b"still here")
            client.unwrap().close()
            return said, end

    taken: list[bytes] = []
    done = asyncio.Event()
    async with origin(early) as address:
        proxy = listener(TcpProxy("t", "c"), tls=DownstreamTls((make(),)))
        async with standing([proxy], [cluster(address)]) as stand:
            assert await asyncio.to_thread(visit, stand.ports["l"]) == (b"bye", b"")
            await done.wait()
    assert taken == [b"still here"]


async def test_a_record_larger_than_a_reading_comes_whole(make: Make) -> None:
    small = listener(Echo(), tls=DownstreamTls((make(),)), buffer_limit=5000)
    proxy = listener(TcpProxy("t", "c"), "proxy", tls=DownstreamTls((make(),)), buffer_limit=5000)
    async with origin(echo) as address, standing([small, proxy], [cluster(address)]) as stand:
        for name in ("l", "proxy"):
            reader, writer = await stand.connect(name, visitor())
            writer.write(BULK[:16000])
            assert await reader.readexactly(16000) == BULK[:16000]
            await leave((reader, writer))


@pytest.mark.parametrize("name", ["l", "proxy"])
async def test_an_end_that_comes_together_with_the_last_bytes(make: Make, name: str) -> None:
    tls = DownstreamTls((make(),))
    listeners = [listener(Echo(), tls=tls), listener(TcpProxy("t", "c"), "proxy", tls=tls)]
    async with origin(echo) as address, standing(listeners, [cluster(address)]) as stand:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = visitor().wrap_bio(incoming, outgoing, server_hostname="a.example")
        reader, writer = await stand.connect(name)

        async def say(step: Callable[[], object]) -> object:
            while True:
                try:
                    return step()
                except ssl.SSLWantReadError:
                    writer.write(outgoing.read())
                    incoming.write(await reader.read(1 << 16))

        await say(client.do_handshake)
        client.write(b"hello")
        said = outgoing.read()
        with pytest.raises(ssl.SSLWantReadError):
            client.unwrap()
        writer.write(said + outgoing.read())
        assert await say(lambda: client.read(100)) == b"hello"
        with pytest.raises(ssl.SSLZeroReturnError):
            await say(lambda: client.read(100))
        await leave((reader, writer))


async def test_a_client_certificate_lets_in(make: Make, tmp_path: Path) -> None:
    ca = written_ca(tmp_path, authority())
    tls = DownstreamTls((make(),), ca, require_client_certificate=True)
    async with standing([listener(Echo(), tls=tls)]) as stand:
        assert await talk(stand, visitor(make("client"))) == b"hello"
        assert stand.of_listener("ssl.no_certificate") == 0


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    ("kind", "counted"),
    [("none", "fail_verify_no_cert"), ("foreign", "fail_verify_error"), ("expired", "fail_verify_error")],
)
async def test_others_are_refused_and_counted(
    make: Make, tmp_path: Path, version: ssl.TLSVersion, kind: str, counted: str
) -> None:
    ca = written_ca(tmp_path, authority())
    issuer = Authority.create("somebody else") if kind == "foreign" else authority()
    until = LONG_AGO if kind == "expired" else UNTIL
    certificate = None if kind == "none" else make("client", issuer, until)
    context = visitor(certificate)
    context.minimum_version = context.maximum_version = version
    async with standing([listener(Echo(), tls=DownstreamTls((make(),), ca, True))]) as stand:
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await talk(stand, context)
        await stand.until(f"listener.127.0.0.1_{stand.ports['l']}.downstream_cx_active", 0)
        assert stand.of_listener(f"ssl.{counted}") == 1
        assert stand.of_listener("ssl.connection_error") == stand.of_listener("ssl.handshake") == 0


async def test_an_unrequested_certificate_must_verify_too(make: Make, tmp_path: Path) -> None:
    tls = DownstreamTls((make(),), written_ca(tmp_path, authority()))
    async with standing([listener(Echo(), tls=tls)]) as stand:
        assert await talk(stand, visitor()) == b"hello"
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await talk(stand, visitor(make("client", Authority.create("somebody else"))))
        await stand.until(f"listener.127.0.0.1_{stand.ports['l']}.ssl.fail_verify_error", 1)


async def test_an_expired_certificate_of_our_own_is_served(make: Make) -> None:
    context = visitor()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with standing([listener(Echo(), tls=DownstreamTls((make(until=LONG_AGO),)))]) as stand:
        assert await talk(stand, context) == b"hello"


async def test_what_is_no_tls_is_closed_and_counted(make: Make) -> None:
    async with standing([listener(Echo(), tls=DownstreamTls((make(),)))]) as stand:
        reader, writer = await stand.connect()
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await end_of(reader)
        await leave((reader, writer))
        assert stand.of_listener("ssl.connection_error") == 1


async def test_half_a_handshake_delays_no_other_client(make: Make) -> None:
    chain = FilterChain(Echo(), tls=DownstreamTls((make(),)))
    async with standing([listener(Echo())._replace(chains=(chain,))]) as stand:
        begun = time.monotonic()
        assert await talk(stand, visitor()) == b"hello"
        whole = time.monotonic() - begun  # a slow machine needs longer for a handshake
    chain = chain._replace(connect_timeout=max(0.2, 20 * whole))
    async with standing([listener(Echo())._replace(chains=(chain,))]) as stand:
        half = [await stand.connect() for _ in range(20)]
        for _, writer in half:
            writer.write(b"\x16\x03\x01\x02")
        assert await talk(stand, visitor()) == b"hello"
        for each in half:
            assert await end_of(each[0]) == b""
            await leave(each)
        assert stand.of_listener("downstream_cx_transport_socket_connect_timeout") == 20


async def test_protocols_and_versions_are_agreed_on(make: Make) -> None:
    tls = DownstreamTls((make(),), alpn=("h2", "http/1.1"), minimum=ssl.TLSVersion.TLSv1_3)
    context = visitor()
    context.set_alpn_protocols(["http/1.1"])
    async with standing([listener(Echo(), tls=tls)]) as stand:
        reader, writer = await stand.connect(tls=context)
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        await leave((reader, writer))
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await stand.connect(tls=context)
        assert stand.of_listener("ssl.connection_error") == 1


async def test_http_is_not_offered_in_a_version_that_is_not_spoken(make: Make) -> None:
    tls = DownstreamTls((make(),), alpn=("h2", "http/1.1"))
    context = visitor()
    context.set_alpn_protocols(["h2", "http/1.1"])
    async with standing([listener(HttpManager("h"), tls=tls)]) as stand:
        reader, writer = await stand.connect(tls=context)
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        writer.write(b"GET / HTTP/1.1\r\nhost: a.example\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 404")
        await leave((reader, writer))
        assert stand.stat("http.h.downstream_cx_ssl_total") == 1


def by_name(make: Make) -> Listener:
    chains = (
        FilterChain(DirectResponse(b"a-tls"), match=Match(("a.example",)), tls=DownstreamTls((make(),))),
        FilterChain(DirectResponse(b"b-tls"), match=Match(("*.b.example",)), tls=DownstreamTls((make("*.b.example"),))),
        FilterChain(DirectResponse(b"plain"), match=Match(transport_protocol="raw_buffer")),
    )
    return listener(Echo())._replace(chains=chains, inspection_timeout=PATIENCE)


async def test_chains_by_the_name_that_a_client_asks_for(make: Make) -> None:
    async with standing([by_name(make)]) as stand:
        for sni, body in {"a.example": b"a-tls", "x.b.example": b"b-tls"}.items():
            reader, writer = await stand.connect(tls=visitor(), sni=sni)
            assert await reader.readexactly(5) == body
            await leave((reader, writer))
        reader, writer = await stand.connect()
        writer.write(b"anything")
        assert await reader.readexactly(5) == b"plain"
        await leave((reader, writer))
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await stand.connect(tls=visitor(), sni="other.example")
        assert stand.of_listener("no_filter_chain_match") == 1
        assert stand.stat("tls_inspector.tls_found") == 3
        assert stand.of_listener("downstream_cx_total") == 3


async def test_a_hello_that_comes_byte_by_byte(make: Make) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = visitor().wrap_bio(incoming, outgoing, server_hostname="a.example")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    async with standing([by_name(make)]) as stand:
        reader, writer = await stand.connect()
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in outgoing.read():
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        assert (await reader.read(1 << 16)).startswith(b"\x16\x03")
        await leave((reader, writer))
        assert stand.stat("tls_inspector.sni_found") == 1


async def test_a_client_that_says_nothing_is_looked_at_for_a_while(make: Make) -> None:
    silent = by_name(make)._replace(inspection_timeout=0.3)
    patient = silent._replace(name="patient", continue_on_timeout=True)
    async with standing([silent, patient]) as stand:
        reader, writer = await stand.connect()
        writer.write(b"\x16\x03\x01")
        assert await end_of(reader) == b""
        await leave((reader, writer))
        assert stand.of_listener("downstream_pre_cx_timeout") == 1
        reader, writer = await stand.connect("patient")
        assert await reader.read(5) == b"plain"
        await leave((reader, writer))


async def test_a_part_of_a_hello_causes_no_wake_up_until_there_is_more(make: Make) -> None:
    async with standing([by_name(make)]) as stand:
        _, writer = await stand.connect()
        writer.write(b"\x16\x03\x01")
        await stand.until(f"listener.127.0.0.1_{stand.ports['l']}.downstream_pre_cx_active", 1)
        await at_rest()
        writer.close()


async def test_a_client_that_leaves_before_it_says_enough(make: Make) -> None:
    async with standing([by_name(make)]) as stand:
        _, writer = await stand.connect()
        writer.write(b"\x16\x03\x01")
        await writer.drain()
        writer.write_eof()
        await stand.until(f"listener.127.0.0.1_{stand.ports['l']}.downstream_listener_filter_remote_close", 1)
        writer.close()


@pytest.mark.parametrize("within", [0, PATIENCE])
async def test_a_client_at_a_unix_socket_that_leaves_before_it_says_enough(within: float) -> None:
    """The end does not wake a reader that waits for more bytes, and the socket stays readable."""
    inspected: asyncio.Future[Hello | OSError] = asyncio.get_running_loop().create_future()
    connected, client = socket.socketpair(socket.AF_UNIX)
    with connected, client:
        connected.setblocking(False)
        Inspection(connected, inspected.set_result, within=within)
        client.sendall(b"\x16\x03\x01")
        await asyncio.sleep(0)
        assert not inspected.done()
        client.shutdown(socket.SHUT_WR)
        result = await asyncio.wait_for(inspected, PATIENCE)
    assert isinstance(result, HelloError)
    assert not result.is_endless


async def test_a_hello_at_a_unix_socket_counts_though_its_client_sends_no_more() -> None:
    inspected: asyncio.Future[Hello | OSError] = asyncio.get_running_loop().create_future()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        visitor().wrap_bio(incoming, outgoing, server_hostname="a.example").do_handshake()
    connected, client = socket.socketpair(socket.AF_UNIX)
    with connected, client:
        connected.setblocking(False)
        Inspection(connected, inspected.set_result, within=PATIENCE)
        client.sendall(outgoing.read(3))
        await asyncio.sleep(0)
        client.sendall(outgoing.read())
        client.shutdown(socket.SHUT_WR)
        result = await inspected
    assert isinstance(result, Hello)
    assert result.server_name == "a.example"


async def test_a_hello_without_end_is_cut(make: Make) -> None:
    async with standing([by_name(make)]) as stand:
        reader, writer = await stand.connect()
        record = b"\x16\x03\x01\x10\x00" + b"\x01\x00\x3f\xf0" + bytes(4092)
        writer.write(record + (b"\x16\x03\x01\x00\x01\x00" * 8000))
        assert await end_of(reader) == b""
        assert stand.stat("tls_inspector.client_hello_too_large") == 1
        await leave((reader, writer))


def server_side(certificate: Certificate, ca: str | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.chain, certificate.key)
    if ca is not None:
        context.load_verify_locations(ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


async def through(address: SocketAddress, tls: UpstreamTls) -> tuple[bytes, int]:
    async with standing([listener(TcpProxy("t", "c"))], [cluster(address, tls=tls)]) as stand:
        reader, writer = await stand.connect()
        writer.write(b"hello")
        try:
            answer = await reader.readexactly(5)
        except (asyncio.IncompleteReadError, ConnectionError):
            answer = b""
        await leave((reader, writer))
        return answer, stand.stat("cluster.c.ssl.fail_verify_error")


async def test_a_cluster_under_tls_is_verified_where_it_has_a_ca(make: Make, tmp_path: Path) -> None:
    ca = written_ca(tmp_path, authority())
    foreign = written_ca(tmp_path, Authority.create("somebody else"), "foreign")
    async with origin(echo, server_side(make("whatever.name"), ca)) as address:
        ours = (make("client"),)
        assert await through(address, UpstreamTls(ours)) == (b"hello", 0)
        assert await through(address, UpstreamTls(ours, ca, sni="a.example")) == (b"hello", 0)
        assert await through(address, UpstreamTls(ours, foreign)) == (b"", 1)
        assert await through(address, UpstreamTls((), ca)) == (b"", 0)
