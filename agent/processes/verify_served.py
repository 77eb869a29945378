"""Evidence after a commit: the certificate that a client sees, held against those that the epoch runs from.

It leaves as little trace as a connection can. Under TLS 1.3 the certificate is known before the client has answered the
handshake, so the agent leaves by a reset at that point. Measured on Envoy 1.40 and on the sidecar: what counts is
`downstream_cx_total` and `downstream_cx_destroy` of the listener, and those of its network filter (of an HTTP one
`downstream_cx_ssl_total` and `…_destroy_remote`, too); no `ssl.*` counter moves, and a listener
that wants client certificates notes no failure. Envoy's `tcp_proxy` connects to its upstream as soon as a client
comes, so the upstream sees a connection that ends at once (`upstream_cx_total`, `upstream_rq_total` of its cluster);
the sidecar connects after the handshake, and so does not. Before TLS 1.3 the handshake has to be finished, and is
counted (`ssl.handshake`, `ssl.no_certificate` …); a listener that wants a client certificate there shows the agent
nothing and counts `ssl.fail_verify_no_cert`, which the proof tells as an error.
"""

import asyncio
import hashlib
import socket
import ssl
from collections.abc import Collection

from cryptography import x509

from agent.certificates.x509 import Leaf
from agent.handoff.socket_store import ListenAddress
from agent.host.sockets import Endpoint
from agent.proxies.interface import Admin, TlsListener
from agent.status.model import ProbeResult

LIMIT = 16
"""How many connections a proof makes at most; all of them at the same time."""

_TIMEOUT = 2.0
_CHUNK = 64 << 10
_AGAIN = (0.1, 0.5)  # the one before accepts until it has read that it is to drain: it may have been the one seen
_RESET = b"\1\0\0\0\0\0\0\0"  # struct linger: on, 0 s


def _client() -> ssl.SSLContext:
    """A client that takes any certificate: it is compared with what must be there, which trust would not tell."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


_CONTEXT = _client()


async def verify_served(
    admin: Admin,
    leaves: Collection[Leaf],
    named: Collection[ListenAddress] = (),
    *,
    again: Collection[float] = _AGAIN,
) -> tuple[ProbeResult, ...]:
    """Connect once to each place where a client can see one of `leaves`, at most `LIMIT`.

    Unix sockets count only if the configuration has `named` them: they learn who connects, and a proxy must not choose
    whom the agent's user greets. Where another certificate is seen, it looks again after the spans of `again`. Raises
    `MachineError` if the console does not tell where that is.
    """
    fingerprints = {leaf.fingerprint for leaf in leaves}
    listeners = await admin.tls_listeners() if fingerprints else []
    found = [each for each in listeners if _may_be_greeted(each.place, named)][:LIMIT]
    seen = await _look(found, fingerprints)
    for span in again:
        others = [number for number, each in enumerate(seen) if not each.matches and not each.error]
        if not others:
            break
        await asyncio.sleep(span)
        for number, each in zip(others, await _look([found[one] for one in others], fingerprints), strict=True):
            seen[number] = each
    return tuple(seen)


def _may_be_greeted(place: ListenAddress, named: Collection[ListenAddress]) -> bool:
    return not place.address.startswith("unix://") or place in named


async def _look(listeners: Collection[TlsListener], fingerprints: Collection[str]) -> list[ProbeResult]:
    return list(await asyncio.gather(*(_see(listener, fingerprints) for listener in listeners)))


async def _see(listener: TlsListener, fingerprints: Collection[str]) -> ProbeResult:
    name = (
        listener.place.address if listener.server_name is None else f"{listener.place.address} {listener.server_name}"
    )
    try:
        async with asyncio.timeout(_TIMEOUT):
            certificate = await _certificate(listener)
    except TimeoutError:
        return ProbeResult(name, None, matches=False, error=f"no answer within {_TIMEOUT:g} s")
    except (OSError, ValueError) as error:
        return ProbeResult(name, None, matches=False, error=_why(error))
    return ProbeResult(name, _serial(certificate), matches=hashlib.sha256(certificate).hexdigest() in fingerprints)


async def _certificate(listener: TlsListener) -> bytes:
    """The server's leaf as DER. Raises `OSError` (with `ssl.SSLError` among them) or ValueError.

    To connect to every address, 0.0.0.0 or ::, means loopback.
    """
    endpoint = Endpoint.parse(listener.place.address)
    loop = asyncio.get_running_loop()
    with socket.socket(endpoint.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as connection:
        await loop.sock_connect(connection, endpoint.name)
        try:
            return await _shake(connection, listener.server_name)
        finally:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


async def _shake(connection: socket.socket, server_name: str | None) -> bytes:
    loop = asyncio.get_running_loop()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    name = (
        None if server_name is None else server_name.encode("ascii")
    )  # of text, Python would import more to encode it
    handshake = _CONTEXT.wrap_bio(incoming, outgoing, server_hostname=name)
    while True:
        try:
            handshake.do_handshake()
        except ssl.SSLWantReadError:
            await loop.sock_sendall(connection, outgoing.read())
            data = await loop.sock_recv(connection, _CHUNK)
            incoming.write(data) if data else incoming.write_eof()
        else:
            return handshake.getpeercert(binary_form=True) or b""


def _serial(certificate: bytes) -> str | None:
    """As `Leaf.serial_hex`; None where it does not parse."""
    try:
        return Leaf.of(x509.load_der_x509_certificate(certificate)).serial_hex
    except (ValueError, TypeError):
        return None


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"the handshake failed: {error.reason or error}"
    return f"no connection: {error}"
