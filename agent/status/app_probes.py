"""Probes the application on behalf of a kubelet: /app-health/CONTAINER/livez and similar paths.

A kubelet cannot probe an application behind a proxy itself: its requests lack a client certificate, and each TCP port
accepts connections. The results are those of Kubernetes' own prober (pkg/probe), as it would see the application.
"""

import asyncio
import errno
import os
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import urlsplit

from agent.core.app_probes import PATH, GrpcProbe, HttpProbe, Probe, TcpProbe
from agent.http.client import Connection, opened
from agent.http.message import Headers, Request, Response
from agent.status.grpc_health import check

AT_ONCE: Final = 64
_BODY: Final = 10 << 10  # bytes, as a kubelet reads
_REDIRECTS: Final = 10
_REDIRECTING: Final = frozenset({301, 302, 303, 307, 308})
_LOCAL: Final = ("127.0.0.1", "::1")
_NOT_FORWARDED: Final = frozenset({"host", "expect", "proxy-connection"})
_HEADERS: Final[Headers] = (
    ("content-type", "text/plain; charset=utf-8"),
    ("x-content-type-options", "nosniff"),  # the application's body is no page of the agent's
)
# From this source the rules of interception let a connection to the pod's own address pass.
_SOURCES: Final = {4: "127.0.0.6", 6: "::6"}
_NO_SOURCE: Final = frozenset({errno.EADDRNOTAVAIL, errno.EINVAL})


@dataclass(frozen=True, slots=True)
class _Hop:
    """One request of a probe that may be redirected."""

    port: int
    target: str
    tls: bool
    host: str


class AppProbes:
    """Answers the configured paths.

    `address`: the pod's address, at which the application listens; None for loopback. `status_port` is replaced in Host
    headers by the application's port.
    """

    def __init__(self, probes: Mapping[str, Probe], address: str | None, status_port: int) -> None:
        self._probes = probes
        self._address = address
        self._status_port = status_port
        self._running = 0
        is_https = any(isinstance(each, HttpProbe) for each in probes.values())  # a redirect may lead to HTTPS
        self._tls = _any_certificate() if is_https else None

    async def answer(self, request: Request) -> Response:
        """Answer one request: 200 or the application's status, 500 if it fails, 503 if too many probes run."""
        probe = self._probes.get(request.path)
        if probe is None:
            is_form = PATH.fullmatch(request.path) is not None
            text = f"no prober is configured for {request.path}; see --app-probers"
            return _said(400 if is_form else 404, text)
        if request.method not in {"GET", "HEAD"}:
            return Response(405, b"method not allowed\n", (("allow", "GET, HEAD"), *_HEADERS))
        if self._running >= AT_ONCE:
            return _said(503, f"{AT_ONCE} probes run already")
        self._running += 1
        try:
            return await self._probed(probe, request)
        finally:
            self._running -= 1

    async def _probed(self, probe: Probe, request: Request) -> Response:
        try:
            async with asyncio.timeout(probe.timeout):
                match probe:
                    case HttpProbe():
                        return await self._http(probe, request)
                    case TcpProbe():
                        return await self._tcp(probe)
                    case GrpcProbe():
                        return await self._grpc(probe)
        except TimeoutError:
            return _said(500, f"port {probe.port} does not answer within {probe.timeout:g} s")
        except ssl.SSLError as error:
            return _said(500, f"TLS to port {probe.port} fails: {error.reason or error}")
        except OSError as error:
            return _said(500, f"port {probe.port}: {os.strerror(error.errno) if error.errno else error}")

    async def _tcp(self, probe: TcpProbe) -> Response:
        _, writer = await self._connect(probe.port)
        writer.transport.abort()
        return _said(200, "connected")

    async def _grpc(self, probe: GrpcProbe) -> Response:
        reader, writer = await self._connect(probe.port)
        try:
            status = await check(
                reader, writer, f"{_bracketed(self._address or 'localhost')}:{probe.port}", probe.service
            )
        finally:
            writer.transport.abort()
        return _said(200 if status == "SERVING" else 500, status)

    # HTTP

    async def _http(self, probe: HttpProbe, request: Request) -> Response:
        """Send the request and follow redirects on the same host, as a kubelet does."""
        hop = _Hop(probe.port, probe.target, probe.tls, self._host(probe, request))
        headers = _forwarded(probe, request)
        for _ in range(_REDIRECTS + 1):
            status, location, body = await self._ask(hop, headers)
            following = self._redirected(hop, location) if status in _REDIRECTING and location else None
            if following is None:
                # A kubelet would follow a final 3xx to this port; to another host, it takes it as a success.
                return Response(200 if 300 <= status < 400 else status, body, _HEADERS)
            hop = following
        return _said(500, f"port {probe.port}: more than {_REDIRECTS} redirects")

    async def _ask(self, hop: _Hop, headers: Headers) -> tuple[int, str, bytes]:
        """Return the status, the Location and the beginning of the body."""
        connection = await self._connect(hop.port, self._tls if hop.tls else None)
        async with opened(connection, Request("GET", hop.target, headers), hop.host) as response:
            assert not isinstance(response.body, bytes)
            location = next((value for name, value in response.headers if name == "location"), "")
            return response.status, location, await _beginning(response.body)

    def _redirected(self, hop: _Hop, location: str) -> _Hop | None:
        """Return the next request; None if it would leave the host."""
        try:
            parts = urlsplit(location)
            port = parts.port
        except ValueError:
            return None
        is_whole = bool(parts.netloc) or parts.path.startswith("/")
        path = (parts.path if is_whole else _joined(hop.target, parts.path)) or "/"
        target = f"{path}?{parts.query}" if parts.query else path
        if not parts.netloc:
            return None if parts.scheme or not _is_plain(target) else replace(hop, target=target)
        scheme = parts.scheme or ("https" if hop.tls else "http")
        here = {self._address or "localhost", _name(hop.host)}
        if scheme not in {"http", "https"} or (parts.hostname or "") not in here or not _is_plain(location):
            return None
        is_tls = scheme == "https"
        return _Hop(port or (443 if is_tls else 80), target, is_tls, parts.netloc.rpartition("@")[2])

    def _host(self, probe: HttpProbe, request: Request) -> str:
        """Return the Host header: of the prober, or the kubelet's with the port of the application."""
        own = next((value for name, value in probe.headers if name == "host"), None)
        came = next((value for name, value in request.headers if name == "host"), "")
        if own or not came:
            return own or f"{_bracketed(self._address or 'localhost')}:{probe.port}"
        bare = came.removesuffix(f":{self._status_port}")
        return came if bare == came else f"{bare}:{probe.port}"

    # Connections

    async def _connect(self, port: int, tls: ssl.SSLContext | None = None) -> Connection:
        """Connect to the application, by the pod's address from the source that interception lets pass, or loopback."""
        # Without a server name: as a kubelet, which asks an address.
        how: dict[str, Any] = {} if tls is None else {"ssl": tls, "server_hostname": ""}
        if self._address is not None:
            source = _SOURCES[6 if ":" in self._address else 4]
            try:
                return await asyncio.open_connection(self._address, port, local_addr=(source, 0), **how)
            except OSError as error:
                if error.errno not in _NO_SOURCE:
                    raise
        try:
            return await asyncio.open_connection(_LOCAL[0], port, **how)
        except ConnectionRefusedError as error:
            try:
                return await asyncio.open_connection(_LOCAL[1], port, **how)
            except OSError:
                raise error from None


def _forwarded(probe: HttpProbe, request: Request) -> Headers:
    """Return the kubelet's headers, and those of the prober that it did not send."""
    came = tuple((name, value) for name, value in request.headers if name not in _NOT_FORWARDED)
    names = {name for name, _ in came}
    return came + tuple((name, value) for name, value in probe.headers if name not in names | {"host"})


async def _beginning(body: AsyncIterator[bytes]) -> bytes:
    taken = bytearray()
    async for part in body:
        taken += part
        if len(taken) >= _BODY:
            break
    return bytes(taken[:_BODY])


def _joined(base: str, path: str) -> str:
    """Return a path relative to the last directory of another; that path itself if empty."""
    before = base.partition("?")[0]
    return f"{before.rpartition('/')[0]}/{path}" if path else before


def _is_plain(text: str) -> bool:
    """Return whether HTTP can carry it as it is: ASCII without blanks and control characters."""
    return text.isascii() and text.isprintable() and " " not in text


def _name(host: str) -> str:
    """Return a Host header's name, without port and brackets."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _any_certificate() -> ssl.SSLContext:
    """Return a context that accepts each certificate, as a kubelet does: a short key or an old digest, too."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    return context


def _said(status: int, text: str) -> Response:
    return Response(status, f"{text}\n".encode(errors="replace"), _HEADERS)
