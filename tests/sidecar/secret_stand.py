"""A data plane whose certificates come from a control plane of the test."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from agent.sidecar.model import (
    Cluster,
    DownstreamTls,
    Echo,
    Listener,
    Pipe,
)
from tests.pki import Authority, Leaf
from tests.sidecar.secret_plane import Json, SecretPlane, secret_of
from tests.sidecar.stand import (
    Stand,
    Streams,
    authority,
    leave,
    listener,
    standing,
    visitor,
)

SERVER, CLIENT_CA = secret_of("server"), secret_of("ca")
BY_SECRET = DownstreamTls((), certificate_secrets=(SERVER,))
ECHO = [listener(Echo(), tls=BY_SECRET)]
FACTORY = "server_ssl_socket_factory"


def issued(*names: str, of: Authority | None = None) -> Leaf:
    return (of or authority()).issue(list(names) or ["a.example"])


def behind(control: SecretPlane) -> Cluster:
    return Cluster("plane", "STATIC", (Pipe(str(control.path)),))


@asynccontextmanager
async def serving(
    control: SecretPlane,
    secrets: Mapping[str, Json],
    listeners: Sequence[Listener],
    clusters: Sequence[Cluster] = (),
) -> AsyncIterator[Stand]:
    """Serve with these secrets, of version 1."""
    giving = asyncio.gather(*(control.give("1", name, secret) for name, secret in secrets.items()))
    async with standing(listeners, [*clusters, behind(control)]) as stand:
        assert await giving == ["1" for _ in secrets]
        yield stand


def serial(streams: Streams) -> int:
    der = streams[1].get_extra_info("ssl_object").getpeercert(binary_form=True)
    return serial_of(der)


def serial_of(der: bytes) -> int:
    from cryptography.x509 import load_der_x509_certificate  # noqa: PLC0415

    return load_der_x509_certificate(der).serial_number


async def talks(streams: Streams) -> bool:
    streams[1].write(b"hello")
    try:
        return await streams[0].readexactly(5) == b"hello"
    except (OSError, asyncio.IncompleteReadError):
        return False


async def served(stand: Stand, client: ssl.SSLContext | None = None, sni: str = "a.example") -> int | None:
    """Return the serial of the certificate that a new client gets; None if it is refused."""
    try:
        streams = await stand.connect(tls=client or visitor(), sni=sni)
    except OSError:
        return None
    try:
        return serial(streams) if await talks(streams) else None
    finally:
        await leave(streams)
