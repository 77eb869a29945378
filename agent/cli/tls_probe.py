"""Asks listeners for their certificates, as a TLS client that trusts every server.

It sends no certificate. The handshake runs on bytes in memory, so that a failed one can be examined: to distinguish
plaintext from TLS, and a refusal from TLS 1.2, where a server sends its certificate before it requests ours.
"""

import socket
import ssl
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from itertools import product

from cryptography.x509 import load_der_x509_certificate

from agent.certificates.x509 import Leaf, leaf_of_chain
from agent.core.errors import UsageError
from agent.host.sockets import Endpoint

TIMEOUT = 2.0  # seconds, for one handshake
NAMES_LIMIT = 200  # server names requested from one listener
_AT_ONCE = 16
_CHUNK = 65536
_ALERT, _HANDSHAKE = 21, 22  # content types (RFC 8446, 5.1)
_CERTIFICATE = 11  # message type (RFC 5246, 7.4)
_OFFERS = {"RSA": "aRSA", "ECDSA": "aECDSA"}
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # where to connect for a wildcard address


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
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return tuple(pool.map(lambda address: _ask(address, asked, offers, timeout), addresses))


def _server_name(name: str) -> str:
    """Return a name to request, empty if it is not valid; for a wildcard, one of its names."""
    name = f"any{name[1:]}" if name.startswith("*.") else name
    usable = name.isascii() and len(name) < 254 and all(0 < len(label) < 64 for label in name.split("."))
    return name if usable and "*" not in name and not any(map(str.isspace, name)) else ""


def _ask(address: str, names: tuple[str, ...], offers: Sequence[str], timeout: float) -> Listener:
    try:
        endpoint = Endpoint.parse(address)
    except UsageError as error:
        return Listener(address, Kind.UNREACHABLE, why=str(error))
    if address.startswith("udp://"):
        return Listener(address, Kind.NOT_ASKED, why="it takes datagrams")
    answers, ends = dict[Answer, None](), list[_End]()
    for name, offer in product(("", *names), offers):
        end = _Conversation(timeout).shake_hands(endpoint, name, offer)
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


class _Conversation:
    def __init__(self, timeout: float) -> None:
        self._deadline = time.monotonic() + timeout
        self._said = b""  # received from the listener

    def shake_hands(self, endpoint: Endpoint, name: str, offer: str) -> Leaf | _End:
        """Connect, offering these TLS 1.2 ciphers or all versions; return the leaf, or how it ended."""
        with socket.socket(endpoint.family, socket.SOCK_STREAM) as line:
            try:
                line.settimeout(self._left())
                line.connect(_reachable(endpoint))
            except OSError as error:
                return _End(Kind.UNREACHABLE, f"cannot connect: {_reason(error)}")
            try:
                return leaf_of_chain(tuple(map(load_der_x509_certificate, self._chain(line, name, offer))))
            except ssl.SSLError as error:
                return self._judge((error.reason or str(error)).lower().replace("_", " "))
            except OSError as error:
                final = isinstance(error, TimeoutError)
                return self._judge(_reason(error), final=final)
            except (ValueError, TypeError) as error:
                return _End(Kind.SILENT, f"its certificate cannot be read: {error}", final=False)

    def _chain(self, line: socket.socket, name: str, offer: str) -> Sequence[bytes]:
        """Return the chain as DER, leaf first, even if the handshake fails after it."""
        try:
            return self._finish(line, name, offer)
        except OSError:
            early = chain_in(self._said)
            if not early:
                raise
            return early

    def _finish(self, line: socket.socket, name: str, offer: str) -> Sequence[bytes]:
        received, to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = _context(offer).wrap_bio(received, to_send, server_hostname=name or None)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._go_on(line, received, to_send)
        return _shown(tls)

    def _go_on(self, line: socket.socket, received: ssl.MemoryBIO, to_send: ssl.MemoryBIO) -> None:
        line.settimeout(self._left())
        line.sendall(to_send.read())
        data = line.recv(_CHUNK)
        if not data:
            message = "it closes the connection without a certificate"
            raise ConnectionError(message)
        self._said += data
        received.write(data)

    def _judge(self, reason: str, *, final: bool = False) -> _End:
        if self._said and self._said[0] not in {_ALERT, _HANDSHAKE}:
            return _End(Kind.PLAINTEXT, "it answers a TLS hello in plaintext")
        return _End(Kind.SILENT, reason, final=final)

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


def _shown(tls: ssl.SSLObject) -> Sequence[bytes]:
    """Return the peer's chain, leaf first; before Python 3.13 only a private method has it."""
    if sys.version_info >= (3, 13):
        return tls.get_unverified_chain()
    der = 2  # _ssl.ENCODING_DER
    chain = tls._sslobj.get_unverified_chain()  # type: ignore[attr-defined]  # noqa: SLF001
    return [each.public_bytes(der) for each in chain]


def chain_in(said: bytes) -> tuple[bytes, ...]:
    """Return the certificates in a TLS 1.2 server's plaintext records, leaf first, if any."""
    return next((tuple(_entries(body[3:])) for kind, body in _messages(said) if kind == _CERTIFICATE), ())


def _entries(body: bytes) -> Iterator[bytes]:
    """Yield the entries of a list, each preceded by its length in three octets."""
    while body:
        end = 3 + _number(body[:3])
        yield body[3:end]
        body = body[end:]


def _messages(said: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and body of each handshake message in unencrypted records."""
    flight = b""
    while len(said) > 5 and said[0] == _HANDSHAKE:
        end = 5 + _number(said[3:5])
        flight, said = flight + said[5:end], said[end:]
    while len(flight) >= 4 and len(flight) >= 4 + _number(flight[1:4]):
        end = 4 + _number(flight[1:4])
        yield flight[0], flight[4:end]
        flight = flight[end:]


def _number(octets: bytes) -> int:
    return int.from_bytes(octets, "big")


def _context(offer: str) -> ssl.SSLContext:
    """Return the most permissive TLS context: certificates are only displayed, not trusted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.set_ciphers(f"{offer or 'ALL'}:@SECLEVEL=0")
    if offer:  # TLS 1.3 ciphers do not determine the kind of key
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def _reachable(endpoint: Endpoint) -> str | tuple[str, int]:
    if endpoint.path:
        return endpoint.name
    return _EVERYWHERE.get(endpoint.host, endpoint.host), endpoint.port


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    reason = error.strerror or str(error)
    return reason[:1].lower() + reason[1:]
