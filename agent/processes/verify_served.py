"""Verifies with a TLS client, after a commit, that an epoch serves its own certificates."""

import asyncio
import hashlib
import ssl
from collections.abc import Collection

from cryptography import x509

from agent.certificates.x509 import Leaf
from agent.handoff.socket_store import ListenAddress
from agent.host.sockets import Endpoint
from agent.host.tls_probe import ProbeError, probe, trusting_context
from agent.proxies.interface import Admin, TlsListener
from agent.status.model import ProbeResult

LIMIT = 16
"""Maximum number of connections per verification; all are made at the same time."""

_TIMEOUT = 2.0
_AGAIN = (0.1, 0.5)  # the predecessor accepts until it reads the drain message, so it may have answered
_CONTEXT = trusting_context()


async def verify_served(
    admin: Admin,
    leaves: Collection[Leaf],
    named: Collection[ListenAddress] = (),
    *,
    again: Collection[float] = _AGAIN,
) -> tuple[ProbeResult, ...]:
    """Connect once to each address where a client can see one of `leaves`, at most `LIMIT`.

    Unix sockets are used only if the configuration names them (`named`): their owner sees who connects, so a proxy
    must not choose them. If another certificate is served, connect again after the delays in `again` (seconds).
    Raises `MachineError` if the admin interface does not list the addresses.
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
        leaf, *_ = await probe(Endpoint.parse(listener.place.address), listener.server_name, _CONTEXT, _TIMEOUT)
    except ProbeError as failure:
        return ProbeResult(name, None, matches=False, error=_why(failure.error))
    return ProbeResult(name, _serial(leaf), matches=hashlib.sha256(leaf).hexdigest() in fingerprints)


def _serial(certificate: bytes) -> str | None:
    """Return the serial as `Leaf.serial_hex`; None if the certificate does not parse."""
    try:
        return Leaf.of(x509.load_der_x509_certificate(certificate)).serial_hex
    except (ValueError, TypeError):
        return None


def _why(error: OSError | ValueError) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {_TIMEOUT:g} s"
    if isinstance(error, ssl.SSLError):
        return f"the handshake failed: {error.reason or error}"
    return f"no connection: {error}"
