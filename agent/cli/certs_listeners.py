"""Asks listeners for their certificates, for each server name, as `agent certs` does."""

import asyncio
import os
import ssl
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import product

from cryptography.x509 import load_der_x509_certificate

from agent.certificates.x509 import Leaf, leaf_of_chain
from agent.core.errors import UsageError
from agent.host.sockets import Endpoint
from agent.host.tls_probe import ProbeError, probe, trusting_context

TIMEOUT = 2.0  # seconds, for one handshake
NAMES_LIMIT = 200  # server names requested from one listener
_AT_ONCE = 16
_ALERT, _HANDSHAKE = 21, 22  # content types (RFC 8446, 5.1)
_OFFERS = {"RSA": "aRSA", "ECDSA": "aECDSA"}


class Kind(StrEnum):
    """The kind of a listener, as far as a client can see."""

    TLS = "tls"
    PLAINTEXT = "plaintext"
    SILENT = "silent"  # it accepts, but sends no certificate and nothing but TLS
    UNREACHABLE = "unreachable"
    NOT_ASKED = "not_asked"  # UDP


@dataclass(frozen=True, slots=True)
class Answer:
    """The leaf served to a client that requests `name`; empty: no name."""

    name: str
    leaf: Leaf


@dataclass(frozen=True, slots=True)
class Listener:
    """A listener and the leaves it served. `why`: the reason if there are none."""

    address: str
    kind: Kind
    answers: tuple[Answer, ...] = ()
    why: str = ""


def ask_all(
    addresses: Iterable[str], names: Collection[str], key_types: Iterable[str] = (), timeout: float = TIMEOUT
) -> tuple[Listener, ...]:
    """Request the certificates of every listener, for each of these server names and for none.

    If keys of several `key_types` ("RSA 2048", "ECDSA P-256") are served, also request each as a client that supports
    only one kind: a listener serves its certificate of another kind to no other client.
    """
    asked = tuple(dict.fromkeys(name for each in names if (name := _server_name(each))))[:NAMES_LIMIT]
    kinds = sorted({each.split()[0] for each in key_types} & _OFFERS.keys())
    offers = ["", *(_OFFERS[kind] for kind in kinds if len(kinds) > 1)]
    return asyncio.run(_ask_each(addresses, asked, offers, timeout))


async def _ask_each(
    addresses: Iterable[str], names: tuple[str, ...], offers: Sequence[str], timeout: float
) -> tuple[Listener, ...]:
    limit = asyncio.Semaphore(_AT_ONCE)

    async def ask(address: str) -> Listener:
        async with limit:
            return await _ask(address, names, offers, timeout)

    return tuple(await asyncio.gather(*map(ask, addresses)))


def _server_name(name: str) -> str:
    """Return a name to request, empty if it is not valid; for a wildcard, one of its names."""
    name = f"any{name[1:]}" if name.startswith("*.") else name
    usable = name.isascii() and len(name) < 254 and all(0 < len(label) < 64 for label in name.split("."))
    return name if usable and "*" not in name and not any(map(str.isspace, name)) else ""


async def _ask(address: str, names: tuple[str, ...], offers: Sequence[str], timeout: float) -> Listener:
    try:
        endpoint = Endpoint.parse(address)
    except UsageError as error:
        return Listener(address, Kind.UNREACHABLE, why=str(error))
    if address.startswith("udp://"):
        return Listener(address, Kind.NOT_ASKED, why="it accepts datagrams, not TLS")
    answers, ends = dict[Answer, None](), list[_End]()
    for name, offer in product(("", *names), offers):
        end = await _leaf(endpoint, name, offer, timeout)
        if isinstance(end, Leaf):
            answers[Answer(name, end)] = None
            continue
        ends.append(end)
        if not answers and end.final and not offer:
            break
    if answers:
        return Listener(address, Kind.TLS, tuple(answers))
    return Listener(address, ends[0].kind, why=ends[0].why)


@dataclass(frozen=True, slots=True)
class _End:
    """How a handshake ended without a certificate. `final`: any server name would end likewise."""

    kind: Kind
    why: str
    final: bool = True


async def _leaf(endpoint: Endpoint, name: str, offer: str, timeout: float) -> Leaf | _End:
    """Connect, offering these TLS 1.2 ciphers or all versions; return the leaf, or how it ended."""
    try:
        return leaf_of_chain(
            tuple(map(load_der_x509_certificate, await probe(endpoint, name, _context(offer), timeout)))
        )
    except ProbeError as failure:
        return _judge(failure)
    except (ValueError, TypeError) as error:
        return _End(Kind.SILENT, f"its certificate cannot be read: {error}", final=False)


def _judge(failure: ProbeError) -> _End:
    error = failure.error
    if not failure.connected:
        return _End(Kind.UNREACHABLE, f"cannot connect: {_reason(error)}")
    if failure.received and failure.received[0] not in {_ALERT, _HANDSHAKE}:
        return _End(Kind.PLAINTEXT, "it answers a TLS hello in plaintext")
    return _End(Kind.SILENT, _reason(error), final=isinstance(error, TimeoutError))


def _context(offer: str) -> ssl.SSLContext:
    """Return the most permissive TLS context: certificates are only displayed, not trusted."""
    context = trusting_context()
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.set_ciphers(f"{offer or 'ALL'}:@SECLEVEL=0")
    if offer:  # TLS 1.3 ciphers do not determine the kind of key
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).lower().replace("_", " ")
    reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    return reason[:1].lower() + reason[1:]
